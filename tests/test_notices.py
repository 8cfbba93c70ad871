"""What users hear that they did not wait for: hooks, structured records, repeated lines, large functions."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import spoke
from spoke import notices, structuredlogs
from spoke.dedup import LogDeduplicator
from spoke.exporting import Exported


def _program(text: str, **variables: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", text], capture_output=True, text=True, timeout=60,
        env={**os.environ, **variables},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_hook_makes_the_runtime_environment(tmp_path: Path) -> None:
    (tmp_path / "hooks_of_mine.py").write_text("def hook(env):\n    return {'env_vars': {'HOOKED': 'yes'}}\n")
    text = """
import os, spoke
spoke.init(num_cpus=1, **GIVEN)
print(spoke.get(spoke.remote(lambda: os.environ.get("HOOKED")).remote()))
"""
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    variables = {"RAY_RUNTIME_ENV_HOOK": "hooks_of_mine.hook", "PYTHONPATH": path}
    assert _program(text.replace("GIVEN", "{}"), **variables).strip() == "yes"
    assert _program(text.replace("GIVEN", "{'_skip_env_hook': True}"), **variables).strip() == "None"


def test_lines_that_many_workers_print_come_once() -> None:
    text = """
import spoke
spoke.init(num_cpus=4)

@spoke.remote(num_cpus=0)
class Prints:
    def it(self, number):
        print(f"the same line {number}")

actors = [Prints.remote() for _ in range(4)]
spoke.get([actor.it.remote(number) for number, actor in enumerate(actors)])
"""
    once, each = _program(text, RAY_DEDUP_LOGS_AGG_WINDOW_S="60"), _program(text, RAY_DEDUP_LOGS="0")
    assert once.count("the same line") == 2 and "[repeated 3x across cluster]" in once
    assert each.count("the same line") == 4 and "repeated" not in each


def test_a_line_of_several_workers_goes_on_being_held_back() -> None:
    now = [0.0]
    shown = LogDeduplicator(5, None, None, _timesource=lambda: now[0])

    def told(pid: int) -> list[Any]:
        batch = {"ip": "", "pid": pid, "lines": [f"line {pid}"]}
        return [found["lines"] for found in shown.deduplicate(batch)]

    assert [told(pid) for pid in (1, 2, 3)] == [[["line 1"]], [[]], [[]]] and shown.held()
    now[0] = 6.0
    [batch] = shown.late()
    assert batch["lines"][0].startswith("line 3") and "[repeated 2x across cluster]" in batch["lines"][0]
    assert told(4) == [[]] and not shown.late()
    now[0] = 12.0
    assert [batch["lines"] for batch in shown.late()] == [["line 4"]] and not shown.held()
    assert told(5) == [["line 5"]]


def test_large_functions_are_warned_of_and_too_large_ones_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[tuple[str, str]] = []
    monkeypatch.setattr(notices, "errors", [lambda kind, text: heard.append((kind, text))])
    monkeypatch.setattr(notices, "show", False)
    monkeypatch.setenv("SPOKE_FUNCTION_BYTES_MAX", "20000000")
    large = [bytes(11_000_000)]

    def function() -> Any:
        return large

    Exported(function).export()
    [(kind, text)] = heard
    assert kind == notices.LARGE_PICKLE and "function is very large (10 MiB)" in text
    large.append(bytearray(11_000_000))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"is too large .20 MiB > FUNCTION_SIZE_ERROR_THRESHOLD=19 MiB"):
        Exported(function).export()


def test_settings_of_logs_are_applied_and_taken_back() -> None:
    root, library = logging.getLogger(), logging.getLogger(notices.LIBRARY)
    before = root.handlers[:], library.handlers[:], root.level, library.level
    try:
        structuredlogs.apply(spoke.LoggingConfig(encoding="JSON").to_dict())
        [handler] = [one for one in root.handlers if one not in before[0]]
        assert isinstance(handler.formatter, structuredlogs.JSONFormatter) and handler in library.handlers
        structuredlogs.apply(None)
        assert handler not in root.handlers and handler not in library.handlers
    finally:
        structuredlogs.apply(None)
        library.handlers[:] = before[1]
        root.setLevel(before[2])
        library.setLevel(before[3])


def test_many_calls_to_an_actor_are_told_once_for_each_doubling(monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[str] = []
    with spoke.init(num_cpus=1, log_to_driver=False):
        monkeypatch.setattr(notices, "errors", [lambda kind, text: heard.append(f"{kind}: {text}")])

        @spoke.remote
        class Slow:
            def wait(self) -> None:
                import time

                time.sleep(1000)

            def call(self) -> None: ...

        actor = Slow.remote()
        spoke.get(actor.call.remote())  # it lives: what follows is sent at once
        refs = [actor.wait.remote(), *(actor.call.remote() for _ in range(10_100))]
        del refs
    assert [text.split(" tasks are")[0] for text in heard] == [
        f"{notices.MANY_QUEUED}: Warning: More than {count}" for count in (5000, 10000)
    ]


def test_a_node_that_leaves_in_order_is_not_reported_as_dead(monkeypatch: pytest.MonkeyPatch) -> None:
    from spoke.cluster_utils import Cluster

    heard: list[str] = []
    cluster = Cluster(True, head_node_args={"num_cpus": 1})
    try:
        spoke.init(address=cluster.address, log_to_driver=False)
        monkeypatch.setattr(notices, "errors", [lambda kind, text: heard.append(f"{kind} {text}")])
        left, killed = cluster.add_node(num_cpus=1), cluster.add_node(num_cpus=1)
        cluster.remove_node(left, allow_graceful=True)
        cluster.remove_node(killed, allow_graceful=False)
        until = time.monotonic() + 30
        while not heard and time.monotonic() < until:
            spoke.nodes()  # the hub's answer comes behind its news
    finally:
        spoke.shutdown()
        cluster.shutdown()
    assert len(heard) == 1 and killed.node_id in heard[0] and heard[0].startswith(notices.NODE_REMOVED)


def test_many_different_lines_cost_no_look_at_all_of_them() -> None:
    from spoke.dedup import LogDeduplicator

    now = 0.0
    looks = 0

    class Lines(dict):  # type: ignore[type-arg]
        def items(self) -> Any:
            nonlocal looks
            looks += 1
            for pair in super().items():
                looks += 1
                yield pair

    dedup = LogDeduplicator(5.0, None, None, _timesource=lambda: now)
    dedup._seen = Lines()
    for number in range(300):
        line = "".join(chr(ord("a") + int(digit)) for digit in str(number))
        dedup.deduplicate({"ip": "a", "pid": 1, "lines": [line]})
    assert not dedup.held() and looks < 3 * 300
    dedup.deduplicate({"ip": "a", "pid": 2, "lines": ["a"]})
    assert dedup.held()
    now = 6.0
    assert [batch["lines"] for batch in dedup.late()] == [["a"]] and not dedup.held() and not dedup._seen
