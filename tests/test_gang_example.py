"""The gang example as a user runs it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def test_example() -> None:
    pytest.importorskip("torch")
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / "gang_tp.py"), "2"],
        capture_output=True, text=True, timeout=110, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].endswith("2 ranks, CREATED, incarnation 0")
    failed = ("step 2 failed: Actor", "step 2 failed: RayTaskError(RuntimeError)")  # dead, or its peer
    assert any(line.startswith(failed) for line in lines), done.stdout
    assert any("back as incarnation 1" in line for line in lines) and lines[-1] == "released: True"
