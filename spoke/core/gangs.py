"""What the loss of one rank means for a gang: the others end, and a policy says what comes next.

Rules of this module: a gang is a placement group whose ranks are actors that name their rank and
incarnation in their scheduling strategy.  When a rank is lost, all others are asked to end at once,
the highest rank first (GANG-2).  Policies: "none" releases the reservation; "gang" keeps it and lets
the creator launch all ranks again under the next incarnation (the hub itself launches those of a detached
gang whose creator is gone); "member" restarts the lost rank alone.
A restart costs one of `max_restarts` (-1: without end) within `window_s` seconds; when none is left,
the gang is released.  A constructor that raises is not retried.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

from spoke.core.actors import GANG_BROKEN, Actors
from spoke.core.exits import Exit
from spoke.core.ranks import environment, next_spec
from spoke.core.state import Actor, Group, State

if TYPE_CHECKING:
    from collections.abc import Callable

    from spoke.core.groups import Groups

POLICIES: Final = ("none", "member", "gang")
_NO_LOSS: Final = (GANG_BROKEN, "exited", "group_removed", "owner_died", "refused")
_FINAL: Final = ("constructor", "unschedulable", "group_gone", "start_failed")  # would end the same way again


class GangPolicy:
    """The part of a group's spec under "gang", checked.

    Raises:
        ValueError: anything malformed.
    """

    __slots__ = ("launch_timeout_s", "max_restarts", "pending_timeout_s", "restart", "window_s")

    def __init__(self, spec: dict[str, Any]) -> None:
        self.restart = spec.get("restart", "none")
        if self.restart not in POLICIES:
            raise ValueError(f"restart {self.restart!r} is not one of {', '.join(POLICIES)}")
        self.max_restarts = spec.get("max_restarts", 0)
        if type(self.max_restarts) is not int or self.max_restarts < -1:
            raise ValueError(f"max_restarts {self.max_restarts!r} is neither a count nor -1")
        self.window_s = _seconds(spec, "window_s") or math.inf
        self.pending_timeout_s = _seconds(spec, "pending_timeout_s")
        self.launch_timeout_s = _seconds(spec, "launch_timeout_s")


def _seconds(spec: dict[str, Any], name: str) -> float | None:
    value = spec.get(name)
    if value is not None and (type(value) not in (int, float) or not 0 <= value < math.inf):
        raise ValueError(f"{name} {value!r} is not a number of seconds")
    return value


def rank_of(actor: Actor) -> int | None:
    """The actor's rank in its gang; None if it is no rank of one."""
    strategy = actor.spec.get("strategy")
    rank = strategy.get("rank") if isinstance(strategy, dict) else None
    return rank if type(rank) is int else None


