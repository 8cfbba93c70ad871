"""The native layer from Python: what the binding adds to csrc (whose own tests are in tests/native)."""

from __future__ import annotations

import errno
import gc
import json
import os
import random
import select
import signal
import socket
import struct
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from spoke import _native

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(_native.__file__)))
FRAME, CLOSED, ACCEPTED, READABLE, WOKEN = range(5)


@pytest.fixture
def reactor() -> Iterator[_native.Reactor]:
    made = _native.Reactor()
    yield made
    made.close_all()


@pytest.fixture
def pair(reactor: _native.Reactor) -> Iterator[tuple[_native.Reactor, int, socket.socket]]:
    ours, theirs = socket.socketpair()
    conn = reactor.adopt(ours.detach())
    yield reactor, conn, theirs
    theirs.close()


def frame(meta: bytes, payload: bytes = b"") -> bytes:
    return struct.pack("<II", len(meta), len(payload)) + meta + payload


def poll_for(reactor: _native.Reactor, count: int, timeout: float = 10.0) -> list:
    """The next `count` events."""
    events: list = []
    deadline = time.monotonic() + timeout
    while len(events) < count:
        left = deadline - time.monotonic()
        assert left > 0, events
        events += reactor.poll(int(left * 1e6))
    return events


def quiet(reactor: _native.Reactor) -> bool:
    return not any(reactor.poll(5000) for _ in range(3))


def wait_exit(pidfd: int, timeout: float = 20.0) -> tuple[int | None, int]:
    assert select.select([pidfd], [], [], timeout)[0]
    status = _native.reap(pidfd)
    os.close(pidfd)
    assert status is not None
    return status


# -- frames


def test_frames_cut_anywhere(pair):
    reactor, conn, peer = pair
    reactor.set_limit(conn, 1 << 20)
    rng = random.Random(7)
    sizes = [0, 1, 100, 65535, 65536, 65537, 300_000]
    frames = [(rng.randbytes(rng.randrange(300)), rng.randbytes(rng.choice(sizes))) for _ in range(60)]
    stream = b"".join(frame(*each) for each in frames)

    def write() -> None:
        at = 0
        while at < len(stream):
            size = rng.choice([1, 7, 9, 5000, 100_000])
            peer.sendall(stream[at : at + size])
            at += size

    writer = threading.Thread(target=write)
    writer.start()
    events = poll_for(reactor, len(frames))
    writer.join()
    for (kind, id_, meta, payload), sent in zip(events, frames, strict=True):
        assert (kind, id_, meta) == (FRAME, conn, sent[0])
        assert type(payload) is (bytes if len(sent[1]) <= 65536 else _native.NativeBuffer)
        assert bytes(payload) == sent[1]


def test_payload_from_many_buffers(pair):
    reactor, conn, peer = pair
    assert reactor.send(conn, b"m", [b"a", bytearray(b"b"), memoryview(b"xcx")[1:2], b""]) == 0
    assert reactor.send(conn, b"m", tuple(b"%d" % i for i in range(2000))) == 0
    expected = frame(b"m", b"abc") + frame(b"m", b"".join(b"%d" % i for i in range(2000)))
    received = b""
    while len(received) < len(expected):
        received += peer.recv(65536)
    assert received == expected
    with pytest.raises(BufferError):
        reactor.send(conn, b"m", memoryview(b"abcdef")[::2])
    with pytest.raises(TypeError):
        reactor.send(conn, b"m", "text")


def test_large_payload_is_a_read_only_buffer_that_stands_alone(pair):
    reactor, conn, peer = pair
    reactor.set_limit(conn, 1 << 30)
    sent = os.urandom(3_000_000)
    writer = threading.Thread(target=peer.sendall, args=(frame(b"big", sent) + frame(b"next"),))
    writer.start()
    first, second = poll_for(reactor, 2)
    writer.join()
    reactor.close_all()
    view = memoryview(first[3])
    assert view.readonly and view.contiguous and len(first[3]) == len(sent) and first[3].address
    del first
    gc.collect()
    assert view == sent and second[2] == b"next"


