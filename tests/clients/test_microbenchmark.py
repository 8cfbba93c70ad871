"""The script of ``ray microbenchmark``, from an installed Ray, prints its whole table on Spoke."""

from __future__ import annotations

import ast
import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.clients.environments import python_of
from tests.clients.running import ROOT


def _rows(path: Path) -> list[str]:
    """The names that a script gives to `timeit`, in order."""
    calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    timed = [call for call in calls if getattr(call.func, "id", "") in ("timeit", "asyncio_timeit")]
    timed.sort(key=lambda call: call.lineno)
    return [call.args[0].value for call in timed if isinstance(call.args[0], ast.Constant)]


@pytest.mark.timeout_s(600)
@pytest.mark.slow
def test_the_script_prints_its_whole_table() -> None:
    python = python_of("modin")
    where = "import importlib.util as u; print(u.find_spec('ray').submodule_search_locations[0])"
    folder = Path(subprocess.run([python, "-c", where], capture_output=True, text=True).stdout.strip())
    script = folder / "_private" / "ray_perf.py"
    wanted = [*_rows(script), *_rows(folder / "_private" / "ray_client_microbenchmark.py")]
    assert len(wanted) > 25
    done = subprocess.run(
        [python, "-m", "ray_compat", str(script)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "RAY_COMPAT_ROUND_S": "0.05"},
        capture_output=True,
        text=True,
        timeout=550,
        cwd="/",
    )
    assert done.returncode == 0, done.stderr[-3000:]
    print(done.stdout)
    found = re.findall(r"^(.+) per second [\d.]+ \+- [\d.]+$", done.stdout, re.MULTILINE)
    assert found == wanted
