"""Handing a tensor from one actor to another: the workloads beside `workloads`, run in the same way.

The producer holds its tensor, as a model holds its weights, and returns it; the consumer gets it as an
argument and reads its first and last number.  Where the engine has memory for tensors that are handed
over (`spoke.empty`), the producer's lies there; elsewhere it is an ordinary array.
"""

from __future__ import annotations

import time
from typing import Any

if __package__:
    from .workloads import Body, Plan, actor, workload
else:  # run by path
    from workloads import Body, Plan, actor, workload  # type: ignore[import-not-found,no-redef]


class Holder:
    """Holds `count` float32, and gives all of them to whoever asks."""

    def __init__(self, count: int) -> None:
        import importlib
        import sys

        import numpy as np

        # The one thing that an engine may offer beyond Ray's API.
        spoke = importlib.import_module("spoke") if "spoke" in sys.modules else None
        self.array = np.empty(count, np.float32) if spoke is None else spoke.empty(count, np.dtype("float32"))
        self.array[:] = 1.0

    def small_value(self) -> bytes:
        return b"ok"

    def give(self) -> Any:
        return self.array


class Taker:
    """Reads both ends of what it is given."""

    def small_value(self) -> bytes:
        return b"ok"

    def take(self, array: Any) -> float:
        return float(array[0] + array[-1])


def hand_over(size: int) -> Body:
    """Times, in microseconds, from asking the producer to the consumer's answer."""

    def body(plan: Plan) -> list[float]:
        import importlib
        import sys

        ray = importlib.import_module("spoke" if "spoke" in sys.modules else "ray")
        holder, taker = actor(Holder, size // 4), actor(Taker)
        once = 12 if size < 1 << 28 else 5
        samples = []
        for index in range(once + 2):
            begin = time.perf_counter()
            answer = ray.get(taker.take.remote(holder.give.remote()))
            took = (time.perf_counter() - begin) * 1e6
            assert answer == 2.0
            if index >= 2:  # the first ones open links and map memory
                samples.append(took)
        return samples

    return body


SIZES = {"1 KiB": 1 << 10, "1 MiB": 1 << 20, "64 MiB": 1 << 26, "1 GiB": 1 << 30}

for _name, _size in SIZES.items():
    workload(f"tensor hand-over between actors, {_name}", "us")(hand_over(_size))


if __name__ == "__main__":
    from workloads import main

    main()
