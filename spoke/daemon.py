"""The daemon of a node: an agent, and on the head also the hub, in one thread.

Started by `spoke.spawning.start_daemon` with a configuration (`Settings`) and a link to the starter on
descriptor 4, which is one of

- "driver": the program whose `init()` made this cluster; the link carries its messages to the hub;
- "tied": a starter (`cluster_utils`) that is told when the daemon is ready;
- "starter": likewise, but the daemon stays when it goes away (`spoke start`).

A daemon ends on SIGTERM or SIGINT, on SHUTDOWN, when the hub is gone (agent only), and, unless it is
"starter", when the link ends or the driver's process dies.  At its end every worker and what workers
left behind is dead and reaped, and nothing that it wrote is left on disk (PROC-2), except logs in a
directory that the user named.  The first workers are started before anything that can wait.
"""

from __future__ import annotations

import gc
import os
import sys
import time
from typing import Any, Final

from spoke import _native, config, devices, limits, link, logs, machine, records, spawning, wire
from spoke.agent import Agent, NodeSettings
from spoke.errors import AuthenticationError, ProtocolError
from spoke.journal import JournalFile
from spoke.loop import ACCEPTED, CLOSED, FRAME, Loop
from spoke.nursery import Nursery
from spoke.segment_service import KINDS as SEGMENT_KINDS
from spoke.settings import Settings

HUB_PAUSE_S: Final = 0.1  # between the first tries to find a hub that went away
HUB_TRY_S: Final = 0.5
ACK_S: Final = 1.0  # how often clients are told what is on record
HUB_RETRY_S: Final = 30.0  # an agent waits this long for a head that is not up yet
READ_RETRY_S: Final = 0.005
FAULT: Final = 70  # exit status where a daemon that served ends by an error of its own

_LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}


class Failure(Exception):
    """The daemon cannot start; the text is for the user, one line."""


class Peer:
    """A proven link of this daemon."""

    __slots__ = ("conn", "joined", "peer_id", "role")

    def __init__(self, conn: int, peer_id: bytes, role: str) -> None:
        self.conn = conn
        self.peer_id = peer_id
        self.role = role
        self.joined = False  # talks to the hub


