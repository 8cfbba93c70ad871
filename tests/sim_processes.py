"""The processes of a simulated cluster: agents and workers (drivers: `sim_driver`) as small state machines.

They talk with the hub by real messages over a `Link`; calls between processes are plain function
calls with a delay.  Every choice comes from the world's seeded generator.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from spoke import wire
from spoke.core import Event, Joined, Lost, Received
from tests.checkers import StateReferee

if TYPE_CHECKING:
    from tests.sim import World


class Link:
    """One process's connection to the hub: two queues, each in order."""

    def __init__(self, world: World, process: Process) -> None:
        self.world = world
        self.process = process
        self.open = True
        self.held_until = 0.0  # a partition: nothing moves before
        self._up = self._down = 0.0

    def _when(self, last: float) -> float:
        world = self.world
        return max(last, self.held_until, world.now + world.rng.uniform(0.0001, 0.003))

    def to_hub(self, event: Event) -> None:
        self._up = self._when(self._up)
        self.world.schedule(self._up, lambda: self._at_hub(event))

    def _at_hub(self, event: Event) -> None:
        if self.open:
            if type(event) is Lost:
                self.open = False
                del self.world.links[self.process.id]
            elif type(event) is Received:
                self.process.heard(event)
            self.world.hub_step(event)

    def to_process(self, deliver: Callable[[], None]) -> None:
        self._down = self._when(self._down)

        def arrive() -> None:
            if self.process.alive and self.process.link is self:
                deliver()

        self.world.schedule(self._down, arrive)

    def hub_crashed(self) -> None:
        """All that is under way is lost; the process notices the end of the link and connects again."""
        self.open = False
        process = self.process
        pause = self.world.rng.uniform(0.05, 1.5)
        self.world.after(pause, lambda: process.alive and process.link is self and process.rejoin())

    def close_by_hub(self, reason: str) -> None:
        self.open = False
        del self.world.links[self.process.id]
        self.to_process(lambda: self.process.hub_lost(reason))


class Process:
    """Anything that talks with the hub."""

    def __init__(self, world: World, process_id: bytes) -> None:
        self.world = world
        self.id = process_id
        self.alive = True
        self.link = Link(world, self)
        self.unsaid: list[Received] = []  # not known to be on the hub's record
        world.processes[process_id] = self
        world.links[process_id] = self.link
        self.link.to_hub(Joined(process_id))

    def send(self, *message: Any, payload: bytes = b"") -> None:
        if self.alive:
            event = Received(self.id, wire.decode(wire.encode(*message)), payload)
            if message[0] in wire.LASTING:
                self.unsaid.append(event)
            self.link.to_hub(event)

    def heard(self, event: Received) -> None:
        """The hub takes a message of ours; its ACK may be late, and then it is said again."""
        known = [one is event for one in self.unsaid]
        if True in known and self.world.hub.recovery is None and self.world.rng.random() < 0.8:
            del self.unsaid[: known.index(True) + 1]

    def rejoin(self) -> None:
        """The hub is back, or another try is due."""
        if not self.world.hub_up:
            self.world.after(self.world.rng.uniform(0.05, 0.5), lambda: self.alive and self.rejoin())
            return
        self.link = self.world.links[self.id] = Link(self.world, self)
        self.link.to_hub(Joined(self.id))
        self.introduce()
        for event in self.unsaid:
            self.link.to_hub(event)

    def introduce(self) -> None:
        """Say again who we are and what we hold."""
        raise NotImplementedError

    def receive(self, message: list[Any], payload: Any) -> None:
        raise NotImplementedError

    def hub_lost(self, reason: str) -> None:
        self.die()

    def die(self, silently: bool = False) -> None:
        """The process is gone; the kernel closes its link, unless the machine lost its power."""
        if self.alive:
            self.alive = False
            self.world.processes.pop(self.id, None)
            if not silently and self.link.open:
                self.link.to_hub(Lost(self.id, "connection reset"))


