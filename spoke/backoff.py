"""Pauses between attempts that grow: exponential back-off with jitter."""

from __future__ import annotations

from collections.abc import Callable


class ExponentialBackoff:
    """``next()`` gives the next pause in seconds: initial, initial * factor, ... up to maximum.

    Args:
        jitter: each pause is changed by at most this share of itself, so that many do not retry at once.
        uniform: a source of numbers in [0, 1), for tests.  [default: the system's]

    Raises:
        ValueError: initial <= 0, maximum < initial, factor < 1, or jitter not in [0, 1).
    """

    def __init__(
        self,
        initial: float = 0.05,
        maximum: float = 1.0,
        factor: float = 1.5,
        jitter: float = 0.1,
        uniform: Callable[[], float] | None = None,
    ) -> None:
        if initial <= 0:
            raise ValueError(f"initial is a positive time in seconds, not {initial!r}")
        if maximum < initial:
            raise ValueError(f"maximum ({maximum!r}) is less than initial ({initial!r})")
        if factor < 1:
            raise ValueError(f"factor is 1 or more, not {factor!r}")
        if not 0 <= jitter < 1:
            raise ValueError(f"jitter is a share in [0, 1), not {jitter!r}")
        self._initial, self._maximum, self._factor, self._jitter = initial, maximum, factor, jitter
        self._pause = initial
        if uniform is None:
            import random

            uniform = random.random
        self._uniform = uniform

    def next(self) -> float:
        """The next pause in seconds."""
        pause = self._pause
        self._pause = min(self._maximum, pause * self._factor)
        return pause * (1 + self._jitter * (2 * self._uniform() - 1))

    def reset(self) -> None:
        """Begin again with the initial pause."""
        self._pause = self._initial
