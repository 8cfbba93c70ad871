"""How long the first worker of a `pip` environment takes, and how long the second.

``python -m spoke.bench.environments [--check]`` prints both and their ratio; the target is 20.  The package
is a wheel that is written here, so that neither a network nor a build is measured.  With ``--check`` a
missed target is exit code 1.
"""

from __future__ import annotations

import sys
import tempfile
import time
import zipfile
from pathlib import Path
from statistics import median
from typing import Any, Final

import spoke

TARGET: Final = 20.0
ROUNDS: Final = 5
NAME: Final = "spoke_bench_package"


def write_wheel(directory: Path) -> None:
    """A wheel of one module."""
    info = f"{NAME}-1.0.dist-info"
    tag = "Wheel-Version: 1.0\nGenerator: spoke\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    files = {
        f"{NAME}.py": "VALUE = 1\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {NAME}\nVersion: 1.0\n",
        f"{info}/WHEEL": tag,
    }
    files[f"{info}/RECORD"] = "".join(f"{name},,\n" for name in [*files, f"{info}/RECORD"])
    with zipfile.ZipFile(directory / f"{NAME}-1.0-py3-none-any.whl", "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)


class Tenant:
    """A worker of its own in the environment."""

    def value(self) -> int:
        """What the installed package has."""
        import importlib

        found: int = importlib.import_module(NAME).VALUE
        return found


def started_in(environment: dict[str, Any]) -> float:
    """Seconds from the creation of an actor to its first answer; the actor ends afterwards."""
    began = time.perf_counter()
    actor = spoke.remote(num_cpus=0, runtime_env=environment)(Tenant).remote()
    assert spoke.get(actor.value.remote()) == 1
    passed = time.perf_counter() - began
    spoke.kill(actor)
    return passed


def measure() -> tuple[float, float]:
    """Seconds of the first worker, and of a later one: the median of `ROUNDS`."""
    with tempfile.TemporaryDirectory(prefix="spoke-bench-") as place:
        write_wheel(Path(place))
        options = ["--no-index", "--find-links", place, "--disable-pip-version-check"]
        environment = {"pip": {"packages": [NAME], "pip_install_options": options}}
        spoke.init(num_cpus=2, log_to_driver=False)
        try:
            first = started_in(environment)
            return first, median(started_in(environment) for _ in range(ROUNDS))
        finally:
            spoke.shutdown()


def main() -> int:
    """Print the figures; 1 if the target is missed and ``--check`` is given."""
    first, later = measure()
    ratio = first / later
    verdict = "met" if ratio >= TARGET else "NOT met"
    print(
        f"first worker of a pip environment {first * 1000:.0f} ms, a later one {later * 1000:.1f} ms: ",
        end="",
    )
    print(f"{ratio:.0f} times faster (target {TARGET:.0f}: {verdict})")
    return 1 if "--check" in sys.argv and ratio < TARGET else 0


if __name__ == "__main__":
    sys.exit(main())
