"""Turning a call of the user into messages: tasks, actor creations, actor calls."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgpack

from spoke import notices, wire
from spoke.context import grant_context
from spoke.core.calls import Call
from spoke.core.refs import PENDING, VALUE, Entry
from spoke.errors import PendingCallsLimitExceeded
from spoke.ids import TASK_BYTES
from spoke.objectref import ObjectRef
from spoke.running import running
from spoke.streams import ObjectRefGenerator, Stream
from spoke.values import EMPTY_ARGS
from spoke.wire import CALL, encode

if TYPE_CHECKING:
    from spoke.client import Client
    from spoke.core.channels import ActorChannel
    from spoke.links import Link
    from spoke.values import PackedArgs

STREAMING: Final = -1  # num_returns="streaming"
DYNAMIC: Final = -2  # num_returns="dynamic"
LOCALITY_BYTES_MIN: Final = 1 << 20  # smaller arguments do not decide where a task runs
AHEAD_MIN: Final = 8  # with so many calls under way the next is sent together with others
ARGS_SUFFIX: Final = b"\xff\xff\xff\xff"  # object id of the large arguments of a call
CREATION_ARGS: Final = b"\xfe" * 12  # object id of the large arguments of a constructor: after the actor id
# Keys that HELD names beside object ids (28 bytes) and call ids (24 bytes: the refs in its values)
ITEM_SUFFIX: Final = b"\0"  # after the object id of a stream's item: the refs in it
RETAINED_SUFFIX: Final = b"\0"  # after a call id: arguments that the callee went on using

_INDEX = [index.to_bytes(4, "little") for index in range(64)]


def return_id(call_id: bytes, index: int) -> bytes:
    """Object id of one return value."""
    return call_id + (_INDEX[index] if index < 64 else index.to_bytes(4, "little"))


class Creation:
    """An actor whose constructor's arguments are not all there yet, or not handed over yet."""

    __slots__ = ("actor_id", "blob", "client", "failed", "packed", "spec", "waiting")

    def __init__(
        self, client: Client, actor_id: bytes, spec: dict[str, Any], blob: bytes, packed: PackedArgs | None
    ) -> None:
        self.client = client
        self.actor_id = actor_id
        self.spec = spec
        self.blob = blob
        self.packed = packed
        self.waiting = 0
        self.failed = False

    def resolved(self, entry: Entry) -> None:
        self.waiting -= 1
        if entry.status > 0:
            self.fail(entry)
        elif self.waiting == 0 and not self.failed:
            self.client.submitter.send_creation(self)

    def fail(self, entry: Entry) -> None:
        """An argument is an error: so is the actor."""
        if not self.failed:
            self.failed = True
            payload = self.client.replies.creation_error(self.spec.get("class_name", ""), entry)
            info = {"cause": "an argument of its constructor failed"}
            self.client.calls.actors.on_state(self.actor_id, "DEAD", 0, None, info, payload)
            self.client.submitter.actor_moved(self.actor_id, "DEAD")