class Agent(Process):
    """The daemon of one node."""

    def __init__(self, world: World, resources: dict[str, float], labels: dict[str, str]) -> None:
        super().__init__(world, world.new_id(28))
        self.resources = resources
        self.labels = labels
        self.workers: dict[bytes, SimWorker | None] = {}  # None: starting
        self.exits: list[list[Any]] = []
        self.gpus: dict[bytes, list[int]] = {}  # of the workers
        self.held: dict[int, bool] = {}  # devices that something still is on
        self.slots: dict[tuple[bytes, int], bool] = {}  # held for gangs; whether committed
        self._up()
        self._beat(0)

    def _up(self) -> None:
        host = f"host-{self.id.hex()[:4]}"
        self.send(wire.AGENT_UP, self.id, host, 0, self.resources, self.labels, 1)

    def introduce(self) -> None:
        """The processes that live, and how others ended."""
        self._up()
        self._tell_held()
        self.send(wire.AGENT_REPORT, [[one, 9] for one in self.workers], self.exits[-50:], self.slots_held())

    def slots_held(self) -> list[Any]:
        """What is committed."""
        return [list(key) for key, committed in self.slots.items() if committed]

    def _beat(self, sequence: int) -> None:
        if self.alive:
            self.send(wire.HEARTBEAT, sequence)
            self.world.after(1.0, lambda: self._beat(sequence + 1))

    def receive(self, message: list[Any], payload: Any) -> None:
        kind = message[0]
        if kind == wire.SPAWN:
            worker_id = message[1]
            self.workers[worker_id] = None
            self.gpus[worker_id] = message[4] or []
            self.world.live[worker_id] = self.id
            self.world.after(self.world.rng.uniform(0.01, 0.1), lambda: self._start(worker_id, message[4]))
        elif kind == wire.SPECIALIZE:
            self._specialize(message[1], message[4] or [])
        elif kind == wire.STOP_WORKER:
            delay = 0.001 if message[2] else self.world.rng.uniform(0.001, 0.2)
            self.world.after(delay, lambda: self.reap(message[1], None, 9, ""))
        elif kind == wire.PREPARE:
            self._prepare(*message[1:])
        elif kind == wire.COMMIT:
            self._commit(message[1], message[2])
        elif kind == wire.RELEASE_SLOTS:
            for key in [key for key in self.slots if key[0] == message[1] and message[2] in (-1, key[1])]:
                del self.slots[key]
        elif kind == wire.SHUTDOWN:
            self.die()

    def _prepare(self, group_id: bytes, attempt: int, slots: list[Any]) -> None:
        """Agree after a while, refuse, or be silent; perhaps say it twice."""
        world, key = self.world, (group_id, attempt)
        if world.chance("silent"):
            return
        refusal = "" if key in self.slots or not world.chance("refuses") else "it is draining"
        ports = []
        if not refusal:
            self.slots.setdefault(key, False)
            ports = [[index, port or world.rng.randrange(15_000, 30_000)] for index, _, port in slots]
            world.after(10.0, lambda: self.slots.get(key) is False and self.slots.pop(key))
        for _ in range(1 + world.chance("repeats")):
            delay = world.rng.uniform(0.0, 0.05)
            world.after(delay, lambda: self.send(wire.PREPARED, group_id, attempt, ports, refusal))

    def _commit(self, group_id: bytes, attempt: int) -> None:
        if (group_id, attempt) in self.slots:
            self.slots[group_id, attempt] = True
        else:
            self.send(wire.PREPARED, group_id, attempt, [], "no word came in time")

    def _specialize(self, worker_id: bytes, gpu_ids: list[int]) -> None:
        worker = self.workers.get(worker_id)
        if worker is None:
            self.send(wire.WORKER_EXIT, worker_id, 0, None, 0, "no such worker is on this node", 0)
            return
        assert not worker.used, "specialized after it ran something"
        self.gpus[worker_id] = worker.gpu_ids = gpu_ids
        if self.world.chance("start_fails"):
            self.world.after(0.01, lambda: self.reap(worker_id, 1, 0, "no such directory"))
        else:
            delay = self.world.rng.uniform(0.001, 0.05)
            self.world.after(delay, lambda: worker.alive and worker.send(wire.SPECIALIZED))

    def _start(self, worker_id: bytes, gpu_ids: list[int] | None) -> None:
        if not self.alive or worker_id not in self.workers:
            return
        if self.world.chance("start_fails"):
            self.reap(worker_id, 1, 0, "ImportError: no such module")
            return
        self.workers[worker_id] = SimWorker(self.world, worker_id, self, gpu_ids)

    def reap(self, worker_id: bytes, code: int | None, signal: int, tail: str) -> None:
        if self.alive and worker_id in self.workers:
            worker = self.workers.pop(worker_id)
            if worker is not None:
                worker.die()
            self.world.died(worker_id)
            self._linger(self.gpus.pop(worker_id))
            exit_ = [worker_id, 9, code, signal, tail, 0]

            def report() -> None:
                self.exits.append(exit_)
                self.send(wire.WORKER_EXIT, *exit_)

            self.world.after(0.001, report)

    def _linger(self, gpu_ids: list[int]) -> None:
        """Something that the worker started may still hold its devices for a while."""
        others = [index for other in self.gpus.values() for index in other]
        stuck = [index for index in gpu_ids if index not in others and self.world.chance("lingers")]
        if stuck:
            self.held.update(dict.fromkeys(stuck, True))
            self._tell_held()
            self.world.after(self.world.rng.uniform(0.05, 3.0), lambda: self._let_go(stuck))

    def _let_go(self, gpu_ids: list[int]) -> None:
        for index in gpu_ids:
            self.held.pop(index, None)
        self._tell_held()

    def _tell_held(self) -> None:
        self.send(wire.DEVICES_HELD, [[index, [4711]] for index in self.held])

    def die(self, silently: bool = False) -> None:
        """PROC-1: no process outlives its agent."""
        if self.alive:
            for worker_id, worker in self.workers.items():
                if worker is not None:
                    worker.die(silently)
                self.world.died(worker_id)
            self.workers.clear()
            super().die(silently)


