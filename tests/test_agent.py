"""The agent: starts, watches and ends workers, follows their output, serves segments."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from spoke import _native, boot, lent, limits, logs, orphans, segments, spawning, wire, zygote
from spoke._native import Reactor, Segment
from spoke.agent import Agent, NodeSettings
from spoke.link import ServerHandshakes, connect
from spoke.loop import Loop
from spoke.nursery import Nursery

# The native spawner thread and reactors that wait for the collector live on in this process.
pytestmark = pytest.mark.leaks("fds", "threads")

NODE, TOKEN = b"n" * 28, b"0123456789abcdef"
PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h


class Bench:
    """An agent in this process whose workers run a line of Python, and what it tells the hub."""

    def __init__(self, log_dir: Path, monkeypatch: pytest.MonkeyPatch, limit: int = 1 << 30) -> None:
        self.errors: list[str] = []
        self.loop = Loop(lambda what, error: self.errors.append(f"{what}: {error!r}"))
        settings = NodeSettings(NODE, TOKEN, str(log_dir))
        settings.kill_grace_s = 0.3
        settings.heartbeat_s = 0.05
        settings.store_limit = limit
        settings.gpu_visible = "GPU-a,GPU-b"
        settings.keep_logs = True
        self.heard: list[tuple[Any, ...]] = []
        self.told: list[tuple[Any, ...]] = []  # to workers
        self.linked = True
        self.nursery = Nursery(self.loop, {**os.environ})
        self.agent = Agent(self.loop, settings, self.heard.append, self.nursery, self.tell)
        self._monkeypatch = monkeypatch

    def tell(self, process_id: bytes, message: tuple[Any, ...]) -> bool:
        self.told.append((process_id, *message))
        return self.linked

    def spawn(self, code: str, name: bytes = b"w" * 28, **fields: Any) -> None:
        argv = [sys.executable, "-S", "-c", code]
        self._monkeypatch.setattr(spawning, "worker_argv", lambda: argv)
        self.agent.message(
            (wire.SPAWN, name, fields.get("env", {}), fields.get("cwd"), fields.get("gpu_ids"),
             fields.get("log_dir"))
        )  # fmt: skip

    def until(self, condition: Callable[[], Any], limit_s: float = 10.0) -> Any:
        deadline = time.monotonic() + limit_s
        while not condition():
            assert time.monotonic() < deadline, (self.heard, self.errors)
            self.loop.turn(0.05)
        return condition()

    def of(self, kind: int) -> list[tuple[Any, ...]]:
        return [message for message in self.heard if message[0] == kind]

    def exit(self) -> tuple[Any, ...]:
        return self.until(lambda: self.of(wire.WORKER_EXIT))[-1]  # type: ignore[no-any-return]

    def lines(self) -> list[tuple[str, str, str]]:
        return [(m[3], m[4], line) for m in self.of(wire.LOG_LINES) for line in m[5]]


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    made = Bench(tmp_path, monkeypatch)
    yield made
    made.agent.close()
    made.loop.reactor.close_all()
    assert made.errors == []


def alive(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_worker_runs_and_its_exit_is_reported_with_code_and_tail(bench: Bench) -> None:
    bench.spawn("import sys; print('out'); print('last words', file=sys.stderr); sys.exit(3)")
    _kind, worker_id, pid, code, number, tail, memory = bench.exit()
    assert 1 << 20 < memory < 1 << 32
    assert (worker_id, code, number, tail) == (b"w" * 28, 3, 0, "last words")
    assert pid > 0 and not alive(pid)
    assert sorted(bench.lines()) == [("", "stderr", "last words"), ("", "stdout", "out")]


def test_death_by_signal_is_reported(bench: Bench) -> None:
    bench.spawn("import os; os.kill(os.getpid(), 11)")
    assert bench.exit()[3:5] == (None, signal.SIGSEGV)


def test_what_cannot_start_is_reported(bench: Bench) -> None:
    bench.spawn("pass", cwd="/no/such/dir")
    _kind, _worker_id, pid, code, number, tail, _memory = bench.exit()
    assert (pid, code, number) == (0, None, 0) and "could not be started" in tail


def test_the_hub_names_no_path_for_output(bench: Bench) -> None:
    """Its directory need not be on this machine; it says a folder below the agent's own at most."""
    bench.spawn("print('started')", log_dir="/nowhere/on/this/machine")
    bench.until(lambda: bench.of(wire.WORKER_EXIT))
    assert "no place for log files" in bench.of(wire.WORKER_EXIT)[0][5]


