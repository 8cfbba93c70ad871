"""Fixtures and guards for every test.

Rules: a test that leaves a process, a shared-memory entry, a descriptor, a thread or a session
directory behind fails (PROC-2); a test that hangs shows the stacks of all its threads and ends the run.
Everything that a run starts carries the run's mark in its environment, so that the guard finds it
whatever its name, and touches nothing that another run started.
"""

from __future__ import annotations

import compileall
import faulthandler
import gc
import os
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
for _path in (str(ROOT), str(ROOT / "tests")):
    if _path not in sys.path:
        sys.path.insert(0, _path)

RUN_MARK = "SPOKE_TEST_RUN"
DEFAULT_TIMEOUT_S = 120.0  # of one test; @pytest.mark.timeout_s(n) sets another
LEAK_GRACE_S = 5.0  # what is ending may take this long to be gone

os.environ.setdefault(RUN_MARK, uuid.uuid4().hex)
_MARK = f"{RUN_MARK}={os.environ[RUN_MARK]}".encode()


def pytest_configure(config: pytest.Config) -> None:
    """Declare the marks, and give the run a temporary directory of its own."""
    for line in (
        "slow: takes more than ten seconds; left out by -m 'not slow'",
        "softroce: needs an RDMA device, a software one will do",
        "gpu: needs a CUDA device",
        "timeout_s(seconds): the limit of this test instead of two minutes",
        "leaks(*what): lets this module leave these kinds behind: processes, shm, fds, threads, dirs",
    ):
        config.addinivalue_line("markers", line)
    # The tests start some thousand processes.  An editable installation has no bytecode, and where
    # PYTHONDONTWRITEBYTECODE is set each of them would compile Spoke again: 60 ms more of CPU.
    compileall.compile_dir(ROOT / "spoke", quiet=2)
    if "SPOKE_TMPDIR" not in os.environ:
        # A short path: unix socket names have 108 bytes.
        os.environ["SPOKE_TMPDIR"] = tempfile.mkdtemp(prefix="spoke-test-")
        config.add_cleanup(lambda: _remove_run_directory(os.environ.pop("SPOKE_TMPDIR")))


