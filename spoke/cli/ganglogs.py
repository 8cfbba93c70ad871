"""``spoke logs --gang``: what the ranks of a gang wrote, each line with its rank."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any, Final

import click

from spoke.util.state.common import DEFAULT_RPC_TIMEOUT
from spoke.util.state.exception import RayStateApiException
from spoke.util.state.logs import Cutter, Place, Reader
from spoke.util.state.source import Source, looking

LOOK_S: Final = 1.0  # between questions for new ranks
PAUSE_S: Final = 0.2  # between looks at several nodes, which cannot be waited for at once


class _Files:
    """The files of some ranks on one node.

    Args:
        places: with what each of their lines begins.
    """

    def __init__(self, source: Source, places: dict[Place, str]) -> None:
        self._labels = list(places.values())
        self._reader = Reader(source, list(places))
        self._cutters = [Cutter(errors="replace") for _ in places]

    def print(self, within_s: float) -> bool:
        """What was written since the last time; whether something was."""
        pieces = self._reader.read(within_s)
        for piece, label, cutter in zip(pieces, self._labels, self._cutters, strict=True):
            for line in cutter.cut(piece or b""):
                click.echo(f"{label} " + line.rstrip("\r\n"))
        return any(pieces)


def print_logs(gang: str, rank: int | None, follow: bool, address: str | None) -> None:
    """Print all that is there; if `follow`, go on until interrupted.

    Raises:
        ValueError: there is no such gang; RayStateApiException: there is no cluster, or no answer.
    """
    shown: list[_Files] = []
    known: set[Place] = set()
    look_at = 0.0
    with looking(address, DEFAULT_RPC_TIMEOUT) as source:
        while True:
            if time.monotonic() >= look_at:  # ranks may come back as other processes
                look_at = time.monotonic() + LOOK_S
                shown += [_Files(source, places) for places in _new_files(source, gang, rank, known)]
            within_s = LOOK_S if follow and len(shown) == 1 else 0.0
            wrote = False
            for files in list(shown):
                try:
                    wrote = files.print(within_s) or wrote
                except RayStateApiException as error:
                    shown.remove(files)
                    click.echo(f"spoke: {error}", err=True)
            if not follow and not wrote:
                break
            if not wrote and not within_s:
                time.sleep(PAUSE_S)


def _new_files(source: Source, gang: str, rank: int | None, known: set[Place]) -> Iterator[dict[Place, str]]:
    """The files that are not known yet, by node."""
    ids = [
        group["group_id"] for group in source.ask("groups")
        if group["group_id"].hex().startswith(gang.lower()) or (group["name"] and group["name"] == gang)
    ]  # fmt: skip
    if len(ids) != 1:
        raise ValueError(f"no gang {gang!r} is known" if not ids else f"{gang!r} fits {len(ids)} gangs")
    ranks = [one for one in source.ask("actors") if one["group_id"] == ids[0] and one["rank"] is not None]
    found: dict[bytes, dict[Place, str]] = {}
    for one in sorted(ranks, key=_rank_of):
        if rank is not None and one["rank"] != rank:
            continue
        for node_id, worker_id in one["workers"]:
            for suffix, mark in ((".out", ""), (".err", "!")):
                place = Place(node_id.hex(), f"gang-{ids[0].hex()}/worker-{worker_id.hex()}{suffix}")
                if place not in known:
                    known.add(place)
                    found.setdefault(node_id, {})[place] = f"[{one['rank']}{mark}]"
    yield from found.values()


def _rank_of(row: dict[str, Any]) -> int:
    return int(row["rank"])
