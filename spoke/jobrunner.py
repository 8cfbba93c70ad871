"""The agent's part in jobs: starts attempts, watches them, ends them, reads their output.

It decides nothing about retries: the hub says what to run and stop (RUN_JOB, STOP_JOB), the runner reports
(JOB_STATE) and answers for output (READ_LOG).  Rules:

- Each attempt leads a process group of its own and dies with the agent (PROC-1).  Its end is reported only
  when the group is killed and the leader reaped; what left the group is swept as an orphan.
- Stopping is SIGTERM to the group, a grace, SIGKILL, and never waits in this thread.
- The variables `SPOKE_*` are set last, so that a job cannot choose its own.
"""

from __future__ import annotations

import errno
import os
import time
from _signal import SIGKILL, SIGTERM  # type: ignore[import-not-found]  # plain numbers: signal imports enum
from _socket import AF_INET, SO_ERROR, SOCK_STREAM, SOL_SOCKET
from _socket import socket as _Socket
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from spoke import _native, config, containers, joblimits, jobports, jobresult, orphans
from spoke.containers import Endings
from spoke.devices import limited_to
from spoke.envs import launching
from spoke.jobfiles import OutputFiles
from spoke.joblogs import SOURCES, Output, Reader, start_offsets
from spoke.jobresult import HEALTH_FILE
from spoke.jobruntimes import SHELL, Container, RuntimeMissing
from spoke.keeper import Keeper
from spoke.logs import unlink
from spoke.loop import Loop, Timer
from spoke.nursery import Nursery, Order
from spoke.runtime_env import REST_VARIABLE, expanded
from spoke.wire import JOB_STATE, JOBS_RUNNING, LOG_CHUNK, READ_LOG, RUN_JOB, STOP_JOB

if TYPE_CHECKING:
    from spoke.agent import NodeSettings
    from spoke.envs.keeper import Environments
    from spoke.envs.parts import Made

LOOK_S: Final = 0.05  # between looks at output while somebody reads or something is written
IDLE_LOOK_S: Final = 0.5
ENDED_KEPT: Final = 1000  # ended attempts whose output can be read, at most
RETOLD: Final = 50  # ends that a hub which was started again is told, with their results
KILLED_CODE: Final = 128  # added to the number of the signal that ended a process
TIMEOUT_CODE: Final = -1
CGROUP_TRIES: Final = 100  # to remove the cgroup of an attempt, LOOK_S apart


class Running:
    """One attempt on this node, until the next ENDED_KEPT have ended."""

    __slots__ = (
        "cgroup",
        "container",
        "ended",
        "files",
        "health_bytes",
        "health_misses",
        "job_id",
        "kill_timer",
        "last",
        "made",
        "number",
        "outputs",
        "pid",
        "pidfd",
        "ports",
        "process_id",
        "reason",
        "result_fd",
        "source",
        "spec",
        "stop",
    )  # fmt: skip

    def __init__(self, job_id: str, number: int, spec: dict[str, Any]) -> None:
        self.job_id = job_id
        self.number = number
        self.spec = spec
        self.process_id = os.urandom(28)
        self.ports: dict[str, int] = {}
        self.outputs: dict[str, Output] = {}
        self.files: list[str] = []  # removed at the end
        self.result_fd = -1  # of a function
        self.container: Container | None = None
        self.cgroup: joblimits.Cgroup | None = None
        self.pid = 0
        self.pidfd = -1
        self.source = -1
        self.stop: tuple[bool, float] | None = None  # asked for before it was there: force, grace
        self.kill_timer: Timer | None = None
        self.reason = ""  # why the agent killed it: counts as a failure
        self.ended = False
        self.last: tuple[Any, ...] | None = None  # how it ended, for a hub that did not hear it
        self.health_bytes = 0
        self.health_misses = 0
        self.made: Made | None = None  # its runtime environment