def test_what_the_socket_does_not_take_is_queued_and_drained_by_poll(reactor):
    name = b"\0spoke-test-queue-%d" % os.getpid()
    listener = reactor.listen_unix(name)
    client = reactor.connect_unix(name)
    ((kind, server, meta, payload),) = poll_for(reactor, 1)
    assert (kind, meta, payload) == (ACCEPTED, b"", listener)
    reactor.set_limit(server, 1 << 30)
    payload = bytearray(os.urandom(20_000_000))
    expected = bytes(payload)
    left = reactor.send(client, b"0", payload)
    assert 0 < left == reactor.queued(client)
    payload[:] = bytes(len(payload))  # the rest was copied
    for index in range(1, 50):
        assert reactor.send(client, b"%d" % index, b"x" * index) > left
    events = poll_for(reactor, 50)
    assert [event[2] for event in events] == [b"%d" % index for index in range(50)]
    assert bytes(events[0][3]) == expected
    assert reactor.queued(client) == 0


def test_limit_before_and_after_trust(pair):
    reactor, conn, peer = pair
    peer.sendall(frame(b"ok", b"x" * 65534))
    assert poll_for(reactor, 1)[0][2] == b"ok"
    # the frame right behind the one that earns the trust is judged by the new limit
    peer.sendall(frame(b"proof") + frame(b"big", b"y" * 100_000))
    assert [event[2] for event in reactor.poll(1_000_000)] == [b"proof"]
    reactor.set_limit(conn, 200_000)
    assert poll_for(reactor, 1)[0][2] == b"big"
    peer.sendall(struct.pack("<II", 0xFFFFFFFF, 1))
    ((kind, id_, reason, _),) = poll_for(reactor, 1)
    assert (kind, id_) == (CLOSED, conn) and b"exceeds the limit of 200000" in reason
    assert peer.recv(1) == b"" and quiet(reactor)


def test_default_limit_closes(pair):
    reactor, _, peer = pair
    peer.sendall(struct.pack("<II", 2, 65535) + b"mm")
    assert b"exceeds the limit of 65536" in poll_for(reactor, 1)[0][2]


# -- ends


def test_closed_comes_once_after_the_last_frame(pair):
    reactor, conn, peer = pair
    peer.sendall(frame(b"last") + b"\x01\x02")
    peer.close()
    first, second = poll_for(reactor, 2)
    assert first[2] == b"last" and second[:2] == (CLOSED, conn) and b"middle of a frame" in second[2]
    assert quiet(reactor)
    assert reactor.send(conn, b"m") == -1 and reactor.queued(conn) == -1 and reactor.take_fd(conn) == -1


def test_send_to_a_dead_peer_returns_minus_one_and_keeps_what_arrived(pair):
    reactor, conn, peer = pair
    peer.sendall(frame(b"last"))
    peer.close()
    assert reactor.send(conn, b"m") == -1
    assert [event[0] for event in poll_for(reactor, 2)] == [FRAME, CLOSED]
    assert quiet(reactor)


def test_our_own_close_is_silent_and_what_was_sent_arrives(pair):
    reactor, conn, peer = pair
    reactor.send(conn, b"bye")
    reactor.close(conn)
    reactor.close(conn)
    reactor.close(12345)
    assert quiet(reactor)
    assert peer.recv(100) == frame(b"bye") and peer.recv(1) == b""


def test_tcp_and_errors_name_the_address(reactor):
    _, port = reactor.listen_tcp("127.0.0.1", 0)
    with pytest.raises(OSError, match=f"127.0.0.1:{port}") as caught:
        _native.Reactor().listen_tcp("127.0.0.1", port)
    assert caught.value.errno == errno.EADDRINUSE
    client = reactor.connect_tcp("localhost", port, 5.0)
    server = poll_for(reactor, 1)[0][1]
    assert reactor.peer_uid(server) is None
    assert reactor.send(client, b"m", b"p") == 0
    assert poll_for(reactor, 1)[0][1:] == (server, b"m", b"p")
    with pytest.raises(OSError, match="descriptor over TCP"):
        reactor.send(client, b"m", None, 0)
    with pytest.raises(ConnectionRefusedError, match="unix:@nobody"):
        reactor.connect_unix(b"\0nobody")
    with pytest.raises(OSError, match="bytes"):
        reactor.listen_unix(b"\0" + b"x" * 200)
    with pytest.raises(OSError, match="resolving host"):
        reactor.connect_tcp("no-such-host.invalid", 1, 5.0)


def test_connect_times_out(reactor):
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(full.getsockname())
        begin = time.monotonic()
        with pytest.raises(TimeoutError):
            reactor.connect_tcp(*full.getsockname(), 0.3)
        assert 0.2 < time.monotonic() - begin < 5
        for filler in fillers:
            filler.close()


# -- descriptors, watching, waking


