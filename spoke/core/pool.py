"""The workers of each node: started ahead of need, lent, reused, stopped.

Rules of this module: a worker has an environment and GPUs that it may see, given to it when it starts or,
if it was started ahead of need, before it runs anything (`_specialize`); then both stay for its life, and
once it ran code of a job it serves no other.  Resources are taken before a worker
is looked for, so what waits here (`Node.waiting`) waits only for a process to start.  A worker leaves
the tables when its exit was reported, never before.
"""

from __future__ import annotations

from collections import deque
from hashlib import blake2b
from typing import Final

from spoke import wire
from spoke.core.ledger import CPU, UNIT
from spoke.core.state import BUSY, IDLE, STARTING, STOPPING, Actor, Holding, Key, Node, State, Worker

GENERIC: Final[Key] = ("", None)
SPARE_STARTS_MAX: Final = 2  # at once, beyond what is waited for: starting costs the CPU of real work
LEAVE_S: Final = 10.0  # for a worker that said it exits by itself
_RETRY_S: Final = 0.1
_RETRY_MAX_S: Final = 5.0
_FAILURE_KEYS_MAX: Final = 1000


class Pool:
    """Moves workers through STARTING, IDLE, BUSY, STOPPING."""

    def __init__(self, state: State) -> None:
        self.s = state

    # -- taking

    def claim(self, holding: Holding) -> Worker | None:
        """An idle worker for a holding; None: it waits for one that starts or becomes free."""
        worker = self._take_idle(holding)
        node = holding.node
        if worker is None:
            node.waiting.setdefault(holding.key, deque()).append(holding)
        self.s.touched[node.node_id] = node
        return worker

    def _take_idle(self, holding: Holding) -> Worker | None:
        node, key = holding.node, holding.key
        if key[1] and not self._clear_devices(holding):
            return None
        for job in (holding.job, b""):
            for worker in reversed(node.idle.get((key, job), ())):
                if self._may_serve(worker, holding):
                    self._unidle(worker)
                    self._use(worker, holding)
                    return worker
        return None

    def _may_serve(self, worker: Worker, holding: Holding) -> bool:
        """An actor takes its process along when it ends: not one whose code owns other actors."""
        if holding.key[1] or not isinstance(holding.user, Actor):
            return True
        client = self.s.clients.get(worker.worker_id)
        return client is None or not client.actors

    def _use(self, worker: Worker, holding: Holding) -> None:
        worker.state = BUSY
        worker.job = holding.job
        worker.holding = holding
        holding.worker = worker
        client = self.s.clients.get(worker.worker_id)
        if client is not None:
            client.job = holding.job

    def _clear_devices(self, holding: Holding) -> bool:
        """Stop idle workers that still have memory on these GPUs; True when nobody is left there.

        A share of a GPU tolerates others like itself; a whole GPU tolerates one idle worker only:
        the one that will be used.
        """
        key, job = holding.key, holding.job
        if holding.node.held and any(index in holding.node.held for index in key[1] or ()):
            return False  # a process that is no worker's
        whole = holding.shape.gpu >= UNIT
        clear = True
        kept = False
        for worker in list(holding.node.workers.values()):
            if worker.holding is not None or not _overlap(worker.key, key):
                continue
            same = worker.key == key and worker.job in (job, b"")
            if worker.state == STARTING and (same or worker.key in holding.node.waiting):
                continue  # a start that somebody with another share of the GPU waits for
            if same and worker.state == IDLE and not (whole and kept):
                kept = True
                continue
            clear = False
            if worker.state != STOPPING:
                self.stop(worker, True, "its GPU is needed")
        return clear

    def cancel(self, holding: Holding) -> None:
        """A holding that waits for a worker is no longer wanted."""
        queue = holding.node.waiting.get(holding.key)
        if queue is not None and holding in queue:
            queue.remove(holding)
            if not queue:
                del holding.node.waiting[holding.key]

    # -- starting

    def refill(self, node: Node) -> list[tuple[Holding, Worker]]:
        """Start what is waited for and keep some workers ready.  Returns holdings that found one."""
        bound: list[tuple[Holding, Worker]] = []
        if not node.alive:
            return bound
        for key in list(node.waiting):
            queue = node.waiting[key]
            if key[1]:
                while queue:
                    worker = self._take_idle(queue[0])
                    if worker is None:
                        break
                    bound.append((queue.popleft(), worker))
            if not queue:
                del node.waiting[key]
                continue
            if not self._may_start(node, key) or (key[1] and not self._clear_devices(queue[0])):
                continue
            waiting = list(queue)[node.starting.get(key, 0) :]
            for holding in waiting:
                if not self._specialize(node, holding):
                    if node.starting_count >= node.start_max:
                        break
                    self._spawn(node, key, holding)
        self._prestart(node)
        return bound

    def _may_start(self, node: Node, key: Key) -> bool:
        retry_at = node.retry_at.get(key)
        if retry_at is None or retry_at <= self.s.now:
            return True
        self.s.wake_at(retry_at)
        return False

    def _prestart(self, node: Node) -> None:
        """As many idle generic workers as free CPUs could use, one at least, within `prestart`."""
        if not node.prestart:
            return
        free_cpus = -(-max(0, node.ledger.free.get(CPU, 0)) // UNIT)
        target = min(node.prestart, max(1, free_cpus))
        idle = sum(len(stack) for (key, _), stack in node.idle.items() if key == GENERIC)
        spare = node.starting.get(GENERIC, 0) - len(node.waiting.get(GENERIC, ()))
        missing = target - idle - max(0, spare)
        while missing > 0 and spare < SPARE_STARTS_MAX and node.starting_count < node.start_max:
            if not self._may_start(node, GENERIC):
                return
            self._spawn(node, GENERIC, None)
            spare += 1
            missing -= 1

    def _spawn(self, node: Node, key: Key, holding: Holding | None) -> None:
        s = self.s
        digest = blake2b(s.config.seed, digest_size=28, salt=b"worker")
        digest.update(s.serial().to_bytes(8, "little"))
        worker_id = digest.digest()
        worker = Worker(worker_id, node, key, s.now)
        s.workers[worker_id] = node.workers[worker_id] = worker
        env = {**s.config.worker_env, **(holding.shape.env_vars if holding is not None else {})}
        cwd = (holding.shape.cwd if holding is not None else None) or s.config.worker_cwd
        self._starts(worker, wire.SPAWN, env, cwd, holding)

    def _specialize(self, node: Node, holding: Holding) -> bool:
        """Let a spare worker, one that ran nothing, take over what the holding's worker must have; it
        counts as one that starts until it did."""
        spare = node.idle.get((GENERIC, b"")) if holding.shape.late_env else None
        if not spare:
            return False
        worker = spare[0]
        self._unidle(worker)
        worker.state = STARTING
        worker.key = holding.key
        worker.since = self.s.now
        self._starts(worker, wire.SPECIALIZE, holding.shape.env_vars, holding.shape.cwd, holding)
        return True

    def _starts(
        self, worker: Worker, order: int, env: dict[str, str], cwd: str | None, holding: Holding | None
    ) -> None:
        s, node, key = self.s, worker.node, worker.key
        node.starting[key] = node.starting.get(key, 0) + 1
        node.starting_count += 1
        gpus = None if key[1] is None else list(key[1])
        s.send(node.node_id, order, worker.worker_id, env, cwd, gpus, _log_place(holding))
        s.wake_at(s.now + s.config.start_timeout_s)

    def worker_up(self, worker: Worker, address: wire.Address, pid: int) -> Holding | None:
        """A started worker connected.  Returns the holding that waited for it, if any."""
        worker.address = address
        worker.pid = pid
        return self.specialized(worker)

    def specialized(self, worker: Worker) -> Holding | None:
        """A worker has its environment.  Returns the holding that waited for it, if any."""
        if worker.state != STARTING:
            return None  # it is being stopped already
        node = worker.node
        self._started(worker)
        node.failures.pop(worker.key, None)
        node.retry_at.pop(worker.key, None)
        return self._offer(worker)

    def _started(self, worker: Worker) -> None:
        node = worker.node
        left = node.starting[worker.key] - 1
        if left:
            node.starting[worker.key] = left
        else:
            del node.starting[worker.key]
        if not worker.preparing:
            node.starting_count -= 1
        self.s.touched[node.node_id] = node

    def prepares(self, worker: Worker, preparing: bool) -> None:
        """Its node makes its runtime environment, or has made it.

        Meanwhile it counts neither as one of the few that start at a time nor as late: other work goes on.
        """
        if worker.state != STARTING or worker.preparing == preparing:
            return
        worker.preparing = preparing
        worker.since = self.s.now
        worker.node.starting_count += -1 if preparing else 1
        self.s.touched[worker.node.node_id] = worker.node
        if not preparing:
            self.s.wake_at(self.s.now + self.s.config.start_timeout_s)

    def _offer(self, worker: Worker) -> Holding | None:
        """Give a free worker to the first that waits for one like it, or let it idle."""
        node = worker.node
        queue = node.waiting.get(worker.key)
        if queue:
            for holding in queue:
                if worker.job in (b"", holding.job) and self._may_serve(worker, holding):
                    if holding.key[1] and not self._clear_but(worker, holding):
                        break
                    self.cancel(holding)
                    self._use(worker, holding)
                    return holding
        self.adopt(worker)
        return None

    def adopt(self, worker: Worker) -> None:
        """Let it idle."""
        node = worker.node
        worker.state = IDLE
        worker.idle_since = self.s.now
        node.idle.setdefault((worker.key, worker.job), []).append(worker)
        node.idle_count += 1

    def _clear_but(self, worker: Worker, holding: Holding) -> bool:
        state, worker.state = worker.state, STARTING  # itself it need not clear away
        clear = self._clear_devices(holding)
        worker.state = state
        return clear

    # -- returning and stopping

    def free(self, worker: Worker) -> Holding | None:
        """A worker came back healthy.  Returns the next holding for it, if one waits."""
        worker.holding = None
        self.s.touched[worker.node.node_id] = worker.node
        job = self.s.jobs.get(worker.job)
        if job is None or not job.live:
            worker.state = BUSY
            self.stop(worker, True, "its job ended")
            return None
        return self._offer(worker)

    def _unidle(self, worker: Worker) -> None:
        node = worker.node
        stack = node.idle[worker.key, worker.job]
        stack.remove(worker)
        if not stack:
            del node.idle[worker.key, worker.job]
        node.idle_count -= 1

    def stop(self, worker: Worker, force: bool, why: str) -> None:
        """Ask the agent to end a worker; its resources come back when it is reaped."""
        if worker.state == STOPPING and (worker.forced or not force):
            return
        self._withdraw(worker)
        worker.state = STOPPING
        worker.forced = force
        worker.why = worker.why or why
        worker.stop_at = None
        self.s.send(worker.node.node_id, wire.STOP_WORKER, worker.worker_id, force)

    def leaves(self, worker: Worker, within_s: float = LEAVE_S) -> None:
        """The worker exits by itself, or has already; it is killed if no exit is reported in time."""
        if worker.state == STOPPING:
            return
        self._withdraw(worker)
        worker.state = STOPPING
        worker.stop_at = self.s.now + within_s
        self.s.wake_at(worker.stop_at)

    def _withdraw(self, worker: Worker) -> None:
        """Out of the lists of starting and idle workers."""
        if worker.state == STARTING:
            self._started(worker)
        elif worker.state == IDLE:
            self._unidle(worker)
        self.s.touched[worker.node.node_id] = worker.node

    def gone(self, worker: Worker, kind: str) -> list[Holding]:
        """Remove a reaped worker that ended in this way (`Exit.kind`).

        Returns holdings whose worker evidently cannot be started.
        """
        s, node = self.s, worker.node
        hopeless: list[Holding] = []
        was_starting = worker.state == STARTING
        self._withdraw(worker)
        worker.state = STOPPING
        if was_starting and kind == "runtime_env":
            hopeless = list(node.waiting.pop(worker.key, ()))
        elif was_starting and kind == "worker_died" and node.alive:
            hopeless = self._start_failed(node, worker.key)
        del node.workers[worker.worker_id]
        del s.workers[worker.worker_id]
        return hopeless

    def _start_failed(self, node: Node, key: Key) -> list[Holding]:
        s = self.s
        count = node.failures.get(key, 0) + 1
        s.remember(node.failures, key, count, _FAILURE_KEYS_MAX)
        s.remember(node.retry_at, key, s.now + min(_RETRY_MAX_S, _RETRY_S * 2**count), _FAILURE_KEYS_MAX)
        if count < s.config.start_failures_max:
            return []
        node.failures[key] = s.config.start_failures_max - 1  # the next who asks gets one try
        return list(node.waiting.pop(key, ()))

    # -- housekeeping

    def check(self, node: Node) -> None:
        """Kill what does not start or leave in time; stop what idles beyond the number to keep."""
        s = self.s
        now = s.now
        for worker in list(node.workers.values()):
            late = worker.since + s.config.start_timeout_s <= now
            if worker.state == STARTING and late and not worker.preparing:
                self.stop(worker, True, "it did not connect in time")
            elif worker.stop_at is not None and worker.stop_at <= now:
                self.stop(worker, True, "it did not exit in time")
            elif worker.stop_at is not None:
                s.wake_at(worker.stop_at)
        if not node.idle_count:
            return
        keep = max(node.prestart, node.ledger.total.get(CPU, 0) // UNIT)
        idle = [worker for stack in node.idle.values() for worker in stack]
        special = [worker for worker in idle if worker.key != GENERIC]
        for group, limit in ((special, s.config.idle_special_max), (idle, keep)):
            over = sum(worker.state == IDLE for worker in group) - limit
            for worker in sorted(group, key=lambda one: one.idle_since):
                if over <= 0 or worker.idle_since + s.config.idle_worker_s > now:
                    break
                if worker.state == IDLE and self._may_stop(worker):
                    self.stop(worker, False, "it was idle")
                    over -= 1

    def _may_stop(self, worker: Worker) -> bool:
        """Whether nobody needs what an idle worker owns: it is asked, and the next check has the answer.

        Its code is over, so what it owns only becomes less: an answer holds while it idles.
        """
        s = self.s
        client = s.clients.get(worker.worker_id)
        if not worker.job or client is None:
            return True  # it never ran anything
        if client.actors:
            return False
        if worker.owns_at >= worker.idle_since and not worker.owns:
            return True
        if worker.asked_at < worker.idle_since or worker.asked_at + s.config.idle_worker_s <= s.now:
            worker.asked_at = s.now
            s.send(worker.worker_id, wire.OWNS)
        return False

    def job_ended(self, job_id: bytes) -> None:
        """Stop the idle workers that hold a job's code."""
        for worker in list(self.s.workers.values()):
            if worker.job == job_id and worker.state == IDLE:
                self.stop(worker, True, "its job ended")


def _overlap(mine: Key, other: Key) -> bool:
    return bool(mine[1] and other[1] and any(index in other[1] for index in mine[1]))


def _log_place(holding: Holding | None) -> str | None:
    """The folder of a gang's output and the name in it for a rank; None for all others."""
    if holding is None or holding.bundle is None or holding.bundle.group.gang is None:
        return None
    return f"gang-{holding.bundle.group.group_id.hex()}/rank-{holding.bundle.index}"
