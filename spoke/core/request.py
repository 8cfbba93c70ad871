"""What a group asks for, checked: bundles, strategy, labels, which devices must or should be close.

Rules of this module: a `Request` is pure data; equal `key`s fit on exactly the same clusters.  `same` and
`prefer` name a kind of domain ("nvlink", "numa"), "node", or the key of a label; what they hold for:

- "nvlink", "numa": the GPUs of all bundles that share a node by the strategy (with `per_node` a run of so
  many bundles, else all bundles) are in one such domain;
- "node": all bundles are on one node;
- a label: the nodes of all bundles have it, with one value.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from spoke.core.ledger import GPU, UNIT, Amounts
from spoke.core.selectors import Selector, matches_all
from spoke.core.topology import KINDS

STRATEGIES: Final = ("PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD")
NODE: Final = "node"
_NEVER: Final = 1 << 60
CLOSENESS: Final = (*KINDS, NODE)  # the closest first

# Labels whose value all nodes share, and kinds (of `CLOSENESS`) of which one holds all that stand together.
Constraint = tuple[tuple[str, ...], tuple[str, ...]]


class Kind:
    """Bundles of a request that are alike: they fit on the same nodes."""

    __slots__ = ("bundle", "indices", "selector")

    def __init__(self, bundle: Amounts, selector: Sequence[Selector], indices: list[int]) -> None:
        self.bundle = bundle
        self.selector = selector
        self.indices = indices


class Request:
    """One group to place.

    `fixed` names the nodes of bundles that stay where they are.  With `per_node` STRICT_SPREAD holds
    for runs of so many consecutive bundles: each run is on one node, no two runs on the same.  Bundles
    of a `ranked` group are alike and are numbered node by node, the target's first.  `devices` names the
    GPUs of each bundle (for the strict strategies).

    Raises:
        ValueError: parts that contradict each other, or an unknown strategy.
    """

    __slots__ = (
        "bundles",
        "devices",
        "fixed",
        "gpus",
        "key",
        "kinds",
        "label_keys",
        "names",
        "per_node",
        "prefer",
        "ranked",
        "same",
        "selectors",
        "strategy",
        "target",
        "together",
        "total",
    )

    def __init__(
        self,
        bundles: Sequence[Amounts],
        strategy: str,
        *,
        selectors: Sequence[Sequence[Selector]] | None = None,
        target: bytes | None = None,
        fixed: Sequence[bytes | None] | None = None,
        per_node: int = 1,
        ranked: bool = False,
        same: str = "",
        prefer: str = "",
        devices: Sequence[tuple[int, ...]] | None = None,
    ) -> None:
        if strategy not in STRATEGIES:
            raise ValueError(f"strategy {strategy!r} is not one of {', '.join(STRATEGIES)}")
        if per_node > 1 and strategy != "STRICT_SPREAD":
            raise ValueError(f"per_node is for STRICT_SPREAD, not for {strategy}")
        self.bundles = list(bundles)
        self.strategy = strategy
        self.selectors = list(selectors) if selectors else [()] * len(self.bundles)
        self.target = target
        self.fixed = list(fixed) if fixed else [None] * len(self.bundles)
        self.per_node = per_node
        self.ranked = ranked
        self.same = same
        self.prefer = prefer
        self.devices = list(devices) if devices else None
        if same == NODE and strategy == "STRICT_SPREAD" and len(self.bundles) > per_node:
            raise ValueError("same='node' contradicts STRICT_SPREAD over several nodes")
        self.gpus = sum(bundle.get(GPU, 0) for bundle in self.bundles)
        if same in KINDS and not all(GPU in bundle for bundle in self.bundles):
            raise ValueError(f"same={same!r} is about GPUs, and a bundle asks for none")
        if self.devices is not None:
            self._check_devices()
        # Requests with equal keys fit on exactly the same clusters (a target is only a preference).
        amounts = tuple(tuple(one.items()) for one in self.bundles)
        named = tuple(self.devices) if self.devices else None
        self.key = (strategy, per_node, amounts, tuple(self.selectors), same, named)
        self.names = tuple(sorted({name: True for bundle in self.bundles for name in bundle}))
        labels = {key: True for selector in self.selectors for key, _, _ in selector}
        labels.update({one: True for one in (same, prefer) if one and one not in CLOSENESS})
        self.label_keys = tuple(sorted(labels))
        self.kinds = self._kinds()
        self.total = self.need(range(len(self.bundles)))
        # GPUs that one domain would have to hold; no domain does where a bundle wants none.
        everywhere = all(GPU in bundle for bundle in self.bundles)
        gpus = [self.need(run).get(GPU, 0) for run in self.runs()] if everywhere else []
        self.together = max(gpus, default=_NEVER)

    def _check_devices(self) -> None:
        assert self.devices is not None
        if not self.strategy.startswith("STRICT"):
            raise ValueError(f"named GPUs are for the strict strategies, not for {self.strategy}")
        for bundle, ids in zip(self.bundles, self.devices, strict=True):
            gpus = bundle.get(GPU, 0)
            wanted = gpus // UNIT if gpus >= UNIT else int(gpus > 0)
            if len(ids) != wanted or len(dict.fromkeys(ids)) != wanted:
                raise ValueError(
                    f"a bundle with {gpus / UNIT:g} GPUs names {wanted} of them, not {list(ids)}"
                )

    def _kinds(self) -> list[Kind]:
        """Bundles that are alike, the largest first."""
        found: dict[object, Kind] = {}
        for index in self.open():
            bundle, selector = self.bundles[index], self.selectors[index]
            ids = self.devices[index] if self.devices else ()
            key = (tuple(bundle.items()), tuple(selector), ids)
            kind = found.get(key)
            if kind is None:
                found[key] = Kind(bundle, selector, [index])
            else:
                kind.indices.append(index)
        return list(found.values())

    def refix(self, homes: Sequence[bytes | None]) -> None:
        """The bundles with a node stay where they are, the others are open."""
        self.fixed = list(homes)
        self.kinds = self._kinds()

    def open(self) -> list[int]:
        """Bundles without a node, the largest first: they have the fewest places to go."""
        indices = [index for index, node_id in enumerate(self.fixed) if node_id is None]
        return sorted(indices, key=lambda index: (-_weight(self.bundles[index]), index))

    def runs(self) -> list[list[int]]:
        """The open bundles that stand together: STRICT_SPREAD's runs, else all of them; in order."""
        found: dict[int, list[int]] = {}
        size = self.per_node if self.strategy == "STRICT_SPREAD" else len(self.bundles)
        for index, home in enumerate(self.fixed):
            if home is None:
                found.setdefault(index // size, []).append(index)
        return list(found.values())

    def admits(self, labels: Mapping[str, str], index: int) -> bool:
        """Whether a bundle may be on a node with these labels."""
        selector = self.selectors[index]
        return not selector or matches_all(selector, labels)

    def need(self, indices: Sequence[int]) -> Amounts:
        """What these bundles need together."""
        total: Amounts = {}
        for index in indices:
            for name, units in self.bundles[index].items():
                total[name] = total.get(name, 0) + units
        return total

    @property
    def required(self) -> Constraint:
        """What every placement keeps to."""
        if not self.same:
            return (), ()
        return ((), (self.same,)) if self.same in CLOSENESS else ((self.same,), ())

    def attempts(self, largest: Mapping[str, int]) -> list[Constraint]:
        """What to try, the best first; the last is what is required.

        Args:
            largest: how many GPUs the largest domain of each kind has: what is larger need not be tried.
                Where nodes have reported domains, GPUs that are asked for together are wanted close.
        """
        labels, kinds = self.required
        wanted: list[Constraint] = []
        if self.prefer and self.prefer not in CLOSENESS:
            wanted.append(((*labels, self.prefer), kinds))
        closest = self.prefer if self.prefer in CLOSENESS else ""
        implied = bool(largest) and self.target is None and self.gpus > UNIT and self.strategy != "SPREAD"
        if implied and not self.prefer:
            closest = KINDS[0]
        if closest and self.devices is None:
            for kind in CLOSENESS[CLOSENESS.index(closest) :]:
                if kind in kinds or (kind == NODE and self.strategy != "SPREAD"):
                    break  # required anyway, or what the strategy tries by itself
                if kind == NODE or self.together <= largest.get(kind, 0) * UNIT:
                    wanted.append((labels, (*kinds, kind)))
        return [*wanted, (labels, kinds)]


def _weight(bundle: Amounts) -> int:
    return bundle.get(GPU, 0) * 1000 + sum(bundle.values())
