"""How long ``spoke list actors`` takes where the hub has 10,000 of them.

``python -m spoke.bench.listing [--check]`` prints the time of the whole command, its interpreter's start and
the table included; the target is 1 s.  The actors are the records of a real hub: nearly all wait for the one
CPU, so that no 10,000 processes are needed.  With ``--check`` a missed target is exit code 1.
"""

from __future__ import annotations

import subprocess
import sys
import time
from statistics import median
from typing import Final

import spoke

ACTORS: Final = 10_000
ROUNDS: Final = 5
TARGET_S: Final = 1.0


class Waits:
    """An actor that does nothing."""


def listed() -> float:
    """Seconds of one command that lists all actors."""
    address = spoke.get_runtime_context().gcs_address
    command = [sys.executable, "-m", "spoke", "list", "actors", "--limit", str(ACTORS), "--address", address]
    began = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    took = time.perf_counter() - began
    assert done.stdout.count("PENDING_CREATION") >= ACTORS - 1, done.stdout[-300:]
    return took


def measure() -> float:
    """Seconds of the command, the median of `ROUNDS`."""
    spoke.init(num_cpus=1, log_to_driver=False)
    try:
        kept = [spoke.remote(num_cpus=1)(Waits).remote() for _ in range(ACTORS)]
        spoke.util.state.list_nodes()  # the hub has them all by now
        took = median(listed() for _ in range(ROUNDS))
        del kept
        return took
    finally:
        spoke.shutdown()


def main() -> int:
    """Print the figure; 1 if the target is missed and ``--check`` is given."""
    took = measure()
    verdict = "met" if took <= TARGET_S else "NOT met"
    print(f"`spoke list actors` of {ACTORS:,}: {took:.2f} s (target {TARGET_S:g} s: {verdict})")
    return 1 if "--check" in sys.argv and took > TARGET_S else 0


if __name__ == "__main__":
    sys.exit(main())
