"""A directory `spoke` in the working directory, as in a clone, is not what workers import."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PROGRAM = """
import sys
sys.path[:] = [path for path in sys.path if path]  # as when a script in another directory is run
import spoke as ray
ray.init(num_cpus=1)
print(ray.get(ray.remote(lambda: 41).remote()))
"""


def test_a_clone_in_the_working_directory_is_not_imported(tmp_path: Path) -> None:
    other = tmp_path / "spoke"
    other.mkdir()
    for name in ("__init__.py", "worker.py", "zygote.py"):
        (other / name).write_text("raise ImportError('the wrong copy')\n")
    script = tmp_path / "script" / "main.py"
    script.parent.mkdir()
    script.write_text(PROGRAM)
    root = str(Path(__file__).resolve().parent.parent)
    program = f"import sys; sys.path.append({root!r}); sys.argv = ['x']; exec(open({str(script)!r}).read())"
    run = subprocess.run(
        [sys.executable, "-I", "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.split() == ["41"]