def test_descriptors_travel_with_their_frames(reactor):
    name = b"\0spoke-test-fd-%d" % os.getpid()
    reactor.listen_unix(name)
    client = reactor.connect_unix(name)
    server = poll_for(reactor, 1)[0][1]
    reactor.set_limit(server, 1 << 30)
    assert reactor.peer_uid(server) == os.getuid()
    segment = _native.Segment.create("test", 4096)
    segment.write(0, b"shared")
    for _ in range(6):  # from the second on they wait in the queue
        reactor.send(client, b"with", b"x" * 1_000_000, segment.fd)
        reactor.send(client, b"without")
    for index, event in enumerate(poll_for(reactor, 12)):
        assert event[2] == (b"without" if index % 2 else b"with")
    for _ in range(6):
        fd = reactor.take_fd(server)
        assert not os.get_inheritable(fd)
        assert bytes(_native.Segment.map(fd, 4096, False).view(0, 6)) == b"shared"
        os.close(fd)
    assert reactor.take_fd(server) == -1


def test_descriptors_nobody_takes_are_bounded_and_closed(pair):
    reactor, _, peer = pair
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(100):
        socket.send_fds(peer, [frame(b"m")], [0])
    events = []
    while not events or events[-1][0] != CLOSED:
        events += reactor.poll(1_000_000)
    assert b"descriptors" in events[-1][2]
    assert len(os.listdir("/proc/self/fd")) <= before


def test_watch_reports_until_unwatched(reactor):
    reader, writer = os.pipe()
    id_ = reactor.watch(reader)
    assert reactor.poll(0) == []
    os.write(writer, b"x")
    assert reactor.poll(-1) == reactor.poll(-1) == [(READABLE, id_, b"", None)]
    reactor.unwatch(id_)
    assert quiet(reactor)
    assert os.read(reader, 1) == b"x"
    os.close(reader)
    os.close(writer)
    with pytest.raises(OSError, match="watching descriptor"):
        reactor.watch(reader)


def test_wake_from_another_thread_and_gil_is_free_while_polling(reactor):
    counted = 0
    done = False

    def lead() -> None:
        nonlocal done
        assert reactor.poll(-1) == [(WOKEN, 0, b"", None)]
        done = True

    leader = threading.Thread(target=lead)
    leader.start()
    begin = time.monotonic()
    while time.monotonic() - begin < 0.1:
        counted += 1
    assert counted > 1000 and not done
    reactor.wake()
    leader.join(5)
    assert done and quiet(reactor)


def test_short_timeouts_are_kept(reactor):
    begin = time.perf_counter()
    for _ in range(20):
        assert reactor.poll(500) == []
    spent = time.perf_counter() - begin
    assert 0.01 <= spent < 1
    assert reactor.poll(3000, 2000) == []
    assert 0.013 <= time.perf_counter() - begin < 2


def test_signal_handlers_run_while_polling(reactor):
    class Rang(Exception):
        pass

    def ring(*_: object) -> None:
        raise Rang

    before = signal.signal(signal.SIGALRM, ring)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        with pytest.raises(Rang):
            reactor.poll(10_000_000)
    finally:
        signal.signal(signal.SIGALRM, before)


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_forked_child_does_not_disturb_its_parent(pair):
    reactor, conn, peer = pair
    pid = os.fork()
    if pid == 0:
        reactor.close_all()
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    peer.sendall(frame(b"still here"))
    assert poll_for(reactor, 1)[0][2] == b"still here"
    assert reactor.send(conn, b"m") == 0


# -- shared memory and arena


def test_views_keep_the_mapping_and_respect_bounds():
    segment = _native.Segment.create("test", 1 << 20)
    assert segment.write(100, [b"abc", memoryview(b"def")]) == 6
    reader = memoryview(segment.view(100, 6))
    writer = memoryview(segment.view(100, 6, True))
    assert reader.readonly and not writer.readonly
    fd = segment.fd
    del segment
    gc.collect()
    writer[0] = ord("A")
    assert reader == b"Abcdef"
    os.fstat(fd)
    del reader, writer
    gc.collect()
    with pytest.raises(OSError):
        os.fstat(fd)


@pytest.mark.parametrize(("offset", "length"), [(4096, 1), (0, 4097), (1, 4096), (2**63, 1), (1, 2**64 - 1)])
def test_ranges_outside_a_segment_are_refused(offset, length):
    segment = _native.Segment.create("test", 4096)
    with pytest.raises(ValueError, match="outside a segment of 4096 bytes"):
        segment.view(offset, length)
    with pytest.raises(ValueError, match="outside"):
        segment.populate(offset, length)
    with pytest.raises(ValueError, match="outside"):
        segment.write(4090, b"1234567")


