"""examples/vllm_launcher.py: both launchers work, leave nothing, and the gang takes fewer steps."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def test_both_launchers() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / "vllm_launcher.py"), "3"],
        capture_output=True,
        text=True,
        timeout=110,
        cwd="/",
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    found = re.findall(r"^(\w+): (\d+) steps, (\d+) of them wait", done.stdout, re.MULTILINE)
    assert [name for name, _, _ in found] == ["launch_as_on_ray", "launch_as_a_gang"]
    (steps, waits), (gang_steps, gang_waits) = [(int(a), int(b)) for _, a, b in found]
    assert gang_steps < steps and gang_waits < waits, done.stdout
