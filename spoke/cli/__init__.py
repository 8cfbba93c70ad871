"""The command line: ``spoke start | stop | status | list | get | summary | logs | memory | job | ...``.

Exit codes: 0 done, 1 it could not be done, 2 the command was not understood; one line on standard error
says why.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Sequence
from typing import Any

import click

from spoke.cli.doctor import doctor
from spoke.cli.health import health_check
from spoke.cli.job import job
from spoke.cli.logs import logs
from spoke.cli.memory import memory
from spoke.cli.microbenchmark import microbenchmark
from spoke.cli.obits import obits
from spoke.cli.run import run
from spoke.cli.start import start
from spoke.cli.state import get, list_, summary
from spoke.cli.status import status
from spoke.cli.stop import stop
from spoke.cli.tickets import tickets
from spoke.cli.timeline import timeline
from spoke.cli.why import why


class _Main(click.Group):
    """A group whose misuse is told in one line, as all other failures are."""

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> Any:
        """Run a command and end with its exit code; see the module."""
        if not standalone_mode:
            return super().main(args, prog_name, complete_var, False, **extra)
        try:
            code = super().main(args, prog_name, complete_var, False, **extra)
        except click.UsageError as error:
            if type(error).__name__ == "NoArgsIsHelpError":  # of new versions: its text is the help
                error.show()
            else:
                path = error.ctx.command_path if error.ctx is not None else "spoke"
                message = " ".join(error.format_message().split())
                click.echo(f"Error: {message}  (see {path} --help)", err=True)
            code = error.exit_code
        except click.ClickException as error:
            error.show()
            code = error.exit_code
        except (click.Abort, KeyboardInterrupt):
            click.echo("Aborted!", err=True)
            code = 1
        except OSError as error:
            if error.errno != errno.EPIPE:
                raise
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # who read it went away: no error at the exit, too
            code = 1
        sys.exit(code if isinstance(code, int) else 0)


@click.group(cls=_Main, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="spoke", prog_name="spoke")
def main() -> None:
    """Start, look at and stop clusters."""


for _command in (
    start, stop, status, list_, get, summary, logs, memory, timeline, job, run, health_check, microbenchmark,
    doctor, tickets, obits, why,
):  # fmt: skip
    main.add_command(_command)
