"""``spoke microbenchmark``: the rows of Ray's microbenchmark on this machine, by their names."""

from __future__ import annotations

import sys
from statistics import fmean, pstdev
from typing import Any, Final

import click

from spoke.cli.common import Failed

# Of `spoke.bench`: the workloads that Ray's microbenchmark has, too.
_FAMILIES: Final = ("single client ", "multi client ", "1:1 ", "1:n ", "n:n ", "placement group create")


@click.command()
@click.option("--filter", "parts", multiple=True, metavar="TEXT", help="Only rows with TEXT in their names.")
@click.option("--quick", is_flag=True, help="Short rounds and small sizes.")
@click.option("--list", "only_names", is_flag=True, help="Print the names of the rows, and end.")
def microbenchmark(parts: tuple[str, ...], quick: bool, only_names: bool) -> None:
    """Measure calls, tasks and objects.  Each row in a process and a cluster of its own."""
    from spoke.bench.runner import Engine, run_once
    from spoke.bench.workloads import WORKLOADS

    names = [
        name
        for name in WORKLOADS
        if name.startswith(_FAMILIES) and (not parts or any(part.lower() in name.lower() for part in parts))
    ]
    if not names:
        raise click.UsageError("no row has that name; see --list")
    if only_names:
        click.echo("\n".join(names))
        return
    engine = Engine("spoke", "spoke", sys.executable)
    failed: list[str] = []
    for name in names:
        figure: Any = run_once(engine, WORKLOADS[name], quick)
        if figure.error or not figure.samples:
            failed.append(name)
            click.echo(f"{name}: {figure.error or 'no samples'}", err=True)
            continue
        unit = "per second" if WORKLOADS[name].unit.endswith("/s") else WORKLOADS[name].unit
        click.echo(f"{name} {unit} {fmean(figure.samples):.2f} +- {pstdev(figure.samples):.2f}")
    if failed:
        raise Failed(f"{len(failed)} of {len(names)} rows failed")