def test_a_worker_gets_its_environment_and_configuration_but_no_token_in_sight(bench: Bench) -> None:
    code = (
        f"import os, sys; sys.path += {sys.path!r};"
        "from spoke import spawning; c = spawning.inherited_config();"
        "secret = b'0123456789' + b'abcdef'; e = os.environ;"
        "print(c['token'] == secret, c['worker_id'] == b'w' * 28,"
        "e['A'], e.get('HOME'), e['CUDA_VISIBLE_DEVICES'], os.getcwd(),"
        "os.getpgid(0) == os.getpid(), sorted(os.listdir('/proc/self/fd')),"
        "any(secret in open(f'/proc/self/{n}', 'rb').read() for n in ('environ', 'cmdline')))"
    )
    bench.spawn(code, env={"A": "1", "HOME": None}, gpu_ids=[1], cwd="/")
    assert bench.exit()[3] == 0, bench.heard
    assert bench.lines() == [
        ("", "stdout", "True True 1 None GPU-b / True ['0', '1', '2', '3'] False")
    ]  # descriptor 3 is free again: it is the listing itself


def test_stop_asks_first_and_kills_after_the_grace(bench: Bench) -> None:
    bench.spawn(
        "import os, signal, time; signal.signal(15, lambda *a: os._exit(7));"
        "print('up', flush=True); time.sleep(60)"
    )
    bench.loop.after_s(0, bench.agent._follow)
    bench.until(lambda: ("", "stdout", "up") in bench.lines())
    bench.agent.message((wire.STOP_WORKER, b"w" * 28, False))
    assert bench.exit()[3] == 7
    bench.heard.clear()
    bench.spawn(
        "import signal, time; signal.signal(15, 1); print('up', flush=True); time.sleep(60)", b"v" * 28
    )
    bench.until(lambda: ("", "stdout", "up") in bench.lines())
    began = time.monotonic()
    bench.agent.message((wire.STOP_WORKER, b"v" * 28, False))
    assert bench.exit()[3:5] == (None, signal.SIGKILL)
    assert 0.25 < time.monotonic() - began < 5


def test_force_kills_at_once(bench: Bench) -> None:
    bench.spawn("import signal, time; signal.signal(15, 1); time.sleep(60)")
    began = time.monotonic()
    bench.agent.message((wire.STOP_WORKER, b"w" * 28, True))
    assert bench.exit()[3:5] == (None, signal.SIGKILL)
    assert time.monotonic() - began < 1.0


def test_GANG_3_children_of_a_worker_are_dead_when_its_exit_is_reported(bench: Bench) -> None:
    bench.spawn("import os, time; print(os.fork() or time.sleep(60), flush=True)")
    bench.exit()
    (child,) = [int(line) for _, _, line in bench.lines()]
    bench.until(lambda: not alive(child), 2)


@pytest.fixture
def subreaper() -> Iterator[None]:
    """This process is a subreaper, for one test: orphans of later tests are not its to reap."""
    assert _native.become_subreaper()
    yield
    assert ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0) == 0


@pytest.mark.usefixtures("subreaper")
def test_a_grandchild_in_its_own_session_is_found(bench: Bench) -> None:
    code = (
        "import os, time\n"
        "if os.fork() == 0:\n os.setsid(); print(os.getpid(), flush=True); time.sleep(60)\n"
        "time.sleep(0.2)"
    )
    bench.spawn(code)
    bench.exit()
    (child,) = [int(line) for _, _, line in bench.lines()]
    bench.until(lambda: orphans.sweep(bench.agent.worker_pids()) == 0 or not alive(child), 5)
    assert not alive(child)


def test_close_leaves_nothing(bench: Bench) -> None:
    for index in range(3):
        bench.spawn("import time; time.sleep(60)", bytes([index]) * 28)
    pids = list(bench.agent.worker_pids())
    assert len(pids) == 3 and all(map(alive, pids))
    bench.agent.close()
    assert not any(map(alive, pids))


def test_reports_to_the_hub(bench: Bench) -> None:
    bench.agent.start()
    assert bench.heard[0][:3] == (wire.AGENT_UP, NODE, "127.0.0.1")
    wire.decode(wire.encode(*bench.heard[0]))
    bench.until(lambda: len(bench.of(wire.HEARTBEAT)) == 3)
    assert [message[1] for message in bench.of(wire.HEARTBEAT)] == [1, 2, 3]


# -- by the zygote

_STUB = (
    "import os, sys, types; sys.path += %r\n"
    "stub = types.ModuleType('spoke.worker'); import spoke\n"
    "def main():\n from spoke.spawning import enter_worker; config = enter_worker()\n"
    " exec(os.environ['CODE'])\n"
    "stub.main = main; sys.modules['spoke.worker'] = spoke.worker = stub\n"
    "from spoke.zygote import main; main()"
)


