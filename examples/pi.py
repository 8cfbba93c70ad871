"""Estimates pi by throwing darts in parallel tasks, each with a seed of its own.

    python examples/pi.py [--samples 10000000] [--tasks 8]
"""

from __future__ import annotations

import argparse
import time

import spoke as ray


@ray.remote
def inside(seed: int, samples: int) -> int:
    """How many of `samples` darts hit the quarter circle."""
    import numpy as np

    rng = np.random.default_rng(seed)
    hits = 0
    while samples:
        count = min(samples, 1_000_000)
        x, y = rng.random(count), rng.random(count)
        hits += int(np.count_nonzero(x * x + y * y <= 1.0))
        samples -= count
    return hits


def estimate(samples: int, tasks: int = 8, seed: int = 0) -> float:
    """Pi, from `samples` darts; the same for the same arguments.

    Raises:
        ValueError: no samples, or no tasks.
    """
    if samples < 1 or tasks < 1:
        raise ValueError(f"at least one sample and one task, not {samples} and {tasks}")
    shares = [samples // tasks + (index < samples % tasks) for index in range(tasks)]
    hits = ray.get([inside.remote(seed + index, share) for index, share in enumerate(shares)])
    return 4.0 * sum(hits) / samples


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=10_000_000)
    parser.add_argument("--tasks", type=int, default=8)
    options = parser.parse_args()
    started = time.perf_counter()
    found = estimate(options.samples, options.tasks)
    print(f"pi is about {found:.5f} ({options.samples} samples in {time.perf_counter() - started:.2f} s)")


if __name__ == "__main__":
    main()