class JobRunner:
    """All attempts of one node.

    Args:
        emit: sends one message to the hub.
        environments: gives the part of the agent that makes runtime environments.
        swept: asks the agent to look for orphans soon.
        keeper: is told of every process group that lives.
        endings: removes containers.
    """

    def __init__(
        self,
        loop: Loop,
        settings: NodeSettings,
        emit: Callable[[tuple[Any, ...]], None],
        nursery: Nursery,
        environments: Callable[[], Environments],
        swept: Callable[[], None],
        keeper: Keeper,
        endings: Endings,
    ) -> None:
        self._loop = loop
        self._settings = settings
        self._emit = emit
        self._nursery = nursery
        self._environments = environments
        self._swept = swept
        self._attempts: dict[tuple[str, int], Running] = {}
        self._ended: deque[tuple[str, int]] = deque()
        self._readers: list[tuple[Running, Reader]] = []
        self._files = OutputFiles(settings.keep_logs)
        self._ports = jobports.Ports(*config.get("job_port_range"))
        self._timer: Timer | None = None
        self._closing = False
        self._keeper = keeper
        self._endings = endings

    def message(self, message: list[Any] | tuple[Any, ...]) -> bool:
        """A message of the hub; whether it was for the runner."""
        if message[0] == RUN_JOB:
            self._run(*message[1:])
        elif message[0] == STOP_JOB:
            self._stop(*message[1:])
        elif message[0] == READ_LOG:
            self._read(*message[1:])
        else:
            return False
        return True

    def pids(self) -> dict[int, bytes]:
        """Process ids of the live attempts and the ids that their processes carry."""
        return {one.pid: one.process_id for one in self._live() if one.pid}

    def report(self) -> None:
        """Tell a hub that was started again what runs here, and how the latest others ended."""
        rows = [[one.job_id, one.number, one.pid, one.ports] for one in self._attempts.values()]
        if rows:
            self._emit((JOBS_RUNNING, rows))
        for one in self._attempts.values():
            if one.last is not None:
                self._emit(one.last)

    def _live(self) -> list[Running]:
        return [one for one in self._attempts.values() if not one.ended]

    def _tell(self, one: Running, state: str, **info: Any) -> None:
        info["at_ms"] = int(time.time() * 1000)
        message = (JOB_STATE, one.job_id, one.number, state, info)
        if state == "EXITED":
            one.last = message
        self._emit(message)

    # -- start

    def _run(self, job_id: str, number: int, spec: dict[str, Any]) -> None:
        if (job_id, number) in self._attempts or self._closing:
            return
        one = self._attempts[job_id, number] = Running(job_id, number, spec)
        try:
            self._prepare(one)
        except (OSError, RuntimeMissing, ValueError) as error:
            self._could_not_start(one, str(error))
            return
        if not spec.get("rest"):
            self._launch(one)
            return
        self._tell(one, "BUILDING", message="its runtime environment is being made")

        def ready(made: Made | None, error: str) -> None:
            one.made = made
            if made is None:
                self._could_not_start(one, f"RuntimeEnvSetupError: {error}")
            elif not self._closing:
                self._launch(one)

        def said(pid: int, lines: list[str]) -> None:
            if lines:
                self._tell(one, "BUILDING", message=lines[-1][:300])

        variables = {str(name): str(value) for name, value in (spec.get("env") or {}).items()}
        self._environments().acquire(one.process_id, str(spec["rest"]), variables, ready, said)

    def _launch(self, one: Running) -> None:
        """Start it, as all that it needs is there."""
        spec = one.spec
        try:
            kind = spec.get("runtime") or "process"
            if kind != "process":
                self._tell(one, "BUILDING", message=f"starting a container by {kind}")
                self._start_container(one, kind)
                return
            self._confine(one)
            if spec.get("blob") is not None:
                self._start_function(one)
            else:
                environment = {**self._nursery.environment, **self._environment(one)}
                argv = [*SHELL, str(spec["entrypoint"])]
                if one.cgroup is not None:
                    argv = [*one.cgroup.entering(), *argv]
                self._spawn(one, argv, environment, one.made.cwd if one.made is not None else None)
        except (OSError, RuntimeMissing, ValueError) as error:
            self._could_not_start(one, str(error))

    def _prepare(self, one: Running) -> None:
        base = os.path.join(self._settings.log_dir, _file_name(one.job_id, one.number))
        for source, suffix in zip(SOURCES, (".out", ".err"), strict=True):
            one.outputs[source] = self._files.open(base + suffix)
        if one.spec.get("health") and not one.spec["health"].get("port"):
            one.files = [base + ".health"]
        one.ports = self._ports.take(list(one.spec.get("ports") or []))
        self._look_soon()

    def _confine(self, one: Running) -> None:
        """Make the cgroup that the attempt's first process enters before it runs anything of the user's."""
        if one.spec.get("memory"):
            try:
                name = f"spoke-{one.process_id.hex()[:12]}"
                one.cgroup = joblimits.Cgroup.create(name, one.spec["memory"])
            except OSError:
                pass  # `_weigh` watches it

    def _environment(self, one: Running) -> dict[str, str]:
        """The variables of an attempt; ours win over the user's."""
        mine, spec = self._settings, one.spec
        address = mine.hub_address
        given = expanded(spec.get("env") or {}, self._nursery.environment)
        found = {name: text for name, text in given.items() if text is not None}
        for name in [name for name in found if name.startswith("SPOKE_PORT_")]:
            del found[name]
        if one.made is not None:
            found.update({name: text for name, text in one.made.variables.items() if text is not None})
        found.update({
            orphans.VARIABLE: one.process_id.hex(),
            "SPOKE_JOB_ID": one.job_id,
            "SPOKE_PARENT_JOB_ID": str(spec.get("parent") or ""),
            "SPOKE_ATTEMPT_ID": str(one.number),
            orphans.NODE_VARIABLE: mine.node_id.hex(),
            "SPOKE_NAMESPACE": str(spec.get("namespace") or ""),
            "SPOKE_ADDRESS": f"{address[2]}:{address[3]}" if address[3] else "",
            "SPOKE_BIND_HOST": mine.host,
            **({"RAY_ADDRESS": f"{address[2]}:{address[3]}"} if address[3] else {}),
            REST_VARIABLE: str(spec.get("job_env") or ""),
            **{f"SPOKE_PORT_{name.upper()}": str(port) for name, port in one.ports.items()},
        })  # fmt: skip
        gpu_ids = spec.get("gpu_ids")
        if gpu_ids is not None and not mine.keep_gpu_variable:
            found[mine.gpu_variable] = limited_to(mine.gpu_visible, gpu_ids)
        return found

    def _start_function(self, one: Running) -> None:
        spec = one.spec
        health = dict(spec.get("health") or {})
        if health:
            health["file"] = one.files[0] if one.files else ""
        job = {"blob": spec["blob"], "health": health, "enter": one.cgroup.door if one.cgroup else ""}
        configuration = {"job": job, "sys_path": spec.get("sys_path") or self._settings.sys_path}
        files = (one.outputs["stdout"].fd, one.outputs["stderr"].fd)

        def done(pid: int, pidfd: int, error: str) -> None:
            if error:
                self._could_not_start(one, error)
            else:
                one.result_fd = order.config_fd
                self._started(one, pid, pidfd)

        environment: dict[str, str | None] = dict(self._environment(one))
        order = Order(configuration, environment, None, files, done, keep_config=True)
        if one.made is not None:
            configuration["env"] = one.made.config
            order.cwd = one.made.cwd
            order.argv = launching.by_shell(one.made) if one.made.shell else None
        self._nursery.start(order)

    def _start_container(self, one: Running, kind: str) -> None:
        spec, mine, name = one.spec, self._settings, f"spoke-{one.process_id.hex()[:12]}"
        session = os.path.dirname(mine.environments_dir())
        environment = self._nursery.environment
        one.container = container = Container(
            kind, name, mine.host, session, environment, self._environment(one)
        )
        if spec.get("blob") is not None:
            one.result_fd = container.write_job(spec["blob"], dict(spec.get("health") or {}))
        if one.files:
            one.files = [container.path(HEALTH_FILE)]
        cwd = one.made.cwd if one.made is not None else None
        argv = container.argv({**spec, "cwd": cwd}, one.ports)
        self._spawn(one, argv, container.environment, container.directory)

    def _spawn(self, one: Running, argv: list[str], environment: dict[str, str], cwd: str | None) -> None:
        fds = [(one.outputs["stdout"].fd, 1), (one.outputs["stderr"].fd, 2)]
        owner = one.process_id.hex() if one.container is None else None
        self._started(one, *orphans.spawn(self._keeper.tag, owner, argv, environment, cwd, fds))

    def _started(self, one: Running, pid: int, pidfd: int) -> None:
        one.pid, one.pidfd = pid, pidfd
        self._keeper.add(pid)
        self._keeper.start()
        one.source = self._loop.reactor.watch(pidfd)
        self._loop.handle(one.source, lambda kind, meta, payload: self._exited(one))
        if one.stop is not None:
            self._end(one, *one.stop)
        self._limit(one)
        self._tell(one, "RUNNING", pid=pid, ports=one.ports)

    def _limit(self, one: Running) -> None:
        spec = one.spec
        if spec.get("timeout_s"):
            self._loop.after_s(spec["timeout_s"], lambda: self._fail(one, "Timeout exceeded"))
        if spec.get("memory") and one.container is None and one.cgroup is None:
            self._loop.after_s(joblimits.LOOK_S, lambda: self._weigh(one))
        if spec.get("health"):
            self._loop.after_s(spec["health"]["period_s"], lambda: self._check_health(one))

    def _weigh(self, one: Running) -> None:
        """The watcher of memory, where there is no cgroup."""
        if one.ended or self._closing:
            return
        limit = one.spec["memory"]
        held = joblimits.held_bytes(one.pid)
        if held > limit:
            self._fail(one, f"memory limit exceeded: {held} bytes of {limit}")
        else:
            self._loop.after_s(joblimits.LOOK_S, lambda: self._weigh(one))

    def _could_not_start(self, one: Running, reason: str) -> None:
        self._finish(one)
        self._tell(one, "EXITED", code=None, reason=reason)

    # -- health

    def _check_health(self, one: Running) -> None:
        if one.ended or self._closing:
            return
        health = one.spec["health"]
        if health.get("port"):
            self._knock(one, one.ports[health["port"]])
        else:
            try:
                size = os.path.getsize(one.files[0])
            except OSError:
                size = 0
            self._healthy(one, size > one.health_bytes)
            one.health_bytes = size
        self._loop.after_s(health["period_s"], lambda: self._check_health(one))

    def _knock(self, one: Running, port: int) -> None:
        """Connect to the port without waiting; look after the check's timeout what came of it."""
        plain = _Socket(AF_INET, SOCK_STREAM)
        plain.setblocking(False)
        result = plain.connect_ex((self._settings.host, port))

        def look() -> None:
            error = plain.getsockopt(SOL_SOCKET, SO_ERROR)
            try:
                plain.getpeername()
            except OSError:
                error = error or errno.ENOTCONN
            plain.close()
            self._healthy(one, not error)

        if result in (0, errno.EINPROGRESS):
            self._loop.after_s(one.spec["health"]["timeout_s"], look)
        else:
            plain.close()
            self._healthy(one, False)

    def _healthy(self, one: Running, healthy: bool) -> None:
        if one.ended:
            return
        one.health_misses = 0 if healthy else one.health_misses + 1
        if one.health_misses >= one.spec["health"]["threshold"]:
            self._fail(one, f"health check failed {one.health_misses} times")

    # -- end

    def _fail(self, one: Running, reason: str) -> None:
        """The agent ends an attempt; its failure is the reason."""
        if one.ended or self._closing or one.reason:
            return
        one.reason = reason
        self._end(one, True, 0.0)

    def _stop(self, job_id: str, number: int, force: bool, grace_s: float) -> None:
        one = self._attempts.get((job_id, number))
        if one is None or one.ended:
            return
        if not one.pid:
            one.stop = (force, grace_s)
            if one.spec.get("rest"):
                self._environments().give_up(one.process_id)
        else:
            self._end(one, force, grace_s)

    def _end(self, one: Running, force: bool, grace_s: float) -> None:
        if one.ended or one.pidfd < 0:
            return
        if force or grace_s <= 0:
            orphans.signal_group(one.pid, SIGKILL)
        elif one.kill_timer is None:
            orphans.signal_group(one.pid, SIGTERM)
            one.kill_timer = self._loop.after_s(grace_s, lambda: self._end(one, True, 0.0))

    def _exited(self, one: Running) -> None:
        """The leader is dead, and a zombie until it is reaped."""
        orphans.signal_group(one.pid, SIGKILL)
        try:
            status = _native.reap(one.pidfd)
        except ChildProcessError:
            status = None
        if status is None:
            return
        self._unwatch(one)
        if one.container is not None and (status[1] or status[0] == containers.COULD_NOT):
            self._endings.end(one.container.ender, lambda: self._ended_by(one, *status))
        else:
            self._ended_by(one, *status)

    def _ended_by(self, one: Running, code: int | None, number: int) -> None:
        """Nothing of it lives any more."""
        if one.ended:  # with the agent
            return
        exit_code = KILLED_CODE + number if number else code
        reason = one.reason
        if reason == "Timeout exceeded":
            exit_code = TIMEOUT_CODE
        elif one.cgroup is not None and one.cgroup.exceeded():
            reason = f"memory limit exceeded: {one.spec['memory']} bytes"
        elif one.container is not None and code == containers.COULD_NOT and not reason:
            said = one.outputs["stderr"].last_line()
            reason = f"RuntimeEnvSetupError: {one.spec['runtime']} could not run it: {said}"
        elif number and not reason:
            reason = f"killed by signal {number}"
        result = jobresult.read(one.result_fd) if one.result_fd >= 0 else None
        self._finish(one)
        self._swept()
        self._tell(one, "EXITED", code=exit_code, reason=reason, result=result)

    def _unwatch(self, one: Running) -> None:
        if one.pidfd >= 0:
            self._loop.reactor.unwatch(one.source)
            self._loop.forget(one.source)
            os.close(one.pidfd)
            one.pidfd = -1
            self._keeper.remove(one.pid)

    def _finish(self, one: Running) -> None:
        """Give back what the attempt had, but for its output."""
        if one.kill_timer is not None:
            one.kill_timer.cancel()
        self._unwatch(one)
        if one.result_fd >= 0:
            os.close(one.result_fd)
            one.result_fd = -1
        if one.container is not None:
            one.container.remove_files()
        if one.cgroup is not None:
            self._remove_cgroup(one.cgroup, CGROUP_TRIES)
        self._ports.give(one.ports)
        if one.spec.get("rest"):
            self._environments().release(one.process_id)
        for name in one.files:
            unlink(name)
        one.ended = True
        self._look_at(one)
        self._answer_readers()
        for output in one.outputs.values():
            self._files.settle(output)
        key = (one.job_id, one.number)
        self._ended.append(key)
        if len(self._ended) > RETOLD:
            self._attempts[self._ended[-RETOLD - 1]].last = None
        while len(self._ended) > ENDED_KEPT:
            self._forget(self._attempts.pop(self._ended.popleft()))

    def _remove_cgroup(self, cgroup: joblimits.Cgroup, tries: int) -> None:
        """Now, or when what was in it has ended."""
        if not cgroup.remove() and tries:
            self._loop.after_s(LOOK_S, lambda: self._remove_cgroup(cgroup, tries - 1))

    def _forget(self, one: Running) -> None:
        for output in one.outputs.values():
            self._files.forget(output)

    # -- output

    def _read(self, number: int, job_id: str, attempt: int, args: dict[str, Any]) -> None:
        one = self._attempts.get((job_id, attempt))
        if one is None or len(one.outputs) < len(SOURCES):
            text = f"the output of attempt {attempt} of job {job_id!r} is not kept here any more"
            self._emit((LOG_CHUNK, number, ["RuntimeError", text], None))
            return
        try:
            self._look_at(one)
            offsets = start_offsets(one.outputs, args)
        except (ValueError, TypeError) as error:
            self._emit((LOG_CHUNK, number, ["ValueError", str(error)], None))
            return
        self._readers.append((one, Reader(number, offsets, bool(args.get("follow")))))
        self._answer_readers()
        self._look_soon()

    def _answer_readers(self) -> None:
        waiting = []
        for one, reader in self._readers:
            answer = reader.answer(one.outputs, one.ended)
            if answer is None:
                waiting.append((one, reader))
            else:
                self._emit((LOG_CHUNK, reader.number, None, answer))
        self._readers = waiting

    def _look_at(self, one: Running) -> bool:
        now_ms = int(time.time() * 1000)
        wrote = False
        for output in one.outputs.values():
            wrote = output.look(now_ms) or wrote
        return wrote

    def _look_soon(self) -> None:
        if self._timer is None and not self._closing:
            self._timer = self._loop.after_s(LOOK_S, self._look)

    def _look(self) -> None:
        """Note what was written, answer who waits for it; again while attempts live."""
        self._timer = None
        if self._closing:
            return
        live = self._live()
        wrote = False
        for one in live:
            wrote = self._look_at(one) or wrote
        self._answer_readers()
        if live:
            pause = LOOK_S if wrote or self._readers else IDLE_LOOK_S
            self._timer = self._loop.after_s(pause, self._look)

    # -- the end of the agent

    def kill_all(self) -> None:
        """First part of the agent's end: nothing of any attempt lives on."""
        self._closing = True
        for one in self._live():
            if one.pidfd >= 0:
                orphans.signal_group(one.pid, SIGKILL)

    def enders(self) -> list[list[str]]:
        """Command lines that end the containers of what lives."""
        return [one.container.ender for one in self._live() if one.container is not None]

    def close(self) -> None:
        """Second part: reap, and remove what attempts left."""
        deadline = time.monotonic() + 2.0
        for one in list(self._attempts.values()):
            while not one.ended and one.pidfd >= 0 and time.monotonic() < deadline:
                try:
                    if _native.reap(one.pidfd) is not None:
                        break
                except ChildProcessError:
                    pass
                time.sleep(0.002)
            if not one.ended:
                self._finish(one)
        for one in self._attempts.values():
            while one.cgroup and not one.cgroup.remove() and time.monotonic() < deadline:
                time.sleep(0.002)
            self._forget(one)
        self._attempts.clear()
        self._files.close()


def _file_name(job_id: str, number: int) -> str:
    from hashlib import blake2b

    plain = "".join(char if char.isalnum() or char in "-_." else "_" for char in job_id.replace("/", "__"))
    digest = blake2b(job_id.encode(), digest_size=4).hexdigest()
    return f"job-{plain[:80]}-{digest}_attempt_{number}"
