"""The example that shows copies, path and bandwidth."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def test_every_path_is_shown_with_its_copies() -> None:
    done = subprocess.run(
        [sys.executable, "examples/tensor_transfer.py", "--mib", "0.5", "12", "--rounds", "1"],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=110,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [line for line in done.stdout.splitlines() if " MiB " in line]
    assert len(rows) == 12, done.stdout
    assert all(row.endswith("; 0 B copied there") for row in rows), done.stdout
    mapped = [row for row in rows if row.startswith("one node, auto  ")]
    assert len(mapped) == 2
    for row in mapped:
        assert " shm " in row and "0 copies here; into" in row and "1 copies here; 0 B" in row
    assert all(" tcp " in row for row in rows if row.startswith("one node, tcp"))
    assert "not RDMA: SPOKE_TRANSPORT=tcp" in done.stdout
