"""Results as they come: over refs, and over a remote function mapped to items."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from spoke import api

if TYPE_CHECKING:
    from spoke.handles import RemoteFunction


def as_completed(
    refs: Sequence[Any], *, chunk_size: int = 10, yield_obj_refs: bool = False, **kwargs: Any
) -> Iterator[Any]:
    """The values of `refs` (or the refs) in the order in which they are ready.

    Args:
        chunk_size: how many are taken at a time at most, at least 1.
        kwargs: passed to `wait`, such as ``fetch_local``; a ``timeout`` bounds one wait, not the iteration.

    Raises:
        ValueError: a `chunk_size` below 1.
    """
    _check(chunk_size, kwargs)
    waiting = list(refs)
    while waiting:
        ready, waiting = _some(waiting, chunk_size, kwargs)
        yield from ready if yield_obj_refs else api.get(ready)


def _check(chunk_size: int, kwargs: dict[str, Any]) -> None:
    if chunk_size < 1:
        raise ValueError("`chunk_size` must be >= 1")
    if "num_returns" in kwargs:
        raise ValueError("Use the `chunk_size` argument instead of `num_returns`.")


def _some(waiting: list[Any], chunk_size: int, kwargs: dict[str, Any]) -> tuple[list[Any], list[Any]]:
    """At least one ready ref, unless time is up, and up to `chunk_size` of those that are ready by then."""
    if not api.wait(waiting, num_returns=1, **kwargs)[0]:
        return [], waiting
    return api.wait(waiting, num_returns=min(chunk_size, len(waiting)), timeout=0)


def map_unordered(
    fn: RemoteFunction,
    items: Iterable[Any],
    *,
    backpressure_size: int | None = 100,
    chunk_size: int = 10,
    yield_obj_refs: bool = False,
    **kwargs: Any,
) -> Iterator[Any]:
    """Results of ``fn.remote(item)`` for all items, in the order in which they are ready.

    Args:
        backpressure_size: most tasks in flight, at least 1, or None for no bound.
        chunk_size, yield_obj_refs, kwargs: as in `as_completed`.

    Raises:
        ValueError: a `backpressure_size` or a `chunk_size` below 1.
    """
    if backpressure_size is None:
        backpressure_size = 1 << 60
    elif backpressure_size <= 0:
        raise ValueError("backpressure_size must be positive.")
    _check(chunk_size, kwargs)
    source = iter(items)
    waiting: list[Any] = []
    more = True
    while more or waiting:
        while more and len(waiting) < backpressure_size:
            try:
                waiting.append(fn.remote(next(source)))
            except StopIteration:
                more = False
        if waiting:
            ready, waiting = _some(waiting, chunk_size, kwargs)
            yield from ready if yield_obj_refs else api.get(ready)
