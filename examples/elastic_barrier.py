"""A barrier whose membership changes: a member dies, and the others go on instead of hanging.

Members are the endpoints of one name; the coordinator is told of changes and counts who is there.  Who waits
when a member dies gets an error for that step and tries again with those that are left.

    python examples/elastic_barrier.py
"""

from __future__ import annotations

import asyncio
import os

import spoke
from spoke import endpoints

NAME = "barrier/members"


class MembershipChanged(RuntimeError):
    """A member was lost while others waited."""


@spoke.remote(num_cpus=0)
class Coordinator:
    """Counts arrivals per step; a step is complete when all members of the moment have arrived."""

    def __init__(self) -> None:
        self.members = 0
        self.loop: asyncio.AbstractEventLoop | None = None
        self.waiting: dict[int, list[asyncio.Future[int]]] = {}

    async def watch(self) -> int:
        """Begin to follow the membership; returns how many there are."""
        self.loop = asyncio.get_running_loop()
        self.pool = await asyncio.to_thread(spoke.lookup, NAME)
        self.members = self.pool.size
        self.pool.subscribe(lambda rows: self.loop.call_soon_threadsafe(self.changed, len(rows)))
        return self.members

    def changed(self, members: int) -> None:
        """In the loop: fail who waits if somebody was lost."""
        lost, self.members = members < self.members, members
        if lost:
            for futures in self.waiting.values():
                for future in futures:
                    if not future.done():
                        future.set_exception(MembershipChanged(f"{members} members are left"))
            self.waiting.clear()

    async def size(self) -> int:
        return self.members

    async def wait_for_barrier(self, step: int) -> int:
        """Wait until all members have arrived at `step`; returns how many they were."""
        futures = self.waiting.setdefault(step, [])
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        futures.append(future)
        if len(futures) >= self.members:
            for one in self.waiting.pop(step):
                one.set_result(self.members)
        return await future


@spoke.remote(num_cpus=0, max_concurrency=2)
class Member:
    """One slice."""

    def __init__(self, coordinator: spoke.actor.ActorHandle) -> None:
        self.coordinator = coordinator

    def arrive(self, step: int) -> int:
        """Pass the barrier, trying again when the membership changes."""
        while True:
            try:
                return spoke.get(self.coordinator.wait_for_barrier.remote(step))
            except MembershipChanged:
                continue

    def leave(self) -> None:
        """Die as a machine does."""
        os._exit(1)


def main() -> None:
    spoke.init(num_cpus=2)
    coordinator = Coordinator.remote()
    members = [Member.remote(coordinator) for _ in range(3)]
    for member in members:
        endpoints.register(NAME, member)
    while spoke.get(coordinator.watch.remote()) < 3:
        pass
    print(spoke.get([member.arrive.remote(0) for member in members]))  # [3, 3, 3]
    waiting = [member.arrive.remote(1) for member in members[:2]]
    members[2].leave.remote()
    print(spoke.get(waiting))  # [2, 2]


if __name__ == "__main__":
    main()
