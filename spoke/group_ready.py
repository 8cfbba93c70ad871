"""A ref that resolves when a placement group is reserved."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from spoke.core.refs import PUT_SUFFIX, SYSTEM, VALUE

if TYPE_CHECKING:
    from spoke.client import Client
    from spoke.objectref import ObjectRef

REMOVED: Final = "The placement group was removed before it was ready."


class _Watcher:
    """Asks again at each change of the group's state; keeps the ref, which it will resolve."""

    __slots__ = ("client", "group_id", "parts", "ref")

    def __init__(self, client: Client, group_id: bytes, parts: list[Any], ref: ObjectRef[Any]) -> None:
        self.client = client
        self.group_id = group_id
        self.parts = parts
        self.ref = ref

    def resolved(self, _: Any) -> None:
        """The state changed; lock held."""
        client = self.client
        state = client.hub.group_states.get(self.group_id, ("PENDING",))[0]
        entry = self.ref._entry
        if state == "CREATED":
            client.refs.resolve(entry, VALUE, self.parts)
        elif state == "REMOVED":
            error = client.calls.encode_error("TaskPlacementGroupRemoved", REMOVED)
            client.refs.resolve(entry, SYSTEM, error)
        elif client.closed is not None:
            client.refs.resolve(entry, SYSTEM, client.calls.encode_error("RaySystemError", client.closed))
        else:
            client.hub.on_group(self.group_id, self)


def watch(client: Client, group_id: bytes) -> None:
    """Have the hub tell this process about a group; it is told of its own groups anyway.

    Raises:
        ValueError: the cluster knows no such group.
    """
    if group_id not in client.hub.group_states:
        found = client.request("watch_group", id=group_id)
        with client.lock:
            client.hub.group_states.setdefault(group_id, (found["state"], found))


def group_ready_ref(client: Client, group_id: bytes, value: Any) -> ObjectRef[Any]:
    """A ref to `value` that resolves when all bundles of the group are reserved.

    Raises:
        ValueError: the cluster knows no such group.
    """
    client.check_open()
    watch(client, group_id)
    parts, _, _ = client.values.pack(value)
    object_id = client.new_call_id() + PUT_SUFFIX
    with client.lock:
        ref = client.make_ref(client.refs.own(object_id))
        _Watcher(client, group_id, parts, ref).resolved(None)
        client._settle()
    return ref
