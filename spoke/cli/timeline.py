"""``spoke timeline``: when which worker ran which call, as a file that trace viewers open."""

from __future__ import annotations

import os
import time

import click

from spoke.cli.common import Failed
from spoke.cli.state import asked, looks


@click.command()
@click.option("-o", "--output", type=click.Path(dir_okay=False),
              help="The file to write.  [default: spoke-timeline-DATE.json, here]")  # fmt: skip
@looks
def timeline(output: str | None, timeout: float, address: str | None) -> None:
    """Write the latest calls as a Chrome trace."""
    from spoke.util.state.timeline import events, write

    found = asked(events, address, timeout)
    path = output or f"spoke-timeline-{time.strftime('%Y-%m-%d_%H-%M-%S')}.json"
    try:
        write(path, found)
    except OSError as error:
        raise Failed(f"cannot write {path}: {error.strerror}") from None
    click.echo(f"{len(found)} calls written to {os.path.abspath(path)}")
    click.echo("open it with chrome://tracing or ui.perfetto.dev", err=True)