@pytest.fixture
def warm(bench: Bench) -> Bench:
    """The bench with a zygote whose workers run what the variable CODE says."""
    for name in os.listdir("/proc/self/fd"):  # of the test runner; a daemon inherits no others
        if int(name) > spawning.LINK_FD and os.path.exists(f"/proc/self/fd/{name}"):
            os.set_inheritable(int(name), False)
    zygote = boot.start_zygote([sys.executable, "-c", _STUB.replace("%r", repr(sys.path))], {**os.environ})
    assert zygote is not None
    bench.nursery.adopt_zygote(*zygote)
    assert bench.nursery.zygote_pid
    return bench


def test_zygote_worker_has_all_that_an_executed_one_has(warm: Bench) -> None:
    code = (
        "print(config['worker_id'] == b'w' * 28, os.environ['A'], os.environ.get('HOME'), os.getcwd(),"
        "os.getpgid(0) == os.getpid(), os.getppid() == config['parent'],"
        "sorted(os.listdir('/proc/self/fd')), os.environ['SPOKE_WORKER_ID'] == (b'w' * 28).hex());"
        "import ctypes; n = ctypes.c_int(); ctypes.CDLL(None).prctl(2, ctypes.byref(n)); print(n.value);"
        "print('words', file=sys.stderr); sys.exit(5)"
    )
    config = warm.agent._worker_config
    warm.agent._worker_config = lambda worker_id: {**config(worker_id), "parent": os.getpid()}  # type: ignore[method-assign]
    warm.spawn("", env={"CODE": code, "A": "1", "HOME": None}, cwd="/")
    assert warm.exit()[3:6] == (5, 0, "words"), warm.heard
    assert [line for _, stream, line in warm.lines() if stream == "stdout"] == [
        "True 1 None / True True ['0', '1', '2', '3'] True",
        "9",
    ]


def test_zygote_makes_many_and_they_die_with_signals_and_force(warm: Bench) -> None:
    names = [bytes([index]) * 28 for index in range(20)]
    for name in names:
        warm.spawn("", name, env={"CODE": "import time; time.sleep(60)"})
    warm.agent.message((wire.STOP_WORKER, names[0], True))  # before it is there
    warm.until(lambda: len(warm.of(wire.WORKER_EXIT)) == 1 and len(warm.agent.worker_pids()) == 19)
    assert warm.of(wire.WORKER_EXIT)[0][3:5] == (None, signal.SIGKILL)
    pids = warm.agent.worker_pids()
    assert len({os.getpgid(pid) for pid in pids}) == 19
    assert all(worker_id in names for worker_id in pids.values())
    warm.agent.close()
    assert not any(map(alive, pids)) and warm.nursery.zygote_pid == 0


def test_a_dead_zygote_is_replaced_by_exec(warm: Bench) -> None:
    zygote = warm.nursery.zygote_pid
    os.kill(zygote, signal.SIGSTOP)
    warm.spawn("print('by exec')", env={"CODE": "print('by fork')"})
    os.kill(zygote, signal.SIGKILL)
    assert warm.exit()[3] == 0 and warm.lines() == [("", "stdout", "by exec")]
    assert warm.nursery.zygote_pid == 0
    warm.heard.clear()
    warm.spawn("print('by exec')", b"v" * 28)
    assert warm.exit()[3] == 0


def test_what_the_loader_reads_takes_an_exec(warm: Bench) -> None:
    warm.spawn(
        "import os; print(os.environ['LD_BIND_NOW'])", env={"LD_BIND_NOW": "1", "CODE": "print('by fork')"}
    )
    assert warm.exit()[3] == 0 and warm.lines() == [("", "stdout", "1")]


# -- logs


def test_follower_names_groups_and_skips(tmp_path: Path) -> None:
    fd = os.open(tmp_path / "f", os.O_RDWR | os.O_CREAT | os.O_APPEND)
    follower = logs.Follower(fd)
    os.write(fd, b"plain\n" + logs.marker("f") + b"a\r\npart")
    assert follower.read() == [("", ["plain"]), ("f", ["a"])]
    os.write(fd, b"ly\nno end" + logs.marker("Actor") + b"\xff\n")
    assert follower.read() == [("f", ["partly", "no end"]), ("Actor", ["\ufffd"])]
    os.write(fd, b"x" * (limits.MAX_LOG_LINE_CHARS + 5))
    (group,) = follower.read()
    assert len(group[1][0]) == limits.MAX_LOG_LINE_CHARS
    os.write(fd, b"y" * (logs.BEHIND_BYTES + 10) + b"\nend\n")
    groups = follower.read()
    assert "not shown" in groups[0][1][0] and groups[-1][1][-1] == "end"
    os.write(fd, b"last")
    assert follower.read() == [] and follower.read(final=True) == [("Actor", ["last"])]
    os.close(fd)


