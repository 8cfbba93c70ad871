"""``spoke run``: a program as the driver of this machine's cluster, or of one of its own."""

from __future__ import annotations

import os
import sys

import click

from spoke import config, records
from spoke.cli.common import Failed, HostPort


@click.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.option("--address", type=HostPort(), help="Join this cluster.  [default: this machine's, if one runs]")
@click.argument("script", type=click.Path())
@click.argument("args", nargs=-1, type=click.UNPROCESSED)
def run(address: str | None, script: str, args: tuple[str, ...]) -> None:
    """Run SCRIPT with Python.  Its `init()` joins the cluster, or starts one that ends with it."""
    if not os.path.isfile(script):
        raise Failed(f"no file {script}")
    environment = config.environment()
    wanted = address or config.get("address")
    if wanted in (None, "auto"):
        record = records.find("auto")
        wanted = str(record["address"]) if record is not None else None
    if wanted is not None:
        environment["SPOKE_ADDRESS"] = wanted
    sys.stdout.flush()
    os.execve(sys.executable, [sys.executable, script, *args], environment)