class Submitter:
    """Builds and sends the calls of one client."""

    def __init__(self, client: Client) -> None:
        self._client = client
        # Used with the client's lock held only: a Packer must not be entered twice.
        self._pack = msgpack.Packer().pack
        self.functions: dict[bytes, bytes] = {}
        self._classes: dict[Any, int] = {}
        self._creations: dict[bytes, Creation] = {}
        self.handlers = {wire.NEED_FUNCTION: self.on_need_function, wire.CANCEL: self.on_cancel}

    # -- tasks

    def submit_task(
        self, function_id: bytes, spec_key: Any, spec: dict[str, Any], args: tuple[Any, ...],
        kwargs: dict[str, Any], num_returns: int, name: str, max_retries: int,
        retry_on: Any = None, options: dict[str, Any] | None = None,
    ) -> Any:  # fmt: skip
        """Submit a task; returns a ref, a list of refs, a generator, or None for num_returns=0.

        Raises:
            TypeError: an argument cannot be serialized.
        """
        client = self._client
        if client.closed is not None:
            client.check_open()
        packed = client.values.pack_args(args, kwargs) if args or kwargs else None
        class_id = self._classes.get(spec_key)
        if class_id is None:
            class_id = self._classes.setdefault(spec_key, len(self._classes) + 1)
        call_id = client.call_prefix + next(client.call_counter).to_bytes(8, "big")
        call = Call(
            call_id, class_id, function_id, EMPTY_ARGS, num_returns, name, max_retries, retry_on, options
        )
        with client.lock:
            if class_id not in client.calls.tasks.classes:
                client.calls.tasks.task_class(class_id, spec)
            return self._submit(call, packed)

    def place(self, call: Call) -> None:
        """A task goes where its large arguments are: its class becomes the one of that node; lock held."""
        held: dict[bytes, int] = {}
        for _, entry in call.slots or ():
            for part in entry.value or ():
                if type(part) is not bytes:
                    held[part[0]] = held.get(part[0], 0) + part[4]
        if not held:
            return
        node_id = max(held, key=lambda node: held[node])
        group = self._client.calls.tasks.classes[call.key]
        if held[node_id] < LOCALITY_BYTES_MIN or "locality" in group.spec or group.spec.get("strategy"):
            return
        key = (call.key, node_id)
        class_id = self._classes.get(key)
        if class_id is None:
            class_id = self._classes[key] = len(self._classes) + 1
            spec = {**group.spec, "locality": {node_id: held[node_id]}}
            self._client.calls.tasks.task_class(class_id, spec)
        call.key = class_id

    # -- actors

    def create_actor(
        self,
        actor_id: bytes,
        spec: dict[str, Any],
        blob: bytes,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Entry:
        """Ask the hub for an actor; returns the entry that counts its handles.

        spec: as in core/hub.py; "request_id" is added for named actors, whose answer is awaited.

        Raises:
            ValueError: the name is taken.
        """
        client = self._client
        client.check_open()
        packed = client.values.pack_args(args, kwargs)
        spec["context"] = grant_context(client, spec, None)
        question = None
        if spec.get("name"):
            question_id, question = client.hub.expect()
            spec["request_id"] = question_id
        creation = Creation(client, actor_id, spec, blob, packed)
        with client.lock:
            entry = client.refs.own(actor_id + b"\xff" * 12)
            entry.status = VALUE
            entry.value = []
            entry.local += 1
            channel = client.calls.actors.channel(actor_id, watch=False)
            channel.name = spec.get("class_name", "")
            channel.out_of_order = bool(spec.get("out_of_order"))
            self._creations[actor_id] = creation
            if packed and packed.blocks:
                args_entry = client.refs.own(actor_id + CREATION_ARGS)
                args_entry.status, args_entry.value = VALUE, packed.parts
                args_entry.local += 1
                packed.pins = [*(packed.pins or ()), args_entry]
            for _, slot in (packed.slots or ()) if packed else ():
                if slot.status == PENDING:
                    creation.waiting += 1
                    client.waiting.enlist(slot, creation)
                elif slot.status > 0:
                    creation.waiting += 1
                    creation.resolved(slot)
            if creation.waiting == 0 and not creation.failed:
                self.send_creation(creation)
            client._settle()
        if question is not None and creation.waiting == 0 and not creation.failed:
            try:
                client.hub.collect(question_id, question)
            except BaseException:
                ObjectRef(entry)  # the handle that there will not be: what counts for it ends here
                raise
        return entry

    def send_creation(self, creation: Creation) -> None:
        """All constructor arguments are there; lock held."""
        packed = creation.packed
        for _, entry in (packed.slots or ()) if packed else ():
            if entry.status > 0:  # its owner was lost while others were awaited
                creation.fail(entry)
                return
        parts: list[Any] = packed.parts if packed else []
        slots = self._wire_slots(packed.slots) if packed and packed.slots else None
        args_owner = creation.actor_id + CREATION_ARGS if packed and packed.blocks else None
        payload = msgpack.packb([creation.blob, parts, slots, args_owner, self._client.address])
        self._client.hub.tell(wire.CREATE_ACTOR, creation.actor_id, creation.spec, payload=payload)

    def creation(self, actor_id: bytes) -> Creation | None:
        """What is kept of an actor's creation by this process; lock held."""
        return self._creations.get(actor_id)

    def actor_moved(self, actor_id: bytes, state: str) -> None:
        """Constructor arguments are needed no longer once it ran, unless the actor may restart."""
        creation = self._creations.get(actor_id)
        if creation is None or state not in ("ALIVE", "DEAD"):
            return
        if state == "ALIVE" and creation.spec.get("max_restarts"):
            return
        del self._creations[actor_id]
        for entry in (creation.packed.pins or ()) if creation.packed else ():
            self._client.refs.drop(entry)

    def call_actor(
        self, actor_id: bytes, handle: Entry, method: str, args: tuple[Any, ...], kwargs: dict[str, Any],
        num_returns: int = 1, max_retries: int = 0, retry_on: Any = None, max_pending: int = -1,
        options: dict[str, Any] | None = None,
    ) -> Any:  # fmt: skip
        """Call a method; returns as `submit_task`.

        Raises:
            TypeError: an argument cannot be serialized.
            PendingCallsLimitExceeded: `max_pending` calls are waiting already.
        """
        client = self._client
        if client.closed is not None:
            client.check_open()
        packed = client.values.pack_args(args, kwargs) if args or kwargs else None
        call_id = client.call_prefix + next(client.call_counter).to_bytes(8, "big")
        call = Call(
            call_id, actor_id, method, EMPTY_ARGS, num_returns, method, max_retries, retry_on, options
        )
        with client.lock:
            if max_pending > 0 and client.calls.actors.pending(actor_id) >= max_pending:
                self._unpack_pins(packed)
                raise PendingCallsLimitExceeded(
                    f"The actor has {max_pending} calls waiting, its max_pending_calls; "
                    "get some results first."
                )
            handle.local += 1
            call.pins = [handle]
            return self._submit(call, packed)

    def _unpack_pins(self, packed: PackedArgs | None) -> None:
        for entry in (packed.pins or ()) if packed else ():
            self._client.refs.drop(entry)
        for block in (packed.blocks or ()) if packed else ():
            self._client.store.release(block)

    # -- both

    def _submit(self, call: Call, packed: PackedArgs | None) -> Any:
        """Make the returns and give the call to the table; lock held."""
        client = self._client
        if packed is not None:
            call.args = packed.parts
            call.slots = packed.slots
            if packed.pins is not None:
                call.pins = packed.pins if call.pins is None else [*call.pins, *packed.pins]
            if packed.blocks:
                self._own_args(call, packed)
        refs = client.refs
        if client.is_worker:
            job = running.job()
            if job is not None:
                call.parent = job.message[1]
                client.children.append((call.id, job.message[1]))
        count = call.num_returns
        result: Any
        if count == 1 or count == DYNAMIC:
            entry = Entry(call.id + _INDEX[0], None)
            refs.entries[entry.id] = entry
            entry.call = call
            entry.local = 1
            call.entries = [entry]
            result = ObjectRef.__new__(ObjectRef)  # without the frame of its __init__
            result._entry = entry
            result._id = entry.id
        elif count == STREAMING:
            entry = refs.own(call.id + _INDEX[0])
            entry.call = call
            call.entries = [entry]
            call.stream = Stream(call.id)
            result = ObjectRefGenerator(client, call.stream, client.make_ref(entry))
        else:
            result = []
            for index in range(count):
                entry = refs.own(return_id(call.id, index))
                entry.call = call
                call.entries.append(entry)
                result.append(client.make_ref(entry))
            result = result or None
        client.calls.submit(call)
        client._settle()
        return result

    def _own_args(self, call: Call, packed: PackedArgs) -> None:
        """Large arguments are an object of their own, so that the callee can keep views of them."""
        entry = self._client.refs.own(call.id + ARGS_SUFFIX)
        entry.status = VALUE
        entry.value = packed.parts
        entry.local = 1
        call.pins = [*(call.pins or ()), entry]

    def _wire_slots(self, slots: list[tuple[int | str, Entry]]) -> list[Any]:
        own = self._client.address
        return [[position, entry.id, entry.owner or own, entry.value] for position, entry in slots]

    def send(self, link: Link, call: Call) -> None:
        """Put one call on the wire; lock held."""
        if call.peer != link.peer or call.id not in self._client.calls.calls:
            return  # what arrived together with the reason to send it has resolved or moved it
        client = self._client
        extra = None
        if call.args or call.slots or call.options:
            slots = None
            if call.slots:
                for _, entry in call.slots:
                    # Of one that is pending again the callee gets the lost value, and asks its owner.
                    if entry.status > 0:  # its owner was lost while the call was queued
                        client.calls.fail_argument(call, entry)
                        return
                slots = self._wire_slots(call.slots)
            extra = [call.args, slots, call.options]
            if slots or (call.args and (len(call.args) > 1 or type(call.args[0]) is not bytes)):
                self._share(link, call)
        payload = None
        # `ahead`: calls that the callee has to work on already
        if type(call.key) is bytes:
            channel = client.calls.actors.channels[call.key]
            ahead = len(channel.inflight)
            if ahead > channel.many:
                self._many_queued(channel)
            incarnation = channel.incarnation
            meta = self._pack((CALL, call.id, call.key, incarnation, call.target, call.num_returns, extra))
        else:
            lease = client.calls.tasks.by_peer.get(link.peer)
            lease_id = lease.lease_id if lease is not None else 0
            ahead = len(lease.inflight) if lease is not None else 0
            grant = None
            if lease is not None and not lease.introduced:
                lease.introduced = True
                grant = grant_context(client, lease.task_class.spec, lease.info)
            meta = self._pack((wire.TASK, call.id, lease_id, call.target, call.num_returns, extra, grant))
            if call.target not in link.sent_functions:
                link.sent_functions.add(call.target)
                payload = self.functions[call.target]
        if link.ready:
            if ahead >= AHEAD_MIN and payload is None:
                client.send_soon(link.conn, meta)
            else:
                client.reactor.send(link.conn, meta, payload)
        else:
            link.outbox.append((meta, payload))

    def _many_queued(self, channel: ActorChannel) -> None:
        """Say that calls come faster than the actor answers, each time that there are twice as many."""
        text = f"Warning: More than {channel.many} tasks are pending submission to actor "
        text += f"{channel.actor_id.hex()}. To reduce memory usage, wait for these tasks to finish before "
        text += "sending more."
        channel.many *= 2
        notices.warn(notices.MANY_QUEUED, text)

    def _share(self, link: Link, call: Call) -> None:
        self._client.sharing.before(link, call.args)
        for _, entry in call.slots or ():
            self._client.sharing.before(link, entry.value or [])

    def unsent(self) -> bool:
        """Does a call wait only for its peer, or its link to be ready?  Lock held."""
        by_peer = self._client.links.by_peer
        for call in self._client.calls.calls.values():
            link = by_peer.get(call.peer) if call.peer is not None else None
            if not call.waiting and (link is None or not link.ready):
                return True
        return False

    def on_need_function(self, link: Link, message: list[Any], payload: Any) -> None:
        blob = self.functions.get(message[1])
        if blob is not None:
            self._client.links.send(link, encode(wire.FUNCTION, message[1]), blob)

    def cancel(self, ref: ObjectRef[Any], force: bool, recursive: bool) -> None:
        """Cancel the call that would resolve `ref`; nothing happens if it is done.

        Raises:
            ValueError: `force` for a call of an actor.
        """
        client = self._client
        with client.lock:
            call = ref._entry.call
            if isinstance(call, Call):
                if force and isinstance(call.key, bytes):
                    raise ValueError(
                        "force=True is not supported for actor tasks: use kill() to end the actor."
                    )
                client.calls.cancel(call, force, recursive)
            elif ref._entry.owner is not None and ref._entry.status == PENDING:
                client.tell(ref._entry.owner[0], wire.CANCEL, ref._entry.id[:TASK_BYTES], force, recursive)
            client._settle()

    def on_cancel(self, link: Link, message: list[Any], payload: Any) -> None:
        """Somebody who has a ref of a call of this process wants it cancelled."""
        call = self._client.calls.calls.get(message[1])
        if call is not None:
            force = message[2] and type(call.key) is not bytes  # who asks cannot know what kind of call it is
            self._client.calls.cancel(call, force, message[3])

    def cancel_children(self, parent_id: bytes, force: bool) -> None:
        """Cancel what the cancelled task `parent_id` has submitted; lock held."""
        client = self._client
        for call in list(client.calls.calls.values()):
            if call.parent == parent_id:
                client.calls.cancel(call, force and not isinstance(call.key, bytes), True)
