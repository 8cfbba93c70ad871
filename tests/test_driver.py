"""Drivers: how they start, join, print, fork and end.  Each runs as a program of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from spoke.cluster_utils import Cluster

ROOT = Path(__file__).resolve().parents[1]


def run(
    code: str, tmp_path: Path, *args: str, cwd: Path | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run a driver program that stands in a file of its own."""
    script = tmp_path / "driver.py"
    script.write_text(code)
    return subprocess.run(
        [sys.executable, str(script), *args],
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        cwd=cwd or tmp_path,
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 2})
    yield made
    made.shutdown()


def joined(cluster: Cluster, tmp_path: Path) -> dict[str, str]:
    """The environment of a driver that joins `cluster`."""
    token_file = tmp_path / "token"
    token_file.write_bytes(cluster.token)
    token_file.chmod(0o600)
    return {"SPOKE_ADDRESS": str(cluster.address), "SPOKE_TOKEN_FILE": str(token_file)}


# -- start


KNOWN = """
import spoke
from spoke.util import get_node_ip_address, placement_group
context = spoke.init(num_cpus=1)
(node,) = spoke.nodes()
pg = placement_group([{"CPU": 1, "node:192.0.2.77": 0.001}])
inside = spoke.get(spoke.remote(num_cpus=0)(get_node_ip_address).remote())
print(node["NodeManagerAddress"], inside, pg.wait(30), context["gcs_address"].rpartition(":")[0])
"""


def test_a_node_on_the_loopback_is_known_by_its_machines_address(tmp_path: Path) -> None:
    """Programs ask the kernel for that address and name it in resources; the cluster's stays its own."""
    done = run(KNOWN, tmp_path, SPOKE_NODE_IP="192.0.2.77")
    assert done.stdout.split() == ["192.0.2.77", "192.0.2.77", "True", "127.0.0.1"], done.stderr


def test_an_address_where_nobody_listens_is_named_at_once(tmp_path: Path) -> None:
    started = time.monotonic()
    done = run("import spoke; spoke.init(address='127.0.0.1:1')", tmp_path)
    assert time.monotonic() - started < 2
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith("ConnectionError: could not join the cluster at 127.0.0.1:1:")
    assert "spoke status" in last and "spoke start --head" in last


def test_a_daemon_that_cannot_start_says_why(tmp_path: Path) -> None:
    done = run("import spoke; spoke.init(num_cpus=1)", tmp_path, SPOKE_LOG_DIR="/proc/no/such")
    assert done.returncode == 1
    assert "RuntimeError: the cluster could not be started: the log directory" in done.stderr.splitlines()[-1]


def test_first_task_comes_soon(tmp_path: Path) -> None:
    code = """
import time
import spoke as ray
start = time.perf_counter()
ray.init(num_cpus=2, log_to_driver=False)
assert ray.get(ray.remote(lambda: 7).remote()) == 7
print(time.perf_counter() - start)
"""
    best = min(float(run(code, tmp_path).stdout) for _ in range(4))
    start = time.perf_counter()
    run("import asyncio, typing, multiprocessing", tmp_path)  # a floor that the same load slows down
    assert best < 5 * (time.perf_counter() - start)


def test_PROC_2_a_killed_daemon_leaves_no_directory(tmp_path: Path) -> None:
    code = """
import os, signal
import spoke as ray
from spoke import current
ray.init(num_cpus=1, log_to_driver=False)
daemon = int(open(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read().split()[0])
print(current.client.info["session"])
os.kill(daemon, signal.SIGKILL)
ray.shutdown()
"""
    done = run(code, tmp_path)
    assert done.returncode == 0, done.stderr
    assert not (Path(os.environ["SPOKE_TMPDIR"]) / done.stdout.strip()).exists()


# -- join

MODULES = """
import os, sys
import spoke as ray
import beside
ray.init(log_to_driver=False)

@ray.remote
class Actor:
    def value(self):
        import beside
        return beside.value(), os.getcwd()

print(ray.get(ray.remote(beside.value).remote()))
print(ray.get(ray.remote(lambda: __import__("beside").VALUE).remote()))
print(*ray.get(Actor.remote().value.remote()))
nested = ray.remote(lambda: ray.get(ray.remote(beside.value).remote()))
print(ray.get(nested.remote()))
"""


def test_workers_import_what_the_joining_driver_can(cluster: Cluster, tmp_path: Path) -> None:
    for name in ("one", "two"):  # a second job of another directory
        folder, elsewhere = tmp_path / name, tmp_path / f"cwd-{name}"
        folder.mkdir()
        elsewhere.mkdir()
        (folder / "beside.py").write_text(f"VALUE = {name!r}\ndef value():\n    return VALUE\n")
        done = run(MODULES, folder, cwd=elsewhere, **joined(cluster, tmp_path))
        assert done.returncode == 0, done.stderr
        assert done.stdout.split() == [name, name, name, str(elsewhere), name]


