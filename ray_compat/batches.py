"""Batches of items of several generators at once: what `ray._private.worker` offers to libraries of Ray."""

from __future__ import annotations

import time
from typing import Any, Final

import spoke

_LOOK_AGAIN_S: Final = 0.005

Batch = tuple[Any, list[Any]]


def wait_for_batches(
    generators: list[tuple[Any, list[bool]]], num_return: int, timeout: float | None
) -> list[Batch]:
    """Take the next refs of up to `num_return` generators, as soon as so many of them have all that is asked.

    Args:
        generators: each with one bool for every ref that is asked of it; what they say, whether a value is to
            be brought here, has no effect, as values are brought when they are read.

    Raises:
        TypeError, ValueError: wrong arguments.
    """
    _check(generators, num_return, timeout)
    deadline = None if timeout is None else time.monotonic() + timeout
    while True:
        ready = [(one, len(flags)) for one, flags in generators if _has(one, len(flags))]
        if len(ready) >= min(num_return, len(generators)) or (deadline and time.monotonic() >= deadline):
            return [(one, _taken(one, count)) for one, count in ready[:num_return]]
        time.sleep(_LOOK_AGAIN_S)


def _has(generator: Any, count: int) -> bool:
    stream = generator._stream
    return stream.ended or len(stream.items) >= count


def _taken(generator: Any, count: int) -> list[Any]:
    return [next(generator, None) or _beyond.remote() for _ in range(count)]


@spoke.remote(num_cpus=0)
def _beyond() -> None:
    raise spoke.exceptions.ObjectRefStreamEndOfStreamError("the generator has ended")


def _check(generators: Any, num_return: int, timeout: float | None) -> None:
    what = "_wait_generators_bulk()"
    if not isinstance(generators, list):
        raise TypeError(f"{what} expected a list of (ObjectRefGenerator, list[bool]), got {type(generators)}")
    if timeout is not None and timeout < 0:
        raise ValueError(f"The 'timeout' argument must be nonnegative. Received {timeout}")
    for pair in generators:
        if not isinstance(pair, tuple) or len(pair) != 2 or not isinstance(pair[0], spoke.ObjectRefGenerator):
            raise TypeError(f"{what} expected (ObjectRefGenerator, list[bool]), got {pair!r}")
        if not isinstance(pair[1], list) or not all(isinstance(flag, bool) for flag in pair[1]):
            raise TypeError(f"{what} expected a list of bools for each generator, got {pair[1]!r}")
        if not pair[1]:
            raise ValueError(f"{what} asks for no ref of a generator")
    if not generators:
        return
    if len({pair[0] for pair in generators}) != len(generators):
        raise ValueError("_wait_generators_bulk requires a list of unique generators.")
    if num_return <= 0:
        raise ValueError(f"Invalid number of generators to return {num_return}.")
    if num_return > len(generators):
        raise ValueError("num_return cannot be greater than the number of generators that are given.")
