"""Iterators over actors: each actor produces items and runs operators on them, the results are gathered.

``from_range(10).for_each(f).gather_sync()``: a `ParallelIterator` describes, a `LocalIterator` (`local_iter`)
runs.  Old programs are written with it; for new ones there are streaming generators.
"""

from __future__ import annotations

import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, Generic, TypeVar

from spoke import absent, api
from spoke.util.iter_metrics import MetricsContext as MetricsContext
from spoke.util.iter_metrics import SharedMetrics as SharedMetrics
from spoke.util.local_iter import LocalIterator as LocalIterator
from spoke.util.local_iter import _NextValueNotReady as _NextValueNotReady

__all__ = [
    "LocalIterator",
    "ParallelIterator",
    "ParallelIteratorWorker",
    "from_actors",
    "from_items",
    "from_iterators",
    "from_range",
]

T = TypeVar("T")
U = TypeVar("U")


def from_items(items: list[T], num_shards: int = 2, repeat: bool = False) -> ParallelIterator[T]:
    """Items dealt out to so many actors, in turn; `repeat` for ever."""
    kind = type(items[0]).__name__ if items else "None"
    name = f"from_items[{kind}, {len(items)}, shards={num_shards}{_repeated(repeat)}]"
    return from_iterators([items[first::num_shards] for first in range(num_shards)], repeat, name)


def from_range(n: int, num_shards: int = 2, repeat: bool = False) -> ParallelIterator[int]:
    """The numbers below `n`, a part in a row for each of so many actors."""
    size = n // num_shards
    bounds = [index * size for index in range(num_shards)] + [n]
    parts = [range(bounds[index], bounds[index + 1]) for index in range(num_shards)]
    return from_iterators(parts, repeat, f"from_range[{n}, shards={num_shards}{_repeated(repeat)}]")


def from_iterators(
    generators: list[Any], repeat: bool = False, name: str | None = None
) -> ParallelIterator[Any]:
    """An actor for each of these iterables, or functions that make one (generators do not pickle)."""
    worker = api.remote(ParallelIteratorWorker)
    actors = [worker.remote(generator, repeat) for generator in generators]
    return from_actors(actors, name or f"from_iterators[shards={len(generators)}{_repeated(repeat)}]")


def from_actors(actors: list[Any], name: str | None = None) -> ParallelIterator[Any]:
    """The items of actors that are a `ParallelIteratorWorker`."""
    return ParallelIterator([_ActorSet(actors, [])], name or f"from_actors[shards={len(actors)}]", [])


def _repeated(repeat: bool) -> str:
    return ", repeat=True" if repeat else ""


class _ActorSet:
    """Actors with the operators that run in them."""

    def __init__(self, actors: list[Any], transforms: list[Callable[[Any], Any]]) -> None:
        self.actors = actors
        self.transforms = transforms

    def init_actors(self) -> None:
        """Begin a stream in each."""
        api.get([actor.par_iter_init.remote(self.transforms) for actor in self.actors])

    def with_transform(self, fn: Callable[[Any], Any]) -> _ActorSet:
        """The same with one operator more."""
        return _ActorSet(self.actors, [*self.transforms, fn])


