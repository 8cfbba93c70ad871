"""``spoke status``: the nodes, what is in use, and what waits for what."""

from __future__ import annotations

import json
from typing import Any

import click

from spoke.cli.common import Failed, HostPort, observe
from spoke.rdmafacts import nic_text


@click.command()
@click.option("--address", type=HostPort(), help="The cluster's head.  [default: this machine's cluster]")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def status(address: str | None, as_json: bool) -> None:
    """Show nodes, resources, and requests that wait, with the reason."""
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
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    alive = [node for node in nodes if node["Alive"]]
    console.print(f"cluster {where}: {len(alive)} of {len(nodes)} nodes alive, {len(actors)} actors known")
    table = Table("node", "address", "state", "workers", "RDMA", "in use / total")
    for node in nodes:
        state = "alive" if node["Alive"] else f"dead: {node['DeathReasonMessage']}"
        name = node["NodeID"][:12] + (" (head)" if node["IsHead"] else "")
        table.add_row(
            name, node["NodeManagerAddress"], state, str(node["workers"]), _rdma(node), _usage(node)
        )
    console.print(table)
    if not demands:
        console.print("nothing waits")
        return
    waiting = Table("waits", "needs", "because")
    for demand in demands:
        what = str(demand.get("kind") or demand.get("what") or "").replace("class", "task")
        count = int(demand.get("count") or 1)
        waiting.add_row(
            f"{count} x {what}" if count > 1 else what,
            json.dumps(demand.get("resources") or demand.get("bundles") or {}, default=_plain),
            str(demand.get("reason") or "other requests come first"),
        )
    console.print(waiting)


def _rdma(node: dict[str, Any]) -> str:
    """How the node's blocks reach other nodes: its RDMA devices, or why there are none."""
    return nic_text(list((node.get("Topology") or {}).get("nics") or []))


def _usage(node: dict[str, Any]) -> str:
    parts = []
    for name, total in node["Resources"].items():
        if name.startswith("node:"):
            continue
        used = total - node["Available"].get(name, 0.0)
        if "memory" in name:
            parts.append(f"{name} {used / 2**30:.1f} / {total / 2**30:.1f} GiB")
        else:
            parts.append(f"{name} {used:g} / {total:g}")
    return "\n".join(parts)


def _plain(value: Any) -> Any:
    return value.hex() if isinstance(value, bytes) else str(value)