class Daemon:
    """One node's daemon; `run` serves until the end."""

    def __init__(self, settings: Settings, zygote: tuple[int, int] | None) -> None:
        self.settings = settings
        self.loop = Loop(self._failed)
        self._peers: dict[int, Peer] = {}
        self._handshakes = link.ServerHandshakes(self.loop.reactor, settings.token, settings.node_id)
        self._level = _LEVELS.get(str(config.get("log_level")).lower(), 20)
        self._own_dir: str | None = None
        self._record_path: str | None = None
        self._hub_conn = -1
        self._link_conn = -1
        self._reading = False
        self._log_fd = -1  # until there is a log, a failure is told over the link alone
        self.why_ended = ""
        self.hub: Any = None  # HubShell on the head
        self._journal: JournalFile | None = None
        self._boot = 0  # how often the hub of this journal was started before
        self._ended_in_order = False
        self._durable = False  # our hub may come back
        self._away_until: float | None = None  # it is away: when to give up
        self.agent: Agent
        self._nursery = Nursery(self.loop, config.environment())
        if zygote is not None:
            self._nursery.adopt_zygote(*zygote)

    # -- start

    def start(self) -> None:
        """Become reachable and start the first workers.

        Raises:
            Failure: with one line for the user.
        """
        mine = self.settings
        self._adopt_link()
        self._signals()
        log_dir = self._prepare_logs()
        if mine.state_dir:
            self._open_journal(mine.state_dir)
        node = self._node_settings(log_dir)
        self._listen(node)
        if mine.mode == "head":
            self._start_hub(node)
        else:
            self._join_hub(node)
        self.loop.on_unknown = self._stranger
        self.loop.after = self._after
        self._ready(node)
        self.loop.after_s(0.2, self._settle)
        gc.freeze()
        gc.enable()  # see `boot`

    def _adopt_link(self) -> None:
        mine = self.settings
        self._link_conn = self.loop.reactor.adopt(spawning.LINK_FD)
        self.loop.reactor.set_limit(self._link_conn, link.TRUSTED_FRAME_BYTES)
        if mine.link == "driver":
            self._trust(link.Trusted(self._link_conn, mine.driver_id, "driver"))
        else:
            self.loop.handle(self._link_conn, self._starter_event)
        if mine.driver_pid and mine.link != "starter":
            self._watch_driver(mine.driver_pid)

    def _watch_driver(self, pid: int) -> None:
        """The link alone may be held open by a fork of the driver: its process counts too."""
        try:
            pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            raise Failure("the driver is gone") from None
        except OSError:
            return  # a kernel or sandbox without pidfd_open: the link has to do
        source = self.loop.reactor.watch(pidfd)
        self.loop.handle(source, lambda kind, meta, payload: self.end("the driver's process is gone"))

    def _signals(self) -> None:
        import _signal as signal  # type: ignore[import-not-found]  # signal itself imports enum

        read_end, write_end = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, lambda number, frame: self.end(f"signal {number}"))
        source = self.loop.reactor.watch(read_end)

        def drain(kind: int, meta: bytes, payload: Any) -> None:
            os.read(read_end, 512)  # the handlers did the work; this only empties the pipe

        self.loop.handle(source, drain)

    def _prepare_logs(self) -> str:
        mine = self.settings
        try:
            if mine.log_dir:
                log_dir = os.path.abspath(mine.log_dir)
            else:
                log_dir = os.path.join(self._session_dir(), "logs")
            logs.prepare_dir(log_dir)
            path = os.path.join(log_dir, f"daemon-{mine.node_id.hex()[:12]}.log")
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise Failure(f"the log directory cannot be used: {error}") from None
        os.dup2(fd, 2)  # also for what the interpreter itself may have to say
        self._log_fd = fd
        if reason := config.get("restart_reason"):
            self.log("warning", f"this head was started again by its supervisor: the one before was {reason}")
        return log_dir

    def _session_dir(self) -> str:
        if self._own_dir is None:
            self._own_dir = records.make_session_dir(self.settings.session)
        return self._own_dir

    def _open_journal(self, directory: str) -> None:
        """Take over what an earlier life of this head has left, if it has."""
        mine = self.settings
        try:
            self._journal = JournalFile(directory, config.get("journal_sync") == "full")
            facts = self._journal.facts()
            if facts and facts["token"] != mine.token:
                raise Failure(f"the state directory {directory} is that of a cluster with another token")
            if facts:
                self._boot = facts["boot"] + 1
                mine.node_id = facts["node_id"]
                mine.port = mine.port or facts["port"]
        except OSError as error:
            raise Failure(str(error)) from None
        self._handshakes = link.ServerHandshakes(self.loop.reactor, mine.token, mine.node_id)

    def _node_settings(self, log_dir: str) -> NodeSettings:
        mine = self.settings
        node = NodeSettings(mine.node_id, mine.token, log_dir)
        node.session = mine.session
        node.host = mine.host
        try:
            node.gpu_variable = devices.gpu_variable()
            value, left_alone = devices.KNOBS[node.gpu_variable]
            node.keep_gpu_variable, node.gpu_visible = config.get(left_alone), config.get(value)
            visible = devices.visible_devices(node.gpu_visible)
            found = devices.gpu_count(visible)
            node.resources = machine.resources(
                _first(mine.num_cpus, config.get("num_cpus")),
                _first(mine.num_gpus, config.get("num_gpus")),
                mine.memory,
                _first(mine.object_store_memory, config.get("object_store_memory")),
                mine.resources,
                found,
            )
        except ValueError as error:
            raise Failure(str(error)) from None
        gpus = int(node.resources.get("GPU", 0))
        if gpus > found and devices.nvml() is not None:
            self.log("warning", f"{gpus} GPUs are offered, and NVML finds {found}")
        node.topology = devices.topology(visible, gpus)
        node.labels = {**devices.labels(node.topology, node.host), **mine.labels}
        node.store_limit = int(node.resources.get("object_store_memory", 0))
        node.first_segment = (self._boot << 32) + 1
        node.sys_path = mine.sys_path
        node.environments_dir = lambda: os.path.join(self._session_dir(), "environments")
        node.keep_logs = self._own_dir is None
        node.heartbeat_s = config.get("heartbeat_s")
        node.kill_grace_s = config.get("kill_grace_s")
        return node

    def _listen(self, node: NodeSettings) -> None:
        mine = self.settings
        try:
            self.loop.reactor.listen_unix(wire.unix_name(mine.node_id))
            if mine.port is not None:
                _, node.port = self.loop.reactor.listen_tcp(mine.host, mine.port)
        except OSError as error:
            raise Failure(f"cannot listen on {mine.host}:{mine.port}: {error.strerror or error}") from None
        if mine.host in ("0.0.0.0", "::"):
            node.host = config.get("node_ip") or machine.outward_ip()
        node.hub_address = [mine.node_id, mine.node_id, node.host, node.port]

    def _start_hub(self, node: NodeSettings) -> None:
        from spoke.core.hub import HubConfig, HubCore
        from spoke.hub import HubShell

        mine = self.settings
        core = HubCore(
            HubConfig(
                seed=mine.node_id,
                session=mine.session,
                prestart=_first(mine.prestart, config.get("prestart_workers")),
                head_node_id=mine.node_id,
                heartbeat_s=node.heartbeat_s,
                node_dead_s=config.get("node_dead_s"),
                idle_worker_s=config.get("worker_idle_s"),
                durable=self._journal is not None,
                boot=self._boot,
                recover_s=config.get("recover_s"),
                scheduler=mine.scheduler or config.get("scheduler"),
            ),
            self._journal.records() if self._journal is not None else None,
        )
        self.hub = HubShell(core, self.loop.reactor, self._forget, self.log, self._journal)
        self.loop.deadline = self.hub.next_deadline
        if self._boot:
            from spoke import orphans

            orphans.end_earlier(mine.node_id)  # what the killed head's death took not along (PROC-1)
        self.agent = Agent(self.loop, node, self.hub.from_local, self._nursery, self._tell)
        self.hub.attach_local(mine.node_id, self._from_hub)
        self.agent.start()
        if self._journal is not None:
            self._journal.keep_facts(token=mine.token, node_id=mine.node_id, port=node.port, boot=self._boot)
            self.agent.report()
            self.loop.after_s(ACK_S, self._acknowledge)
        self.hub.drain()

    def _acknowledge(self) -> None:
        self.hub.acknowledge()
        self.loop.after_s(ACK_S, self._acknowledge)

    def _join_hub(self, node: NodeSettings) -> None:
        mine = self.settings
        assert mine.hub is not None
        target = (str(mine.hub[0]), int(mine.hub[1]))
        deadline = time.monotonic() + HUB_RETRY_S
        while True:
            try:
                conn, hub_id = link.connect(
                    self.loop.reactor, target, mine.token, mine.node_id, "agent", limits.HANDSHAKE_TIMEOUT_S
                )
                break
            except OSError as error:
                if time.monotonic() > deadline:
                    where, text = link.describe(target), error.strerror or str(error)
                    raise Failure(f"no head at {where} after {HUB_RETRY_S:g} s: {text}") from None
                self.loop.turn(0.2)  # signals and the end of the link are heeded meanwhile
                if self.why_ended:
                    raise Failure(self.why_ended) from None
            except Exception as error:  # wrong token, wrong version, or not a head at all
                raise Failure(f"{link.describe(target)}: {error}") from None
        self._hub_conn = conn
        node.hub_address = [hub_id, hub_id, target[0], target[1]]
        self.agent = Agent(self.loop, node, self._to_hub, self._nursery, self._tell)
        self.loop.handle(conn, self._hub_event)
        self.agent.start()

    def _ready(self, node: NodeSettings) -> None:
        mine = self.settings
        hub = f"{mine.hub[0]}:{mine.hub[1]}" if mine.hub else f"{node.host}:{node.port}"
        if mine.record:
            try:
                self._write_record(node, hub)
            except OSError as error:
                raise Failure(f"the runtime directory cannot be used: {error}") from None
        if mine.link != "driver":
            value = {"address": hub, "node_id": mine.node_id, "host": node.host, "port": node.port,
                     "pid": os.getpid(), "session": mine.session, "log_dir": node.log_dir,
                     "resources": node.resources}  # fmt: skip
            self.loop.reactor.send(self._link_conn, wire.encode(wire.RESPONSE, 0, None, value))

    def _write_record(self, node: NodeSettings, hub: str) -> None:
        mine = self.settings
        record = {"role": mine.mode, "address": hub, "node_id": mine.node_id.hex(), "host": node.host,
                  "port": node.port, "session": mine.session, "log_dir": node.log_dir,
                  "hub_id": node.hub_address[0].hex(), "state_dir": mine.state_dir,
                  "started": mine.started}  # fmt: skip
        self._record_path = records.announce(record, mine.token, mine.restarts > 0)

    def _settle(self) -> None:
        """What can wait until the first workers run."""
        records.live()  # which deletes the records of killed ones
        records.remove_stale_sessions()

    # -- events

    def _stranger(self, kind: int, source: int, meta: bytes, payload: Any) -> None:
        """An event of a connection that has not proven the token."""
        if kind == ACCEPTED:
            self._handshakes.accepted(source, time.monotonic())
            wait_s = limits.HANDSHAKE_TIMEOUT_S + 0.1
            self.loop.after_s(wait_s, lambda: self._handshakes.expire(time.monotonic()))
        elif kind == CLOSED:
            self._handshakes.closed(source)
        elif kind == FRAME and source in self._handshakes:
            trusted = self._handshakes.frame(source, meta)
            if trusted is not None:
                self._trust(trusted)

    def _trust(self, trusted: link.Trusted) -> None:
        peer = Peer(trusted.conn, trusted.peer_id, trusted.role)
        self._peers[peer.conn] = peer
        self.loop.handle(peer.conn, lambda kind, meta, payload: self._peer_event(peer, kind, meta, payload))

    def _peer_event(self, peer: Peer, kind: int, meta: bytes, payload: Any) -> None:
        if kind == CLOSED:
            self._peer_closed(peer, meta.decode("utf-8", "replace"))
            return
        try:
            message = wire.decode(meta)
        except ProtocolError as error:
            self._cut(peer, str(error))
            return
        what = message[0]
        if what in SEGMENT_KINDS:
            self.agent.segments.message(peer.conn, peer.peer_id, message)
        elif what == wire.SHUTDOWN and peer.role in ("driver", "cli") and self._may_end(peer):
            self.end(f"asked to: {message[1]}")
        elif what == wire.REQUEST and message[2] == "flush_logs" and self.hub is not None:
            self._flush_logs(peer, message[1])
        elif self.hub is None:
            self._cut(peer, f"{wire.name_of(what)} is for the hub, which is not here")
        else:
            if not peer.joined:
                if not self.hub.joined(peer.peer_id, peer.conn):
                    self._cut(peer, "its id is taken")
                    return
                peer.joined = True
            self.hub.received(peer.peer_id, message, payload)

    def _flush_logs(self, peer: Peer, request_id: int) -> None:
        """Answer when what workers of this node have printed so far is on its way to the driver.

        The other nodes' agents look at their files often while something is written there.
        """
        self.agent.flush_logs()
        self.hub.drain()
        elsewhere = len(self.hub.core.state.alive) > 1
        answer = wire.encode(wire.RESPONSE, request_id, None, None)

        def respond() -> None:
            self.loop.reactor.send(peer.conn, answer)

        if elsewhere:
            self.loop.after_s(2 * logs.BUSY_S, respond)
        else:
            respond()

    def _may_end(self, peer: Peer) -> bool:
        return peer.role == "cli" or peer.conn == self._link_conn

    def _peer_closed(self, peer: Peer, reason: str) -> None:
        self._forget(peer.conn)
        if peer.joined:
            self.hub.lost(peer.peer_id, reason or "the link ended")
        if peer.conn == self._link_conn:
            self.end("the driver closed the link")
        elif peer.role != "worker":  # a worker's segments become orphans when its exit is seen
            self.agent.segments.table.owner_died(peer.peer_id)

    def _cut(self, peer: Peer, reason: str) -> None:
        self.log("warning", f"the link of {peer.role} {peer.peer_id.hex()[:12]} is closed: {reason}")
        self.loop.reactor.close(peer.conn)
        self._peer_closed(peer, reason)

    def _forget(self, conn: int) -> None:
        """Close a connection, if it is open, and forget what is known of it."""
        self.loop.reactor.close(conn)
        self.loop.forget(conn)
        self._peers.pop(conn, None)
        self.agent.segments.link_closed(conn)

    def _starter_event(self, kind: int, meta: bytes, payload: Any) -> None:
        if kind != CLOSED:
            return
        self.loop.forget(self._link_conn)
        if self.settings.link == "tied":
            self.end("the starter closed the link")

    def _hub_event(self, kind: int, meta: bytes, payload: Any) -> None:
        if kind == CLOSED:
            self._hub_lost()
            return
        message = wire.decode(meta)
        if message[0] == wire.SHUTDOWN:
            self.end(f"the hub asked to: {message[1]}")
        elif message[0] == wire.WELCOME:
            self._durable = bool(message[1].get("durable"))
        else:
            self.agent.message(message)

    # -- a hub that is restarted (HUB-2)

    def _hub_lost(self) -> None:
        """Its workers go on, and it looks for the hub's next life."""
        self.loop.forget(self._hub_conn)
        self._hub_conn = -1
        if not self._durable:
            self.end("the hub is gone")
            return
        wait_s = config.get("hub_wait_s")
        self.log("warning", f"the hub is gone; waiting {wait_s:g} s for it to come back")
        self._away_until = time.monotonic() + wait_s
        self._look_for_hub(HUB_PAUSE_S)

    def _look_for_hub(self, pause_s: float) -> None:
        if self.why_ended or self._away_until is None:
            return
        mine = self.settings
        assert mine.hub is not None
        target, hub_id = (str(mine.hub[0]), int(mine.hub[1])), self.agent.hub_id
        try:
            # This thread waits no longer than a moment: it serves this node's processes, too.
            conn, _ = link.connect(
                self.loop.reactor, target, mine.token, mine.node_id, "agent", HUB_TRY_S, hub_id
            )
        except (OSError, AuthenticationError, ProtocolError) as error:
            if time.monotonic() > self._away_until:
                self.end(f"the hub did not come back: {error}")
            else:
                self.loop.after_s(pause_s, lambda: self._look_for_hub(min(1.0, pause_s * 1.5)))
            return
        self._away_until = None
        self._hub_conn = conn
        self.loop.handle(conn, self._hub_event)
        self.agent.introduce()
        self.agent.report()
        self.log("info", "the hub is back")

    def _from_hub(self, message: tuple[Any, ...]) -> None:
        if message[0] == wire.SHUTDOWN:
            self.end(f"the hub asked to: {message[1]}")
        else:
            self.agent.message(message)

    def _tell(self, process_id: bytes, message: tuple[Any, ...]) -> bool:
        conn = next((peer.conn for peer in self._peers.values() if peer.peer_id == process_id), None)
        return conn is not None and self.loop.reactor.send(conn, wire.encode(*message)) >= 0

    def _to_hub(self, message: tuple[Any, ...]) -> None:
        reactor = self.loop.reactor
        if self._hub_conn < 0:
            return  # what matters of it is in the report to the hub's next life
        if message[0] == wire.LOG_LINES and reactor.queued(self._hub_conn) > limits.MIB:
            return  # output is never allowed to hold up the rest; the file has it
        reactor.send(self._hub_conn, wire.encode(*message))

    def _after(self) -> None:
        if self.hub is not None:
            self.hub.drain()
        if not self._reading and self.agent.segments.pump():
            self._reading = True
            self.loop.after_s(READ_RETRY_S, self._pump)

    def _pump(self) -> None:
        self._reading = False  # `_after` looks again

    # -- the end

    def end(self, why: str) -> None:
        """Leave `run`; the first reason counts."""
        if not self.why_ended:
            self.why_ended = why
        self.loop.stop()

    def run(self) -> None:
        """Serve until the end."""
        if not self.why_ended:
            self.loop.run()
        self._ended_in_order = True

    def close(self) -> None:
        """Nothing is left afterwards: no process, no shared memory, no socket, no file of ours."""
        self.log("info", f"the end: {self.why_ended}")
        agent = getattr(self, "agent", None)
        if agent is not None:
            agent.flush_logs()
            if self.hub is not None:
                self.hub.drain()
                if self._journal is not None and self._ended_in_order:
                    self.hub.end_all(self.why_ended)
            agent.close()
            if self.hub is None and self._ended_in_order:
                self._to_hub((wire.SHUTDOWN, self.why_ended))  # last: nothing of this node lives any more
        else:
            self._nursery.close()
        if self._journal is not None:
            self._journal.close(forget=self._ended_in_order)
        if self._record_path is not None:
            records.remove(self._record_path)
        if self._own_dir is not None:
            records.remove_session_dir(self._own_dir)
        self.loop.reactor.close_all()

    def report_failure(self, text: str) -> None:
        """Tell the starter why there is no daemon."""
        if self._link_conn < 0:
            return
        if self.settings.link == "driver":
            message: tuple[Any, ...] = (wire.SHUTDOWN, text)
        else:
            message = (wire.RESPONSE, 0, ["RuntimeError", text], None)
        self.loop.reactor.send(self._link_conn, wire.encode(*message))

    # -- log

    def log(self, level: str, text: str) -> None:
        """A line in the daemon's log."""
        if self._log_fd >= 0 and _LEVELS.get(level, 20) >= self._level:
            now = time.time()
            stamp = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(now))
            os.write(
                self._log_fd, f"{stamp}.{int(now % 1 * 1000):03d} {level} {text}\n".encode("utf-8", "replace")
            )

    def _failed(self, what: str, error: Exception) -> None:
        import traceback

        self.log("error", f"{what} failed:\n" + "".join(traceback.format_exception(error)))


