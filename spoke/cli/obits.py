"""``spoke obits``: what died lately, and of what."""

from __future__ import annotations

import json
from typing import Any

import click

from spoke.cli.common import HostPort, ask_hub, plain


@click.command()
@click.option("--address", type=HostPort(), help="The cluster's head.  [default: this machine's cluster]")
@click.option("-n", "--number", type=click.IntRange(1), default=20, show_default=True, help="At most.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list.")
def obits(address: str | None, number: int, as_json: bool) -> None:
    """Show dead actors, gangs and nodes, the latest last, with the cause of each."""
    nodes, actors, groups = ask_hub(address, "nodes", "actors", "groups")
    rows = [
        {"what": "node", "name": node["NodeName"], "id": node["NodeID"], "cause": node["DeathReasonMessage"]}
        for node in nodes
        if not node["Alive"]
    ]
    rows += [
        {"what": "gang" if group["gang"] else "group", "name": group["name"], "id": group["group_id"].hex(),
         "cause": group["reason"]}
        for group in groups
        if group["state"] == "REMOVED"
    ][-number:]  # fmt: skip
    rows += [_actor(actor) for actor in actors if actor["state"] == "DEAD"][-number:]
    if as_json:
        click.echo(json.dumps(rows, default=plain))
        return
    if not rows:
        click.echo("nobody died")
    for row in rows:
        rank = f" rank {row['rank']}" if row.get("rank") is not None else ""
        click.echo(f"{row['what']} {row['name']}{rank} ({row['id']}): {row['cause'] or 'unknown'}")
        for line in str(row.get("tail") or "").splitlines():
            click.echo(f"    | {line}")


def _actor(actor: dict[str, Any]) -> dict[str, Any]:
    info = actor["info"]
    return {
        "what": "actor",
        "name": actor["name"] or actor["class_name"],
        "id": actor["actor_id"].hex(),
        "rank": actor["rank"],
        "cause": info.get("cause", ""),
        "code": info.get("code"),
        "signal": info.get("signal") or 0,
        "pid": info.get("pid") or 0,
        "tail": info.get("tail") or "",
    }