def test_a_driver_takes_the_agent_of_its_own_cluster(cluster: Cluster, tmp_path: Path) -> None:
    other = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        code = "import spoke; spoke.init(); print(spoke.get_runtime_context().get_node_id())"
        for one in (cluster, other):
            done = run(code, tmp_path, **joined(one, tmp_path))
            assert done.returncode == 0, done.stderr
            assert one.head_node is not None and done.stdout.strip() == one.head_node.node_id
    finally:
        other.shutdown()


# -- output

PRINTS = """
import sys
import spoke as ray
ray.init(num_cpus=2)

@ray.remote
def speak(word):
    print(word)
    print(word, file=sys.stderr)

@ray.remote
class Plain:
    def speak(self, word):
        print(word)

@ray.remote
class Named:
    def __init__(self, name):
        self.name = name
    def __repr__(self):
        return f"Named({self.name})"
    def speak(self, word):
        print(word)

plain, named = Plain.remote(), Named.remote("x")
ray.get([speak.remote("one"), plain.speak.remote("two"), named.speak.remote("three")])
ray.get(speak.options(name="other").remote("four"))
"""


def named_lines(text: str) -> list[tuple[str, str]]:
    """(name, what was printed) of lines like ``(name pid=7) text``."""
    found = []
    for line in text.splitlines():
        if line.startswith("(") and " pid=" in line:
            name, _, rest = line[1:].partition(" pid=")
            found.append((name, rest.partition(") ")[2]))
    return sorted(found)


@pytest.mark.parametrize("join", [False, True])
def test_lines_bear_the_name_of_what_printed_them_and_none_is_lost(
    cluster: Cluster, tmp_path: Path, join: bool
) -> None:
    code = PRINTS.replace("num_cpus=2", "") if join else PRINTS
    done = run(code, tmp_path, **(joined(cluster, tmp_path) if join else {}))
    assert done.returncode == 0, done.stderr
    expected = [("Named(x)", "three"), ("Plain", "two"), ("other", "four"), ("speak", "one")]
    assert named_lines(done.stdout) == expected
    assert named_lines(done.stderr) == [("other", "four"), ("speak", "one")]


# -- forks

FORK = """
import os, sys
import spoke as ray
ray.init(num_cpus=1, log_to_driver=False)
ref = ray.put(b"x" * 500_000)
view = ray.get(ref)
tensor_ref = ray.remote(lambda: 5).remote()
pending = ray.remote(lambda ref: ref).remote(tensor_ref)
pid = os.fork()
if pid == 0:
    assert not ray.is_initialized()
    del ref, tensor_ref  # nothing of the parent's is freed
    if sys.argv[1] == "init":
        ray.init(num_cpus=1, log_to_driver=False)
        assert ray.get(ray.remote(lambda: 8).remote()) == 8
        for use in (ray.get, lambda ref: ray.get(ray.remote(lambda x: x).remote(ref))):
            try:
                use(pending)
            except ValueError as error:
                assert "before this process was forked" in str(error), error
            else:
                raise AssertionError("the parent's ref was taken for one of this session")
        ray.shutdown()
    sys.exit(7)  # with the handlers of an orderly end
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
assert ray.get(ref) == b"x" * 500_000 and ray.get(tensor_ref) == 5
assert ray.get(ray.remote(lambda: 9).remote()) == 9
"""


def test_a_ref_of_an_earlier_session_is_refused(tmp_path: Path) -> None:
    code = """
import spoke as ray
ray.init(num_cpus=1, log_to_driver=False)
refs = [ray.put(1), ray.remote(lambda: 2).remote()]
ray.shutdown()
ray.init(num_cpus=1, log_to_driver=False)
for ref in refs:
    try:
        ray.get(ref)
    except ValueError as error:
        print(error)
"""
    done = run(code, tmp_path)
    assert done.stdout.count("trying to access a Ray object whose owner is unknown") == 2, done.stderr


@pytest.mark.parametrize("what", ["init", "end"])
def test_a_fork_of_a_driver_is_a_program_of_its_own(tmp_path: Path, what: str) -> None:
    done = run(FORK, tmp_path, what)
    assert done.returncode == 0 and done.stderr == "", done.stderr


def test_a_fork_inside_a_task_leaves_the_worker_alone(tmp_path: Path) -> None:
    code = """
import os
import spoke as ray
ray.init(num_cpus=1, log_to_driver=False)

@ray.remote
def forks(refs):
    value = ray.get(refs[0])
    pid = os.fork()
    if pid == 0:
        refs.clear()
        os._exit(0 if not ray.is_initialized() else 1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), len(ray.get(refs[0]))

ref = ray.put(b"y" * 300_000)
for _ in range(3):
    assert ray.get(forks.remote([ref])) == (0, 300_000)
"""
    done = run(code, tmp_path)
    assert done.returncode == 0, done.stderr
