"""A whole cluster in one thread, from a seed: one hub core, and simulated agents, workers, drivers.

Time is virtual, every choice comes from one seeded generator, links deliver in order but with delays
of their own, and processes, links and nodes fail.  Referees (`tests.checkers`) watch every step.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from typing import Any

import msgpack

from spoke import wire
from spoke.core import Drop, Event, Journal, Log, Lost, Send, Tick
from spoke.core.hub import HubConfig, HubCore
from tests.checkers import ResourceReferee
from tests.sim_driver import Driver
from tests.sim_processes import Agent, Link, Process, SimWorker, Task


class World:
    """Virtual time, the network, and everything in it."""

    def __init__(
        self,
        seed: int,
        *,
        nodes: int | None = None,
        faults: bool = True,
        audit_every: int = 32,
        durable: bool = False,
    ) -> None:
        self.rng = rng = random.Random(seed)
        self.seed = seed
        self.now = 100.0
        self.heap: list[tuple[float, int, Callable[[], Any]]] = []
        self.sequence = 0
        self.processes: dict[bytes, Process] = {}
        self.links: dict[bytes, Link] = {}
        self.live: dict[bytes, bytes] = {}  # worker processes that exist, with their node
        self.tasks: list[Task] = []
        self.detached: list[bytes] = []
        self.detached_groups: list[bytes] = []
        self.steps = 0
        self.audit_every = audit_every
        self.transcript: list[str] | None = None
        self.tick_at: float | None = None
        self.rate = rng.choice([1.0, 3.0, 8.0])
        rates = {"start_fails": 0.02, "task_crashes": 0.01, "retires": 0.1, "lingers": 0.3}
        rates.update(silent=0.02, refuses=0.05, repeats=0.1)
        self.rates = rates if faults else {"retires": 0.1}
        self.durable = durable
        self.journal: dict[tuple[str, bytes], Any] = {}
        self.crashes = 0
        self.hub_up = True
        self.prestart = rng.choice([None, 0, 2])
        self.hub = HubCore(self._hub_config())
        self.referee = ResourceReferee()
        self.agents: list[Agent] = []
        for _ in range(nodes or rng.choice([1, 2, 3, 5])):
            self.add_node()
        self.drivers = [Driver(self, self.home()) for _ in range(rng.choice([1, 2, 3]))]

    # -- time and chance

    def schedule(self, when: float, action: Callable[[], Any]) -> None:
        self.sequence += 1
        heapq.heappush(self.heap, (when, self.sequence, action))

    def after(self, seconds: float, action: Callable[[], Any]) -> None:
        self.schedule(self.now + seconds, action)

    def chance(self, what: str) -> bool:
        return self.rng.random() < self.rates.get(what, 0.0)

    def new_id(self, size: int) -> bytes:
        return self.rng.randbytes(size)

    def run_until(self, when: float) -> None:
        while self.heap and self.heap[0][0] <= when:
            self.now, _, action = heapq.heappop(self.heap)
            action()
        self.now = when

    # -- the hub and its shell

    def hub_step(self, event: Event) -> None:
        self.referee.heard(event)
        commands = self.hub.step(self.now, event)
        self.steps += 1
        if self.transcript is not None:
            self.transcript.append(f"{self.now:.6f} {event} {commands}")
        sends = [one.message for one in commands if type(one) is Send]
        told = [message[1] for message in sends if message[0] == wire.GROUP_STATE]
        self._show_unwatched(told)
        self.referee.said(commands)
        self._show_unwatched([])
        for command in commands:
            if type(command) is Send:
                self._send(command)
            elif type(command) is Journal:
                if command.record is None:
                    self.journal.pop((command.table, command.key), None)
                else:
                    self.journal[command.table, command.key] = msgpack.packb(command.record)
            elif type(command) is Drop:
                link = self.links.get(command.peer)
                if link is not None:
                    link.close_by_hub(command.reason)
            else:
                assert type(command) is Log and command.level != "error"
        if self.steps % self.audit_every == 0 and self.hub.recovery is None:
            self.hub.validate()
        deadline = self.hub.next_deadline()
        if deadline is not None and (self.tick_at is None or deadline < self.tick_at):
            self.tick_at = deadline
            self.schedule(max(deadline, self.now), lambda: self._tick(deadline))

    def _show_unwatched(self, told: list[bytes]) -> None:
        """Nobody is told of a detached group whose creator is gone: the referee is."""
        for group_id in self.detached_groups:
            state = self.hub.state
            group = state.groups.get(group_id) or state.removed_groups.get(group_id)
            if group_id in told:
                continue
            if group is not None and not group.watchers and group_id in self.referee.groups:
                nodes = [bundle.node.node_id if bundle.node else None for bundle in group.bundles]
                self.referee.groups[group_id].update(state=group.state, nodes=nodes)

    def _hub_config(self) -> HubConfig:
        return HubConfig(
            seed=b"sim-%d" % self.seed,
            idle_worker_s=5.0,
            prestart=self.prestart,
            durable=self.durable,
            boot=self.crashes,
        )

    def crash_hub(self) -> None:
        """Its tables and all that is under way are lost; what is journaled is not."""
        if not self.hub_up:
            return
        self.hub_up = False
        self.crashes += 1
        links, self.links = list(self.links.values()), {}
        for link in links:
            link.hub_crashed()
        self.after(self.rng.uniform(0.01, 2.0), self._start_hub)

    def _start_hub(self) -> None:
        records = [
            (table, key, msgpack.unpackb(record, strict_map_key=False))
            for (table, key), record in self.journal.items()
        ]
        self.hub = HubCore(self._hub_config(), records)
        self.hub_up = True
        self.tick_at = None
        self.hub_step(Tick())

    def _send(self, command: Send) -> None:
        link = self.links.get(command.peer)
        if link is not None:
            message = wire.decode(wire.encode(*command.message))
            link.to_process(lambda: link.process.receive(message, command.payload))

    def _tick(self, due: float) -> None:
        if self.tick_at == due and self.hub_up:
            self.tick_at = None
            self.hub_step(Tick())

    # -- nodes and faults

    def add_node(self, zone: str = "") -> Agent:
        rng = self.rng
        resources = {"CPU": 4.0, "GPU": float(rng.choice([2, 2, 4])), "memory": 1000.0}
        agent = Agent(self, resources, {"zone": zone or "ab"[len(self.agents) % 2]})
        self.agents.append(agent)
        return agent

    def home(self) -> bytes:
        return self.agents[0].id if self.agents else b""

    def repair(self) -> None:
        """Enough nodes for everything that drivers ask for."""
        self.agents = [agent for agent in self.agents if agent.alive]
        zones = [agent.labels["zone"] for agent in self.agents]
        for zone in "ab":
            if zone not in zones:
                self.add_node(zone)
        while len(self.agents) < 3:
            self.add_node()

    def died(self, worker_id: bytes) -> None:
        """A worker process is reaped by the kernel."""
        self.live.pop(worker_id, None)
        self.referee.process_died(worker_id)

    def break_something(self) -> None:
        """One random fault."""
        rng = self.rng
        agents = [agent for agent in self.agents if agent.alive]
        workers = [one for one in self.processes.values() if isinstance(one, SimWorker)]
        fault = rng.random()
        if self.durable and rng.random() < 0.15:
            self.crash_hub()
        if fault < 0.45 and workers:
            rng.choice(workers).crash()
        elif fault < 0.55 and workers:
            self._cut(rng.choice(workers))
        elif fault < 0.65 and agents:
            self.replace(rng.choice(agents), silently=rng.random() < 0.5)
        elif fault < 0.8 and agents:
            self._partition(rng.choice(agents), rng.choice([0.5, 3.0, 8.0]))
        elif fault < 0.85 and len(self.drivers) > 1:
            driver = rng.choice(self.drivers)
            self.kill_driver(driver)
            self.drivers.append(Driver(self, self.home()))

    def kill_driver(self, driver: Driver) -> None:
        self.drivers.remove(driver)
        for group in driver.classes.values():
            for task in [*group.queue, *group.running.values()]:
                if task is not None:
                    task.resolve("caller died")
            group.queue.clear()
            group.running.clear()
        driver.die()

    def _cut(self, worker: SimWorker) -> None:
        """Only the link breaks; the process notices, too."""
        worker.link.to_hub(Lost(worker.id, "connection timed out"))
        self.after(self.rng.uniform(0.01, 3.0), worker.crash)

    def replace(self, agent: Agent, silently: bool) -> None:
        """A node dies, with or without its kernel closing the links; another joins later."""
        agent.die(silently)
        self.agents.remove(agent)
        self.after(self.rng.uniform(0.1, 2.0), self.add_node)

    def _partition(self, agent: Agent, seconds: float) -> None:
        until = self.now + seconds
        agent.link.held_until = max(agent.link.held_until, until)
        for worker in agent.workers.values():
            if worker is not None:
                worker.link.held_until = max(worker.link.held_until, until)

        def heal() -> None:
            if not agent.alive and agent in self.agents:
                self.agents.remove(agent)
                self.add_node()

        self.after(seconds + 0.5, heal)
