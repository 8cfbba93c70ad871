"""What runs first in the container of a job."""

from __future__ import annotations

import subprocess

from spoke.jobruntimes import _INIT


def test_f19_sigterm_goes_to_all_only_from_process_1() -> None:
    """Elsewhere all would be the machine's processes; so `kill` is not the real one here."""
    kill = 'kill() { if [ "$1" = -0 ]; then command kill "$@"; else echo "$@"; command kill -9 $child; fi; }'
    argv = ["/bin/sh", "-c", f"{kill}\n{_INIT}", "init", "sh", "-c", "echo up; exec sleep 30 > /dev/null"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "up\n"
        process.terminate()
        said = process.stdout.read().split()
    assert len(said) == 2 and said[0] == "-TERM" and int(said[1]) > 1
