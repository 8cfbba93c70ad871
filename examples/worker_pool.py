"""A pool of processes as a `concurrent.futures.Executor`.

    python examples/worker_pool.py
"""

from __future__ import annotations

import asyncio
from concurrent.futures import as_completed

import spoke


def square(x: int) -> int:
    """The work."""
    return x * x


async def awaited(pool: spoke.WorkerPool) -> list[int]:
    """Futures of the pool can be awaited."""
    return list(await asyncio.gather(*(asyncio.wrap_future(pool.submit(square, x)) for x in range(3))))


def main() -> None:
    with spoke.WorkerPool(num_workers=2, max_retries=1) as pool:
        print(list(pool.map(square, [1, 2, 3, 4, 5])))  # [1, 4, 9, 16, 25]
        print(sorted(future.result() for future in as_completed([pool.submit(square, x) for x in (6, 7)])))
        print(asyncio.run(awaited(pool)))
        pool.print_status()


if __name__ == "__main__":
    main()
