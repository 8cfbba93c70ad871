"""A collective group of this process, on torch's process groups: gloo, and nccl where there are GPUs.

The ranks meet at a store that rank 0 serves; its address stands in the cluster's key-value store under
the group's name.  A stale address, of a group whose rank 0 died, is tried and left for a newer one.
"""

from __future__ import annotations

import importlib
import json
import time
from datetime import timedelta
from typing import Any, Final

from spoke import current
from spoke.experimental import internal_kv
from spoke.util import get_node_ip_address
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

KV_NAMESPACE: Final = "spoke.collective"
ATTEMPT_S: Final = 2.0
LOOK_S: Final = 0.02
_TAG: Final = 0


def key_of(kind: str, group_name: str) -> str:
    """The key of a group of this job."""
    client = current.client
    job = bytes(client.runtime_context["job_id"]).hex() if client is not None else ""
    return f"{job}:{kind}:{group_name}"


class TorchGroup:
    """One rank of a group; operations take lists of tensors, as one process may have several devices."""

    def __init__(
        self,
        world_size: int,
        rank: int,
        group_name: str,
        backend: str = Backend.GLOO,
        timeout_ms: int = 30000,
    ) -> None:
        self.world_size = world_size
        self.rank = rank
        self.group_name = group_name
        self._backend = backend
        self._timeout = timedelta(milliseconds=timeout_ms)
        self._key = key_of("store", group_name)
        self._store = self._meet(time.monotonic() + timeout_ms / 1000)
        self._group = self._connect()

    @classmethod
    def backend(cls) -> str:
        """The name of the backend."""
        return str(Backend.GLOO)

    def _meet(self, deadline: float) -> Any:
        dist = _torch_distributed()
        if self.rank == 0:
            host = get_node_ip_address()
            store = dist.TCPStore(host, 0, self.world_size, True, self._timeout, wait_for_workers=False)
            internal_kv._internal_kv_put(self._key, json.dumps([host, store.port]), namespace=KV_NAMESPACE)
            return store
        problem: Exception | None = None
        attempt = timedelta(seconds=ATTEMPT_S)
        while time.monotonic() < deadline:
            found = internal_kv._internal_kv_get(self._key, namespace=KV_NAMESPACE)
            if found is not None:
                host, port = json.loads(found)
                try:
                    return dist.TCPStore(host, port, self.world_size, False, attempt, wait_for_workers=False)
                except Exception as error:  # rank 0 of an earlier group; torch has its own classes for it
                    problem = error
            time.sleep(LOOK_S)
        raise TimeoutError(
            f"rank {self.rank} of collective group {self.group_name!r} did not find rank 0 within "
            f"{self._timeout.total_seconds():g} s{f': {problem}' if problem else ''}"
        )

    def _connect(self) -> Any:
        dist = _torch_distributed()
        self._store.set_timeout(self._timeout)
        store = dist.PrefixStore(f"{self.group_name}:{self._backend}", self._store)
        if self._backend == Backend.NCCL:
            options = dist.ProcessGroupNCCL.Options()
            options._timeout = self._timeout
            return dist.ProcessGroupNCCL(store, self.rank, self.world_size, options)
        return dist.ProcessGroupGloo(store, self.rank, self.world_size, self._timeout)

    def destroy_group(self) -> None:
        """Leave; the others' next operation fails."""
        self._group = self._store = None
        if self.rank == 0:
            internal_kv._internal_kv_del(self._key, namespace=KV_NAMESPACE)

    def allreduce(self, tensors: list[Any], opts: AllReduceOptions) -> None:
        """Every rank's tensor becomes the reduction of all."""
        options = _torch_distributed().AllreduceOptions()
        options.reduceOp = _torch_op(opts.reduceOp)
        self._group.allreduce(list(map(_torch, tensors)), options).wait()

    def barrier(self, opts: BarrierOptions) -> None:
        """Wait for all ranks."""
        self._group.barrier().wait()

    def reduce(self, tensors: list[Any], opts: ReduceOptions) -> None:
        """The root's tensor becomes the reduction of all."""
        options = _torch_distributed().ReduceOptions()
        options.reduceOp = _torch_op(opts.reduceOp)
        options.rootRank = opts.root_rank
        self._group.reduce(list(map(_torch, tensors)), options).wait()

    def allgather(self, tensor_lists: list[list[Any]], tensors: list[Any], opts: AllGatherOptions) -> None:
        """Every rank's list becomes the tensors of all ranks."""
        outputs = [[_torch(tensor) for tensor in one] for one in tensor_lists]
        self._group.allgather(outputs, list(map(_torch, tensors))).wait()

    def broadcast(self, tensors: list[Any], opts: BroadcastOptions) -> None:
        """Every rank's tensor becomes the root's."""
        options = _torch_distributed().BroadcastOptions()
        options.rootRank = opts.root_rank
        self._group.broadcast(list(map(_torch, tensors)), options).wait()

    def reducescatter(
        self, tensors: list[Any], tensor_lists: list[list[Any]], opts: ReduceScatterOptions
    ) -> None:
        """Every rank's tensor becomes the reduction of all ranks' list entries of its number."""
        for output, inputs in zip(tensors, tensor_lists, strict=True):
            mine = _torch(output)
            for root, one in enumerate(inputs):  # gloo has no operation for it
                part = _torch(one).clone()
                self.reduce([part], ReduceOptions(opts.reduceOp, root))
                if root == self.rank:
                    mine.copy_(part)

    def send(self, tensors: list[Any], opts: SendOptions) -> None:
        """Send to a rank that receives."""
        self._group.send(list(map(_torch, tensors)), opts.dst_rank, _TAG).wait()

    def recv(self, tensors: list[Any], opts: RecvOptions) -> None:
        """Receive what a rank sends, into the tensor."""
        self._group.recv(list(map(_torch, tensors)), opts.src_rank, _TAG).wait()


def _torch_distributed() -> Any:
    """torch.distributed, of which only some names are declared."""
    return importlib.import_module("torch.distributed")


def _torch_op(op: ReduceOp) -> Any:
    dist = _torch_distributed()
    return {
        ReduceOp.SUM: dist.ReduceOp.SUM,
        ReduceOp.PRODUCT: dist.ReduceOp.PRODUCT,
        ReduceOp.MIN: dist.ReduceOp.MIN,
        ReduceOp.MAX: dist.ReduceOp.MAX,
    }[op]


def _torch(tensor: Any) -> Any:
    """The tensor, or a tensor over an array's memory."""
    import torch

    return tensor if isinstance(tensor, torch.Tensor) else torch.from_numpy(tensor)
