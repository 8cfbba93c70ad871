"""``spoke logs``: the output of a gang's ranks, from this node's log files."""

from __future__ import annotations

import os
import time
from typing import Any

import click

from spoke import records
from spoke.cli.common import Failed, HostPort, ask_hub
from spoke.logs import BUSY_S, Follower

LOOK_S = 1.0  # between questions for new ranks
_FLAGS = os.O_RDONLY | os.O_CLOEXEC


@click.command()
@click.option("--gang", required=True, metavar="ID", help="Id of the gang, the beginning of it, or its name.")
@click.option("--rank", type=click.IntRange(0), help="Only this rank.")
@click.option("--follow", is_flag=True, help="Go on until interrupted.")
@click.option("--address", type=HostPort(), help="The cluster's head.  [default: this machine's cluster]")
def logs(gang: str, rank: int | None, follow: bool, address: str | None) -> None:
    """Print what the ranks of a gang wrote on this machine, each line with its rank."""
    shown: dict[str, tuple[int, Follower, str]] = {}
    missing: dict[str, bool] = {}
    look_at = 0.0
    try:
        while True:
            found = []
            if time.monotonic() >= look_at:  # ranks may come back as other processes
                look_at = time.monotonic() + LOOK_S
                found = _files(gang, rank, address, missing)
            for name, label in found:
                if name not in shown:
                    try:
                        fd = os.open(name, _FLAGS)
                    except FileNotFoundError:  # an empty file is removed when its worker ends
                        continue
                    shown[name] = (fd, Follower(fd), label)
            wrote = sum(_print(*entry, follow) for entry in shown.values())
            if not follow and not wrote:
                break
            time.sleep(0 if wrote else BUSY_S)
    except KeyboardInterrupt:
        pass
    finally:
        for fd, _, _ in shown.values():
            os.close(fd)
    for node in missing:
        click.echo(f"(ranks on node {node} write there: run this command on that machine)", err=True)


def _print(fd: int, follower: Follower, label: str, follow: bool) -> int:
    count = 0
    for _, lines in follower.read(final=not follow):
        for line in lines:
            click.echo(f"{label} {line}")
            count += 1
    return count


def _files(
    gang: str, rank: int | None, address: str | None, missing: dict[str, bool]
) -> list[tuple[str, str]]:
    """The log files of the gang's ranks on this machine, with the prefix of their lines."""
    groups, actors = ask_hub(address, "groups", "actors")
    ids = [
        group["group_id"] for group in groups
        if group["group_id"].hex().startswith(gang.lower()) or (group["name"] and group["name"] == gang)
    ]  # fmt: skip
    if len(ids) != 1:
        raise Failed(f"no gang {gang!r} is known" if not ids else f"{gang!r} fits {len(ids)} gangs")
    directories = {bytes.fromhex(str(record["node_id"])): str(record["log_dir"]) for record in records.live()}
    members = [one for one in actors if one["group_id"] == ids[0] and one["rank"] is not None]
    found: list[tuple[str, str]] = []
    for one in sorted(members, key=_rank_of):
        if rank is not None and one["rank"] != rank:
            continue
        for node_id, worker_id in one["workers"]:
            directory = directories.get(node_id)
            if directory is None:
                missing[node_id.hex()[:12]] = True
                continue
            for suffix, mark in ((".out", ""), (".err", "!")):
                path = os.path.join(directory, f"gang-{ids[0].hex()}", f"worker-{worker_id.hex()}{suffix}")
                found.append((path, f"[{one['rank']}{mark}]"))
    return found


def _rank_of(row: dict[str, Any]) -> int:
    return int(row["rank"])
