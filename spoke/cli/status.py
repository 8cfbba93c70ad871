"""``spoke status``: the nodes, what is in use, and what waits for what."""

from __future__ import annotations

import json
from typing import Any

import click

from spoke.cli.common import Failed, HostPort, observe
from spoke.cli.output import print_table
from spoke.rdmafacts import nic_text


@click.command()
@click.option("--address", type=HostPort(), help="The cluster's head.  [default: this machine's cluster]")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def status(address: str | None, as_json: bool) -> None:
    """Show nodes, what is in use, and what waits for what."""
    observer, where = observe(address)
    try:
        nodes = observer.ask("nodes")
        demands = observer.ask("demands")
        actors = observer.ask("actors")
    except (OSError, ValueError) as error:
        raise Failed(f"{where}: {error}") from None
    finally:
        observer.close()
    if as_json:
        table = {"address": where, "nodes": nodes, "demands": demands, "actors": len(actors)}
        click.echo(json.dumps(table, default=_plain))
        return
    _show(where, nodes, demands, actors)


def _show(where: str, nodes: list[Any], demands: list[Any], actors: list[Any]) -> None:
    alive = [node for node in nodes if node["Alive"]]
    click.echo(f"cluster {where}: {len(alive)} of {len(nodes)} nodes alive, {len(actors)} actors known")
    for node in nodes:
        name = node["NodeID"][:12] + (" (head)" if node["IsHead"] else "")
        if not node["Alive"]:
            click.echo(f"\n{name} at {node['NodeManagerAddress']} is dead: {node['DeathReasonMessage']}")
            continue
        click.echo(
            f"\n{name} at {node['NodeManagerAddress']}, {node['workers']} workers, RDMA: {_rdma(node)}"
        )
        print_table(["in use", "of", ""], _usage(node), numbered=False)
    click.echo("\nwaiting:" if demands else "\nnothing waits")
    for demand in demands:
        what = str(demand.get("kind") or demand.get("what") or "").replace("class", "task")
        count = int(demand.get("count") or 1)
        needs = demand.get("resources") or demand.get("bundles") or {}
        because = demand.get("reason") or "other requests come first"
        click.echo(f"- {f'{count} x ' if count > 1 else ''}{what} of {_needs(needs)}: {because}")


def _rdma(node: dict[str, Any]) -> str:
    """How the node's blocks reach other nodes: its RDMA devices, or why there are none."""
    return nic_text(list((node.get("Topology") or {}).get("nics") or []))


def _usage(node: dict[str, Any]) -> list[list[Any]]:
    """What of each resource is in use, and of how much."""
    rows: list[list[Any]] = []
    for name, total in node["Resources"].items():
        if name.startswith("node:"):
            continue
        used = total - node["Available"].get(name, 0.0)
        if "memory" in name:
            rows.append([round(used / 2**30, 1), round(total / 2**30, 1), f"GiB {name}"])
        else:
            rows.append([used, total, name])
    return rows


def _needs(needs: Any) -> str:
    """A bundle of resources, or several."""
    if isinstance(needs, dict):
        return "{" + ", ".join(f"{name}: {amount:g}" for name, amount in needs.items()) + "}"
    return " + ".join(_needs(one) for one in needs)


def _plain(value: Any) -> Any:
    return value.hex() if isinstance(value, bytes) else str(value)