class Task:
    """Something to run somewhere; resolves exactly once (CALL-1)."""

    def __init__(self, world: World, spec: dict[str, Any], seconds: float, nested: int = 0) -> None:
        self.world = world
        self.spec = spec
        self.seconds = seconds
        self.nested = nested
        self.outcome: str | None = None
        self.done: Callable[[], None] = lambda: None
        world.tasks.append(self)

    def resolve(self, outcome: str) -> None:
        assert self.outcome is None, f"CALL-1: resolved twice: {self.outcome}, {outcome}"
        self.outcome = outcome
        self.done()


class TaskClass:
    """What a caller keeps per class: a queue, leases, and what it told the hub."""

    def __init__(self, class_id: int, spec: dict[str, Any]) -> None:
        self.class_id = class_id
        self.spec = spec
        self.queue: deque[Task] = deque()
        self.running: dict[int, Task | None] = {}  # by lease
        self.wanted = 0


class Caller(Process):
    """The client half of a driver or worker: leases workers, runs tasks on them."""

    def __init__(self, world: World, process_id: bytes, node_id: bytes, role: str) -> None:
        super().__init__(world, process_id)
        self.node_id = node_id
        self.classes: dict[str, TaskClass] = {}
        self.by_lease: dict[int, tuple[TaskClass, bytes]] = {}
        self.infos: dict[int, dict[str, Any]] = {}  # of the leases
        self.role = role
        self.referee = StateReferee()
        self.send(wire.CLIENT_UP, role, [process_id, node_id, "host", 0], 7, {})

    def introduce(self) -> None:
        """What is wanted, held and watched."""
        address = [self.id, self.node_id, "host", 0]
        self.send(wire.CLIENT_UP, self.role, address, 7, {"report": self.report()})

    def report(self) -> dict[str, Any]:
        """See `spoke.core.recovery`."""
        leases = [
            [lease_id, group.class_id, worker_id, *map(self.infos[lease_id].get, ("gpu_ids", "slot"))]
            for lease_id, (group, worker_id) in self.by_lease.items()
        ]
        return {
            "wants": [[one.class_id, one.spec, one.wanted] for one in self.classes.values() if one.wanted],
            "leases": leases,
            "watching": [one for one, (state, _) in self.referee.actors.items() if state != "DEAD"],
            "groups": [one for one, state in self.referee.groups.items() if state != "REMOVED"],
        }

    def submit(self, task: Task) -> None:
        key = repr(task.spec)
        group = self.classes.get(key)
        if group is None:
            group = self.classes[key] = TaskClass(len(self.classes), task.spec)
        group.queue.append(task)
        self._fill(group)
        self._want(group)

    def _fill(self, group: TaskClass) -> None:
        for lease_id, running in group.running.items():
            if running is None and group.queue:
                self._run(group, lease_id)

    def _want(self, group: TaskClass) -> None:
        busy = sum(task is not None for task in group.running.values())
        count = len(group.queue) + busy
        if count != group.wanted and (group.queue or count > group.wanted):
            group.wanted = count
            self.send(wire.WANT, group.class_id, group.spec, count)

    def _run(self, group: TaskClass, lease_id: int) -> None:
        task = group.queue.popleft()
        group.running[lease_id] = task
        worker = self.world.processes.get(self.by_lease[lease_id][1])
        if isinstance(worker, SimWorker):
            self.world.after(0.001, lambda: worker.run(task, lambda: self._finished(group, lease_id, task)))

    def _finished(self, group: TaskClass, lease_id: int, task: Task) -> None:
        if not self.alive or group.running.get(lease_id) is not task:
            return
        task.resolve("done")
        if lease_id not in group.running:
            return
        group.running[lease_id] = None
        if group.queue:
            self._run(group, lease_id)
        elif self.world.chance("retires"):
            self._give_back(group, lease_id, True)
        else:
            self.world.after(0.2, lambda: self._idle_out(group, lease_id))

    def _idle_out(self, group: TaskClass, lease_id: int) -> None:
        if self.alive and group.running.get(lease_id, 0) is None:
            self._give_back(group, lease_id, False)

    def _give_back(self, group: TaskClass, lease_id: int, retire: bool) -> None:
        del group.running[lease_id], self.by_lease[lease_id]
        if not group.queue and group.wanted > len(group.running):
            group.wanted = len(group.running)
            self.send(wire.WANT, group.class_id, group.spec, group.wanted)
        self.send(wire.GIVE_BACK, lease_id, retire)

    def receive(self, message: list[Any], payload: Any) -> None:
        kind = message[0]
        if kind == wire.SHUTDOWN:
            self.hub_lost(message[1])
        elif kind == wire.GRANT:
            group = next(one for one in self.classes.values() if one.class_id == message[1])
            lease_id = message[2]
            self.by_lease[lease_id] = (group, message[3][0])
            self.infos[lease_id] = message[4]
            group.running[lease_id] = None
            if group.queue:
                self._run(group, lease_id)
            else:
                self._give_back(group, lease_id, False)
        elif kind == wire.LEASE_LOST:
            self._lease_lost(message[1])
        elif kind == wire.RECLAIM:
            for lease_id, (group, _) in list(self.by_lease.items()):
                if group.running[lease_id] is None:
                    self._give_back(group, lease_id, False)
        elif kind == wire.PENDING_REASON and message[1] == "class" and message[4]:
            group = next(one for one in self.classes.values() if one.class_id == message[2])
            group.wanted = 0
            while group.queue:
                group.queue.popleft().resolve("unschedulable")
        elif kind == wire.ACTOR_STATE:
            self.referee.actor_state(*message[1:])
        elif kind == wire.GROUP_STATE:
            self.referee.group_state(message[1], message[2])

    def _lease_lost(self, lease_id: int) -> None:
        found = self.by_lease.pop(lease_id, None)
        if found is None:
            return
        group = found[0]
        task = group.running.pop(lease_id)
        group.wanted = min(group.wanted, len(group.running))
        if task is not None:
            group.queue.append(task)
            self._fill(group)
        self._want(group)


