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
    """Show what died and why, the latest last."""
    nodes, actors, groups, deaths = ask_hub(address, "nodes", "actors", "groups", "deaths")
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
    rows += [_worker(death) for death in deaths][-number:]
    rows += [_actor(actor) for actor in actors if actor["state"] == "DEAD"][-number:]
    if as_json:
        click.echo(json.dumps(rows, default=plain))
        return
    if not rows:
        click.echo("nobody died")
    for row in rows:
        rank = f" rank {row['rank']}" if row.get("rank") is not None else ""
        memory = f"; at most {row['memory'] >> 20} MiB" if row.get("memory") else ""
        call = f"; last call {row['last_call']}()" if row.get("last_call") else ""
        name = f"{row['what']} {row['name']}{rank}".rstrip()
        click.echo(f"{name} ({row['id']}): {row['cause'] or 'unknown'}{memory}{call}")
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
        **_end(info),
    }


def _worker(death: dict[str, Any]) -> dict[str, Any]:
    """A worker that was followed by another: of tasks, or of an actor that restarted."""
    actor_id = death["actor_id"]
    return {
        "what": "worker" if actor_id is None else "restarted actor",
        "name": death["name"],
        "id": (actor_id or death["worker_id"]).hex(),
        "rank": death["rank"],
        "cause": death["cause"],
        "code": death["code"],
        "signal": death["signal"],
        **_end(death),
    }


def _end(info: dict[str, Any]) -> dict[str, Any]:
    return {
        "pid": info.get("pid") or 0,
        "memory": info.get("memory") or 0,  # bytes
        "last_call": info.get("last_call") or "",
        "tail": info.get("tail") or "",
    }
