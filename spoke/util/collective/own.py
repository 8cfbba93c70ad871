"""Collective groups upon Spoke's own objects: the backend "SPOKE", which needs nothing but numpy.

A rank puts what others need as objects and hands the refs on through the group's *meeting*, one small actor.
The data itself goes straight from process to process: within a node readers map the writer's shared memory,
between nodes they fetch it by RDMA, or TCP where there is none.  An allreduce is a reduce-scatter and an
allgather, so each rank reads about twice the tensor's size, whatever the number of ranks.
"""

from __future__ import annotations

import itertools
import time
from typing import Any, Final

from spoke import api
from spoke.errors import GetTimeoutError, RayActorError
from spoke.util.collective.groups import KV_NAMESPACE, key_of
from spoke.util.collective.types import (
    AllGatherOptions,
    AllReduceOptions,
    Backend,
    BarrierOptions,
    BroadcastOptions,
    RecvOptions,
    ReduceOp,
    ReduceOptions,
    ReduceScatterOptions,
    SendOptions,
)

AGAIN_S: Final = 0.02


class Meeting:
    """Where the ranks of a group exchange small things; every name is met by each rank once."""

    def __init__(self, world_size: int) -> None:
        self._world_size = world_size
        self._brought: dict[Any, dict[int, Any]] = {}
        self._complete: dict[Any, Any] = {}

    def _event(self, name: Any) -> Any:
        import asyncio

        return self._complete.setdefault(name, asyncio.Event())

    async def exchange(self, name: Any, rank: int, value: Any) -> list[Any]:
        """Bring a value, and get those of all ranks when the last has come."""
        brought = self._brought.setdefault(name, {})
        brought[rank] = value
        event = self._event(name)
        if len(brought) == self._world_size:
            event.set()
            del self._brought[name], self._complete[name]
        await event.wait()
        return [brought[index] for index in range(self._world_size)]

    async def give(self, name: Any, value: Any) -> None:
        """Leave a value for whoever takes it."""
        self._brought[name] = {0: value}
        self._event(name).set()

    async def take(self, name: Any) -> Any:
        """What was left, or will be."""
        await self._event(name).wait()
        del self._complete[name]
        return self._brought.pop(name)[0]


