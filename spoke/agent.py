"""The agent of one node: starts workers, watches them, reports their end, follows their output.

It decides nothing: the hub says what to start and stop (SPAWN, STOP_WORKER), the agent does it and
reports.  Rules:

- `PROC-1`: every worker leads its own process group and dies with the daemon (death signal), and what it
  started with it (`keeper`).
- A worker's end is reported only after its group was killed and it was reaped, so that the hub never
  gives away what a process still holds (GANG-3).
- The group is killed before the leader is reaped: until then its process id cannot be another's.
"""

from __future__ import annotations

import os
import time
from _signal import SIGKILL, SIGTERM  # type: ignore[import-not-found]  # plain numbers: signal imports enum
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from spoke import _native, config, containers, devices, limits, logs, orphans
from spoke.containers import Endings
from spoke.device_watch import DeviceWatch
from spoke.envs.entering import HOOK_FAILED
from spoke.keeper import Keeper
from spoke.loop import Loop, Timer
from spoke.nursery import Nursery, Order
from spoke.runtime_env import REST_VARIABLE, expanded
from spoke.segment_service import SegmentService
from spoke.segments import SegmentTable
from spoke.slots import HeldSlots
from spoke.wire import (
    AGENT_REPORT,
    AGENT_UP,
    COMMIT,
    DEVICES,
    DROP_ORPHANS,
    ENV_STATE,
    HEARTBEAT,
    LOG_LINES,
    PREPARE,
    PREPARE_ENV,
    READ_FILES,
    RELEASE_SLOTS,
    SPAWN,
    SPECIALIZE,
    STOP_WORKER,
    SURROUNDINGS,
    WORKER_EXIT,
)

if TYPE_CHECKING:
    from spoke.envs.keeper import Environments
    from spoke.envs.parts import Made
    from spoke.jobrunner import JobRunner
    from spoke.logreading import LogReading

Emit = Callable[[tuple[Any, ...]], None]  # sends one message to the hub
Tell = Callable[[bytes, tuple[Any, ...]], bool]  # sends one to a process that has a link; whether it has

KEEP, ASK, KILL = range(3)  # what to do with a worker as soon as it is there

SWEEP_SOON_S = 0.05  # from a worker's end to the search for its orphans
SWEEP_AGAIN_S = 5.0  # while orphans of live workers are left

KEEPER_S = 0.2  # from the agent's start to that of its keeper, which no worker is to wait for

EXITS_KEPT = 1000  # reports of exits that a restarted hub is told again


class NodeSettings:
    """What an agent must know about its node; see `spoke.daemon.Settings` for where it comes from."""

    __slots__ = ("environments_dir", "first_segment", "gpu_variable", "gpu_visible", "heartbeat_s",
                 "host", "hub_address", "keep_gpu_variable", "keep_logs", "kill_grace_s", "labels",
                 "log_dir", "node_id", "port", "resources", "session", "store_limit", "sys_path",
                 "token", "topology")  # fmt: skip

    def __init__(self, node_id: bytes, token: bytes, log_dir: str) -> None:
        self.node_id = node_id
        self.token = token
        self.log_dir = log_dir
        self.session = ""
        self.host = "127.0.0.1"
        self.port = 0  # TCP port of this daemon, 0: this node only
        self.hub_address: list[Any] = [node_id, node_id, self.host, 0]
        self.resources: dict[str, float] = {}
        self.labels: dict[str, str] = {}
        self.topology: dict[str, Any] = {}  # see `spoke.devices.topology`
        self.store_limit = 0
        self.first_segment = 1  # id; an agent before this one gave out lower ones
        self.gpu_variable = devices.CUDA
        self.gpu_visible: str | None = None  # its value for the daemon
        self.keep_gpu_variable = False  # workers see all devices, whatever is theirs
        self.sys_path: list[str] = []
        self.environments_dir: Callable[[], str] = lambda: os.path.join(log_dir, "environments")
        self.keep_logs = False
        self.heartbeat_s = 1.0
        self.kill_grace_s = 2.0


