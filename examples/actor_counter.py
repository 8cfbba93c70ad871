"""A counter as an actor: methods run one after the other, handles share it.

    python examples/actor_counter.py
"""

from __future__ import annotations

import spoke as ray


@ray.remote
class Counter:
    """Counts; needs no lock."""

    def __init__(self) -> None:
        self.count = 0

    def increment(self, by: int = 1) -> int:
        """The count afterwards."""
        self.count += by
        return self.count


@ray.remote
def client(counter: ray.actor.ActorHandle, times: int) -> None:
    """Another process that counts with the same actor."""
    ray.get([counter.increment.remote() for _ in range(times)])


def main() -> None:
    counter = Counter.remote()
    print([ray.get(counter.increment.remote()) for _ in range(5)])  # [1, 2, 3, 4, 5]
    ray.get([client.remote(counter, 1000) for _ in range(2)])
    print(ray.get(counter.increment.remote(0)))  # 2005


if __name__ == "__main__":
    main()
