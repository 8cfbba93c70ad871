"""``spoke tickets``: what is reserved, for whom, and where."""

from __future__ import annotations

import json
from typing import Any

import click

from spoke.cli.common import HostPort, ask_hub, plain


@click.command()
@click.option("--address", type=HostPort(), help="The cluster's head.  [default: this machine's cluster]")
@click.option("--all", "everything", is_flag=True, help="Show those that were released, too.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list.")
def tickets(address: str | None, everything: bool, as_json: bool) -> None:
    """Show gangs and placement groups.  With nodes and devices of every slot."""
    (groups,) = ask_hub(address, "groups")
    groups = [group for group in groups if everything or group["state"] != "REMOVED"]
    if as_json:
        click.echo(json.dumps(groups, default=plain))
        return
    if not groups:
        click.echo("nothing is reserved")
    for group in groups:
        _show(group)


def _show(group: dict[str, Any]) -> None:
    kind = f"gang, restart={group['gang']}" if group["gang"] else "group"
    name = f" {group['name']!r}" if group["name"] else ""
    slots = f"{len(group['bundles'])} slots, {group['strategy']}"
    click.echo(f"{group['group_id'].hex()}{name}: {kind}, {slots}, {group['state']}")
    if group["gang"]:
        click.echo(f"  incarnation {group['incarnation']}, restarts {group['restarts']}")
    if group["reason"]:
        click.echo(f"  {group['reason']}")
    for rank, bundle in enumerate(group["bundles"]):
        node, gpus = (group["nodes"][rank], group["gpu_ids"][rank]) if group["nodes"] else (None, [])
        where = f"node {node.hex()[:12]}" if node else "nowhere yet"
        devices = f", GPUs {','.join(map(str, gpus))}" if gpus else ""
        amounts = ", ".join(f"{resource} {amount:g}" for resource, amount in bundle.items())
        click.echo(f"  {rank}: {amounts} on {where}{devices}")
