"""What the tests on a real verbs device share: the other node, and programs that speak verbs.

These tests are collected everywhere and skipped where there is no device; `machine.py` makes one.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
SYSTEM_PYTHON = "/usr/bin/python3"

from peer import Peer  # noqa: E402


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All of this folder but the harness's own tests needs the device; what uses the other node needs two."""
    alone = os.environ.get("NODE_COUNT", "1") == "1"
    for item in items:
        if HERE not in item.path.parents or item.path.name == "test_harness.py":
            continue
        item.add_marker(pytest.mark.softroce)
        item.add_marker(pytest.mark.timeout_s(300))
        if alone and "peer" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.skip(reason="needs two nodes"))


@pytest.fixture
def peer() -> Peer:
    """The other node."""
    return Peer()


class Verbs:
    """`verbs_peer.py`, here or on the other node: ``ask(do=..., ...)`` -> answer."""

    def __init__(self, write: Any, read: Any) -> None:
        self._write, self._read = write, read

    def ask(self, **request: Any) -> dict[str, Any]:
        self._write(json.dumps(request))
        line = self._read()
        assert line.startswith("{"), line
        answer: dict[str, Any] = json.loads(line)
        return answer


@pytest.fixture
def verbs() -> Iterator[Verbs]:
    """An independent verbs program on this node."""
    command = [SYSTEM_PYTHON, str(HERE / "verbs_peer.py")]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=system_environment()
    )
    assert process.stdin is not None and process.stdout is not None
    lines, words = process.stdout, process.stdin
    try:
        yield Verbs(lambda text: (words.write(text + "\n"), words.flush()), lines.readline)
    finally:
        process.kill()
        process.wait()
        words.close()
        lines.close()


@pytest.fixture
def far_verbs(peer: Peer) -> Iterator[Verbs]:
    """An independent verbs program on the other node."""
    with peer.start(SYSTEM_PYTHON, str(HERE / "verbs_peer.py"), env={"PYTHONPATH": ""}) as started:
        yield Verbs(started.say, started.line)


def system_environment() -> dict[str, str]:
    """Without this environment's packages, which are another Python's."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
