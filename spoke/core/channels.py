"""Calls to actors: one ordered channel per actor, told by the hub where the actor lives."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, Final

from spoke import wire
from spoke.core.obituary import describe_death
from spoke.core.refs import CANCELLED

if TYPE_CHECKING:
    from spoke.core.calls import Call, CallTable

MANY_CALLS: Final = 5000
VERDICT_S: Final = 1.5  # how long the hub may take to name the death of an actor whose link ended


class ActorChannel:
    """What this process knows of one actor, and its calls to it."""

    __slots__ = (
        "actor_id", "address", "blocked", "incarnation", "inflight", "info", "killed", "many", "name",
        "out_of_order", "payload", "peer", "queue", "state", "verdict_by",
    )  # fmt: skip

    def __init__(self, actor_id: bytes) -> None:
        self.actor_id = actor_id
        self.name = ""
        self.state = "UNKNOWN"
        self.incarnation = 0
        self.killed = -1  # the incarnation that this process has killed: no further call goes to it
        self.address: wire.Address | None = None
        self.peer: bytes | None = None
        self.queue: deque[Call] = deque()
        self.inflight: dict[bytes, Call] = {}
        self.info: dict[str, Any] = {}
        self.payload: Any = b""  # pickled constructor error of a dead actor
        self.verdict_by = 0.0
        self.out_of_order = False
        self.blocked = 0
        self.many = MANY_CALLS  # with more under way the user is told


class ActorChannels:
    """All channels of one process."""

    def __init__(self, table: CallTable) -> None:
        self.table = table
        self.channels: dict[bytes, ActorChannel] = {}
        self.by_peer: dict[bytes, dict[bytes, ActorChannel]] = {}
        self.verdicts: dict[bytes, ActorChannel] = {}  # link lost, the hub has not spoken yet
        self.on_death: Any = None  # shell hook: (channel) -> (status, value) of the calls of a dead actor

    def channel(self, actor_id: bytes, watch: bool = True) -> ActorChannel:
        """The channel of an actor; the first use of an unknown one asks the hub to keep us told."""
        channel = self.channels.get(actor_id)
        if channel is None:
            channel = self.channels[actor_id] = ActorChannel(actor_id)
            if watch:
                self.table.out.append(("hub", (wire.WATCH_ACTOR, actor_id)))
        return channel

    def submit(self, call: Call) -> None:
        """Send a call without dependencies, or queue it where something is before it."""
        channel = self.channels.get(call.key) or self.channel(call.key)
        peer = channel.peer
        if peer is not None and not channel.queue:
            channel.inflight[call.id] = call
            call.peer = peer
            self.table.out.append(("send", peer, channel.address, call))
        elif self.enqueue(call):
            self.pump(call.key)

    def enqueue(self, call: Call, front: bool = False) -> bool:
        """Queue a call; False where it failed at once, as the actor is dead."""
        channel = self.channel(call.key)
        if channel.state == "DEAD":
            self._fail_one(channel, call)
            return False
        if channel.state == "RESTARTING" and call.retries_left == 0 and not front:
            self.table.fail_named(call, "ActorUnavailableError", "The actor is restarting.")
            return False
        if front:
            channel.queue.appendleft(call)
        else:
            channel.queue.append(call)
        return True

    def pending(self, actor_id: bytes) -> int:
        """Calls submitted and not resolved."""
        channel = self.channels.get(actor_id)
        return len(channel.queue) + len(channel.inflight) if channel else 0

    def pump(self, actor_id: bytes) -> None:
        """Send what can be sent, in order (CALL-2)."""
        channel = self.channels[actor_id]
        if channel.peer is None:
            if channel.state == "DEAD":
                self._fail_dead(channel)
            return
        queue = channel.queue
        while queue:
            call = queue[0]
            if call.waiting:
                if channel.out_of_order or self.table.recomputing:
                    self._pump_any(channel)
                return
            queue.popleft()
            self._send(channel, call)

    def _pump_any(self, channel: ActorChannel) -> None:
        """Send what need not wait for the first: all where order is no matter, else lost results' calls."""
        lost = self.table.recomputing
        later: deque[Call] = deque()
        for call in list(channel.queue):
            if call.waiting or not (channel.out_of_order or call.id in lost):
                later.append(call)
            else:
                self._send(channel, call)
        channel.queue = later

    def _send(self, channel: ActorChannel, call: Call) -> None:
        channel.inflight[call.id] = call
        call.peer = channel.peer
        self.table.out.append(("send", channel.peer, channel.address, call))

    def forget(self, call: Call) -> None:
        channel = self.channels.get(call.key)
        if channel is not None:
            channel.inflight.pop(call.id, None)
            if call.peer is None:
                try:
                    channel.queue.remove(call)
                except ValueError:
                    return
                self.pump(call.key)

    def requeue(self, call: Call) -> None:
        channel = self.channel(call.key)
        channel.queue.appendleft(call)
        self.pump(call.key)

    def kill(self, actor_id: bytes, no_restart: bool) -> int:
        """This process kills the actor: later calls wait for its death or its next incarnation.

        The hub's word takes longer than a call that goes to the worker directly.  Returns the incarnation
        that is meant, so that a kill that is said again after a crash of the hub ends no later one.
        """
        channel = self.channels.get(actor_id)
        if channel is not None and (no_restart or channel.peer is not None):
            channel.killed = channel.incarnation
            channel.peer = channel.address = None  # `by_peer` keeps it: calls under way hear of a lost link
            return channel.incarnation
        return wire.ANY_INCARNATION

    # -- the hub's word

    def on_state(
        self, actor_id: bytes, state: str, incarnation: int, address: Any, info: dict[str, Any], payload: Any
    ) -> None:
        channel = self.channel(actor_id, watch=False)
        if channel.state == "DEAD" or incarnation < channel.incarnation:
            return
        if state == "STARTING" and channel.state == "RESTARTING":
            return  # until its constructor has returned it is unavailable to calls that may not be repeated
        moved = incarnation > channel.incarnation
        unborn = incarnation == channel.incarnation + 1 and bool(info.get("unborn"))
        channel.state, channel.incarnation = state, incarnation
        channel.info = info
        channel.name = channel.name or info.get("class_name") or ""
        if state == "DEAD":
            channel.payload = payload
            self.verdicts.pop(actor_id, None)
            if info.get("kind") == "exited" and channel.inflight and channel.peer is not None:
                # It sent its replies before it said so, and the hub is faster: what is under way ends with
                # the link, which `by_peer` keeps.
                channel.peer = channel.address = None
            else:
                self._unlink(channel)
                self._interrupted(channel)
            self._fail_dead(channel)
        elif state in ("STARTING", "ALIVE") and address is not None:
            if not moved and (actor_id in self.verdicts or incarnation == channel.killed):
                return  # said before the loss of this incarnation was known: its verdict is still to come
            if moved or channel.peer is None:
                self._unlink(channel)
                self._interrupted(channel)
                self.verdicts.pop(actor_id, None)
                channel.address, channel.peer = address, address[0]
                self.by_peer.setdefault(address[0], {})[actor_id] = channel
            self.pump(actor_id)
        elif state == "RESTARTING":
            self.verdicts.pop(actor_id, None)
            self._unlink(channel)
            self._interrupted(channel, unborn)

    def _unlink(self, channel: ActorChannel) -> None:
        if channel.peer is not None:
            linked = self.by_peer.get(channel.peer)
            if linked is not None:
                linked.pop(channel.actor_id, None)
                if not linked:
                    del self.by_peer[channel.peer]
        channel.peer = channel.address = None

    def _interrupted(self, channel: ActorChannel, unborn: bool = False) -> None:
        """Calls that were with the lost incarnation: again if they may, else their named error.

        None has run where its constructor never returned (`unborn`): then it is no attempt.
        """
        calls, channel.inflight = list(channel.inflight.values()), {}
        if calls and channel.info.get("kind") == "worker_died":
            self._tell_last(channel, calls[0])
        again = []
        for call in calls:
            call.left, call.peer = call.peer, None
            if channel.state != "DEAD" and call.cancelled:
                self.table.fail(call, CANCELLED, [])
            elif channel.state != "DEAD" and (unborn or call.retries_left != 0):
                if not unborn:
                    call.retries_left -= call.retries_left > 0
                    call.attempt += 1
                self.table.missing(call)
                again.append(call)
            elif channel.state == "DEAD":
                self._fail_one(channel, call)
            else:
                text = describe_death("", channel.info).strip() + " The actor is being restarted"
                self.table.fail_named(call, "ActorUnavailableError", text)
        channel.queue.extendleft(reversed(again))

    def _tell_last(self, channel: ActorChannel, call: Call) -> None:
        """The record of a death names the oldest call that was under way."""
        channel.info = {**channel.info, "last_call": call.name}
        said = {"worker": call.peer or call.left or b"", "actor": channel.actor_id, "call": call.name}
        self.table.out.append(("hub", (wire.REQUEST, 0, "last_call", said)))

    def _fail_dead(self, channel: ActorChannel) -> None:
        while channel.queue:
            self._fail_one(channel, channel.queue.popleft())

    def _fail_one(self, channel: ActorChannel, call: Call) -> None:
        status, value = self.on_death(channel)
        self.table.fail(call, status, value)

    def on_peer_lost(self, now: float, peer: bytes) -> None:
        for channel in list(self.by_peer.pop(peer, {}).values()):
            if channel.state == "DEAD":
                self._interrupted(channel)
                continue
            if channel.peer != peer and channel.killed != channel.incarnation:
                continue  # killed from here, and restarted elsewhere since
            channel.peer = channel.address = None
            channel.verdict_by = now + VERDICT_S
            self.verdicts[channel.actor_id] = channel

    def next_deadline(self) -> float | None:
        if not self.verdicts:
            return None
        return min(channel.verdict_by for channel in self.verdicts.values())

    def tick(self, now: float) -> None:
        for channel in list(self.verdicts.values()):
            if now >= channel.verdict_by:
                del self.verdicts[channel.actor_id]
                if channel.state != "DEAD":
                    self._interrupted(channel)
                    self.table.out.append(("hub", (wire.WATCH_ACTOR, channel.actor_id)))

    def validate(self) -> None:
        for actor_id, channel in self.channels.items():
            assert channel.actor_id == actor_id
            for call in channel.inflight.values():
                assert call.id in self.table.calls, f"CALL-1: {call} in flight but resolved"
            for call in channel.queue:
                assert call.peer is None, f"CALL-2: queued {call} was sent"
            assert channel.state != "DEAD" or not channel.queue, "CALL-3: calls wait on the dead"
