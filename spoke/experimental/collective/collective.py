"""Groups of actors that a driver makes and ends; operations are those of `spoke.util.collective`."""

from __future__ import annotations

import threading
import uuid
from typing import Any

from spoke import absent, api
from spoke.errors import ActorDiedError
from spoke.experimental.collective.communicator import CommunicatorHandle
from spoke.util.collective.types import Backend


class RemoteCommunicatorManager:
    """The groups that this process made."""

    _current: RemoteCommunicatorManager | None = None
    _lock = threading.Lock()

    def __init__(self) -> None:
        self._groups: dict[str, CommunicatorHandle] = {}

    @staticmethod
    def get() -> RemoteCommunicatorManager:
        """The one of this process."""
        with RemoteCommunicatorManager._lock:
            if RemoteCommunicatorManager._current is None:
                RemoteCommunicatorManager._current = RemoteCommunicatorManager()
            return RemoteCommunicatorManager._current

    def add_remote_communicator(self, comm_handle: CommunicatorHandle) -> None:
        """Remember a group."""
        self._groups[comm_handle.name] = comm_handle

    def remove_remote_communicator(self, name: str) -> CommunicatorHandle | None:
        """Forget a group; None if there is none of that name."""
        return self._groups.pop(name, None)

    def get_collective_groups(
        self, actors: list[Any] | None = None, backend: str | None = None
    ) -> list[CommunicatorHandle]:
        """Groups that all of `actors` are in, of that backend."""
        return [
            group
            for group in self._groups.values()
            if all(group.get_rank(actor) >= 0 for actor in actors or ())
            and (backend is None or group.backend == Backend(backend))
        ]


def get_collective_groups(actors: list[Any], backend: str | None = None) -> list[CommunicatorHandle]:
    """Groups of this process's making that all of `actors` are in, of that backend."""
    return RemoteCommunicatorManager.get().get_collective_groups(actors, backend)


def create_collective_group(actors: list[Any], backend: str, name: str | None = None) -> CommunicatorHandle:
    """Make a group of actors, which all join it before this returns; ranks are their positions.

    Args:
        backend: "gloo" or "nccl".
        name: default a random one.

    Raises:
        ValueError: no such backend, an actor twice, or a group of that name.
        RuntimeError: an actor is in a group of that backend already, or cannot join.
    """
    manager = RemoteCommunicatorManager.get()
    handle = CommunicatorHandle(actors, name or uuid.uuid4().hex, backend)
    for actor in actors:
        if manager.get_collective_groups([actor], backend):
            raise RuntimeError(
                f"Actor {actor} already in group for backend {handle.backend}. Actors can currently only "
                "participate in at most one group per backend."
            )
    if any(actor in actors[:number] for number, actor in enumerate(actors)):
        raise ValueError(f"All actors must be unique, got: {actors}")
    if any(group.name == handle.name for group in manager.get_collective_groups()):
        raise ValueError(f"There is a collective group {handle.name!r} already: destroy it first")
    api.get([
        actor.__ray_call__.remote(_join, len(actors), rank, handle.backend, handle.name)
        for rank, actor in enumerate(actors)
    ])  # fmt: skip
    manager.add_remote_communicator(handle)
    return handle


def _join(instance: Any, world_size: int, rank: int, backend: str, name: str) -> None:
    from spoke.util import collective

    collective.init_collective_group(world_size, rank, backend, name)


def _leave(instance: Any, name: str) -> None:
    from spoke.util import collective

    collective.destroy_collective_group(name)


def destroy_collective_group(group_or_name: CommunicatorHandle | str) -> None:
    """End a group: its actors leave it, those that are alive.

    Raises:
        ValueError: this process made no group of that name, or it is no group and no name.
    """
    name = group_or_name.name if isinstance(group_or_name, CommunicatorHandle) else group_or_name
    if not isinstance(name, str):
        raise ValueError("Expected CommunicatorHandle or str (group name).")
    group = RemoteCommunicatorManager.get().remove_remote_communicator(name)
    if group is None:
        raise ValueError(f"No group with name {name} found.")
    try:
        api.get([actor.__ray_call__.remote(_leave, name) for actor in group.actors])
    except ActorDiedError:
        pass  # it has left


def destroy_all_collective_groups() -> None:
    """End all groups that this process made."""
    for group in RemoteCommunicatorManager.get().get_collective_groups():
        destroy_collective_group(group)


__getattr__ = absent.getter(__name__)