class Worker:
    """One live worker process."""

    __slots__ = ("kill_timer", "log_base", "pid", "pidfd", "source", "streams", "worker_id")

    def __init__(
        self, worker_id: bytes, pid: int, pidfd: int, source: int, log_base: str, files: tuple[int, int]
    ) -> None:
        self.worker_id = worker_id
        self.log_base = log_base
        self.pid = pid
        self.pidfd = pidfd
        self.source = source
        self.streams = [("stdout", files[0], logs.Follower(files[0])),
                        ("stderr", files[1], logs.Follower(files[1]))]  # fmt: skip
        self.kill_timer: Timer | None = None


class Agent:
    """See the module."""

    def __init__(self, loop: Loop, settings: NodeSettings, emit: Emit, nursery: Nursery, tell: Tell) -> None:
        self._loop = loop
        self._settings = settings
        self._emit = emit
        self._tell = tell
        self._workers: dict[bytes, Worker] = {}
        self._starting: dict[bytes, int] = {}  # worker id -> KEEP, ASK or KILL once it is there
        self._nursery = nursery
        self._tag = nursery.environment.get(orphans.AGENT_VARIABLE, "")
        self._keeper = Keeper(self._tag)
        if self._tag:
            for pid in (0, nursery.zygote_pid):
                orphans.mark(self._tag, pid)
        self._files = logs.LogFiles(settings.log_dir, settings.keep_logs)
        self._reading: LogReading | None = None  # made for the first who asks
        self._exits: deque[tuple[Any, ...]] = deque(maxlen=EXITS_KEPT)  # for a hub that missed them
        self._sequence = 0
        self._quiet_s = logs.BUSY_S
        self._closing = False
        self._sweep_timer: Timer | None = None
        self._gpus = DeviceWatch(loop, devices.visible_devices(settings.gpu_visible), emit)
        self.slots = HeldSlots(loop, emit, int(settings.resources.get("GPU", 0)))
        self._jobs: JobRunner | None = None  # made with the first job
        self._environments: Environments | None = None  # made with the first that is asked for
        self._enders: dict[bytes, list[str]] = {}  # command lines that end the workers' containers
        self._endings = Endings(loop, nursery.environment)
        self.segments = SegmentService(
            SegmentTable(settings.store_limit, _native.Segment.create, settings.first_segment),
            loop.reactor,
            loop.after_s,
        )

    @property
    def hub_id(self) -> bytes:
        """The hub's process id."""
        return bytes(self._settings.hub_address[0])

    # -- talk with the hub

    def start(self) -> None:
        """Report to the hub; from now on it may ask for workers."""
        mine = self._settings
        self.introduce()
        self._loop.after_s(mine.heartbeat_s, self._heartbeat)
        self._loop.after_s(logs.BUSY_S, self._follow)
        self._loop.after_s(KEEPER_S, self._keeper.start)

    def introduce(self) -> None:
        """Say what this node is."""
        mine = self._settings
        self._emit((AGENT_UP, mine.node_id, mine.host, mine.port, mine.resources, mine.labels, os.getpid()))
        if any(mine.topology.values()):
            self._emit((DEVICES, mine.topology))
        self._gpus.tell()

    def report(self) -> None:
        """Tell a hub that was restarted which jobs and workers live, and how others ended."""
        if self._jobs is not None:
            self._jobs.report()  # first: the hub takes the report of the workers for the last word
        workers = [[worker.worker_id, worker.pid] for worker in self._workers.values()]
        starting = [[worker_id, 0] for worker_id in self._starting]
        exits = [list(one) for one in self._exits]
        self._emit((AGENT_REPORT, [*workers, *starting], exits, self.slots.held()))

    def message(self, message: list[Any] | tuple[Any, ...]) -> None:
        """A message of the hub."""
        if message[0] == SPAWN:
            self._spawn(*message[1:])
        elif message[0] == SPECIALIZE:
            self._specialize(*message[1:])
        elif message[0] == STOP_WORKER:
            self._stop_worker(message[1], message[2])
        elif message[0] == PREPARE:
            self.slots.prepare(*message[1:])
        elif message[0] == COMMIT:
            self.slots.commit(message[1], message[2])
        elif message[0] == RELEASE_SLOTS:
            self.slots.release(message[1], message[2])
        elif message[0] == DROP_ORPHANS:
            self.segments.table.drop_orphans()
        elif message[0] == PREPARE_ENV:
            self._prepare_environment(message[1])
        elif message[0] == READ_FILES:
            self._read_files(message[1], message[2])
        else:
            self.jobs.message(message)

    @property
    def jobs(self) -> JobRunner:
        """The part that runs submitted jobs."""
        if self._jobs is None:
            from spoke.jobrunner import JobRunner

            self._jobs = JobRunner(
                self._loop,
                self._settings,
                self._emit,
                self._nursery,
                lambda: self.environments,
                self.sweep_soon,
                self._keeper,
                self._endings,
            )
        return self._jobs

    @property
    def environments(self) -> Environments:
        """The part that makes runtime environments."""
        if self._environments is None:
            from spoke.envs.keeper import Environments

            root = self._settings.environments_dir
            self._environments = Environments(
                self._loop, self._settings, self._nursery, self._keeper, root, self.sweep_soon
            )
        return self._environments

    def _prepare_environment(self, env: dict[str, str]) -> None:
        """Ahead of need: who needs it later finds it, unless room was short."""
        user = os.urandom(28)
        variables = {name: str(value) for name, value in env.items() if name != REST_VARIABLE}
        made = lambda found, error: self.environments.release(user)  # noqa: E731  # an error comes again
        self.environments.acquire(user, env[REST_VARIABLE], variables, made, lambda pid, lines: None)

    def _heartbeat(self) -> None:
        if self._closing:
            return
        self._sequence += 1
        self._emit((HEARTBEAT, self._sequence))
        self._loop.after_s(self._settings.heartbeat_s, self._heartbeat)

    # -- workers

    def worker_pids(self) -> dict[int, bytes]:
        """Process ids of the live workers and their worker ids."""
        return {worker.pid: worker.worker_id for worker in self._workers.values()}

    def _spared(self) -> dict[int, bytes]:
        """The children that are no orphans."""
        jobs = self._jobs.pids() if self._jobs is not None else {}
        helpers = self._environments.pids() if self._environments is not None else {}
        ours = {self._nursery.zygote_pid: b"", self._keeper.pid: b""}
        return {**self.worker_pids(), **jobs, **helpers, **ours}

    def _spawn(
        self,
        worker_id: bytes,
        env: dict[str, Any],
        cwd: str | None,
        gpu_ids: list[int] | None,
        log_place: str | None,
    ) -> None:
        if worker_id in self._workers or worker_id in self._starting or self._closing:
            return
        if len(self._workers) + len(self._starting) >= limits.MAX_WORKERS_PER_NODE:
            self._could_not_start(worker_id, f"{limits.MAX_WORKERS_PER_NODE} workers run on this node")
            return
        try:
            base, files = self._files.open(worker_id, log_place)
        except (OSError, ValueError) as error:
            self._could_not_start(worker_id, f"no log file: {error}")
            return
        self._starting[worker_id] = KEEP
        rest = env.pop(REST_VARIABLE, None)
        changes = self._launching(worker_id, env, gpu_ids)

        def done(pid: int, pidfd: int, error: str) -> None:
            self._started(worker_id, base, files, pid, pidfd, error)

        order = Order(self._worker_config(worker_id), changes, cwd, files, done)
        if rest is None:
            self._nursery.start(order)
        else:
            self._start_in_environment(worker_id, order, rest, env)

    def _start_in_environment(
        self, worker_id: bytes, order: Order, rest: str, variables: dict[str, str]
    ) -> None:
        """Have the environment made, which may take long, and then start the worker in it."""
        waited = False

        def said(pid: int, lines: list[str]) -> None:
            nonlocal waited
            waited = True
            self._emit((ENV_STATE, worker_id, "preparing", pid, lines))

        def ready(made: Made | None, error: str) -> None:
            if made is None:
                self._emit((ENV_STATE, worker_id, "failed", 0, [error]))
                order.done(0, -1, error)
                return
            if self._starting.get(worker_id) == KILL or self._closing:
                order.done(0, -1, "it was not wanted any more")
                return
            if waited:
                self._emit((ENV_STATE, worker_id, "ready", 0, []))
            try:
                self._enter(worker_id, order, made)
            except OSError as problem:
                order.done(0, -1, f"the environment cannot be entered: {problem}")
            else:
                self._nursery.start(order)

        self.environments.acquire(worker_id, rest, variables, ready, said)

    def _enter(self, worker_id: bytes, order: Order, made: Made) -> None:
        order.changes.update(made.variables)
        order.config["env"] = made.config
        order.cwd = made.cwd or order.cwd
        if made.image is not None or made.shell:
            from spoke.envs import launching

            if made.image is None:
                order.argv = launching.by_shell(made)
                return
            name, root = f"spoke-{worker_id.hex()[:12]}", self.environments.root
            order.cwd = root  # podman's monitor may leave a file where it is started
            inside = {**order.changes, orphans.AGENT_VARIABLE: self._tag}
            order.argv = launching.in_container(made, name, root, order.config, inside)
            if made.ender is not None:
                self._enders[worker_id] = made.ender

    def _specialize(
        self,
        worker_id: bytes,
        env: dict[str, Any],
        cwd: str | None,
        gpu_ids: list[int] | None,
        log_place: str | None,
    ) -> None:
        """A spare worker takes over what another one would have been started with, its place for output
        included: the files move, the descriptors stay."""
        worker = self._workers.get(worker_id)
        if worker is None:
            self._stop_worker(worker_id, True)  # which tells the hub that there is none
            return
        try:
            worker.log_base = self._files.move(worker.log_base, log_place)
        except (OSError, ValueError) as error:
            self._give_up(worker, f"no log file: {error}")
            return
        changes = self._launching(worker_id, env, gpu_ids)
        if not self._tell(worker_id, (SURROUNDINGS, changes, cwd)):
            self._give_up(worker, "its link to the agent has ended")

    def _give_up(self, worker: Worker, reason: str) -> None:
        """End a worker that cannot be what it is to be; the reason is in the tail of its exit."""
        os.write(worker.streams[1][1], f"{reason}\n".encode())
        self._stop_worker(worker.worker_id, True)

    def _launching(
        self, worker_id: bytes, env: dict[str, Any], gpu_ids: list[int] | None
    ) -> dict[str, str | None]:
        """A worker is about to have this environment and these devices: what changes in the first."""
        if "SPOKE_GANG_ID" in env:
            self.slots.launching(str(env["SPOKE_GANG_ID"]), str(env.get("RANK")))
        self._gpus.starts(worker_id, gpu_ids)
        return self._changes(worker_id, env, gpu_ids)

    def _started(
        self, worker_id: bytes, base: str, files: tuple[int, int], pid: int, pidfd: int, error: str
    ) -> None:
        wish = self._starting.pop(worker_id)
        if error:
            text = logs.tail(files[1])
            for fd in files:
                os.close(fd)
            self._could_not_start(worker_id, f"{error}\n{text}".rstrip())
            return
        if self._closing:  # its environment was ready only now
            orphans.signal_group(pid, SIGKILL)
        source = self._loop.reactor.watch(pidfd)
        worker = Worker(worker_id, pid, pidfd, source, base, files)
        self._workers[worker_id] = worker
        self._keeper.add(pid)
        if worker_id in self._enders:
            orphans.mark("", pid)
        self._loop.handle(source, lambda kind, meta, payload: self._exited(worker))
        if wish != KEEP:
            self._stop_worker(worker_id, wish == KILL)

    def _could_not_start(self, worker_id: bytes, reason: str) -> None:
        self._report_exit(worker_id, 0, None, 0, reason, 0)

    def _worker_config(self, worker_id: bytes) -> dict[str, Any]:
        mine = self._settings
        return {
            "worker_id": worker_id,
            "node_id": mine.node_id,
            "session": mine.session,
            "token": mine.token,
            "hub": mine.hub_address,
            "agent": [mine.node_id, mine.node_id, mine.host, mine.port],
            "host": mine.host,
            "listen_tcp": mine.port != 0,
            "sys_path": mine.sys_path,
            "log_dir": mine.log_dir,
        }

    def _changes(
        self, worker_id: bytes, env: dict[str, Any], gpu_ids: list[int] | None
    ) -> dict[str, str | None]:
        """What the worker's environment has other than the daemon's."""
        changes: dict[str, str | None] = {
            orphans.VARIABLE: worker_id.hex(),
            "RAY_RAYLET_PID": str(os.getpid()),  # programs written for Ray know a worker by it
        }
        mine = self._settings
        keep = mine.keep_gpu_variable or config.given(env, devices.KNOBS[mine.gpu_variable][1])
        if gpu_ids is not None and not keep:
            changes[mine.gpu_variable] = devices.limited_to(mine.gpu_visible, gpu_ids)
            if mine.gpu_variable == devices.CUDA and mine.gpu_visible is None:
                changes["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"  # NVML's, by which the numbers are
        return {**changes, **expanded(env, self._nursery.environment)}

    def _stop_worker(self, worker_id: bytes, force: bool) -> None:
        worker = self._workers.get(worker_id)
        if worker is None:
            if worker_id in self._starting:
                self._starting[worker_id] = KILL if force else ASK
                if force and self._environments is not None:
                    self._environments.give_up(worker_id)
            elif worker_id not in self._enders:  # of those the end is told when their container is gone
                # Its end was told, or the order to start it never came: who asks waits for its end.
                self._emit((WORKER_EXIT, worker_id, 0, None, 0, "no such worker is on this node", 0))
            return
        if force:
            orphans.signal_group(worker.pid, SIGKILL)
        elif worker.kill_timer is None:
            orphans.signal_group(worker.pid, SIGTERM)
            worker.kill_timer = self._loop.after_s(
                self._settings.kill_grace_s, lambda: orphans.signal_group(worker.pid, SIGKILL)
            )

    def _exited(self, worker: Worker) -> None:
        """The pidfd is readable: the leader is dead, and a zombie until `reap`."""
        orphans.signal_group(worker.pid, SIGKILL)
        status = _reap_child(worker.pid)
        if status is None:
            return
        if worker.kill_timer is not None:
            worker.kill_timer.cancel()
        del self._workers[worker.worker_id]
        self._follow_worker(worker, final=True)
        tail = logs.tail(worker.streams[1][1])
        self._files.put_away(worker.log_base, (worker.streams[0][1], worker.streams[1][1]))
        self._forget(worker)
        self.segments.table.owner_died(worker.worker_id)
        self.sweep_soon()
        code, number, memory = status
        if code == HOOK_FAILED:
            self._emit((ENV_STATE, worker.worker_id, "failed", worker.pid, [tail]))
        report = (worker.worker_id, worker.pid, code, number, tail, memory)
        ender = self._enders.get(worker.worker_id)
        if ender is not None and (number or code == containers.COULD_NOT):
            self._endings.end(ender, lambda: self._report_exit(*report))
        else:
            self._report_exit(*report)

    def _report_exit(self, *fields: Any) -> None:
        self._gpus.ended(fields[0])  # first: the hub must not give away what is still held
        if self._environments is not None:
            self._environments.release(fields[0])
            self._enders.pop(fields[0], None)
        self._exits.append(fields)
        self._emit((WORKER_EXIT, *fields))

    def _forget(self, worker: Worker) -> None:
        """Close what this process holds open for a worker that is reaped."""
        self._keeper.remove(worker.pid)
        self._loop.reactor.unwatch(worker.source)
        self._loop.forget(worker.source)
        os.close(worker.pidfd)
        for _, fd, _ in worker.streams:
            os.close(fd)

    def sweep_soon(self) -> None:
        """Look for what ended workers left behind, once for all that end about now."""
        if self._sweep_timer is None and not self._closing:
            self._sweep_timer = self._loop.after_s(SWEEP_SOON_S, self._sweep)

    def _sweep(self) -> None:
        self._sweep_timer = None
        coming = self._nursery.coming()
        if not self._closing and orphans.sweep(self._spared(), tag=self._tag, coming=coming):
            self._sweep_timer = self._loop.after_s(SWEEP_AGAIN_S, self._sweep)

    # -- logs

    def _follow(self) -> None:
        """Look at every worker's files; more often while something is written."""
        if self._closing:
            return
        wrote = False
        for worker in self._workers.values():
            wrote = self._follow_worker(worker) or wrote
        self._quiet_s = logs.BUSY_S if wrote else min(logs.IDLE_S, self._quiet_s * 1.5)
        self._loop.after_s(self._quiet_s, self._follow)

    def _follow_worker(self, worker: Worker, final: bool = False) -> bool:
        wrote = False
        for stream, _, follower in worker.streams:
            for name, lines in follower.read(final):
                wrote = True
                self._emit((LOG_LINES, self._settings.node_id, worker.pid, name, stream, lines))
        return wrote

    def _read_files(self, number: int, args: dict[str, Any]) -> None:
        if self._reading is None:
            from spoke.logreading import LogReading

            self._reading = LogReading(self._loop, self._settings.log_dir, self._emit)
        self._reading.asked(number, args)

    # -- the end

    def flush_logs(self) -> None:
        """Send on what the workers have written so far."""
        for worker in self._workers.values():
            self._follow_worker(worker)

    def close(self, deadline_s: float = 2.0) -> None:
        """Kill and reap every worker and what it left behind, release the segments."""
        self._closing = True
        self.slots.close()
        if self._environments is not None:
            self._environments.close()
        if self._jobs is not None:
            self._jobs.kill_all()
        for worker in self._workers.values():
            orphans.signal_group(worker.pid, SIGKILL)
        deadline = time.monotonic() + deadline_s
        self._nursery.close()
        waiting = list(self._workers.values())
        while waiting and time.monotonic() < deadline:
            waiting = [worker for worker in waiting if _reap(worker.pidfd) is None]
            if waiting:
                time.sleep(0.002)
        for worker in self._workers.values():
            self._forget(worker)
        self._workers.clear()
        jobs = self._jobs.enders() if self._jobs is not None else []
        self._endings.close(
            [*self._enders.values(), *jobs]
        )  # before the sweep, which would kill who ends them
        if self._jobs is not None:
            self._jobs.close()
        self._keeper.close()
        while orphans.sweep({}, everything=True) and time.monotonic() < deadline:
            time.sleep(0.002)
        self.segments.table.clear()


def _reap(pidfd: int) -> tuple[int | None, int] | None:
    try:
        return _native.reap(pidfd)
    except ChildProcessError:  # reaped already
        return None


def _reap_child(pid: int) -> tuple[int | None, int, int] | None:
    """Exit code, signal and the most memory (bytes) of a child that is dead; None if it is not."""
    try:
        found, status, usage = os.wait4(pid, os.WNOHANG)
    except ChildProcessError:  # reaped already
        return None
    if not found:
        return None
    number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
    return None if number else os.WEXITSTATUS(status), number, usage.ru_maxrss * 1024