def test_segment_failures_are_os_errors():
    segment = _native.Segment.create("test", 4096)
    with pytest.raises(OSError) as caught:
        _native.Segment.create("test", 1 << 60)
    assert caught.value.errno == errno.ENOMEM
    with pytest.raises(OSError):
        _native.Segment.map(segment.fd, 8192, True)
    read_only = _native.Segment.map(segment.fd, 4096, False)
    with pytest.raises(PermissionError):
        read_only.view(0, 1, True)
    with pytest.raises(PermissionError):
        read_only.write(0, b"x")
    with pytest.raises(OSError):
        os.ftruncate(segment.fd, 0)


def test_populate_gives_pages():
    segment = _native.Segment.create("test", 40 << 20)
    segment.write(12345, b"kept")
    segment.populate(0, 40 << 20)
    assert os.fstat(segment.fd).st_blocks * 512 == 40 << 20
    assert bytes(segment.view(12345, 4)) == b"kept"


def test_numpy_reads_a_view_without_a_copy():
    numpy = pytest.importorskip("numpy")
    segment = _native.Segment.create("test", 8192)
    array = numpy.frombuffer(segment.view(0, 8192), dtype=numpy.int64)
    segment.write(8, (7).to_bytes(8, "little"))
    assert array[1] == 7 and not array.flags.writeable


def test_arena_against_a_model():
    size = 1 << 16
    arena = _native.Arena(size)
    rng = random.Random(3)
    live: dict[int, int] = {}
    for _ in range(5000):
        if rng.random() < 0.55:
            wanted = rng.choice([1, 64, 100, 1000, 5000])
            alignment = rng.choice([1, 64, 256, 4096])
            offset = arena.alloc(wanted, alignment)
            if offset < 0:
                assert arena.largest_free < wanted + alignment
                continue
            taken = -(-wanted // 64) * 64
            assert offset % max(alignment, 64) == 0 and offset + taken <= size
            assert all(offset + taken <= other or other + length <= offset for other, length in live.items())
            live[offset] = taken
        elif live:
            victim = rng.choice(list(live))
            arena.free(victim)
            del live[victim]
            with pytest.raises(ValueError):
                arena.free(victim)
        assert (arena.used, arena.blocks) == (sum(live.values()), len(live))
    for offset in live:
        arena.free(offset)
    assert (arena.used, arena.blocks, arena.largest_free) == (0, 0, size)


# -- processes


def test_spawn_200_times_from_8_threads_while_others_allocate():
    stop = False
    failures: list[object] = []

    def allocate() -> None:
        while not stop:
            [bytearray(1000 + i) for i in range(200)]

    def spawn_some(first: int) -> None:
        for index in range(first, first + 25):
            pid, pidfd = _native.spawn(
                ["sh", "-c", f"exit {index % 100}"],
                {"PATH": os.environ["PATH"]},
                None,
                [],
                signal.SIGKILL if index % 2 else 0,
                False,
            )
            if wait_exit(pidfd) != (index % 100, 0):
                failures.append((pid, index))

    allocators = [threading.Thread(target=allocate) for _ in range(2)]
    spawners = [threading.Thread(target=spawn_some, args=(each * 25,)) for each in range(8)]
    for thread in allocators + spawners:
        thread.start()
    for thread in spawners:
        thread.join(120)
    stop = True
    for thread in allocators:
        thread.join()
    assert failures == []


def test_child_has_exactly_what_it_was_given(tmp_path):
    script = textwrap.dedent("""
        import json, os, signal
        fds = {fd: os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")
               if os.path.exists(f"/proc/self/fd/{fd}")}
        blocked = [line for line in open("/proc/self/status") if line.startswith(("SigBlk", "SigIgn"))]
        print(json.dumps([fds, os.getcwd(), dict(os.environ), os.getpgid(0) == os.getpid(), blocked]))
    """)
    leak = os.dup(0)
    os.set_inheritable(leak, True)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
    out_read, out_write = os.pipe()
    extra = os.open(tmp_path, os.O_RDONLY)
    try:
        argv = [sys.executable, "-S", "-c", script]
        env = {"ONLY": "this", "LC_ALL": "C.UTF-8"}
        _, pidfd = _native.spawn(argv, env, tmp_path, [(out_write, 1), (extra, 9)], signal.SIGKILL, True)
        assert wait_exit(pidfd) == (0, 0)
        fds, cwd, environ, leads_group, masks = json.loads(os.read(out_read, 65536))
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGUSR1])
        for fd in (leak, out_read, out_write, extra):
            os.close(fd)
    assert fds.keys() == {"0", "1", "2", "9"}
    assert fds["0"] == fds["2"] == "/dev/null" and fds["9"] == str(tmp_path)
    assert cwd == str(tmp_path) and leads_group and environ == env
    assert int(masks[0].split()[1], 16) == 0
    # Python itself ignores SIGPIPE and SIGXFSZ, nothing else is
    assert int(masks[1].split()[1], 16) & ~(1 << 12 | 1 << 24) == 0