class ParallelIterator(Generic[T]):
    """The items of several actors; operators run in them.  It can be passed to tasks and actors.

    Each shard can be read by one process at a time.
    """

    def __init__(
        self, actor_sets: list[_ActorSet], name: str, parent_iterators: list[ParallelIterator[Any]]
    ) -> None:
        self.actor_sets = actor_sets
        self.name = name
        self.parent_iterators = parent_iterators  # whose actors the items come from

    def __iter__(self) -> Iterator[T]:
        raise TypeError(
            "You must use it.gather_sync() or it.gather_async() to iterate over the results of a "
            "ParallelIterator."
        )

    def __repr__(self) -> str:
        return f"ParallelIterator[{self.name}]"

    # -- operators in the actors

    def _then(self, fn: Callable[[Any], Any], shown: str) -> ParallelIterator[Any]:
        sets = [actors.with_transform(fn) for actors in self.actor_sets]
        return ParallelIterator(sets, self.name + shown, self.parent_iterators)

    def transform(self, fn: Callable[[Iterable[T]], Iterable[U]]) -> ParallelIterator[U]:
        """What `fn` makes of each shard's stream."""
        return self._then(lambda items: items.transform(fn), ".transform()")

    def for_each(
        self, fn: Callable[[T], U], max_concurrency: int = 1, resources: dict[str, Any] | None = None
    ) -> ParallelIterator[U]:
        """``fn(item)`` for each item; see `LocalIterator.for_each`."""
        assert max_concurrency >= 0, "max_concurrency must be non-negative."
        return self._then(lambda items: items.for_each(fn, max_concurrency, resources), ".for_each()")

    def filter(self, fn: Callable[[T], bool]) -> ParallelIterator[T]:
        """The items that `fn` is true of."""
        return self._then(lambda items: items.filter(fn), ".filter()")

    def batch(self, n: int) -> ParallelIterator[list[T]]:
        """Lists of `n` items of a shard."""
        return self._then(lambda items: items.batch(n), f".batch({n})")

    def flatten(self) -> ParallelIterator[Any]:
        """The items of the items."""
        return self._then(lambda items: items.flatten(), ".flatten()")

    def combine(self, fn: Callable[[T], list[U]]) -> ParallelIterator[U]:
        """The items of ``fn(item)`` for each item."""
        found = self.for_each(fn).flatten()
        found.name = self.name + ".combine()"
        return found

    def local_shuffle(self, shuffle_buffer_size: int, seed: int | None = None) -> ParallelIterator[T]:
        """Each shard in random order; see `LocalIterator.shuffle`."""
        shown = f".local_shuffle(shuffle_buffer_size={shuffle_buffer_size}, seed={seed})"
        return self._then(lambda items: items.shuffle(shuffle_buffer_size, seed), shown)

    def repartition(self, num_partitions: int, batch_ms: int = 0) -> ParallelIterator[T]:
        """The same items from so many new actors, which take them of the present ones in turn."""
        actors = self._begun()

        def part(index: int) -> Iterator[Any]:
            asks = [
                (actor, partial(actor.par_iter_slice_batch.remote, num_partitions, index, batch_ms))
                for actor in actors
            ]
            return _as_they_come(asks, None)

        found = from_iterators([partial(part, index) for index in range(num_partitions)])
        name = f"{self.name}.repartition[num_partitions={num_partitions}]"
        return ParallelIterator(found.actor_sets, name, [self])

    def _begun(self) -> list[Any]:
        """All actors, each with a stream begun."""
        for actors in self.actor_sets:
            actors.init_actors()
        return [actor for actors in self.actor_sets for actor in actors.actors]

    # -- gathering

    def gather_sync(self) -> LocalIterator[T]:
        """One item of each shard in turn."""
        found = self.batch_across_shards().flatten()
        found.name = f"{self}.gather_sync()"
        return found

    def batch_across_shards(self) -> LocalIterator[list[T]]:
        """Lists of one item of each shard that has one."""

        def base(timeout: float | None = None) -> Iterator[Any]:
            actors = self._begun()
            while actors:
                refs = {actor: actor.par_iter_next.remote() for actor in actors}
                while timeout is not None:
                    _, missing = api.wait(list(refs.values()), num_returns=len(refs), timeout=timeout)
                    yield _NextValueNotReady()
                    if not missing:
                        break
                items = []
                for actor, ref in refs.items():
                    try:
                        items.append(api.get(ref))
                    except StopIteration:
                        actors.remove(actor)
                if items:
                    yield items

        return LocalIterator(base, SharedMetrics(), name=f"{self}.batch_across_shards()")

    def gather_async(self, batch_ms: int = 0, num_async: int = 1) -> LocalIterator[T]:
        """Items as they come.

        Args:
            batch_ms: an actor collects items for so long before it answers.
            num_async: questions under way at each actor.

        Raises:
            ValueError: a negative time, or no questions.
        """
        _check_rates(batch_ms, num_async, "queue depth must be positive")
        shared = SharedMetrics()

        def produced(actor: Any) -> None:
            shared.get().current_actor = actor

        def base(timeout: float | None = None) -> Iterator[Any]:
            asks = [(actor, partial(actor.par_iter_next_batch.remote, batch_ms)) for actor in self._begun()]
            return _as_they_come(asks * num_async, timeout, produced)

        return LocalIterator(base, shared, name=f"{self}.gather_async()")

    def take(self, n: int) -> list[T]:
        """The first `n` items of `gather_sync`."""
        return self.gather_sync().take(n)

    def show(self, n: int = 20) -> None:
        """Print the first `n` items of `gather_sync`."""
        self.gather_sync().show(n)

    # -- shards

    def union(self, other: ParallelIterator[T]) -> ParallelIterator[T]:
        """The shards of both.

        Raises:
            TypeError: no `ParallelIterator`.
        """
        if not isinstance(other, ParallelIterator):
            raise TypeError(f"other must be of type ParallelIterator, got {type(other)}")
        return ParallelIterator(
            [*self.actor_sets, *other.actor_sets],
            f"ParallelUnion[{self}, {other}]",
            [*self.parent_iterators, *other.parent_iterators],
        )

    def select_shards(self, shards_to_keep: list[int]) -> ParallelIterator[T]:
        """Some of the shards, by number.

        Raises:
            ValueError: none, or the shards are those of a union.
        """
        if len(self.actor_sets) > 1:
            raise ValueError("select_shards() is not allowed after union()")
        if not shards_to_keep:
            raise ValueError("at least one shard must be selected")
        old = self.actor_sets[0]
        kept = [actor for index, actor in enumerate(old.actors) if index in shards_to_keep]
        assert len(kept) == len(shards_to_keep), "Invalid actor index"
        name = f"{self}.select_shards({len(shards_to_keep)} total)"
        return ParallelIterator([_ActorSet(kept, old.transforms)], name, self.parent_iterators)

    def num_shards(self) -> int:
        """How many actors there are."""
        return sum(len(actors.actors) for actors in self.actor_sets)

    def shards(self) -> list[LocalIterator[T]]:
        """An iterator for each shard."""
        return [self.get_shard(index) for index in range(self.num_shards())]

    def get_shard(self, shard_index: int, batch_ms: int = 0, num_async: int = 1) -> LocalIterator[T]:
        """The items of one shard, in order; the arguments are those of `gather_async`.

        Raises:
            ValueError: no such shard, a negative time, or no questions.
        """
        _check_rates(batch_ms, num_async, "num async must be positive")
        shards = [(actor, actors.transforms) for actors in self.actor_sets for actor in actors.actors]
        if not 0 <= shard_index < len(shards):
            raise ValueError("Shard index out of range", shard_index, len(shards))
        actor, transforms = shards[shard_index]

        def base(timeout: float | None = None) -> Iterator[Any]:
            api.get(actor.par_iter_init.remote(transforms))
            asked = deque(actor.par_iter_next_batch.remote(batch_ms) for _ in range(num_async))
            while True:
                if timeout is not None and not api.wait([asked[0]], timeout=timeout)[0]:
                    yield _NextValueNotReady()
                    continue
                try:
                    batch = api.get(asked.popleft())
                except StopIteration:
                    return
                asked.append(actor.par_iter_next_batch.remote(batch_ms))
                yield from batch
                if timeout is not None:
                    yield _NextValueNotReady()

        return LocalIterator(base, SharedMetrics(), name=f"{self.name}.shard[{shard_index}]")