def test_tail_is_short_and_without_marks(tmp_path: Path) -> None:
    fd = os.open(tmp_path / "f", os.O_RDWR | os.O_CREAT)
    os.write(fd, b"".join(b"line %d\n" % i for i in range(5000)) + logs.marker("f") + b"boom\n")
    text = logs.tail(fd)
    assert text.endswith("line 4999\nboom") and len(text.splitlines()) == limits.STDERR_TAIL_LINES
    os.close(fd)


def test_format_lines() -> None:
    assert logs.format_lines("f", 7, "", ["a", "b"]) == "(f pid=7) a\n(f pid=7) b\n"
    assert logs.format_lines("", 7, "10.0.0.2", ["a"]) == "(pid=7, ip=10.0.0.2) a\n"


# -- segments


def test_segments_are_bounded_and_outlive_their_owner() -> None:
    page = 4096
    table = segments.SegmentTable(10 * page, Segment.create)
    first, _ = table.add(b"a", 6 * page)
    with pytest.raises(segments.StoreFull, match=r"24576 of 40960 bytes in use.*object_store_memory"):
        table.add(b"b", 5 * page)
    second, _ = table.add(b"b", 4 * page)
    table.orphan_free(first, segments.WHOLE, b"b")  # not the owner's word
    assert table.used == 10 * page and table.owner_died(b"a") == 1
    table.orphan_free(first, 0, b"b")  # its owner did not count, so neither can we
    assert table.get(first) is not None and table.used == 10 * page
    assert table.drop_orphans() == 6 * page and table.get(first) is None and table.used == 4 * page
    table.orphan_free(second, segments.WHOLE, b"b")
    assert table.used == 0 and len(table) == 0
    for size in (0, -1):
        with pytest.raises(ValueError, match="positive"):
            table.add(b"a", size)


def test_REF_3_a_dead_owners_segment_goes_with_its_last_use() -> None:
    table = segments.SegmentTable(1 << 20, Segment.create)
    peers = [bytes([index]) * 28 for index in range(3)]
    for uses in (0, 1, 3):
        segment_id, memory = table.add(b"a", 8192)
        counter = lent.LentCount(memory)
        for peer in peers[:uses]:
            for _ in range(3):
                counter.lent(peer)
            counter.returned(peer)
        assert lent.count(memory, {}) == 2 * uses
        for peer in peers[:uses]:
            table.orphan_free(segment_id, 2, peer)  # said before the owner's death is seen
        assert table.owner_died(b"a") == min(uses, 1)
        for peer in peers[:uses]:
            assert table.get(segment_id) is not None
            for total in (2, 1, 3):  # repeated, late, and the last
                table.orphan_free(segment_id, total, peer)
        assert table.get(segment_id) is None and table.used == 0


def test_LIM_1_lent_to_more_peers_than_there_are_slots() -> None:
    memory = Segment.create("lent", 8192)
    counter = lent.LentCount(memory)
    peers = [index.to_bytes(28, "little") for index in range(1, lent.MAX_SLOTS + 3)]
    for peer in peers:
        counter.lent(peer)
    assert lent.count(memory, {}) == len(peers)
    for peer in peers:
        counter.returned(peer)
    assert lent.count(memory, {}) == 0


@pytest.fixture
def client(bench: Bench) -> Iterator[tuple[Reactor, int]]:
    """A process of the node: a proven link to the bench's agent."""
    import threading

    reactor, name = bench.loop.reactor, wire.unix_name(os.urandom(28))
    reactor.listen_unix(name)
    handshakes = ServerHandshakes(reactor, TOKEN, NODE)

    def stranger(kind: int, source: int, meta: bytes, payload: Any) -> None:
        if kind == 2:
            handshakes.accepted(source, 0.0)
        elif kind == 0 and (peer := handshakes.frame(source, meta)):
            bench.loop.handle(
                source,
                lambda kind, meta, payload: (
                    kind == 0 and bench.agent.segments.message(source, peer.peer_id, wire.decode(meta))
                ),
            )

    bench.loop.on_unknown = stranger
    stop = threading.Event()

    def serve() -> None:
        while not stop.is_set():
            bench.loop.turn(0.02)
            bench.agent.segments.pump()

    thread = threading.Thread(target=serve)
    thread.start()
    mine = Reactor()
    conn, _ = connect(mine, name, TOKEN, b"p" * 28, "worker")
    yield mine, conn
    stop.set()
    thread.join()
    mine.close_all()