def test_exec_failures_carry_the_errno(tmp_path):
    text = tmp_path / "text"
    text.write_text("not a program")
    before = len(os.listdir("/proc/self/fd"))
    children = [path.read_text() for path in Path("/proc/self/task").glob("*/children")]
    for argv, cwd, fds, kind in (
        (["/nowhere/at/all"], None, [], FileNotFoundError),
        (["no-such-program"], None, [], FileNotFoundError),
        ([str(text)], None, [], PermissionError),
        (["true"], "/nowhere", [], FileNotFoundError),
        (["true"], None, [(9999, 1)], OSError),
        (["true"], None, [(0, 3), (0, 3)], OSError),
        ([], None, [], OSError),
    ):
        with pytest.raises(kind):
            _native.spawn(argv, {"PATH": "/usr/bin:/bin"}, cwd, fds, signal.SIGKILL, False)
    assert len(os.listdir("/proc/self/fd")) == before
    after = [path.read_text() for path in Path("/proc/self/task").glob("*/children")]
    assert sorted("".join(after).split()) == sorted("".join(children).split()), "a zombie is left"


def test_reap_reports_signal_and_running():
    pid, pidfd = _native.spawn(["sleep", "30"], {"PATH": "/usr/bin:/bin"}, None, [], signal.SIGKILL, False)
    assert _native.reap(pidfd) is None
    os.kill(pid, signal.SIGTERM)
    assert wait_exit(pidfd) == (None, signal.SIGTERM)


def test_child_outlives_the_thread_that_spawned_it():
    made: list[tuple[int, int]] = []

    def ask() -> None:
        argv = ["sh", "-c", "sleep 0.3; exit 5"]
        made.append(_native.spawn(argv, {"PATH": "/usr/bin:/bin"}, None, [], signal.SIGKILL, False))

    thread = threading.Thread(target=ask)
    thread.start()
    thread.join()
    assert wait_exit(made[0][1]) == (5, 0)


def processes_holding(path: str) -> list[str]:
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            if os.readlink(f"/proc/{pid}/cwd") == path:
                found.append(pid)
        except OSError:
            continue
    return found


@pytest.mark.parametrize("delay", [0.0, 0.002, 0.01, 0.03])
def test_children_die_with_their_parent_whenever_it_dies(tmp_path, delay):
    # The parent is killed at an arbitrary moment of a loop that spawns as fast as it can.
    script = textwrap.dedent(f"""
        import signal
        from spoke import _native
        print("go", flush=True)
        while True:
            env = {{"PATH": "/usr/bin:/bin"}}
            _native.spawn(["sleep", "60"], env, {str(tmp_path)!r}, [], signal.SIGKILL, False)
    """)
    for _ in range(3):
        with subprocess.Popen(
            [sys.executable, "-c", script], stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": ROOT}
        ) as parent:
            assert parent.stdout is not None and parent.stdout.readline() == b"go\n"
            time.sleep(delay)
            parent.kill()
            parent.wait()
        deadline = time.monotonic() + 5
        while processes_holding(str(tmp_path)) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert processes_holding(str(tmp_path)) == []


def test_title_shows_in_ps():
    script = "from spoke._native import set_title, show_title; set_title('a title that is longer'); "
    script += "print(open('/proc/self/cmdline').read()); show_title('spoke: a title'); "
    script += "print(open('/proc/self/cmdline').read())"
    env = {**os.environ, "PYTHONPATH": ROOT}
    shown = subprocess.check_output([sys.executable, "-c", script], text=True, env=env)
    assert shown.replace("\0", "").split("\n")[:2] == ["a title that is longer", "spoke: a title"]


def test_memcpy_rate_is_plausible():
    assert 1e8 < _native.memcpy_rate(1 << 20) < 1e12
    with pytest.raises(ValueError):
        _native.memcpy_rate(0)
