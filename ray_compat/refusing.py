"""Names that programs import and that Spoke does not carry: they are there, and say so when they are used.

A test program imports all helpers of its fixtures at once, also those that it never calls.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn


def refused(name: str, why: str) -> Callable[..., NoReturn]:
    """A function, or a class as far as calls go, that only raises.

    Args:
        name: the full name under which it is found.
        why: what is not there, and what to use instead.
    """

    def refusal(*args: Any, **kwargs: Any) -> NoReturn:
        raise RuntimeError(f"{name} is not carried by Spoke, which stands in for ray here: {why}")

    refusal.__name__ = refusal.__qualname__ = name.rpartition(".")[2]
    refusal.__doc__ = f"Refused: {why}."
    return refusal
