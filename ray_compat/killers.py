"""Actors that end nodes or workers again and again while a test runs; see `ray._private.test_utils`."""

from __future__ import annotations

import abc
import asyncio
import os
import random
import signal
from collections.abc import Callable, Hashable
from typing import Any

import spoke
from spoke.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from spoke.util.state import list_tasks

_LOOK_S = 0.1


class ResourceKillerActor:
    """What killers have in common; subclasses find and kill.

    Args:
        head_node_id: the node that stays.
        kill_interval_s: seconds from one to the next; the moment within is random.
        kill_delay_s: seconds before the first.
        max_to_kill: ends after so many; None: when it is told to.
        batch_size_to_kill: how many at a time.
        kill_filter_fn: gives a predicate of what may be killed.
    """

    at_once = False  # kill what was found without waiting

    def __init__(
        self,
        head_node_id: str,
        kill_interval_s: float = 60,
        kill_delay_s: float = 0,
        max_to_kill: int | None = 2,
        batch_size_to_kill: int = 1,
        kill_filter_fn: Callable[[], Callable[[Any], bool]] | None = None,
    ) -> None:
        self.head_node_id = head_node_id
        self.kill_interval_s = kill_interval_s
        self.kill_delay_s = kill_delay_s
        self.max_to_kill = max_to_kill
        self.batch_size_to_kill = batch_size_to_kill
        self.kill_filter_fn = kill_filter_fn
        self.is_running = False
        self.killed: set[Hashable] = set()
        self._done = asyncio.Event()

    def ready(self) -> None:
        """Return when the actor is there."""

    async def run(self) -> None:
        """Kill until there is enough of it, or `stop_run` is called."""
        self.is_running = True
        await asyncio.sleep(self.kill_delay_s)
        while self.is_running and (self.max_to_kill is None or len(self.killed) < self.max_to_kill):
            found = await self._find_resources_to_kill()
            pause = 0 if self.at_once else random.random() * self.kill_interval_s
            await asyncio.sleep(pause)
            for one in found:
                if self.is_running and await self._kill_resource(*one):
                    self.killed.add(one)
            await asyncio.sleep(self.kill_interval_s - pause)
        self.is_running = False
        self._done.set()

    @abc.abstractmethod
    async def _find_resources_to_kill(self) -> list[tuple[Any, ...]]:
        """What can be killed now, as arguments of `_kill_resource`."""

    @abc.abstractmethod
    async def _kill_resource(self, *found: Any) -> bool:
        """Kill it; whether that was done."""

    async def stop_run(self) -> bool:
        """Kill no more; whether it ran."""
        was_running, self.is_running = self.is_running, False
        return was_running

    async def get_total_killed(self) -> set[Hashable]:
        """What was killed, when it has ended."""
        await self._done.wait()
        return set(self.killed)

    get_killed_nodes = get_total_killed


class NodeKillerBase(ResourceKillerActor):
    """Finds nodes other than the head; one of them always stays."""

    async def _find_resources_to_kill(self) -> list[tuple[Any, ...]]:
        while self.is_running:
            rows = [row for row in spoke.nodes() if row["Alive"] and row["NodeID"] != self.head_node_id]
            if len(rows) > self.batch_size_to_kill:
                allowed = self.kill_filter_fn() if self.kill_filter_fn else None
                chosen = [row for row in rows if allowed is None or allowed(row)][: self.batch_size_to_kill]
                if chosen:
                    return [
                        (row["NodeID"], row["NodeManagerAddress"], row["NodeManagerPort"]) for row in chosen
                    ]
            await asyncio.sleep(_LOOK_S)
        return []


@spoke.remote(num_cpus=0)
class RayletKiller(NodeKillerBase):
    """Kills the agents of nodes."""

    async def _kill_resource(self, node_id: str, address: str, port: int) -> bool:
        there = NodeAffinitySchedulingStrategy(node_id, soft=False)
        killer = _end_agent.options(scheduling_strategy=there)
        await asyncio.wait([asyncio.ensure_future(killer.remote())])
        return True


@spoke.remote(num_cpus=0)
class WorkerKillerActor(ResourceKillerActor):
    """Kills the workers of running tasks."""

    at_once = True

    async def _find_resources_to_kill(self) -> list[tuple[Any, ...]]:
        while self.is_running:
            rows = await asyncio.to_thread(list_tasks, filters=[("state", "=", "RUNNING")], detail=True)
            allowed = self.kill_filter_fn() if self.kill_filter_fn else None
            for row in rows:
                mine = row.worker_pid == os.getpid() or row.worker_pid is None or row.node_id is None
                if not mine and (allowed is None or allowed(row)):
                    return [(row.task_id, row.worker_pid, row.node_id)]
            await asyncio.sleep(_LOOK_S)
        return []

    async def _kill_resource(self, task_id: str, pid: int, node_id: str) -> bool:
        there = NodeAffinitySchedulingStrategy(node_id, soft=False)
        killer = _end_process.options(scheduling_strategy=there)
        return bool(await killer.remote(pid))


@spoke.remote(num_cpus=0, max_retries=0)
def _end_agent() -> None:
    os.kill(os.getppid(), signal.SIGKILL)  # a worker is a child of its node's agent


@spoke.remote(num_cpus=0)
def _end_process(pid: int) -> bool:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


def get_and_run_resource_killer(
    resource_killer_cls: Any,
    kill_interval_s: float,
    namespace: str | None = None,
    lifetime: str | None = None,
    no_start: bool = False,
    max_to_kill: int | None = 2,
    batch_size_to_kill: int = 1,
    kill_delay_s: float = 0,
    kill_filter_fn: Callable[[], Callable[[Any], bool]] | None = None,
) -> Any:
    """Make a killer on this node and, unless `no_start`, let it run; its handle."""
    assert spoke.is_initialized(), "call init() first"
    here = spoke.get_runtime_context().get_node_id()
    killer = resource_killer_cls.options(
        scheduling_strategy=NodeAffinitySchedulingStrategy(here, soft=False),
        namespace=namespace,
        name="ResourceKiller",
        lifetime=lifetime,
    ).remote(
        here,
        kill_interval_s=kill_interval_s,
        kill_delay_s=kill_delay_s,
        max_to_kill=max_to_kill,
        batch_size_to_kill=batch_size_to_kill,
        kill_filter_fn=kill_filter_fn,
    )
    spoke.get(killer.ready.remote())
    if not no_start:
        killer.run.remote()
    return killer