class OwnGroup:
    """One rank of a group; operations take lists with one tensor, as each process is one rank."""

    def __init__(self, world_size: int, rank: int, group_name: str, timeout_ms: int = 30000) -> None:
        self.world_size = world_size
        self.rank = rank
        self.group_name = group_name
        self._backend = Backend.SPOKE
        self._timeout_s = timeout_ms / 1000
        self._serial = itertools.count()
        self._pairs: dict[tuple[int, int], int] = {}
        self._meeting: Any = None
        self._join(time.monotonic() + self._timeout_s)

    def _join(self, deadline: float) -> None:
        """Meet all ranks; the meeting that is found first may be ending, with an earlier group."""
        options = {
            "name": f"{key_of('meeting', self.group_name)}:{self.world_size}", "namespace": KV_NAMESPACE,
            "get_if_exists": True, "num_cpus": 0,
        }  # fmt: skip
        while True:
            self._meeting = api.remote(Meeting).options(**options).remote(self.world_size)
            try:
                self._exchange("joining", None)
                return
            except RayActorError:
                if time.monotonic() > deadline:
                    raise
            self._serial = itertools.count()
            time.sleep(AGAIN_S)

    @classmethod
    def backend(cls) -> str:
        """The name of the backend."""
        return str(Backend.SPOKE)

    def destroy_group(self) -> None:
        """Leave; the meeting ends with the last rank's handle of it, or with the process that made it."""
        self._meeting = None

    # -- moving

    def _wait(self, ref: Any, what: str) -> Any:
        try:
            return api.get(ref, timeout=self._timeout_s)
        except GetTimeoutError:
            raise TimeoutError(
                f"{what} of collective group {self.group_name!r} did not end within {self._timeout_s:g} s: "
                f"not all of its {self.world_size} ranks take part"
            ) from None

    def _exchange(self, what: str, value: Any) -> list[Any]:
        """`value` of every rank; all ranks call it in the same order."""
        name = (next(self._serial), what)
        found: list[Any] = self._wait(self._meeting.exchange.remote(name, self.rank, value), what)
        return found

    # -- operations

    def barrier(self, opts: BarrierOptions) -> None:
        """Wait for all ranks."""
        self._exchange("barrier", None)

    def broadcast(self, tensors: list[Any], opts: BroadcastOptions) -> None:
        """Every rank's tensor becomes the root's."""
        mine = _array(tensors[0])
        ref = [api.put(mine)] if self.rank == opts.root_rank else None
        found = self._exchange("broadcast", ref)[opts.root_rank]
        if self.rank != opts.root_rank:
            mine[...] = self._wait(found[0], "broadcast")

    def allgather(self, tensor_lists: list[list[Any]], tensors: list[Any], opts: AllGatherOptions) -> None:
        """Every rank's list becomes the tensors of all ranks."""
        refs = self._exchange("allgather", [api.put(_array(tensors[0]))])
        for output, (ref,) in zip(tensor_lists[0], refs, strict=True):
            _array(output)[...] = self._wait(ref, "allgather")

    def reducescatter(
        self, tensors: list[Any], tensor_lists: list[list[Any]], opts: ReduceScatterOptions
    ) -> None:
        """Every rank's tensor becomes the reduction of all ranks' list entries of its number."""
        parts = [_array(one) for one in tensor_lists[0]]
        _array(tensors[0])[...] = self._reduced(parts, opts.reduceOp)

    def allreduce(self, tensors: list[Any], opts: AllReduceOptions) -> None:
        """Every rank's tensor becomes the reduction of all."""
        import numpy

        mine = _array(tensors[0])
        share = self._reduced(numpy.array_split(mine.reshape(-1), self.world_size), opts.reduceOp)
        refs = self._exchange("allreduce", [api.put(share)])
        whole = numpy.concatenate([self._wait(ref, "allreduce") for (ref,) in refs])
        mine[...] = whole.reshape(mine.shape)

    def reduce(self, tensors: list[Any], opts: ReduceOptions) -> None:
        """The root's tensor becomes the reduction of all."""
        mine = _array(tensors[0])
        refs = self._exchange("reduce", [api.put(mine)])
        if self.rank == opts.root_rank:
            mine[...] = _combined([self._wait(ref, "reduce") for (ref,) in refs], opts.reduceOp)

    def _reduced(self, parts: list[Any], op: ReduceOp) -> Any:
        """The reduction of all ranks' parts of this rank's number."""
        table = self._exchange("reducescatter", [api.put(part) for part in parts])
        return _combined([self._wait(refs[self.rank], "reducescatter") for refs in table], op)

    def send(self, tensors: list[Any], opts: SendOptions) -> None:
        """Send to a rank; returns when it is on its way."""
        name = self._pair(self.rank, opts.dst_rank)
        self._wait(self._meeting.give.remote(name, [api.put(_array(tensors[0]))]), "send")

    def recv(self, tensors: list[Any], opts: RecvOptions) -> None:
        """Receive what a rank sends, into the tensor."""
        name = self._pair(opts.src_rank, self.rank)
        (ref,) = self._wait(self._meeting.take.remote(name), "recv")
        _array(tensors[0])[...] = self._wait(ref, "recv")

    def _pair(self, source: int, destination: int) -> tuple[str, int, int, int]:
        """The name of the next message between two ranks, the same at both."""
        serial = self._pairs.get((source, destination), 0)
        self._pairs[source, destination] = serial + 1
        return ("pair", source, destination, serial)


def _combined(arrays: list[Any], op: ReduceOp) -> Any:
    """The reduction of arrays of one shape, in the order of ranks."""
    import numpy

    combine = {
        ReduceOp.SUM: numpy.add,
        ReduceOp.PRODUCT: numpy.multiply,
        ReduceOp.MIN: numpy.minimum,
        ReduceOp.MAX: numpy.maximum,
    }[op]
    first, *others = arrays
    result = first.copy()
    for other in others:
        combine(result, other, out=result)
    return result


def _array(tensor: Any) -> Any:
    """The array, or an array over a torch tensor's memory.

    Raises:
        RuntimeError: the tensor is not in this host's memory.
    """
    if type(tensor).__name__ == "ndarray" and type(tensor).__module__ == "numpy":
        return tensor
    if getattr(tensor, "is_cuda", True):
        raise RuntimeError("the backend SPOKE moves numpy arrays and CPU tensors; use NCCL for GPUs")
    return tensor.detach().numpy()
