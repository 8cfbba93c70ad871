"""Nodes: joining, heartbeats, death.

Rules of this module: a node is ALIVE from its AGENT_UP until its link ends or it is silent for
`node_dead_s`; then it is fenced, and nothing it says is heard again, so that what was on it can be
started elsewhere.  Time that the hub itself slept is not held against the nodes.
"""

from __future__ import annotations

from typing import Any, Final

from spoke import wire
from spoke.core import Drop
from spoke.core.fit import FitIndex
from spoke.core.ledger import CPU, GPU, UNIT, Ledger, to_units
from spoke.core.state import Node, State
from spoke.limits import MAX_DEAD_RECORDS

HEAD_RESOURCE: Final = "node:__internal_head__"
NODE_ID_LABEL: Final = "ray.io/node-id"
START_MAX: Final = 8  # processes starting at once, at least


class Nodes:
    """All nodes, dead ones included while they are remembered."""

    def __init__(self, state: State) -> None:
        self.s = state
        self.index = FitIndex()

    def up(
        self, peer: bytes, host: str, port: int, resources: dict[str, Any], labels: dict[str, str], pid: int
    ) -> None:
        """An agent joins."""
        s = self.s
        known = s.nodes.get(peer)
        if known is not None and known.alive:
            s.log("warning", "agent announced itself twice", node_id=peer.hex())
            return
        if known is not None or peer in s.fenced:
            self.fence(peer, "this node was declared dead; start it again under a new id")
            return
        try:
            whole = {GPU: float(int(resources[GPU]))} if GPU in resources else {}
            amounts = to_units({**resources, **whole})
        except ValueError as error:
            self.fence(peer, str(error))
            return
        config = s.config
        head = peer == config.head_node_id if config.head_node_id is not None else not s.nodes
        amounts.setdefault(f"node:{host}", UNIT)
        if head:
            amounts.setdefault(HEAD_RESOURCE, UNIT)
        node = Node(peer, host, port, Ledger(amounts), {**labels, NODE_ID_LABEL: peer.hex()}, pid)
        node.is_head = head
        node.joined_at = node.last_heard = s.now
        cpus = amounts.get(CPU, 0) // UNIT
        node.prestart = min(cpus, config.prestart_max) if config.prestart is None else config.prestart
        node.start_max = max(START_MAX, 2 * cpus)
        s.nodes[peer] = node
        s.alive.append(node)
        self.index.join(node)
        s.topology += 1
        s.touched[peer] = node
        s.grew()
        s.wake_at(s.now + config.heartbeat_s)

    def fence(self, peer: bytes, reason: str) -> None:
        """Refuse everything a node says from now on."""
        self.s.remember(self.s.fenced, peer, True, MAX_DEAD_RECORDS)
        self.s.send(peer, wire.SHUTDOWN, reason)
        self.s.out.append(Drop(peer, reason))

    def died(self, node: Node, reason: str) -> None:
        """Take a node out of service (its workers are handled by the hub)."""
        s = self.s
        node.alive = False
        node.death = reason
        s.alive.remove(node)
        self.index.leave(node)
        s.topology += 1
        dead = [other for other in s.nodes.values() if not other.alive]
        if len(dead) > MAX_DEAD_RECORDS:
            del s.nodes[dead[0].node_id]
        self.fence(node.node_id, reason)

    def silent(self) -> list[tuple[Node, str]]:
        """Nodes that were not heard of for too long."""
        s = self.s
        limit = s.config.node_dead_s
        answer = []
        for node in s.alive:
            silence = s.now - node.last_heard
            if silence >= limit:
                answer.append((node, f"no heartbeat for {silence:.1f} s"))
        return answer

    def forgive(self, slept_s: float) -> None:
        """The hub did not run for a while: heartbeats may wait unread."""
        for node in self.s.alive:
            node.last_heard += slept_s
