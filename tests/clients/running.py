"""Runs a client's program on Spoke or on real Ray, and sees that it leaves nothing behind.

Every run has a temporary directory of its own, which is removed with all that libraries put there.
Programs are supervised (`supervised`): nothing that they started outlives the run, on any engine.  On
Spoke, it is a fault if something had to be ended.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import ray_compat
from tests.clients.environments import python_of

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
LIMIT_S = 600
MARK = "SPOKE_CLIENT_RUN"
GONE_S = 15.0  # what is ending may take this long
GRACE_S = {"spoke": 60.0, "ray": 10.0}  # real Ray sometimes does not end after the result


def run(
    client: str, program: str, *arguments: str, engine: str = "spoke", **variables: str
) -> dict[str, Any]:
    """The JSON after ``@result`` that a program prints; ``left`` are the processes that had to be ended.

    `engine` is "spoke" (the search path says so) or "ray" (the real one of the environment).
    """
    paths = [*variables.pop("more_paths", "").split(os.pathsep), str(ROOT)]
    if engine == "spoke":
        paths.insert(0, ray_compat.search_path())
    # A short path: unix socket names have 108 bytes.
    folder = tempfile.mkdtemp(prefix="client-", dir="/tmp")
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "SPOKE_ADDR"))},
        "PYTHONPATH": os.pathsep.join(path for path in paths if path),
        "PYTHONWARNINGS": "ignore",
        "TMPDIR": folder,
        "SPOKE_TMPDIR": os.path.join(folder, "s"),
        **variables,
    }
    command = [python_of(client), str(HERE / "programs" / program), *arguments]
    supervisor = [sys.executable, str(HERE / "supervised.py"), str(LIMIT_S), str(GRACE_S[engine])]
    try:
        done = subprocess.run(
            [*supervisor, *command], env=environment, capture_output=True, text=True, cwd="/",
            timeout=LIMIT_S + 120,
        )  # fmt: skip
        ours = [name for name in os.listdir(folder) if "spoke" in name.lower()]
    finally:
        remove(folder)
    told = {line.split()[0]: line.partition(" ")[2] for line in done.stdout.splitlines() if line[:1] == "@"}
    assert "@result" in told, f"{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    found: dict[str, Any] = json.loads(told["@result"])
    left = json.loads(told["@left"])
    if engine == "spoke":
        assert done.returncode == 0, f"status {done.returncode}\n{done.stderr[-4000:]}"
        assert not left, f"processes left behind: {left}"
        assert not ours, f"files left behind: {ours}"
    return found


def remove(folder: str) -> None:
    """Remove the temporary directory of a run.

    Raises:
        AssertionError: it cannot be removed.
    """
    shutil.rmtree(folder, ignore_errors=True)
    assert not os.path.exists(folder), f"left behind: {folder}"


# -- for programs that are no client and run without a supervisor


def left_behind(mark: str, patience_s: float = GONE_S) -> list[str]:
    """Command lines of processes of a run that do not end by themselves; they are ended here."""
    deadline = time.monotonic() + patience_s
    while (found := _marked(mark)) and time.monotonic() < deadline:
        time.sleep(0.05)
    for pid in found:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
    return list(found.values())


def _marked(mark: str) -> dict[int, str]:
    wanted = f"{MARK}={mark}".encode()
    found = {}
    for entry in os.listdir("/proc"):
        try:
            if entry.isdigit() and wanted in Path(f"/proc/{entry}/environ").read_bytes().split(b"\0"):
                state = Path(f"/proc/{entry}/stat").read_text().rsplit(")", 1)[1].split()[0]
                if state != "Z":
                    command = Path(f"/proc/{entry}/cmdline").read_bytes().replace(b"\0", b" ")
                    found[int(entry)] = command.decode(errors="replace")[:200]
        except OSError:
            continue
    return found
