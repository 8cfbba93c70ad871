"""Gangs: slots reserved all at once, seen before anything runs in them, then launched rank by rank.

Rules of this module: the hub decides (placement, what a lost rank means), this side checks arguments,
gives each rank its slot and environment, and launches.  Under ``restart="gang"`` all ranks are launched
again as new actors of the next incarnation: handles of the one before raise at once.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Final

from spoke import runtime_env
from spoke.actorclass import ActorClass
from spoke.api import kill, remote
from spoke.core import ranks
from spoke.errors import (
    ActorDiedError,
    ActorPlacementGroupRemoved,
    GetTimeoutError,
    RayActorError,
    RaySystemError,
)
from spoke.handles import ActorHandle
from spoke.util.placement_group import PlacementGroup

if TYPE_CHECKING:
    from spoke.client import Client

POLL_S: Final = 0.01
STOP_S: Final = 1.0
PORTS_S: Final = 10.0

PerRank = Callable[["Slot"], Any] | Sequence[Any]


class Slot:
    """One rank's share of a gang: where it runs and what it may use."""

    __slots__ = ("_gang", "global_rank", "gpu_ids", "local_rank", "local_size", "nic", "node_id", "node_ip",
                 "node_rank", "resources", "visible_devices", "visible_variable")  # fmt: skip

    def __init__(self, gang: Gang, global_rank: int) -> None:
        self._gang = gang
        self.global_rank = global_rank
        self.local_rank = 0
        self.local_size = 1  # ranks on the same node
        self.node_rank = 0
        self.node_id = ""  # hexadecimal, as `nodes()` shows it
        self.node_ip = ""
        self.gpu_ids: tuple[int, ...] = ()  # as the node numbers them
        self.visible_variable = ""  # CUDA_VISIBLE_DEVICES, or HIP_VISIBLE_DEVICES where GPUs are AMD's
        self.visible_devices: str | None = ""  # its value for the process; None: left alone
        self.nic = ""  # the node's RDMA device nearest to these GPUs, "" without any
        self.resources: dict[str, float] = {}

    @property
    def port(self) -> int:
        """The TCP port that the slot's node holds for it, see `Gang.free_port`."""
        return self._gang.free_port(self.global_rank)

    def __repr__(self) -> str:
        gpus = f", gpu_ids={list(self.gpu_ids)}" if self.gpu_ids else ""
        where = f"{self.node_id[:8]} ({self.node_ip})"
        return f"Slot({self.global_rank}, node={where}, local={self.local_rank}{gpus})"


class _Strategy:
    """Puts an actor into its rank's slot; see `spoke.core.gangs` for what the hub reads of it."""

    def __init__(self, gang: Gang, rank: int, incarnation: int) -> None:
        self.placement_group = gang.placement_group
        self._spec = {
            "kind": "group", "group_id": gang.placement_group.id.binary(), "index": rank, "capture": False,
            "rank": rank, "incarnation": incarnation,
        }  # fmt: skip

    def _scheduling(self) -> dict[str, Any]:
        return self._spec


