"""Prepare, commit, abort: a gang's slots are agreed with their nodes before anybody hears of them.

Rules of this module: the hub takes the resources in one step (nothing is ever oversold), then asks every
node of the gang's slots to prepare them: to check what only the node can see and to hold a port per slot.
When all have agreed it commits; one refusal, or silence for `ANSWER_S`, aborts all and the gang goes back
into its line, the refusing node left out for a moment.  So a gang is never half there (GANG-2).  All
messages name the ticket and the attempt, and may be lost or repeated; a node forgets by itself what is
not committed in time (`HOLD_S`).  A new incarnation prepares new ports in the same slots.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from spoke import wire
from spoke.core.state import Bundle, Group, Node, State

if TYPE_CHECKING:
    from spoke.core.groups import Groups

ANSWER_S: Final = 3.0
HOLD_S: Final = 10.0  # an agent holds so long what was not committed
AVOID_S: Final = 2.0  # a node that refused a gang is not asked again for it


class Preparing:
    """One attempt that is under way."""

    __slots__ = ("deadline", "fresh", "nodes", "waiting")

    def __init__(self, fresh: list[Bundle], nodes: list[Node], deadline: float) -> None:
        self.fresh = fresh  # slots placed by this attempt; none: only ports are renewed
        self.nodes = nodes
        self.waiting: dict[bytes, Node] = {node.node_id: node for node in nodes}
        self.deadline = deadline


class Prepares:
    """Carries out the attempts."""

    def __init__(self, state: State, groups: Groups) -> None:
        self.s = state
        self.groups = groups

    def begin(self, group: Group, fresh: list[Bundle]) -> None:
        """Ask the nodes of these slots, or for new ports the nodes of all."""
        s = self.s
        group.attempt += 1
        asked: dict[bytes, list[Bundle]] = {}
        nodes: list[Node] = []
        whole = not fresh or group.ports_of != group.incarnation
        for bundle in group.bundles if whole else fresh:
            assert bundle.node is not None
            if bundle.node.node_id not in asked:
                nodes.append(bundle.node)
            asked.setdefault(bundle.node.node_id, []).append(bundle)
        group.preparing = Preparing(fresh, nodes, s.now + ANSWER_S)
        s.wake_at(group.preparing.deadline)
        for node_id, bundles in asked.items():
            self._ask(group, node_id, bundles, wanted=False)

    def _ask(self, group: Group, node_id: bytes, bundles: list[Bundle], wanted: bool) -> None:
        slots = [
            [one.index, list(one.share.gpu_ids) if one.share else [], group.ports[one.index] if wanted else 0]
            for one in bundles
        ]
        self.s.send(node_id, wire.PREPARE, group.group_id, group.attempt, slots)

    def answered(self, node: Node, message: list[Any]) -> None:
        """An agent agrees, or refuses."""
        _, group_id, attempt, ports, refusal = message
        s = self.s
        group = s.groups.get(group_id)
        if group is None:
            s.send(node.node_id, wire.RELEASE_SLOTS, group_id, -1)
            return
        if attempt != group.attempt:
            return  # of an attempt that is over
        preparing = group.preparing
        if refusal:
            self._refused(group, node, refusal)
        elif preparing is None:
            s.send(node.node_id, wire.COMMIT, group_id, attempt)  # said again
        elif preparing.waiting.pop(node.node_id, None) is not None:
            for index, port in ports:
                if type(index) is int and 0 <= index < len(group.ports):
                    group.ports[index] = port
            if not preparing.waiting:
                self._commit(group, preparing)

    def _commit(self, group: Group, preparing: Preparing) -> None:
        s = self.s
        for node in preparing.nodes:
            s.send(node.node_id, wire.COMMIT, group.group_id, group.attempt)
        group.preparing = None
        group.ports_of = group.incarnation
        self.groups.agreed(group)
        s.grew()  # what waits for this group's slots

    def _refused(self, group: Group, node: Node, refusal: str) -> None:
        s = self.s
        reason = f"node {node.node_id.hex()} ({node.host}) refused: {refusal}"
        s.log("info", "a node refused slots", group_id=group.group_id.hex(), reason=reason)
        preparing = group.preparing
        if preparing is None or not preparing.fresh:  # it had agreed before: its slots are not what they were
            self.groups.remove(group, reason)
            return
        group.avoid[node.node_id] = s.now + AVOID_S
        s.wake_at(s.now + AVOID_S)
        self.abort(group)
        group.reason = reason
        self.groups.wait_again(group)

    def abort(self, group: Group) -> None:
        """Give back what this attempt took; the nodes forget it."""
        preparing, group.preparing = group.preparing, None
        if preparing is None:
            return
        for node in preparing.nodes:
            if node.alive:
                self.s.send(node.node_id, wire.RELEASE_SLOTS, group.group_id, group.attempt)
        for bundle in preparing.fresh:
            if bundle.node is not None and bundle.node.alive:
                self.groups.unreserve(bundle)
            else:
                bundle.node = bundle.share = bundle.ledger = None
        self.s.grew()

    def release(self, group: Group) -> None:
        """The group is removed: its nodes let go of whatever they hold for it."""
        self.abort(group)
        told: dict[bytes, bool] = {}
        for bundle in group.bundles:
            if bundle.node is not None and bundle.node.alive and bundle.node.node_id not in told:
                told[bundle.node.node_id] = True
                self.s.send(bundle.node.node_id, wire.RELEASE_SLOTS, group.group_id, -1)

    def restored(self, group: Group, held: dict[bytes, list[Any]]) -> None:
        """After a restart of the hub: nodes that hold nothing for this gang (any more) hold it again."""
        if group.ports_of != group.incarnation:
            self.begin(group, [])
            return
        asked: dict[bytes, list[Bundle]] = {}
        for bundle in group.bundles:
            assert bundle.node is not None
            asked.setdefault(bundle.node.node_id, []).append(bundle)
        for node_id, bundles in asked.items():
            if [group.group_id, group.attempt] not in held.get(node_id, []):
                self._ask(group, node_id, bundles, wanted=True)

    def check(self) -> None:
        """Silence is a refusal."""
        s = self.s
        for group in [one for one in s.groups.values() if one.preparing is not None]:
            assert group.preparing is not None
            if group.preparing.deadline > s.now:
                s.wake_at(group.preparing.deadline)
            else:
                silent = next(iter(group.preparing.waiting.values()))
                self._refused(group, silent, f"no answer within {ANSWER_S:g} s")
        for group in [one for one in s.groups.values() if one.avoid]:
            for node_id, until in list(group.avoid.items()):
                if until > s.now:
                    s.wake_at(until)
                else:
                    del group.avoid[node_id]
                    s.grew()
