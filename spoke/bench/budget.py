"""The performance budget: what each workload promises, and whether figures of one run keep it.

A target is a limit in the workload's unit, a factor over Ray, a factor to a floor, or several of
them; all must hold.  A part that cannot be judged, because Ray was not run, leaves the verdict open.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Target:
    """`limit` in the unit of the row; `over_ray` is "times as good as Ray"; `floor` names one of
    `floors.FLOORS`, and `floor_share` is the least share of the floor's performance to reach."""

    limit: float | None = None
    over_ray: float | None = None
    floor: str | None = None
    floor_share: float | None = None

    def text(self, unit: str, higher: bool) -> str:
        parts = []
        if self.limit is not None:
            parts.append(f"{'≥' if higher else '≤'} {self.limit:g} {unit}")
        if self.floor_share is not None:
            share = self.floor_share
            parts.append(f"≥ {share:g} of floor" if share > 0.5 else f"≤ {1 / share:g}x floor")
        if self.over_ray is not None:
            parts.append(f"≥ {self.over_ray:g}x Ray")
        return ", ".join(parts)

    def met(self, value: float, higher: bool, over_ray: float | None, share: float | None) -> bool | None:
        """True or False, or None where a part cannot be judged and no other part fails."""
        verdicts: list[bool | None] = []
        if self.limit is not None:
            verdicts.append(value >= self.limit if higher else value <= self.limit)
        if self.floor_share is not None:
            verdicts.append(None if share is None else share >= self.floor_share)
        if self.over_ray is not None:
            verdicts.append(None if over_ray is None else over_ray >= self.over_ray)
        if False in verdicts:
            return False
        return None if None in verdicts or not verdicts else True


PING = "unix socket ping-pong"

TARGETS: dict[str, Target] = {
    "init to first task's result": Target(limit=0.15, over_ray=30, floor="Python start"),
    "whole script: start, one task, exit": Target(floor="Python start"),
    "1:1 actor calls sync": Target(over_ray=30, floor=PING, floor_share=1 / 5),
    "1:1 actor calls async": Target(over_ray=15, floor=PING),
    "1:1 async-actor calls sync": Target(floor=PING),
    "single client tasks sync": Target(over_ray=15, floor=PING),
    "single client tasks async": Target(over_ray=15, floor=PING),
    "single client put calls (Plasma Store)": Target(over_ray=15),
    "single client get calls (Plasma Store)": Target(over_ray=15),
    "single client put gigabytes": Target(floor="memcpy", floor_share=0.8),
    "multi client put gigabytes": Target(floor="memcpy"),
    "get 1 MiB tensor, first time": Target(limit=50),
    "get 64 MiB tensor, first time": Target(limit=50),
    "get 1 GiB tensor, first time": Target(limit=50),
    "tensor hand-over between actors, 1 MiB": Target(over_ray=10),
    "tensor hand-over between actors, 64 MiB": Target(over_ray=10),
    "tensor hand-over between actors, 1 GiB": Target(over_ray=10),
    "Pool.map of 10,000 small items": Target(over_ray=10),
    "joblib Parallel of 1,000 calls": Target(over_ray=10),
    "compiled graph of 3 actors, round trip": Target(over_ray=5),
    "compiled graph of 3 actors, idle": Target(limit=5),
    "single client wait 1k refs": Target(over_ray=30),
    "placement group create/removal": Target(over_ray=8),
    "20 actors created and called": Target(limit=0.3),
    "gang of 8 reserved, launched, answering": Target(limit=0.15, over_ray=10),
    "idle cluster memory": Target(limit=60),
    "Python frames to submit an actor call": Target(limit=12),
    "Python frames to get its result": Target(limit=8),
}