def ask(client: tuple[Reactor, int], *message: Any) -> tuple[list[Any], Any]:
    reactor, conn = client
    reactor.send(conn, wire.encode(*message))
    while True:
        for kind, _source, meta, payload in reactor.poll(5_000_000):
            assert kind == 0
            return wire.decode(meta), payload


def test_segments_over_a_link(client: tuple[Reactor, int]) -> None:
    answer, _ = ask(client, wire.NEW_SEGMENT, 1, 1 << 20)
    assert answer[0] == wire.SEGMENT and answer[1] == 1 and answer[3:] == [1 << 20, None]
    fd = client[0].take_fd(client[1])
    mine = Segment.map(fd, 1 << 20, True)
    mine.write(4096, [b"hello"])
    again, _ = ask(client, wire.MAP_SEGMENT, 2, answer[2])
    other = Segment.map(client[0].take_fd(client[1]), 1 << 20, False)
    assert again[2] == answer[2] and bytes(other.view(4096, 5)) == b"hello"
    block, payload = ask(client, wire.READ_BLOCK, 3, answer[2], 4096, 300_000, 0, 0)
    assert block == [wire.BLOCK, 3, None] and len(payload) == 300_000 and bytes(payload)[:5] == b"hello"
    for offset, length in ((-1, 5), (0, (1 << 20) + 1), (1 << 20, 1), (0, -1)):
        block, _ = ask(client, wire.READ_BLOCK, 4, answer[2], offset, length, 0, 0)
        assert block[2][0] == "ValueError"
    mine.write(8192, [(77).to_bytes(8, "little")])
    assert ask(client, wire.READ_BLOCK, 4, answer[2], 4096, 4096, 77, 8192)[0] == [wire.BLOCK, 4, None]
    for generation, place in ((78, 8192), (77, 8200), (77, 1 << 20), (77, -8)):  # MEM-3
        block, _ = ask(client, wire.READ_BLOCK, 4, answer[2], 4096, 4096, generation, place)
        assert block[2][0] == "ObjectLostError" and "stale descriptor" in block[2][1]
    assert ask(client, wire.READ_BLOCK, 5, 999, 0, 1, 0, 0)[0][2][0] == "ObjectLostError"
    assert ask(client, wire.MAP_SEGMENT, 6, 999)[0][4][0] == "ObjectLostError"
    assert ask(client, wire.MAPPED, 999)[0] == [wire.UNMAP, 999]  # gone before the word of it came
    full, _ = ask(client, wire.NEW_SEGMENT, 7, 1 << 30)
    assert full[4][0] == "ObjectStoreFullError" and "object_store_memory" in full[4][1]


def test_who_was_passed_a_mapping_hears_that_the_segment_is_gone(client: tuple[Reactor, int]) -> None:
    reactor, conn = client
    answer, _ = ask(client, wire.NEW_SEGMENT, 1, 1 << 20)
    os.close(reactor.take_fd(conn))
    reactor.send(conn, wire.encode(wire.MAPPED, answer[2]))
    gone, _ = ask(client, wire.ORPHAN_FREE, answer[2], segments.WHOLE)
    assert gone == [wire.UNMAP, answer[2]]


def test_LIM_1_reads_wait_for_a_slow_reader(client: tuple[Reactor, int], bench: Bench) -> None:
    answer, _ = ask(client, wire.NEW_SEGMENT, 1, 64 << 20)
    os.close(client[0].take_fd(client[1]))
    reactor, conn = client
    for request_id in range(40):  # 320 MiB asked for, not read yet
        reactor.send(conn, wire.encode(wire.READ_BLOCK, request_id, answer[2], 0, 8 << 20, 0, 0))
    time.sleep(0.3)
    assert sum(bench.loop.reactor.queued(source) for source in range(1, 20)) < 40 << 20
    got: list[int] = []
    while len(got) < 40:
        for kind, _source, meta, payload in reactor.poll(5_000_000):
            assert kind == 0 and len(payload) == 8 << 20
            got.append(wire.decode(meta)[1])
    assert got == list(range(40))


@pytest.mark.timeout_s(20)
def test_PROC_1_a_worker_whose_agent_died_before_it_was_adopted_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """An orphan's parent is the nearest subreaper (here: any other process), which is not its agent."""
    monkeypatch.setattr(_native, "set_death_signal", lambda number: None)
    dead_agent = -3
    assert not zygote.tied(dead_agent)
    assert zygote.tied(os.getppid())