class SimWorker(Caller):
    """Runs tasks, which may run tasks themselves, or one actor."""

    def __init__(self, world: World, worker_id: bytes, agent: Agent, gpu_ids: list[int] | None) -> None:
        super().__init__(world, worker_id, agent.id, "worker")
        self.agent = agent
        self.gpu_ids = gpu_ids
        self.running = 0
        self.used = False
        self.actor: list[Any] | None = None
        self.blocked = False

    def report(self) -> dict[str, Any]:
        """What it runs, too."""
        job = next(iter(self.world.hub.state.jobs), b"")  # of whom it is does not matter here
        own = {"actor": self.actor, "busy": self.running > 0, "blocked": self.blocked, "owns": 0, "job": job}
        return {**super().report(), **own}

    def run(self, task: Task, answer: Callable[[], None]) -> None:
        """A task; `answer` is called at its end."""
        if not self.alive:
            return
        self.running += 1
        self.used = True

        def reply() -> None:
            self.running -= 1
            answer()

        if self.world.chance("task_crashes"):
            self.crash()
            return
        if not task.nested:
            self.world.after(task.seconds, lambda: self.alive and reply())
            return
        # Only CPUs are lent while a task sleeps: a child that needs more could wait for its parent.
        cpus = {"resources": {"CPU": task.spec["resources"]["CPU"]}}
        waiting = [Task(self.world, cpus, task.seconds, 0) for _ in range(task.nested)]

        def one_done() -> None:
            if all(child.outcome for child in waiting) and self.alive:
                self.blocked = False
                self.send(wire.BLOCKED, False)
                reply()

        for child in waiting:
            child.done = one_done
        self.blocked = True
        self.send(wire.BLOCKED, True)
        for child in waiting:
            self.submit(child)

    def receive(self, message: list[Any], payload: Any) -> None:
        if message[0] != wire.START_ACTOR:
            super().receive(message, payload)
            return
        _, actor_id, incarnation, spec = message
        assert (self.gpu_ids or []) == spec["gpu_ids"], "an actor on a worker that sees other GPUs"
        assert self.actor is None, "a worker was told to start two actors"
        self.used = True
        self.actor = [actor_id, incarnation]
        fate = self.world.rng.random()
        delay = self.world.rng.uniform(0.001, 0.1)
        if fate < 0.08:
            self.world.after(delay, lambda: self.send(wire.ACTOR_FAILED, actor_id, incarnation, "boom"))
        elif fate < 0.15:
            self.world.after(delay, self.crash)
        else:
            self.world.after(delay, lambda: self.send(wire.ACTOR_READY, actor_id, incarnation))
            if fate < 0.35:
                self.world.after(self.world.rng.uniform(0.2, 4), self.crash)
            elif fate < 0.4:
                self.world.after(self.world.rng.uniform(0.2, 4), lambda: self.leave(actor_id))

    def leave(self, actor_id: bytes) -> None:
        self.send(wire.KILL_ACTOR, actor_id, True, "exit_actor", -1)
        self.world.after(0.05, self.crash)

    def crash(self) -> None:
        if self.alive:
            self.die()
            self.world.after(0.002, lambda: self.agent.reap(self.id, None, 11, "Segmentation fault"))

    def hub_lost(self, reason: str) -> None:
        self.crash()

    def die(self, silently: bool = False) -> None:
        for group in self.classes.values():  # what a dead process waited for concerns nobody
            for task in [*group.queue, *group.running.values()]:
                if task is not None and task.outcome is None:
                    task.done = lambda: None
                    task.resolve("caller died")
            group.queue.clear()
            group.running.clear()
        super().die(silently)
