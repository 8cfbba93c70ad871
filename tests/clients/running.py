"""Runs a client's program on Spoke or on real Ray, and sees that it leaves nothing behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
import time
import uuid
from pathlib import Path
from typing import Any

import ray_compat
from tests.clients.environments import python_of

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
MARK = "SPOKE_CLIENT_RUN"
GONE_S = 15.0  # what is ending may take this long


def run(
    client: str, program: str, *arguments: str, engine: str = "spoke", **variables: str
) -> dict[str, Any]:
    """The JSON after ``@result`` that a program prints.

    `engine` is "spoke" (the search path says so) or "ray" (the real one of the environment).
    """
    paths = [*variables.pop("more_paths", "").split(os.pathsep), str(ROOT)]
    if engine == "spoke":
        paths.insert(0, ray_compat.search_path())
    mark = uuid.uuid4().hex
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "SPOKE_ADDR"))},
        "PYTHONPATH": os.pathsep.join(path for path in paths if path),
        "PYTHONWARNINGS": "ignore",
        MARK: mark,
        **variables,
    }
    command = [python_of(client), str(HERE / "programs" / program), *arguments]
    # Files, not pipes: what a real Ray leaves running would hold a pipe open.
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        try:
            done = subprocess.run(command, env=environment, stdout=out, stderr=err, cwd="/", timeout=280)
        finally:
            left = left_behind(mark)
        stdout, stderr = (file.seek(0) or file.read() for file in (out, err))
    lines = [line[8:] for line in stdout.splitlines() if line.startswith("@result ")]
    assert done.returncode == 0 and len(lines) == 1, f"{stdout[-2000:]}\n{stderr[-4000:]}"
    assert engine != "spoke" or not left, f"left behind: {left}"
    found: dict[str, Any] = json.loads(lines[0])
    return found


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