def _check_rates(batch_ms: int, num_async: int, what: str) -> None:
    if num_async < 1:
        raise ValueError(what)
    if batch_ms < 0:
        raise ValueError("batch time must be positive")


def _as_they_come(
    asks: Sequence[tuple[Any, Callable[[], Any]]],
    timeout: float | None,
    produced: Callable[[Any], None] | None = None,
) -> Iterator[Any]:
    """The items of batches; who has answered is asked again until there is nothing more.

    Args:
        asks: actors, and what asks them for a batch.
        produced: is told the actor before its items are given.
    """
    waiting = {ask(): (actor, ask) for actor, ask in asks}
    while waiting:
        refs = list(waiting)
        ready, _ = api.wait(refs, num_returns=len(refs), timeout=timeout or 0)
        if not ready and timeout is None:
            ready, _ = api.wait(refs)
        for ref in ready:
            actor, ask = waiting.pop(ref)
            try:
                batch = api.get(ref)
            except StopIteration:
                continue
            waiting[ask()] = (actor, ask)
            if produced is not None:
                produced(actor)
            yield from batch
        if timeout is not None:
            yield _NextValueNotReady()


class ParallelIteratorWorker:
    """What an actor of a `ParallelIterator` is; programs inherit from it.

    Args:
        item_generator: an iterable, or a function that makes one.
        repeat: begin again at its end, for ever.
    """

    def __init__(self, item_generator: Any, repeat: bool) -> None:
        made = item_generator() if callable(item_generator) and not repeat else item_generator
        self.item_generator: Any = _cycle(item_generator) if repeat else made
        self.local_it: Iterator[Any] | None = None
        self._parts: dict[int, deque[Any]] = defaultdict(deque)

    def par_iter_init(self, transforms: list[Callable[[Any], Any]]) -> None:
        """Begin a stream through these operators."""
        items: Any = LocalIterator(lambda timeout: self.item_generator, SharedMetrics())
        for fn in transforms:
            items = fn(items)
        self.local_it = iter(items)

    def par_iter_next(self) -> Any:
        """The next item.

        Raises:
            StopIteration: there is none.
        """
        assert self.local_it is not None, "must call par_iter_init()"
        return next(self.local_it)

    def par_iter_next_batch(self, batch_ms: int) -> list[Any]:
        """The items of so many milliseconds, at least one; raises as `par_iter_next`."""
        return _collect(self.par_iter_next, batch_ms)

    def par_iter_slice(self, step: int, start: int) -> Any:
        """The next item of part `start` of `step`, to which items are dealt; raises as `par_iter_next`."""
        mine = self._parts[start]
        if not mine:
            for part in range(step):
                try:
                    self._parts[part].append(self.par_iter_next())
                except StopIteration:
                    break
        if not mine:
            raise StopIteration
        return mine.popleft()

    def par_iter_slice_batch(self, step: int, start: int, batch_ms: int) -> list[Any]:
        """As `par_iter_next_batch`, of one part."""
        return _collect(partial(self.par_iter_slice, step, start), batch_ms)


def _cycle(source: Any) -> Iterator[Any]:
    while True:
        items = iter(source() if callable(source) else source)
        if items is source:
            raise ValueError(
                f"Cannot iterate over {source} multiple times. Please pass in the base iterable or "
                f"lambda: {source} instead."
            )
        yield from items


def _collect(take: Callable[[], Any], milliseconds: int) -> list[Any]:
    end = time.monotonic() + milliseconds / 1000
    batch = [take()]
    while time.monotonic() < end:
        try:
            batch.append(take())
        except StopIteration:
            break
    return batch


__getattr__ = absent.getter(__name__)
