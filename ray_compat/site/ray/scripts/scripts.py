"""`ray ...`: the command line under Ray's name.

The commands are Spoke's.  Options that set up parts of Ray which Spoke does not have, such as the dashboard's
port, are left out with a word on standard error, so that start scripts go on working; all others that are
unknown are refused.
"""

from __future__ import annotations

import contextlib
import io
import sys
from typing import Final

from spoke.cli import main as cli

# Options without a meaning here, by command: how many values each takes.
_LOOKS: Final = {"--log-style": 1, "--log-color": 1, "-v": 0, "--verbose": 0}
_LEFT_OUT: Final[dict[str, dict[str, int]]] = {
    "": {"--logging-level": 1, "--logging-format": 1},
    "start": {
        **_LOOKS,
        **dict.fromkeys(
            (
                "--object-manager-port", "--node-manager-port", "--min-worker-port", "--max-worker-port",
                "--worker-port-list", "--ray-client-server-port", "--include-dashboard", "--dashboard-host",
                "--dashboard-port", "--dashboard-agent-listen-port", "--dashboard-agent-grpc-port",
                "--dashboard-grpc-port", "--runtime-env-agent-port",
                "--object-spilling-directory", "--temp-dir", "--metrics-export-port", "--include-log-monitor",
                "--proxy-server-url", "--system-config",
            ),
            1,
        ),
        **dict.fromkeys(("--disable-usage-stats", "--no-redirect-output", "--ray-debugger-external"), 0),
    },
    "stop": _LOOKS,
    "job": {**_LOOKS, "--verify": 1, "--headers": 1},
}  # fmt: skip
_RENAMED: Final = {"start": {"--node-ip-address": "--host"}}


def translated(arguments: list[str]) -> tuple[list[str], list[str]]:
    """The arguments for Spoke's command line, and the options that were left out."""
    kept: list[str] = []
    left_out: list[str] = []
    command = ""
    rest = list(arguments)
    while rest:
        word = rest.pop(0)
        if word == "--":  # what follows is another program's
            return [*kept, word, *rest], left_out
        name, equals, _ = word.partition("=")
        values = _LEFT_OUT.get(command, {}).get(name)
        if values is not None:
            left_out.append(name)
            if values and not equals:
                del rest[:1]
            continue
        renamed = _RENAMED.get(command, {}).get(name)
        kept.append(word if renamed is None else renamed + word[len(name) :])
        if not command and not word.startswith("-"):
            command = word
    return kept, left_out


def memory_summary(
    address: str | None = None,
    group_by: str = "NODE_ADDRESS",
    sort_by: str = "OBJECT_SIZE",
    units: str = "B",
    line_wrap: bool = True,
    stats_only: bool = False,
    num_entries: int | None = None,
) -> str:
    """What ``ray memory`` prints, as a text."""
    arguments = ["memory", "--group-by", group_by, "--sort-by", sort_by, "--units", units]
    arguments += ["--address", address] if address else []
    arguments += ["--stats-only"] if stats_only else []
    arguments += ["--num-entries", str(num_entries)] if num_entries else []
    with contextlib.redirect_stdout(io.StringIO()) as text:
        cli(
            args=[*arguments, *([] if line_wrap else ["--no-format"])], prog_name="ray", standalone_mode=False
        )
    return text.getvalue()


def main() -> None:
    """Run a command, as the executable ``ray`` does; ends the process."""
    arguments, left_out = translated(sys.argv[1:])
    if left_out:
        print(f"ray: without meaning for Spoke, left out: {', '.join(left_out)}", file=sys.stderr)
    cli(args=arguments, prog_name="ray")


if __name__ == "__main__":
    main()
