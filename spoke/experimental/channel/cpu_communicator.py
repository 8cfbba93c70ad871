"""A communicator for tensors in main memory, on torch's process groups (gloo)."""

from __future__ import annotations

import contextlib
import uuid
from typing import Any

from spoke import absent
from spoke.experimental.channel.communicator import Communicator, ReduceOp, TorchTensorAllocator
from spoke.util import collective
from spoke.util.collective import types


class CPUCommunicator(Communicator):
    """Ranks of a group of actors.

    Made at the driver and passed to the actors; each calls `initialize`, and they meet at their first
    operation.

    Args:
        world_size: how many actors there are.
        actor_handles: the actors, by rank.
    """

    _backend = types.Backend.GLOO

    def __init__(self, world_size: int, actor_handles: list[Any]) -> None:
        self._world_size = world_size
        self._actor_handles = actor_handles
        self._name = self.generate_communicator_id()
        self._rank: int | None = None

    def initialize(self, rank: int) -> None:
        """This actor is `rank` from now on."""
        self._rank = rank

    def get_actor_handles(self) -> list[Any]:
        """The actors, by rank."""
        return self._actor_handles

    def get_rank(self, actor: Any) -> int:
        """The rank of an actor.

        Raises:
            ValueError: it is none of the group.
        """
        for rank, one in enumerate(self._actor_handles):
            if one == actor:
                return rank
        raise ValueError(f"Actor is not in the {type(self).__name__} group.")

    def get_self_rank(self) -> int | None:
        """This actor's rank; None before `initialize`, and at the driver."""
        return self._rank

    def get_world_size(self) -> int:
        """How many ranks there are."""
        return self._world_size

    def get_transport_name(self) -> str:
        """Tensors go over "cpu"."""
        return "cpu"

    @classmethod
    def generate_communicator_id(cls) -> str:
        """A random id."""
        return str(uuid.uuid4())

    def _group(self) -> str:
        """The name of the group, which this actor has joined then.

        Raises:
            RuntimeError: `initialize` was not called here.
        """
        if self._rank is None:
            raise RuntimeError("call initialize(rank) in each actor of the communicator first")
        if not collective.is_group_initialized(self._name):
            collective.init_collective_group(self._world_size, self._rank, self._backend, self._name)
        return self._name

    def send(self, tensor: Any, peer_rank: int) -> None:
        """Send a tensor to a rank that receives."""
        group = self._group()
        collective.send(tensor.contiguous(), peer_rank, group)

    def recv(
        self,
        shape: tuple[int, ...],
        dtype: Any,
        peer_rank: int,
        allocator: TorchTensorAllocator | None = None,
    ) -> Any:
        """A tensor of this shape and dtype from a rank that sends."""
        group = self._group()
        found = self._empty(shape, dtype) if allocator is None else allocator(shape, dtype)
        collective.recv(found, peer_rank, group)
        return found

    def _empty(self, shape: tuple[int, ...], dtype: Any) -> Any:
        import torch

        return torch.empty(shape, dtype=dtype)

    def allgather(self, send_buf: Any, recv_buf: Any) -> None:
        """`recv_buf` becomes all ranks' `send_buf`, one after the other along the first dimension."""
        parts = list(recv_buf.chunk(self._world_size))
        collective.allgather(parts, send_buf, self._group())

    def allreduce(self, send_buf: Any, recv_buf: Any, op: ReduceOp = ReduceOp.SUM) -> None:
        """`recv_buf` becomes the reduction of all ranks' `send_buf`."""
        recv_buf.copy_(send_buf)
        collective.allreduce(recv_buf, self._group(), _kind(op))
        if op is ReduceOp.AVG:
            recv_buf.div_(self._world_size)

    def reducescatter(self, send_buf: Any, recv_buf: Any, op: ReduceOp = ReduceOp.SUM) -> None:
        """`recv_buf` becomes this rank's part of the reduction of all ranks' `send_buf`."""
        parts = list(send_buf.chunk(self._world_size))
        collective.reducescatter(recv_buf, parts, self._group(), _kind(op))
        if op is ReduceOp.AVG:
            recv_buf.div_(self._world_size)

    @property
    def recv_stream(self) -> Any:
        """A context that does nothing: a CPU has no streams."""
        return contextlib.nullcontext()

    @property
    def send_stream(self) -> Any:
        """A context that does nothing: a CPU has no streams."""
        return contextlib.nullcontext()

    def destroy(self) -> None:
        """Leave the group; the others' next operation fails."""
        if self._rank is not None:
            collective.destroy_collective_group(self._name)


def _kind(op: ReduceOp) -> Any:
    """The same reduction for `spoke.util.collective`; an average is a sum that is divided."""
    return types.ReduceOp.SUM if op is ReduceOp.AVG else types.ReduceOp[op.name]


__getattr__ = absent.getter(__name__)