def _first(*values: Any) -> Any:
    """The first value that is not None."""
    return next((value for value in values if value is not None), None)


def main(zygote: tuple[int, int] | None = None) -> None:
    """Entry point of the process, from `spoke.boot`; `zygote` is its pid and the link to it."""
    # A Ctrl-C at the terminal is for the driver alone: this process was started as the leader of a
    # process group, which is all that takes.
    _native.set_title("spoke-daemon")
    try:
        settings = Settings(spawning.inherited_config())
    except (OSError, ValueError) as error:
        sys.stderr.write(f"spoke: this is not for people to start: {error}\n")
        os._exit(2)
    daemon = Daemon(settings, zygote)
    code = 1
    try:
        daemon.start()
        code = FAULT
        daemon.run()
        code = 0
    except Failure as failure:
        daemon.why_ended = daemon.why_ended or str(failure)
        daemon.report_failure(str(failure))
    except BaseException as error:
        daemon.why_ended = f"{type(error).__name__}: {error}"
        daemon.report_failure(f"the daemon failed: {daemon.why_ended}")
        daemon._failed("the daemon", error if isinstance(error, Exception) else Exception(repr(error)))
    finally:
        daemon.close()
    os._exit(code)  # nothing is left that an orderly end of the interpreter would have to do


if __name__ == "__main__":
    main()
