"""Runs a program and ends everything that it started: ``python supervised.py SECONDS GRACE COMMAND...``

This process becomes the reaper of all descendants, so that none escapes, however it was started.  When
the program has ended, or GRACE seconds after it printed its result (a line that begins with ``@result``),
the descendants that are left are killed by their ids and reaped.  The last line of output is
``@left`` and the list of their command lines, the program itself among them if it had to be ended.
Exits with the program's status; 124 if it had no result after SECONDS.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

PR_SET_CHILD_SUBREAPER = 36
POLL_S = 0.05
ENDING_S = 15.0  # what is ending may take this long after its program


def parents() -> dict[int, int]:
    """The parent of every process that lives."""
    found = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                state, parent = Path(f"/proc/{entry}/stat").read_text().rsplit(")", 1)[1].split()[:2]
            except OSError:
                continue
            if state != "Z":
                found[int(entry)] = int(parent)
    return found


def descendants(root: int) -> list[int]:
    """All living processes below `root`."""
    table, found = parents(), [root]
    for pid in found:  # grows while it is walked
        found += [child for child, parent in table.items() if parent == pid]
    return found[1:]


def command_of(pid: int) -> str:
    """The command line, as far as it can be read."""
    try:
        line = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ")
    except OSError:
        return ""
    return line.decode(errors="replace").strip()[:200]


def reap() -> None:
    """Take the status of every child that has ended, the program's apart: `Popen` takes that."""
    for pid, parent in _zombies():
        if parent == os.getpid():
            try:
                os.waitpid(pid, os.WNOHANG)
            except ChildProcessError:
                pass


def _zombies() -> list[tuple[int, int]]:
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                fields = Path(f"/proc/{entry}/stat").read_text().rsplit(")", 1)[1].split()
            except OSError:
                continue
            if fields[0] == "Z":
                found.append((int(entry), int(fields[1])))
    return found


def end_all() -> list[str]:
    """Kill what is left, until nothing is; returns the command lines."""
    ended: dict[int, str] = {}
    while found := descendants(os.getpid()):
        for pid in found:
            ended.setdefault(pid, command_of(pid))
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        time.sleep(POLL_S)
        reap()
    return list(ended.values())


def main() -> int:
    """Entry of the program."""
    seconds, grace, command = float(sys.argv[1]), float(sys.argv[2]), sys.argv[3:]
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    program = subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True)
    told = threading.Event()

    def pass_on() -> None:
        assert program.stdout is not None
        for line in program.stdout:
            sys.stdout.buffer.write(line)
            sys.stdout.buffer.flush()
            if line.startswith(b"@result"):
                told.set()

    # A daemon: what the program leaves running may hold the pipe open until it is ended below.
    reader = threading.Thread(target=pass_on, daemon=True)
    reader.start()
    deadline = time.monotonic() + seconds
    while program.poll() is None and not told.is_set() and time.monotonic() < deadline:
        told.wait(POLL_S)
    waits = time.monotonic() + grace
    while told.is_set() and program.poll() is None and time.monotonic() < waits:
        time.sleep(POLL_S)
    late = program.poll() is None and not told.is_set()
    if program.poll() is not None:
        ending = time.monotonic() + ENDING_S
        while descendants(os.getpid()) and time.monotonic() < ending:
            time.sleep(POLL_S)
            reap()
    left = end_all()
    status = program.wait()
    reader.join(ENDING_S)
    print("\n@left " + json.dumps(left), flush=True)
    return 124 if late else max(status, 0) if status >= 0 else 128 - status


if __name__ == "__main__":
    sys.exit(main())
