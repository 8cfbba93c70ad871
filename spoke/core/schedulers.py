"""Which waiting jobs start where: one pure function per kind of scheduler.

Each takes the requests in order of arrival, the nodes as they are, and the time, and gives the starts:
``[(index of the request, [node of each member])]``.  Nothing is changed but the views, which are the
caller's copies.  A request has one member, or is a group that starts whole or not at all.

fifo         in order of arrival, each on the first node that holds it; who does not fit is skipped.  A
request
             that waits longer than `PATIENCE_S` gets the first node that could ever hold it kept for itself.
strict_fifo  as fifo, but nobody overtakes: the first that does not fit ends the round.
locality     as fifo, on the node that holds most bytes of the request's data, then the least used one; one
             whose data lie on a busy node waits up to `LOCALITY_WAIT_S` for that node.
spread       as fifo, on the node with the fewest jobs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from spoke.core.ledger import Amounts, Ledger
from spoke.core.selectors import Selector, matches_all

PATIENCE_S: Final = 30.0
LOCALITY_WAIT_S: Final = 2.0

Start = tuple[int, list[bytes]]


class View:
    """A node as a scheduler sees it; `ledger` is a copy that starts are taken from."""

    __slots__ = ("jobs", "labels", "ledger", "node_id", "total")

    def __init__(self, node_id: bytes, ledger: Ledger, labels: dict[str, str], jobs: int) -> None:
        self.node_id = node_id
        self.ledger = ledger
        self.total = ledger.total
        self.labels = labels
        self.jobs = jobs


class Request:
    """What waits: the needs of its members, since when, and where its data lie.

    `key` is equal for requests that fit in the same places.
    """

    __slots__ = ("key", "locality", "needs", "selectors", "since")

    def __init__(
        self,
        needs: Sequence[Amounts],
        since: float = 0.0,
        selectors: Sequence[tuple[Selector, ...]] | None = None,
        locality: dict[bytes, int] | None = None,
    ) -> None:
        self.needs = needs
        self.since = since
        self.selectors = selectors if selectors is not None else [()] * len(needs)
        self.locality = locality or {}
        self.key = (*(tuple(need.items()) for need in needs), *self.selectors)


Prefer = Callable[[Request, "list[View]"], "list[View]"]  # the nodes in order of preference


def fifo(requests: Sequence[Request], nodes: list[View], now: float) -> list[Start]:
    """See the module."""
    return _round(requests, nodes, now, lambda request, views: views)


def strict_fifo(requests: Sequence[Request], nodes: list[View], now: float) -> list[Start]:
    """See the module."""
    starts: list[Start] = []
    for index, request in enumerate(requests):
        homes = _place(request, nodes)
        if homes is None:
            break
        starts.append((index, homes))
    return starts


def locality(requests: Sequence[Request], nodes: list[View], now: float) -> list[Start]:
    """See the module."""

    def prefer(request: Request, views: list[View]) -> list[View]:
        where = request.locality
        best = max(where.values(), default=0)
        if best and now - request.since < LOCALITY_WAIT_S:
            holders = [view for view in views if where.get(view.node_id, 0) == best]
            if holders:
                return holders
        return sorted(views, key=lambda view: (-where.get(view.node_id, 0), view.ledger.utilisation()))

    return _round(requests, nodes, now, prefer)


def spread(requests: Sequence[Request], nodes: list[View], now: float) -> list[Start]:
    """See the module."""
    return _round(requests, nodes, now, lambda request, views: sorted(views, key=lambda view: view.jobs))


KINDS: Final[dict[str, Callable[[Sequence[Request], list[View], float], list[Start]]]] = {
    "fifo": fifo,
    "strict_fifo": strict_fifo,
    "locality": locality,
    "spread": spread,
}


def _round(requests: Sequence[Request], nodes: list[View], now: float, prefer: Prefer) -> list[Start]:
    starts: list[Start] = []
    hopeless: dict[tuple[object, ...], bool] = {}  # what did not fit before does not fit now
    for index, request in enumerate(requests):
        if not nodes:
            break
        if request.key in hopeless:
            continue
        homes = _place(request, nodes, prefer)
        if homes is not None:
            starts.append((index, homes))
            continue
        if not request.locality:
            hopeless[request.key] = True
        if now - request.since >= PATIENCE_S:
            kept = _could_hold(request, nodes)
            nodes = [view for view in nodes if view is not kept]
            hopeless.clear()
    return starts


def _could_hold(request: Request, nodes: list[View]) -> View | None:
    """The first node that holds the first member when nothing else runs there."""
    need, selector = request.needs[0], request.selectors[0]
    for view in nodes:
        if matches_all(selector, view.labels) and all(view.total.get(n, 0) >= u for n, u in need.items()):
            return view
    return None


def _place(request: Request, nodes: list[View], prefer: Prefer | None = None) -> list[bytes] | None:
    """A node for each member, taken from the views; None, and nothing taken, unless all fit."""
    taken: list[tuple[View, object]] = []
    for need, selector in zip(request.needs, request.selectors, strict=True):
        for view in nodes if prefer is None else prefer(request, nodes):
            if selector and not matches_all(selector, view.labels):
                continue
            share = view.ledger.take(need)
            if share is not None:
                view.jobs += 1
                taken.append((view, share))
                break
        else:
            for view, given in taken:
                view.ledger.give(given)  # type: ignore[arg-type]
                view.jobs -= 1
            return None
    return [view.node_id for view, _ in taken]
