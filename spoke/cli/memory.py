"""``spoke memory``: who refers to which object, and what shared memory is in use."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import click

from spoke.cli.common import HostPort
from spoke.cli.output import heading, print_table
from spoke.cli.state import ADDRESS_HELP, asked

UNITS: Final = {"B": 1, "KB": 2**10, "MB": 2**20, "GB": 2**30}
COLUMNS: Final = (
    "IP Address", "PID", "Type", "Call Site", "Status", "Attempt", "Size", "Reference Type",
    "Object Ref", "Owner",
)  # fmt: skip
_KINDS: Final = (
    ("Local References", "LOCAL_REFERENCE"),
    ("Pinned", "PINNED_IN_MEMORY"),
    ("Used by task", "USED_BY_PENDING_TASK"),
    ("Captured in Objects", "CAPTURED_IN_OBJECT"),
    ("Actor Handles", "ACTOR_HANDLE"),
)
_SORTS: Final[dict[str, Callable[[Any], Any]]] = {
    "PID": lambda row: row.pid,
    "OBJECT_SIZE": lambda row: row.object_size,
    "REFERENCE_TYPE": lambda row: row.reference_type,
}
_GROUPS: Final = {"NODE_ADDRESS": ("node address", "ip"), "STACK_TRACE": ("call site", "call_site")}


@click.command()
@click.option("--address", type=HostPort(), help=ADDRESS_HELP)
@click.option("--group-by", type=click.Choice(list(_GROUPS)), default="NODE_ADDRESS", show_default=True)
@click.option("--sort-by", type=click.Choice(list(_SORTS)), default="OBJECT_SIZE", show_default=True,
              help="In ascending order.")  # fmt: skip
@click.option("--units", type=click.Choice(list(UNITS)), default="B", show_default=True, help="Of sizes.")
@click.option("--no-format", is_flag=True, help="Separate columns by single bars, for programs.")
@click.option("--stats-only", is_flag=True, help="Only how much shared memory is in use.")
@click.option("--num-entries", "--n", "number", type=click.IntRange(1), help="At most so many of each group.")
def memory(
    address: str | None,
    group_by: str,
    sort_by: str,
    units: str,
    no_format: bool,
    stats_only: bool,
    number: int | None,
) -> None:
    """Show references to objects, with sizes and owners."""
    rows, stats = asked(_look, address)
    heading("Object references status")
    if not stats_only:
        label, key = _GROUPS[group_by]
        click.echo(f"Grouping by {label}. Sorting by {sort_by.replace('_', ' ').lower()}.")
        for name in dict.fromkeys(getattr(row, key) for row in rows):
            group = sorted((row for row in rows if getattr(row, key) == name), key=_SORTS[sort_by])
            _show(f"{label}: {name}", group, units, no_format, number)
        if not rows:
            click.echo("no references")
    click.echo("\n--- Aggregate object store stats across all nodes ---")
    used, count, total = stats
    share = 100 * used / total if total else 0.0
    click.echo(f"Shared memory usage {used / 2**20:.1f} MiB, {count} objects, {share:.2f}% full")


def _look(address: str | None) -> tuple[list[Any], tuple[int, int, float]]:
    """All references, and bytes and blocks in use of how many bytes."""
    from spoke.util.state.common import DEFAULT_RPC_TIMEOUT
    from spoke.util.state.rows import objects
    from spoke.util.state.source import looking

    with looking(address, DEFAULT_RPC_TIMEOUT) as source:
        rows = objects(source)
        stores = [facts["store"] for facts, _ in source.inspect("store")]
        total = sum(node["Resources"].get("object_store_memory", 0.0) for node in source.ask("nodes"))
        for note in source.notes:
            click.echo(f"spoke: {note}", err=True)
    return rows, (sum(one["used_bytes"] for one in stores), sum(one["blocks"] for one in stores), total)


def _show(title: str, rows: list[Any], units: str, no_format: bool, number: int | None) -> None:
    used = sum(max(0, row.object_size) for row in rows)
    counts = [sum(1 for row in rows if row.reference_type == kind) for _, kind in _KINDS]
    click.echo(f"\n--- Summary for {title} ---")
    headers = ["Mem Used by Objects", *(name for name, _ in _KINDS)]
    print_table(headers, [[_size(used, units), *counts]], numbered=False)
    click.echo(f"\n--- Object references for {title} ---")
    cells = [
        [row.ip, row.pid, row.type.capitalize(), row.call_site, row.task_status.replace("NIL", "-"),
         row.attempt_number, _size(row.object_size, units), row.reference_type, row.object_id, row.owner_id]
        for row in rows[:number]
    ]  # fmt: skip
    if no_format:
        for row in [list(COLUMNS), *cells]:
            click.echo("|".join(str(value) for value in row))
    else:
        print_table(list(COLUMNS), cells, numbered=False)


def _size(count: int, units: str) -> str:
    return "?" if count < 0 else f"{count / UNITS[units]:.1f} {units}"