class _Launch:
    """What a rank is launched from, the first time and again."""

    __slots__ = ("actor", "args", "kwargs", "name")

    def __init__(
        self, actor: ActorClass, name: str | None, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        self.actor = actor
        self.name = name
        self.args = args
        self.kwargs = kwargs


class Gang:
    """A reservation of `len(gang)` slots, and the actors launched in them.  Made by `gang_allocate`.

    As a context manager it is released at the end of the block.
    """

    def __init__(
        self,
        client: Client,
        group: PlacementGroup,
        restart: str,
        resources: dict[str, float],
        detached: bool = False,
    ) -> None:
        self.placement_group = group
        self._detached = detached
        self._engine = weakref.ref(client)  # a gang that is kept keeps no cluster open
        self._group_id = group.id.binary()
        self._restart = restart
        self._resources = resources
        self._size = len(group.bundle_specs)
        self._lock = threading.RLock()
        self._launches: dict[int, _Launch] = {}
        self._handles: dict[int, ActorHandle] = {}
        self._incarnation = 0  # of the handles
        self._released = False
        self._relauncher: _Relauncher | None = None
        self._relaunch_error: BaseException | None = None

    # -- what is reserved

    @property
    def id(self) -> str:
        """The gang's name in the cluster: the hexadecimal id of its placement group."""
        return self._group_id.hex()

    def __len__(self) -> int:
        return self._size

    world_size = property(__len__)

    @property
    def _client(self) -> Client:
        client = self._engine()
        if client is None:
            raise RaySystemError(f"the cluster of gang {self.id} was shut down")
        return client

    def _info(self) -> tuple[str, dict[str, Any]]:
        client = self._engine()
        if client is None or client.closed is not None:
            return "REMOVED", {"reason": client.closed if client is not None else "the cluster was shut down"}
        return client.hub.group_states.get(self._group_id, ("PENDING", {}))

    @property
    def state(self) -> str:
        """PENDING, CREATED, RESCHEDULING (a node died, its slots are placed anew) or REMOVED."""
        return "REMOVED" if self._released else self._info()[0]

    @property
    def incarnation(self) -> int:
        """How often a loss has ended all ranks."""
        return int(self._info()[1].get("incarnation") or 0)

    @property
    def slots(self) -> list[Slot]:
        """One slot per rank, in order, node by node.

        Raises:
            ActorPlacementGroupRemoved: the gang was released.
            RuntimeError: a node died, and its slots are not placed again yet.
        """
        self._check_open()
        _, info = self._info()
        nodes: list[bytes] = info.get("nodes") or []
        if len(nodes) != self._size or None in nodes:
            raise RuntimeError(f"the slots of gang {self.id} are not all placed: {info.get('reason')}")
        found = []
        for rank, place in enumerate(ranks.places(nodes)):
            slot = Slot(self, rank)
            slot.local_rank, slot.local_size = place.local_rank, place.local_size
            slot.node_rank = place.node_rank
            slot.node_id = nodes[rank].hex()
            slot.node_ip = info["hosts"][rank]
            slot.gpu_ids = tuple(info["gpu_ids"][rank])
            slot.nic, slot.visible_devices = info["nics"][rank], info["shown"][rank]
            slot.visible_variable = info["variables"][rank]
            slot.resources = dict(self._resources)
            found.append(slot)
        return found

    @property
    def master_addr(self) -> str:
        """Address of rank 0's node."""
        return self.slots[0].node_ip

    @property
    def master_port(self) -> int:
        """The port that rank 0's node holds for it."""
        return self.free_port(0)

    def free_port(self, rank: int) -> int:
        """A TCP port of this rank's node, another for every rank and incarnation.

        The node holds it until the gang is released: no other process can take it, nor does the system give
        it to anybody.  From the rank's launch on whoever binds it with SO_REUSEADDR, as servers do, has it.

        Raises:
            IndexError: there is no such rank.
            ActorPlacementGroupRemoved: the gang was released.
            GetTimeoutError: the next incarnation's ports are not there within 10 s.
        """
        self._check_rank(rank)
        ports: list[int] = self._await_ports()
        return ports[rank]

    def _await_ports(self) -> list[int]:
        """The ports of the present incarnation; they come a moment after it began."""
        deadline = time.monotonic() + PORTS_S
        while True:
            self._check_open()
            ports: list[int] | None = self._info()[1].get("ports")
            if ports is not None:
                return ports
            if time.monotonic() > deadline:
                raise GetTimeoutError(f"the nodes of gang {self.id} hold no ports for it: {self.explain()}")
            time.sleep(POLL_S)

    def environment(self, rank: int) -> dict[str, str]:
        """The variables that this rank's process is started with, as `torch.distributed` reads them.

        CUDA_VISIBLE_DEVICES (HIP_VISIBLE_DEVICES where they are AMD's) names the slot's devices as the
        machine knows them, also where the node itself was started with a part of its devices; it is absent
        where nodes leave the variable alone.

        Raises:
            IndexError: there is no such rank.
        """
        self._check_rank(rank)
        slot, ports = self.slots[rank], self._await_ports()
        found = ranks.environment(self.id, rank, self._info()[1], ports)
        if slot.visible_devices is not None:
            found[slot.visible_variable] = slot.visible_devices
        return found

    @property
    def topology(self) -> dict[str, Any]:
        """Where the slots are, how close to each other, and what was asked for.

        Keys: same, prefer; reached: the closest of "nvlink", "numa" (on every node one such domain holds the
        gang's GPUs), "node" (all slots are on one) and ""; labels: value of the label asked for; nodes: a row
        per node with node_id, node_ip, ranks, reached, gpus (index, uuid, pci, numa, nvlink) and nics.
        """
        found: dict[str, Any] = self._client.request("topology", id=self._group_id)
        return found

    def _check_rank(self, rank: int) -> None:
        if not 0 <= rank < self._size:
            raise IndexError(f"rank {rank} of a gang of {self._size}")

    def _check_open(self) -> None:
        if self.state == "REMOVED":
            raise ActorPlacementGroupRemoved(self._info()[1].get("reason") or f"gang {self.id} was released")

    # -- launching

    def launch(
        self, cls: Any, *args: Any, per_rank: PerRank | None = None, **kwargs: Any
    ) -> list[ActorHandle]:
        """Start `cls` in every slot; returns the handles at once, see `wait_ready`.

        Args:
            cls: a class, or an actor class with options; the resources are the slot's.
            per_rank: more arguments by rank: a list with one entry per rank, or a function of the slot.
                An entry is a dict of keyword arguments, or a tuple of arguments that follow `args`.

        Raises:
            ValueError: a rank is launched already, or `per_rank` has another length.
            ActorPlacementGroupRemoved: the gang was released.
        """
        slots = self.slots
        if per_rank is not None and not callable(per_rank) and len(per_rank) != self._size:
            raise ValueError(f"per_rank has {len(per_rank)} entries for {self._size} ranks")
        with self._lock:
            if self._launches:
                raise ValueError(f"ranks {sorted(self._launches)} of gang {self.id} are launched already")
            own: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
            for slot in slots:
                entry = None
                if per_rank is not None:
                    entry = per_rank(slot) if callable(per_rank) else per_rank[slot.global_rank]
                own.append(_arguments(args, kwargs, entry))
            actor = _actor_class(cls)  # once: each would pickle the class again
            return [self.launch_actor(rank, actor, *more, **named) for rank, (more, named) in enumerate(own)]

    def launch_actor(
        self, rank: int, cls: Any, /, *args: Any, name: str | None = None, **kwargs: Any
    ) -> ActorHandle:
        """Start `cls` as one rank, in its slot.

        Args:
            name: of the actor, for `get_actor`.  A constructor argument of this name cannot be given here.

        Raises:
            IndexError: there is no such rank.
            TypeError: `cls` is not a class.
            ValueError: the rank was launched already.
            ActorPlacementGroupRemoved: the gang was released.
        """
        self._check_rank(rank)
        self._check_open()
        actor = _actor_class(cls)
        with self._lock:
            if rank in self._launches:
                raise ValueError(f"rank {rank} of gang {self.id} was launched already")
            if not self._launches:
                self._incarnation = self.incarnation
            launch = _Launch(actor, name, args, kwargs)
            handle = self._start(rank, launch)
            self._launches[rank] = launch
            if self._restart == "gang" and self._relauncher is None:
                self._relauncher = _Relauncher(self)
                self._relauncher.start()
            return handle

    def _start(self, rank: int, launch: _Launch) -> ActorHandle:
        asked = dict(self._resources)
        # CUDA_VISIBLE_DEVICES is not among them: the node's agent sets it, before anything is loaded.
        variables = ranks.environment(self.id, rank, self._info()[1], self._await_ports())
        environment = runtime_env.merged(launch.actor._options.runtime_env, {"env_vars": variables})
        options: dict[str, Any] = {
            "num_cpus": asked.pop("CPU", 0.0),
            "num_gpus": asked.pop("GPU", 0.0),
            "memory": asked.pop("memory", None),
            "resources": asked,
            "runtime_env": environment,
            "scheduling_strategy": _Strategy(self, rank, self._incarnation),
        }
        if launch.name is not None:
            options["name"] = launch.name
        if self._detached:
            options["lifetime"] = "detached"
        if self._restart == "member":
            options["max_restarts"] = -1  # the hub counts them for the gang as a whole
        handle = launch.actor.options(**options).remote(*launch.args, **launch.kwargs)
        self._handles[rank] = handle
        return handle

    @property
    def handles(self) -> list[ActorHandle]:
        """The launched ranks of the present incarnation, in order."""
        with self._lock:
            return [self._handles[rank] for rank in sorted(self._handles)]

    def wait_ready(self, timeout: float | None = None) -> list[ActorHandle]:
        """Wait until the constructor of every launched rank has returned; returns the handles.

        After a loss under ``restart="gang"`` this waits for the ranks of the next incarnation.

        Args:
            timeout: seconds; None waits for ever.

        Raises:
            GetTimeoutError: not in time; what runs goes on running.
            ActorDiedError: a rank was lost, with its constructor's traceback where that raised; all others
                are stopped then.
            ActorPlacementGroupRemoved: the gang was released.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            with self._lock:
                incarnation, handles = self._incarnation, dict(self._handles)
                if self._relaunch_error is not None:
                    raise self._relaunch_error
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            error = self._first_error(handles, left) if incarnation == self.incarnation else None
            if incarnation == self.incarnation and self.state == "CREATED":
                if error is None:
                    return [handles[rank] for rank in sorted(handles)]
                if self._restart == "none" or isinstance(error, GetTimeoutError):
                    raise error
            elif self.state == "REMOVED":
                raise self._obituary(handles)
            if deadline is not None and time.monotonic() >= deadline:
                raise GetTimeoutError(f"gang {self.id} is not ready within {timeout} s: {self.explain()}")
            time.sleep(POLL_S)

    def _first_error(self, handles: dict[int, ActorHandle], timeout: float | None) -> BaseException | None:
        """Wait for all constructors; the first error, GetTimeoutError included, or None."""
        refs = [handle.__ray_ready__.remote() for handle in handles.values()]
        deadline = None if timeout is None else time.monotonic() + timeout
        while refs:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            ready, refs = self._client.wait(refs, 1, left)
            if not ready:
                return GetTimeoutError(
                    f"{len(refs)} of {len(handles)} ranks are not ready within {timeout} s"
                )
            try:
                self._client.get(ready, None)
            except RayActorError as error:
                return error
            except ActorPlacementGroupRemoved as error:
                return error
        return None

    def _obituary(self, handles: dict[int, ActorHandle]) -> BaseException:
        """Why the gang is gone: the error of the rank that was lost, if one was."""
        info = self._info()[1]
        lost = info.get("lost")
        if lost and lost[0] in handles and not self._released:
            error = self._first_error({lost[0]: handles[lost[0]]}, 1.0)
            if isinstance(error, RayActorError):
                return error
            return ActorDiedError(f"rank {lost[0]} of gang {self.id} was lost: {lost[1]}")
        return ActorPlacementGroupRemoved(info.get("reason") or f"gang {self.id} was released")

    # -- ending

    def kill(self, rank: int, no_restart: bool = True) -> None:
        """End one rank at once; what follows for the others is the policy's."""
        self._check_rank(rank)
        with self._lock:
            handle = self._handles[rank]
        kill(handle, no_restart=no_restart)

    def release(self, timeout: float | None = None) -> bool:
        """Stop all ranks and give the slots back as their processes end; may be repeated.

        Args:
            timeout: wait so many seconds until every slot is back; None does not wait.

        Returns:
            True; False if `timeout` passed and a process has not ended.
        """
        client = self._engine()
        with self._lock:
            if not self._released and client is not None and client.closed is None:
                client.hub.remove_group(self._group_id)
            self._released = True
            self._handles = {}
            self._launches = {}
            relauncher, self._relauncher = self._relauncher, None
        if relauncher is not None:
            relauncher.stop()
        if timeout is None or client is None or client.closed is not None:
            return True
        deadline = time.monotonic() + timeout
        while any(client.request("group", id=self._group_id)["nodes"]):
            if time.monotonic() >= deadline:
                return False
            time.sleep(POLL_S)
        return True

    def __enter__(self) -> Gang:
        return self

    def __exit__(self, *exc: object) -> None:
        self.release()

    def explain(self) -> str:
        """State, what it waits for, the latest loss, and a line per slot."""
        state, info = self.state, self._info()[1]
        lines = [f"gang {self.id}: {self._size} ranks, {state}, incarnation {self.incarnation}"]
        if state in ("PENDING", "RESCHEDULING") and self._client.closed is None:
            lines.append(f"waits: {self._client.request('why', id=self._group_id)}")
        if info.get("lost"):
            lines.append(f"latest loss: rank {info['lost'][0]}: {info['lost'][1]}")
        if state == "REMOVED":
            lines.append(f"released: {info.get('reason') or 'by its owner'}")
        if state == "CREATED":
            if info.get("reached"):
                lines.append(f"all slots share: {info['reached']}")
            lines += [repr(slot) for slot in self.slots]
        return "\n".join(lines)

    def __repr__(self) -> str:
        return f"Gang({self.id[:12]}, {self._size} ranks, {self.state})"


def _actor_class(cls: Any) -> ActorClass:
    if isinstance(cls, ActorClass):
        return cls
    if not isinstance(cls, type):
        raise TypeError(f"a rank is an actor: {cls!r} is not a class")
    made: ActorClass = remote(cls)
    return made


def _arguments(
    args: tuple[Any, ...], kwargs: dict[str, Any], entry: Any
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if entry is None:
        return args, kwargs
    if isinstance(entry, dict):
        return args, {**kwargs, **entry}
    if isinstance(entry, tuple):
        return (*args, *entry), kwargs
    raise TypeError(f"an entry of per_rank is a dict or a tuple, not {type(entry).__name__}")


class _Relauncher(threading.Thread):
    """Launches all ranks again when the hub has ended an incarnation."""

    def __init__(self, gang: Gang) -> None:
        super().__init__(name="spoke-gang", daemon=True)
        self._gang = gang
        self._news: SimpleQueue[None] = SimpleQueue()
        client = gang._client
        with client.lock:
            client.hub.on_group(gang._group_id, self)

    def resolved(self, _: Any) -> None:
        """The group's state changed; called with the client's lock held."""
        client, group_id = self._gang._client, self._gang._group_id
        if client.closed is None and client.hub.group_states[group_id][0] != "REMOVED":
            client.hub.on_group(group_id, self)
        self._news.put(None)

    def stop(self) -> None:
        """The gang is released: end this thread."""
        self._news.put(None)
        if threading.current_thread() is not self:
            self.join(STOP_S)

    def run(self) -> None:
        gang = self._gang
        while True:
            self._news.get()
            if gang.state == "REMOVED":
                return
            with gang._lock:
                state, info = gang._info()
                due = gang._incarnation != gang.incarnation and state == "CREATED"
                due = due and info.get("ports") is not None  # or the next news will be theirs
                if not due or gang._released:
                    continue
                try:
                    self._relaunch()
                except ActorPlacementGroupRemoved:
                    return
                except Exception as error:  # whatever it is, who waits for the ranks must hear it
                    gang._relaunch_error = error
                    gang._client.hub.remove_group(gang._group_id)
                    return

    def _relaunch(self) -> None:
        gang = self._gang
        gang._incarnation = gang.incarnation
        for rank, launch in gang._launches.items():
            gang._start(rank, launch)
