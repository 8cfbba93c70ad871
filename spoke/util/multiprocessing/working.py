"""What runs in the processes of a pool."""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import chain, starmap
from typing import Any, Final, NamedTuple

from spoke import codec
from spoke.api import remote

CALL: Final = 3  # items are (function, args, kwargs)
APPLY: Final = 0  # items are (args, kwargs)
MAP: Final = 1  # items are the only argument
STAR: Final = 2  # items are the arguments
KNOWN_MAX: Final = 64


class Work(NamedTuple):
    """A function on its way to the pool's processes."""

    how: int
    blob: bytes
    keep: bool  # a plain function: need not be unpickled again for each chunk

    @classmethod
    def of(cls, func: Any, how: int, keep: bool) -> Work:
        """TypeError for a function that cannot be pickled."""
        return cls(how, codec.dumps_function(func), keep)


class Failure:
    """What the user's function raised for one item, in place of its result."""

    __slots__ = ("_blob", "_text")

    def __init__(self, error: BaseException) -> None:
        self._text = f"{type(error).__name__}: {error}"
        try:
            self._blob = codec.dumps_function(error)
        except TypeError:
            self._blob = b""

    def error(self) -> BaseException:
        """The exception; a RuntimeError with its text where it does not pickle."""
        try:
            found = pickle.loads(self._blob)
        except Exception:
            found = None
        return found if isinstance(found, BaseException) else RuntimeError(self._text)


@remote(num_cpus=0)
class PoolActor:
    """One process of a pool."""

    def __init__(self, initializer: Any = None, initargs: tuple[Any, ...] = ()) -> None:
        self._known: dict[bytes, Any] = {}
        if initializer is not None:
            initializer(*initargs)

    def ping(self) -> None:
        """Nothing: to learn whether the process lives."""

    def run(self, how: int, blob: bytes, keep: bool, chunks: list[Sequence[Any]]) -> tuple[bool, list[Any]]:
        """Whether any item raised, and results in order, a `Failure` for each that did."""
        func: Any = self._known.get(blob)
        if func is None and how != CALL:
            func = pickle.loads(blob)
            if keep:
                if len(self._known) >= KNOWN_MAX:
                    self._known.clear()
                self._known[blob] = func
        count = sum(map(len, chunks))
        items = chain.from_iterable(chunks)
        if how == MAP:
            calls: Iterator[Any] = map(func, items)
        elif how == STAR:
            calls = starmap(func, items)
        elif how == CALL:
            calls = starmap(_call, items)
        else:
            calls = starmap(partial(_call, func), items)
        results: list[Any] = []
        failed = False
        while len(results) < count:
            error: BaseException = StopIteration()  # which ends an iteration without a word
            try:
                results.extend(calls)
            except Exception as raised:
                error = raised
            if len(results) < count:
                results.append(Failure(error))
                failed = True
        return failed, results


def _call(func: Any, args: Any, kwargs: Any) -> Any:
    return func(*args, **kwargs)