def _remove_run_directory(path: str) -> None:
    import shutil

    shutil.rmtree(path, ignore_errors=True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip, by name of what is missing, the tests whose device this machine lacks."""
    has_gpu = os.path.exists("/dev/nvidiactl")
    has_rdma = os.path.isdir("/sys/class/infiniband") and bool(os.listdir("/sys/class/infiniband"))
    for item in items:
        if item.get_closest_marker("gpu") and not has_gpu:
            item.add_marker(pytest.mark.skip(reason="no CUDA device on this machine"))
        if item.get_closest_marker("softroce") and not has_rdma:
            item.add_marker(pytest.mark.skip(reason="no RDMA device on this machine"))


# -- time limit -----------------------------------------------------------------------------------


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """End the run with all stacks when a test is over its limit: nothing gentler ends a hung wait."""
    marker = item.get_closest_marker("timeout_s")
    limit = float(marker.args[0]) if marker else DEFAULT_TIMEOUT_S
    capture = item.config.pluginmanager.getplugin("capturemanager")

    def expire() -> None:
        if capture is not None:
            capture.suspend_global_capture(in_=True)
        sys.stderr.write(f"\n{item.nodeid} is over its limit of {limit:g} s\n")
        sys.stderr.flush()

    announce = threading.Timer(limit, expire)
    announce.daemon = True
    announce.name = "test-watchdog"
    announce.start()
    # faulthandler's own thread needs no GIL, so that a wait that never gives it back is ended too.
    faulthandler.dump_traceback_later(limit + 0.5, exit=True, file=sys.__stderr__ or sys.stderr)
    try:
        return (yield)
    finally:
        faulthandler.cancel_dump_traceback_later()
        announce.cancel()
        announce.join()


# -- leaks ----------------------------------------------------------------------------------------


def _run_processes() -> dict[int, str]:
    """Living processes with the mark of this run, this one left out: pid -> command line."""
    found: dict[int, str] = {}
    for entry in os.listdir("/proc"):
        if not entry.isdigit() or int(entry) == os.getpid():
            continue
        try:
            environment = Path(f"/proc/{entry}/environ").read_bytes()
            state = Path(f"/proc/{entry}/stat").read_text().rsplit(")", 1)[1].split()[0]
            command = (
                Path(f"/proc/{entry}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            )
        except OSError:
            continue
        if _MARK in environment.split(b"\0") and state != "Z":
            found[int(entry)] = command.strip()[:200]
    return found


def _shared_memory() -> set[str]:
    """Entries of /dev/shm that a Spoke process could have made."""
    try:
        return {name for name in os.listdir("/dev/shm") if "spoke" in name.lower()}
    except OSError:
        return set()


def _descriptors() -> dict[int, str]:
    found: dict[int, str] = {}
    for entry in os.listdir("/proc/self/fd"):
        try:
            found[int(entry)] = os.readlink(f"/proc/self/fd/{entry}")
        except OSError:
            continue  # the descriptor of this very listing
    return found


def _our_descriptors() -> int:
    """How many descriptors are of the kinds that Spoke opens: sockets, memory, epoll, processes."""
    kinds = ("socket:", "anon_inode:", "/memfd:")
    return sum(target.startswith(kinds) for target in _descriptors().values())


def _threads() -> set[str]:
    """Threads of this process by kernel id and name; the watchdogs left out."""
    found = set()
    for task in os.listdir("/proc/self/task"):
        try:
            name = Path(f"/proc/self/task/{task}/comm").read_text().strip()
        except OSError:
            continue
        found.add(f"{task} {name}")
    known = {str(t.native_id) for t in threading.enumerate() if t.name in ("MainThread", "test-watchdog")}
    return {entry for entry in found if entry.split()[0] not in known}


def _session_directories() -> set[str]:
    root = os.environ.get("SPOKE_TMPDIR", "")
    return {name for name in os.listdir(root) if name.startswith("session")} if os.path.isdir(root) else set()


class Snapshot:
    """What there is of everything that a test must not leave behind."""

    def __init__(self) -> None:
        self.processes = _run_processes()
        self.shm = _shared_memory()
        self.fds = _our_descriptors()
        self.threads = _threads()
        self.dirs = _session_directories()

    def leaked(self, allowed: tuple[str, ...] = ()) -> list[str]:
        """What is there now and was not then."""
        leaks: list[str] = []
        if "processes" not in allowed:
            now = _run_processes()
            leaks += [f"process {pid}: {now[pid]}" for pid in sorted(now.keys() - self.processes.keys())]
        if "shm" not in allowed:
            leaks += [f"/dev/shm/{name}" for name in sorted(_shared_memory() - self.shm)]
        if "fds" not in allowed and (count := _our_descriptors()) > self.fds:
            leaks.append(f"{count - self.fds} descriptors: {sorted(_descriptors().items())}")
        if "threads" not in allowed:
            extra = len(_threads()) - len(self.threads)
            # Libraries start pools on first use; Spoke names its threads; the spawner stays by design,
            # since a child that dies with its parent dies with the thread that made it.
            named = [
                n for n in sorted(_threads() - self.threads) if "spoke" in n and "spoke-spawner" not in n
            ]
            leaks += [f"thread {name}" for name in named] if extra > 0 else []
        if "dirs" not in allowed:
            leaks += [f"session directory {name}" for name in sorted(_session_directories() - self.dirs)]
        return leaks

    def settle(self, allowed: tuple[str, ...] = (), grace_s: float = LEAK_GRACE_S) -> list[str]:
        """What is still leaked after `grace_s`: ends are asynchronous, leaks are for ever."""
        gc.collect()  # a cycle that holds a descriptor is garbage, not a leak
        deadline = time.monotonic() + grace_s
        while (leaks := self.leaked(allowed)) and time.monotonic() < deadline:
            time.sleep(0.02)
        return leaks


@pytest.fixture(scope="session", autouse=True)
def _no_leak_of_the_run() -> Iterator[None]:
    before = Snapshot()
    yield
    leaks = before.settle(("fds", "threads"))
    assert not leaks, "the run left behind: " + "; ".join(leaks)


@pytest.fixture(scope="module", autouse=True)
def _no_leak_of_the_module(request: pytest.FixtureRequest) -> Iterator[None]:
    marker = request.node.get_closest_marker("leaks")
    before = Snapshot()
    yield
    _shut_down()
    leaks = before.settle(tuple(marker.args) if marker else ())
    assert not leaks, f"{request.node.nodeid} left behind: " + "; ".join(leaks)


@pytest.fixture
def leak_snapshot() -> Callable[[], Snapshot]:
    """Makes a `Snapshot`, for tests that look for leaks themselves."""
    return Snapshot


# -- clusters -------------------------------------------------------------------------------------


def _shut_down() -> None:
    """End the cluster that a test of this process left running, if Spoke was imported at all."""
    spoke = sys.modules.get("spoke")
    if spoke is not None and spoke.is_initialized():
        spoke.shutdown()


def _start(**options: Any) -> Any:
    import spoke

    _shut_down()
    spoke.init(**{"num_cpus": 4, "num_gpus": 0, "log_to_driver": False, **options})
    return spoke


@pytest.fixture(scope="module")
def spoke_cluster() -> Iterator[Any]:
    """The module `spoke`, with an embedded cluster of 4 CPUs that the tests of the module share."""
    yield _start()
    _shut_down()


@pytest.fixture
def fresh_cluster() -> Iterator[Callable[..., Any]]:
    """``fresh_cluster(**init_options)`` starts an embedded cluster for one test; returns `spoke`."""
    yield _start
    _shut_down()
