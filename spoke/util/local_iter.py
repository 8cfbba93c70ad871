"""A stream of items in this process, through operators: `LocalIterator`, see `spoke.util.iter`.

A base gives items, stages change the stream; both are generators, made when the first item is asked for.
With a timeout the base yields `_NextValueNotReady` where nothing has come, which stages pass on: so a union
can turn to another of its streams.
"""

from __future__ import annotations

import random
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, ClassVar, Generic, TypeVar

from spoke import api
from spoke.util.iter_metrics import MetricsContext, SharedMetrics

T = TypeVar("T")
U = TypeVar("U")
Stage = Callable[[Iterator[Any]], Iterator[Any]]
PULLS_MAX = 100  # of a stream of a union whose weight is "*", before another has its turn


class _NextValueNotReady(Exception):
    """Stands in a stream for an item that has not come within the timeout."""


class LocalIterator(Generic[T]):
    """Items one by one, through operators that run in this process.

    Args:
        base_iterator: makes the iterable of items, given the timeout.
        shared_metrics: what operators count in.
        local_transforms: stages, each given an iterator and returning one.
        timeout: seconds to wait for an item; None for ever.
        name: shown by ``repr``.
    """

    # A function given to for_each that has this method is called by it before an item is fetched for it.
    ON_FETCH_START_HOOK_NAME: ClassVar[str] = "_on_fetch_start"
    thread_local: ClassVar[threading.local] = threading.local()

    def __init__(
        self,
        base_iterator: Callable[..., Iterable[T]],
        shared_metrics: SharedMetrics,
        local_transforms: list[Stage] | None = None,
        timeout: float | None = None,
        name: str | None = None,
    ) -> None:
        self.base_iterator = base_iterator
        self.shared_metrics = shared_metrics
        self.local_transforms = local_transforms or []
        self.timeout = timeout
        self.name = name or "unknown"
        self.built_iterator: Iterator[T] | None = None

    @staticmethod
    def get_metrics() -> MetricsContext:
        """The context of the operator that calls this.

        Raises:
            ValueError: no operator does.
        """
        metrics: MetricsContext | None = getattr(LocalIterator.thread_local, "metrics", None)
        if metrics is None:
            raise ValueError("Cannot access context outside an iterator.")
        return metrics

    def _calling(self, fn: Callable[..., U], *args: Any) -> U:
        """Call an operator's function in the context of this chain."""
        self.thread_local.metrics = self.shared_metrics.get()
        return fn(*args)

    def __iter__(self) -> Iterator[T]:
        if self.built_iterator is None:
            stream: Iterator[Any] = iter(self.base_iterator(self.timeout))
            for stage in self.local_transforms:
                stream = stage(stream)
            self.built_iterator = stream
        return self.built_iterator

    def __next__(self) -> T:
        return next(iter(self))

    def __repr__(self) -> str:
        return f"LocalIterator[{self.name}]"

    # -- operators

    def _then(self, stage: Stage, shown: str) -> LocalIterator[Any]:
        stages = [*self.local_transforms, stage]
        return LocalIterator(self.base_iterator, self.shared_metrics, stages, name=self.name + shown)

    def _each(self, work: Callable[[Any], Iterable[Any]], shown: str) -> LocalIterator[Any]:
        """`work` gives what takes the place of an item."""

        def stage(items: Iterator[Any]) -> Iterator[Any]:
            for item in items:
                if isinstance(item, _NextValueNotReady):
                    yield item
                else:
                    yield from work(item)

        return self._then(stage, shown)

    def transform(self, fn: Callable[[Iterable[T]], Iterable[U]]) -> LocalIterator[U]:
        """What `fn` makes of the stream; it passes on what is not ready."""
        return self._then(lambda items: iter(fn(items)), ".transform()")

    def for_each(
        self, fn: Callable[[T], U], max_concurrency: int = 1, resources: dict[str, Any] | None = None
    ) -> LocalIterator[U]:
        """``fn(item)`` for each item.

        Args:
            max_concurrency: more than 1: so many tasks at a time, results as they come; 0: without bound.
            resources: options of those tasks.
        """
        if max_concurrency == 1:
            found = self._each(lambda item: self._until_ready(fn, item), ".for_each()")
        else:
            remote = api.remote(fn).options(**(resources or {}))
            found = self._then(lambda items: _in_tasks(items, remote, max_concurrency), ".for_each()")
        if hasattr(fn, self.ON_FETCH_START_HOOK_NAME):
            found.local_transforms[-1] = self._announced(found.local_transforms[-1], fn)
        return found

    def _until_ready(self, fn: Callable[[Any], Any], item: Any) -> Iterator[Any]:
        """Results of a function that may say that it has none yet."""
        while True:
            result = self._calling(fn, item)
            yield result
            if not isinstance(result, _NextValueNotReady):
                return

    def _announced(self, stage: Stage, fn: Any) -> Stage:
        def announcing(items: Iterator[Any]) -> Iterator[Any]:
            results = stage(items)
            asked = False
            while True:
                if not asked:
                    self._calling(fn._on_fetch_start)
                try:
                    result = next(results)
                except StopIteration:
                    return
                asked = isinstance(result, _NextValueNotReady)
                yield result

        return announcing

    def filter(self, fn: Callable[[T], bool]) -> LocalIterator[T]:
        """The items that `fn` is true of."""
        return self._each(lambda item: (item,) if self._calling(fn, item) else (), ".filter()")

    def batch(self, n: int) -> LocalIterator[list[T]]:
        """Lists of `n` items; the last may be shorter."""

        def stage(items: Iterator[Any]) -> Iterator[Any]:
            batch: list[Any] = []
            for item in items:
                if isinstance(item, _NextValueNotReady):
                    yield item
                    continue
                batch.append(item)
                if len(batch) >= n:
                    yield batch
                    batch = []
            if batch:
                yield batch

        return self._then(stage, f".batch({n})")

    def flatten(self) -> LocalIterator[Any]:
        """The items of the items."""
        return self._each(iter, ".flatten()")

    def shuffle(self, shuffle_buffer_size: int, seed: int | None = None) -> LocalIterator[T]:
        """Items in random order: each is drawn from a buffer of that many."""
        chance = random.Random(seed)

        def stage(items: Iterator[Any]) -> Iterator[Any]:
            buffer: list[Any] = []
            for item in items:
                if isinstance(item, _NextValueNotReady):
                    yield item
                    continue
                buffer.append(item)
                if len(buffer) >= shuffle_buffer_size:
                    yield buffer.pop(chance.randint(0, len(buffer) - 1))
            while buffer:
                yield buffer.pop(chance.randint(0, len(buffer) - 1))

        return self._then(stage, f".shuffle(shuffle_buffer_size={shuffle_buffer_size}, seed={seed})")

    def combine(self, fn: Callable[[T], list[U]]) -> LocalIterator[U]:
        """The items of ``fn(item)`` for each item."""
        found = self.for_each(fn).flatten()
        found.name = self.name + ".combine()"
        return found

    def zip_with_source_actor(self) -> LocalIterator[Any]:
        """Pairs of the actor that produced an item, and the item; after `gather_async`."""

        def pair(item: Any) -> Any:
            actor = LocalIterator.get_metrics().current_actor
            if actor is None:
                raise ValueError("Could not identify source actor of item")
            return actor, item

        found = self.for_each(pair)
        found.name = self.name + ".zip_with_source_actor()"
        return found

    # -- the ends

    def take(self, n: int) -> list[T]:
        """The next `n` items, fewer at the end."""
        found: list[T] = []
        for item in self:
            found.append(item)
            if len(found) >= n:
                break
        return found

    def show(self, n: int = 20) -> None:
        """Print the next `n` items."""
        for item in self.take(n):
            print(item)

    def duplicate(self, n: int) -> list[LocalIterator[T]]:
        """`n` streams of the same items; one that is ahead waits for the others.

        Raises:
            ValueError: less than 2.
        """
        if n < 2:
            raise ValueError("Number of copies must be >= 2")
        queues: list[deque[Any]] = [deque() for _ in range(n)]

        def copy(mine: deque[Any]) -> Callable[[float | None], Iterator[Any]]:
            def base(timeout: float | None) -> Iterator[Any]:
                while True:
                    if len(mine) < max(map(len, queues)):
                        yield _NextValueNotReady()  # so that those who fell behind go on
                        continue
                    if not mine:
                        self.timeout = timeout
                        try:
                            item = next(self)
                        except StopIteration:
                            return
                        for queue in queues:
                            queue.append(item)
                    yield mine.popleft()

            return base

        return [
            LocalIterator(copy(queue), self.shared_metrics, name=f"{self.name}.duplicate[{index}]")
            for index, queue in enumerate(queues)
        ]

    def union(
        self,
        *others: LocalIterator[T],
        deterministic: bool = False,
        round_robin_weights: list[Any] | None = None,
    ) -> LocalIterator[T]:
        """The items of several streams, in turn.

        Args:
            deterministic: wait for each in its turn; else what is not ready loses it.
            round_robin_weights: how many items of each at a time; "*" for as many as are ready.

        Raises:
            ValueError: not iterators, or not as many weights.
        """
        for other in others:
            if not isinstance(other, LocalIterator):
                raise ValueError(f"other must be of type LocalIterator, got {type(other)}")
        parents = [self, *others]
        weights = round_robin_weights or [1] * len(parents)
        if len(weights) != len(parents):
            raise ValueError("Length of round robin weights must equal number of iterators total.")
        waits = None if deterministic else 0
        timeouts = (
            [0 if w == "*" else None for w in weights] if round_robin_weights else [waits] * len(parents)
        )
        shared = SharedMetrics(parents=[parent.shared_metrics for parent in parents])
        streams = [
            LocalIterator(parent.base_iterator, shared, parent.local_transforms, timeout)
            for parent, timeout in zip(parents, timeouts, strict=True)
        ]
        active = list(zip(weights, streams, strict=True))

        def base(timeout: float | None = None) -> Iterator[Any]:
            while active:
                for entry in list(active):
                    weight, stream = entry
                    try:
                        for _ in range(PULLS_MAX if weight == "*" else _whole(weight)):
                            item: Any = next(stream)
                            if not isinstance(item, _NextValueNotReady):
                                yield item
                                continue
                            if timeout is not None:
                                yield item
                            break
                    except StopIteration:
                        active.remove(entry)

        return LocalIterator(base, shared, name=f"LocalUnion[{self}, {', '.join(map(str, others))}]")


def _in_tasks(items: Iterator[Any], remote: Any, max_concurrency: int) -> Iterator[Any]:
    running: list[Any] = []
    for item in items:
        if isinstance(item, _NextValueNotReady):
            yield item
            continue
        if max_concurrency and len(running) >= max_concurrency:
            finished, running = api.wait(running)
            yield from api.get(finished)
        running.append(remote.remote(item))
    while running:
        finished, running = api.wait(running)
        yield from api.get(finished)


def _whole(weight: float) -> int:
    """A whole number that is `weight` on average."""
    return int(weight) + (random.random() < weight - int(weight))
