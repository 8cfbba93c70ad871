"""Memory limits of jobs by the kernel, where cgroup v2 has a memory controller that this user may divide.

Elsewhere these are skipped; `.ci/run` runs them in the virtual machine of `tests/softroce`.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from spoke import joblimits

ROOT = Path(joblimits.ROOT)


def _usable() -> bool:
    try:
        joblimits.Cgroup.create(f"spoke-probe-{os.getpid()}", 1 << 30).remove()
    except OSError:
        return False
    return True


pytestmark = [
    pytest.mark.skipif(not _usable(), reason="no cgroup v2 with a memory controller that is ours to divide"),
    pytest.mark.timeout_s(300),
]

_EATER = """
import json, os, sys, time
import spoke
from spoke import joblimits, jobs

def eat(megabytes, beside):
    if beside and os.fork() == 0:  # a process of the job in a session of its own counts, and dies, too
        os.setsid()
        open(beside, "w").write(str(os.getpid()))
        held = bytearray(b"x" * (megabytes << 20))
        time.sleep(600)
    if beside:
        time.sleep(600)
    held = bytearray(b"x" * (megabytes << 20))
    return len(held)

if len(sys.argv) > 2:  # the agent is the first process of a cgroup of its own
    with open(sys.argv[2] + "/cgroup.procs", "w") as file:
        file.write(str(os.getpid()))
spoke.init(num_cpus=2, log_to_driver=False)
small = {"CPU": 0.1}
other = jobs.submit("sleep 600", resources={**small, "memory": "64MB"})
other.wait_until("RUNNING", 200)
asked = jobs.submit(lambda: open("/proc/self/cgroup").read(), resources={**small, "memory": "200MB"})
fits = jobs.submit(eat, 50, "", resources={**small, "memory": "200MB"})
facts = {"fits": [fits.wait(200), fits.exit_code], "where": asked.result(200)}
for name, beside in (("alone", ""), ("beside", sys.argv[1])):
    job = jobs.submit(eat, 400, beside, resources={**small, "memory": "100MB"})
    print(facts, flush=True)
    facts[name] = [job.wait(200), job.exit_code, job.message]
line = "head -c 400m /dev/zero | tail -c 400m > /dev/null"
shell = jobs.submit(line, resources={**small, "memory": "100MB"})
facts["shell"] = [shell.wait(200), shell.exit_code, shell.message]
facts["other"] = other.status()
print(facts, flush=True)
other.terminate(force=True)
other.wait(200)
spoke.shutdown()
print(json.dumps(facts))
"""


def _run(tmp_path: Path, *more: str) -> dict[str, object]:
    import json

    argv = [sys.executable, "-c", _EATER, str(tmp_path / "beside"), *more]
    out = subprocess.run(argv, capture_output=True, text=True, timeout=280)
    assert out.returncode == 0, out.stdout + out.stderr
    facts: dict[str, object] = json.loads(out.stdout.splitlines()[-1])
    return facts


def _left(folder: Path) -> list[str]:
    return [one.name for one in folder.iterdir() if one.is_dir() and one.name.startswith("spoke-")]


def _check(facts: dict[str, object], tmp_path: Path) -> None:
    killed = ["FAILED", 137, "memory limit exceeded: 104857600 bytes"]
    assert facts["fits"] == ["SUCCEEDED", 0]
    assert facts["alone"] == facts["beside"] == facts["shell"] == killed, facts
    assert facts["other"] == "RUNNING"
    assert not Path(f"/proc/{(tmp_path / 'beside').read_text()}").exists()


def test_f19_the_kernel_ends_a_job_over_its_limit_alone(tmp_path: Path) -> None:
    facts = _run(tmp_path)
    _check(facts, tmp_path)
    assert "/spoke-" in str(facts["where"])


@pytest.fixture
def inner() -> Iterator[Path]:
    """A cgroup below the one that this process is in, or beside it."""
    probe = joblimits.Cgroup.create(f"spoke-probe-{os.getpid()}", 1 << 30)
    path = Path(probe.path).parent / f"inner-{os.getpid()}"
    probe.remove()
    path.mkdir()
    yield path
    deadline = time.monotonic() + 20
    while True:
        try:
            path.rmdir()
            return
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_f19_beside_the_cgroup_that_the_agent_is_in_with_others(inner: Path, tmp_path: Path) -> None:
    """The driver is in it too, which is not the agent's to move."""
    facts = _run(tmp_path, str(inner))
    _check(facts, tmp_path)
    assert inner.name not in str(facts["where"]) and _left(inner.parent) == []


def test_f19_what_stems_from_the_agent_makes_room(inner: Path) -> None:
    code = (
        "import os, subprocess, sys; from spoke import joblimits\n"
        "open(sys.argv[1] + '/cgroup.procs', 'w').write(str(os.getpid()))\n"
        "child = subprocess.Popen(['sleep', '600'])\n"
        "one, two = (joblimits.Cgroup.create(name, 1 << 28) for name in ('spoke-one', 'spoke-two'))\n"
        "moved = open(f'/proc/{child.pid}/cgroup').read(); open(one.door, 'w').write(str(child.pid))\n"
        "print(one.path, two.path, moved.strip().rpartition('/')[2], one.remove() or one.remove())\n"
        "child.wait(); two.remove()\n"
        "import time; deadline = time.monotonic() + 20\n"
        "while not one.remove() and time.monotonic() < deadline: time.sleep(0.01)\n"
        "print(os.path.exists(one.path), os.path.exists(two.path))"
    )
    out = subprocess.run(
        [sys.executable, "-c", code, str(inner)], capture_output=True, text=True, timeout=120
    )
    assert out.returncode == 0, out.stderr
    first, second = (line.split() for line in out.stdout.splitlines())
    assert first[:3] == [f"{inner}/spoke-one", f"{inner}/spoke-two", "spoke-agent"]
    assert second == ["False", "False"]
    (inner / "spoke-agent").rmdir()
