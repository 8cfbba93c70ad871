"""Tasks, actors and object refs: `python examples/hello.py`.

A Ray script runs here with this one changed import, or unchanged through `ray_compat`.
"""

from __future__ import annotations

import spoke as ray


@ray.remote
def square(number: int) -> int:
    """Runs in a worker process."""
    return number * number


@ray.remote
class Counter:
    """Lives in a worker process of its own; its calls run one after the other."""

    def __init__(self) -> None:
        self.total = 0

    def add(self, amount: int) -> int:
        """Add, and return the total so far."""
        self.total += amount
        return self.total


if __name__ == "__main__":
    ray.init()
    refs = [square.remote(number) for number in range(5)]
    print("squares:", ray.get(refs))
    counter = Counter.remote()  # type: ignore[attr-defined]  # mypy ignores class decorators
    totals = [counter.add.remote(ref) for ref in refs]  # a ref as an argument arrives as its value
    print("running totals:", ray.get(totals))
    ray.shutdown()
