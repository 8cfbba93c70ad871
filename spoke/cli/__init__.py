"""The command line: ``spoke start | stop | status | doctor | tickets | obits | why | logs | job | run``.

Exit codes: 0 done, 1 it could not be done (one line on standard error says why), 2 the command was
not understood.
"""

from __future__ import annotations

import click

from spoke.cli.doctor import doctor
from spoke.cli.job import job
from spoke.cli.logs import logs
from spoke.cli.obits import obits
from spoke.cli.run import run
from spoke.cli.start import start
from spoke.cli.status import status
from spoke.cli.stop import stop
from spoke.cli.tickets import tickets
from spoke.cli.why import why


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="spoke", prog_name="spoke")
def main() -> None:
    """Start, look at and stop clusters."""


main.add_command(start)
main.add_command(stop)
main.add_command(status)
main.add_command(doctor)
main.add_command(tickets)
main.add_command(obits)
main.add_command(why)
main.add_command(logs)
main.add_command(job)
main.add_command(run)