class Gangs:
    """Carries out the policies; the groups are its tables."""

    def __init__(self, state: State, actors: Actors, groups: Groups) -> None:
        self.s = state
        self.actors = actors
        self.groups = groups
        actors.ending = self._ending
        actors.may_restart = self._may_restart
        actors.stale = self._stale

    def _gang_of(self, actor: Actor) -> Group | None:
        if actor.shape.group_id is None or rank_of(actor) is None:
            return None
        group = self.s.groups.get(actor.shape.group_id)
        return group if group is not None and group.gang is not None else None

    def members(self, group: Group) -> list[Actor]:
        """The living ranks in order."""
        found = [one for one in self.s.actors.values() if one.shape.group_id == group.group_id]
        return sorted((one for one in found if rank_of(one) is not None), key=lambda one: rank_of(one) or 0)

    def _stale(self, actor: Actor) -> str:
        """Why a new rank is none: its incarnation is over, or it is of another job; empty if it is one."""
        group = self._gang_of(actor)
        if group is None:
            return ""
        if foreign := group.foreign(actor.job):
            return foreign
        if actor.spec["strategy"].get("incarnation") == group.incarnation:
            group.relaunch = []  # its creator does it
            return ""
        return f"its gang is at incarnation {group.incarnation} by now: {group.reason}"

    def _may_restart(self, actor: Actor, exit_: Exit) -> bool:
        group = self._gang_of(actor)
        if group is None:
            return True
        if group.gang.restart != "member" or not self._spend(group):
            return False
        group.lost = [rank_of(actor), exit_.text]
        group.reason = f"rank {rank_of(actor)} was lost and restarts: {exit_.text}"
        self.groups.announce(group)
        return True

    def _spend(self, group: Group) -> bool:
        """Take one restart from the budget."""
        policy, now = group.gang, self.s.now
        group.restarts = [when for when in group.restarts if when > now - policy.window_s]
        if 0 <= policy.max_restarts <= len(group.restarts):
            return False
        group.restarts.append(now)
        del group.restarts[:-1000]  # of an endless budget only the latest are shown
        return True

    def _ending(self, actor: Actor, kind: str, cause: str) -> Callable[[], None] | None:
        """An actor is about to be DEAD.  Returns what must follow."""
        group = self._gang_of(actor) if kind not in _NO_LOSS else None
        if group is None:
            return None
        rank = rank_of(actor)
        text = f"rank {rank} of its gang {group.group_id.hex()} was lost: {cause}"
        again = (
            group.gang.restart == "gang"
            and kind not in _FINAL
            and (group.creator in self.s.clients or group.owner is None)
            and self._spend(group)
        )
        if again and group.owner is None:
            group.relaunch = [
                [{**one.spec, "namespace": one.namespace}, bytes(one.blob), one.job]
                for one in self.members(group)
            ]
        group.lost = [rank, cause]
        group.reason = text
        group.incarnation += 1
        if again:
            self.groups.announce(group)  # before the ranks' own ends: who hears of those knows this
        return lambda: self._break(group, text, again)

    def _break(self, group: Group, text: str, again: bool) -> None:
        for other in reversed(self.members(group)):
            self.actors.end(other, GANG_BROKEN, text)
        if not again:
            self.groups.remove(group, text)
        elif group.state == "CREATED" and group.preparing is None:
            self.groups.prepares.begin(group, [])  # other ports, so that nobody meets those of before

    def renewed(self, group: Group) -> None:
        """All slots of this incarnation have their ports: who is to launch it can."""
        if not group.relaunch or group.creator in self.s.clients or group.ports_of != group.incarnation:
            return
        relaunch, group.relaunch = group.relaunch, []
        info = self.groups.message(group)[3]
        for spec, blob, job in relaunch:
            rank = spec["strategy"]["rank"]
            variables = environment(group.group_id.hex(), rank, info, group.ports)
            self.actors.create_detached(next_spec(spec, group.incarnation, variables), blob, job)

    # -- time

    def placed(self, group: Group) -> None:
        """The slots are there: the first use is awaited, not placement any more."""
        if group.gang is not None:
            limit = group.gang.launch_timeout_s
            self.expire(group, limit if not group.incarnation else None)

    def expire(self, group: Group, seconds: float | None) -> None:
        """Release the group after so many seconds, unless told otherwise before."""
        group.expires_at = None if seconds is None else self.s.now + seconds
        if group.expires_at is not None:
            self.s.wake_at(group.expires_at)

    def check(self) -> None:
        """Release what was not placed, or not used, in time."""
        s = self.s
        for group in [group for group in s.groups.values() if group.expires_at is not None]:
            assert group.expires_at is not None
            if group.expires_at > s.now:
                s.wake_at(group.expires_at)
            elif group.state == "PENDING":
                limit = group.gang.pending_timeout_s
                why = (group.line.infeasible if group.line is not None else group.reason) or (
                    "its slots did not become free together"
                )
                self.groups.remove(group, f"it could not be placed within {limit:g} s: {why}")
            elif group.holdings or self.members(group):
                group.expires_at = None
            else:
                limit = group.gang.launch_timeout_s
                self.groups.remove(group, f"nothing was launched in it within {limit:g} s")
