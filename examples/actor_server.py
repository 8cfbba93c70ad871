"""A job hosts a plain object; others find it by its name.

    python examples/actor_server.py
"""

from __future__ import annotations

import threading

import spoke
from spoke import jobs


class Calculator:
    """No decorator, no base class."""

    def __init__(self) -> None:
        self.history: list[str] = []
        self.done = threading.Event()

    def add(self, a: int, b: int) -> int:
        self.history.append(f"add({a}, {b})")
        return a + b

    def multiply(self, a: int, b: int) -> int:
        self.history.append(f"multiply({a}, {b})")
        return a * b

    def get_history(self) -> list[str]:
        return self.history

    def whoami(self, ctx: spoke.ActorContext) -> str:
        """The first parameter asks for the context of the job that hosts this object."""
        return ctx.job_id

    def finish(self) -> None:
        self.done.set()


def host() -> int:
    """The job: serve until told to finish; its result is the number of calls."""
    spoke.init()
    calculator = Calculator()
    with spoke.ActorServer() as server:
        server.register("calculator", calculator)
        calculator.done.wait()
    return len(calculator.history)


def main() -> None:
    spoke.init()
    job = jobs.submit(host, name="calc", resources={"CPU": 1}, ports=["actor"])
    with spoke.lookup("calculator", namespace="calc") as pool:
        pool.wait_for_size(1, timeout=60)
        print(pool.call().add(10, 20), pool.call().multiply(5, 7))  # 30 35
        print(pool.call().get_history())
        print(pool.call().whoami())
        pool.call().finish()
    print(job.result(timeout=60))  # 2


if __name__ == "__main__":
    main()
