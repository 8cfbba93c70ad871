"""`_native.fork_sibling`: the zygote's fork, whose copy belongs to the zygote's parent."""

from __future__ import annotations

import errno
import json
import os
import socket
import subprocess
import sys

import pytest

from spoke import _native, zygote

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

# The parent forks a zygote; the zygote's copy tells what it is, over a pipe; the parent reaps both.
_SCRIPT = """
import json, os, sys, threading, signal
from spoke import _native
here = os.getpid()
reader, writer = os.pipe()
hooks = []
os.register_at_fork(before=lambda: hooks.append("before"), after_in_child=lambda: hooks.append("child"))
middle = os.fork()
if middle == 0:
    del hooks[:]
    pid = _native.fork_sibling()
    if pid:
        os.write(writer, (json.dumps({"told": pid}) + "\\n").encode())
        os._exit(3)
    lock, seen = threading.RLock(), []
    def other():
        with lock:
            seen.append(threading.get_native_id())
    with lock:
        thread = threading.Thread(target=other)
        thread.start()
    thread.join()
    signal.signal(signal.SIGUSR1, lambda number, frame: seen.append("signal"))
    signal.pthread_kill(threading.main_thread().ident, signal.SIGUSR1)
    child = os.fork()  # calls "before" once more
    if child == 0:
        os._exit(9)
    facts = {
        "parent": os.getppid() == here, "pid": os.getpid(),
        "thread": threading.get_native_id() == os.getpid(),
        "other": seen[0] != os.getpid(), "signal": seen[1:], "hooks": hooks,
        "grandchild": os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]),
    }
    os.write(writer, (json.dumps(facts) + "\\n").encode())
    os._exit(5)
os.close(writer)
lines = [json.loads(line) for line in open(reader).read().splitlines()]
codes = sorted(os.waitstatus_to_exitcode(os.waitpid(-1, 0)[1]) for _ in range(2))
print(json.dumps({**lines[0], **lines[1], "codes": codes}))
"""


def test_the_copy_is_the_parents_child_and_a_whole_process() -> None:
    env = {**os.environ, "PYTHONPATH": ROOT}
    shown = subprocess.run(
        [sys.executable, "-c", _SCRIPT], capture_output=True, text=True, check=True, env=env, timeout=60
    )
    found = json.loads(shown.stdout)
    assert found["pid"] == found["told"], found
    assert found["parent"] and found["thread"] and found["other"], found
    assert found["signal"] == ["signal"] and found["grandchild"] == 9, found
    assert found["hooks"] == ["before", "child", "before"] and found["codes"] == [3, 5], found


def test_where_the_system_does_not_offer_it_the_zygote_ends_and_workers_are_executed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The agent starts by exec what an ended zygote owes it (tests/test_agent.py)."""

    def refuse() -> int:
        raise OSError(errno.ENOSYS, "no")

    monkeypatch.setattr(_native, "fork_sibling", refuse)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        ours.sendmsg([(1).to_bytes(zygote.NUMBER_BYTES, "little")], zygote.pack_fds((0, 1, 2)))
        assert zygote.serve(theirs, os.getppid()) is False


def test_a_fork_that_fails_is_reported_and_the_next_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> int:
        raise OSError(errno.EAGAIN, "too many")

    monkeypatch.setattr(_native, "fork_sibling", refuse)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        for number in (1, 2):
            ours.sendmsg([number.to_bytes(zygote.NUMBER_BYTES, "little")], zygote.pack_fds((0, 1, 2)))
        ours.shutdown(socket.SHUT_WR)
        assert zygote.serve(theirs, os.getppid()) is False  # the agent has closed the link
        for number in (1, 2):
            answer = ours.recv(2 * zygote.NUMBER_BYTES)
            assert int.from_bytes(answer[: zygote.NUMBER_BYTES], "little") == number
            told = int.from_bytes(answer[zygote.NUMBER_BYTES :], "little", signed=True)
            assert told == -errno.EAGAIN
