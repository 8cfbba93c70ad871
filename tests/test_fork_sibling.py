"""`_native.fork_sibling`: the zygote's fork, whose copy belongs to the zygote's parent."""

from __future__ import annotations

import json
import os
import subprocess
import sys

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
