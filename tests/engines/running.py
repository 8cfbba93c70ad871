"""Real Ray's interpreter, clusters of real Ray, and runs of programs on them that leave nothing behind.

The interpreter is ``SPOKE_RAY_PYTHON``, which needs ray and what Spoke needs, or that of the environment
`engine` of `tests.clients.environments`.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from tests.clients.environments import python_of
from tests.clients.running import MARK, left_behind

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
LIMIT_S = 400


def python() -> str:
    """The interpreter that has real Ray."""
    return os.environ.get("SPOKE_RAY_PYTHON") or python_of("engine")


def environment(folder: str, **variables: str) -> dict[str, str]:
    """The environment of a program; no cluster of the caller is in it, and Ray's files go to `folder`."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "SPOKE_ADDR"))}
    # Ray 2.60's default authentication keeps drivers out of the clusters that its own `ray start` makes.
    told = {
        "PYTHONPATH": str(ROOT),
        "PYTHONWARNINGS": "ignore",
        "RAY_AUTH_MODE": "disabled",
        "RAY_TMPDIR": folder,
    }
    return {**kept, **told, **variables}


def run(*command: str, **variables: str) -> str:
    """What a program prints; it must end well and leave no process behind."""
    mark = uuid.uuid4().hex
    # Files, not pipes: what a real Ray leaves running would hold a pipe open.
    with (
        tempfile.TemporaryFile("w+") as out,
        tempfile.TemporaryFile("w+") as err,
        tempfile.TemporaryDirectory(prefix="sr-", ignore_cleanup_errors=True) as folder,
    ):
        try:
            done = subprocess.run(
                [python(), *command], env=environment(folder, **{MARK: mark, **variables}),
                stdout=out, stderr=err, cwd="/", timeout=LIMIT_S,
            )  # fmt: skip
        finally:
            left = left_behind(mark)
        out.seek(0)
        err.seek(0)
        printed, errors = out.read(), err.read()
    assert done.returncode == 0, f"{printed[-2000:]}\n{errors[-4000:]}"
    assert not left, f"left behind: {left}"
    return printed


def result(program: str, *arguments: str, **variables: str) -> Any:
    """The JSON after ``@result`` that a program of this folder prints, with SPOKE_ENGINE=ray unless told."""
    printed = run(str(HERE / "programs" / program), *arguments, **{"SPOKE_ENGINE": "ray", **variables})
    lines = [line[8:] for line in printed.splitlines() if line.startswith("@result ")]
    assert len(lines) == 1, printed
    return json.loads(lines[0])


def example(name: str, *arguments: str, **variables: str) -> list[str]:
    """The lines that an example prints with SPOKE_ENGINE=ray."""
    path = str(ROOT / "examples" / name)
    return run(path, *arguments, **{"SPOKE_ENGINE": "ray", **variables}).splitlines()


def end_all(mark: str) -> None:
    """End the processes of a run, and what they started, as some write their title over their environment."""
    family = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == mark:
                family += [process, *process.children(recursive=True)]
        except psutil.Error:
            continue
    for process in family:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(family, timeout=30)


@contextmanager
def cluster(**variables: str) -> Iterator[tuple[str, str]]:
    """A cluster made by `ray start` with a client server: its address and that of the client server."""
    mark = uuid.uuid4().hex
    ports = [30000 + int.from_bytes(os.urandom(2), "big") % 20000 for _ in range(2)]
    ray = str(Path(python()).parent / "ray")
    command = [
        ray, "start", "--head", "--num-cpus=3", f"--port={ports[0]}", f"--ray-client-server-port={ports[1]}",
        "--include-dashboard=false", "--disable-usage-stats",
    ]  # fmt: skip
    with (
        tempfile.TemporaryFile("w+") as out,
        tempfile.TemporaryDirectory(prefix="sr-", ignore_cleanup_errors=True) as folder,
    ):
        try:
            subprocess.run(
                command, env=environment(folder, **{MARK: mark, **variables}), stdout=out, stderr=out,
                cwd="/", timeout=LIMIT_S, check=True,
            )  # fmt: skip
            yield f"127.0.0.1:{ports[0]}", f"ray://127.0.0.1:{ports[1]}"
        finally:
            end_all(mark)
