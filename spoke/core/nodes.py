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
from spoke.core.state import Holders, Node, State
from spoke.core.topology import Topology
from spoke.limits import MAX_DEAD_RECORDS

HEAD_RESOURCE: Final = "node:__internal_head__"
NODE_ID_LABEL: Final = "ray.io/node-id"
ADDRESS_LABEL: Final = "spoke.io/address"
HOSTNAME_LABEL: Final = "spoke.io/hostname"
START_MAX: Final = 8  # processes starting at once, at least


class Nodes:
    """All nodes, dead ones included while they are remembered."""

    def __init__(self, state: State) -> None:
        self.s = state
        self.index = FitIndex(FitIndex())

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
        address = labels.get(ADDRESS_LABEL, host)
        amounts.setdefault(f"node:{address}", UNIT)
        if head:
            amounts.setdefault(HEAD_RESOURCE, UNIT)
        node = Node(peer, host, port, Ledger(amounts), {**labels, NODE_ID_LABEL: peer.hex()}, pid)
        node.is_head, node.address = head, address
        node.joined_at = node.last_heard = s.now
        cpus = amounts.get(CPU, 0) // UNIT
        node.prestart = min(cpus, config.prestart_max) if config.prestart is None else config.prestart
        node.start_max = max(START_MAX, 2 * cpus)
        s.nodes[peer] = node
        s.alive.append(node)
        self.index.join(node)
        s.topology += 1
        s.note("node", peer, node)
        s.touched[peer] = node
        s.grew()
        s.wake_at(s.now + config.heartbeat_s)
        s.send(peer, wire.WELCOME, {"session": config.session, "durable": config.durable})

    def devices(self, node: Node, report: dict[str, Any]) -> None:
        """An agent says what devices its node has and how they are connected."""
        s = self.s
        try:
            node.topology = Topology(report)
        except ValueError as error:
            s.log("warning", "malformed report of devices", node_id=node.node_id.hex(), reason=str(error))
            return
        node.ledger.domains = node.topology.domains
        self.index.changed(node)
        s.topology += 1
        s.grew()

    def held(self, node: Node, listed: list[Any]) -> None:
        """GPUs on which processes are that no worker answers for: given to nobody until they are gone."""
        s = self.s
        found: dict[int, list[int]] = {}
        for entry in listed:
            if type(entry) is not list or len(entry) != 2 or type(entry[1]) is not list:
                s.log("warning", "malformed report of held devices", node_id=node.node_id.hex())
                return
            if entry[0] in node.ledger.device_total:
                found[entry[0]] = [pid for pid in entry[1] if type(pid) is int]
        slots = [
            bundle.ledger
            for group in [*s.groups.values(), *s.removed_groups.values()]
            for bundle in group.bundles
            if bundle.node is node and bundle.ledger is not None
        ]
        for ledger in [node.ledger, *slots]:
            for index in node.held:
                if index not in found:
                    ledger.readmit(index)
            for index in found:
                ledger.withhold(index)
        before, node.held = node.held, {}
        for index, pids in found.items():
            since = before[index].since if index in before else s.now
            node.held[index] = Holders(pids, since)
        s.touched[node.node_id] = node
        s.grew()

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
        s.note("node", node.node_id, None)
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
            node.last_heard = min(self.s.now, node.last_heard + slept_s)
