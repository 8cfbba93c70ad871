"""What carries tensors between the actors of a group: the interface that other libraries implement."""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import Any

from spoke import absent
from spoke.experimental.util.types import ReduceOp as ReduceOp

# Makes the tensor that is received: shape, dtype -> tensor.
TorchTensorAllocator = Callable[[tuple[int, ...], Any], Any]


class Communicator(abc.ABC):
    """A group of actors, numbered by ranks; one object per actor, and one at the driver."""

    @abc.abstractmethod
    def initialize(self, rank: int) -> None:
        """Called once in each actor, with its rank."""

    @abc.abstractmethod
    def get_actor_handles(self) -> list[Any]:
        """The actors, by rank."""

    @abc.abstractmethod
    def get_rank(self, actor: Any) -> int:
        """The rank of an actor; ValueError if it is in no rank."""

    @abc.abstractmethod
    def get_self_rank(self) -> int | None:
        """This actor's rank, or None at the driver."""

    def get_world_size(self) -> int:
        """How many ranks there are."""
        return len(self.get_actor_handles())

    @abc.abstractmethod
    def send(self, value: Any, peer_rank: int) -> None:
        """Send a tensor to a rank that receives."""

    @abc.abstractmethod
    def recv(
        self,
        shape: tuple[int, ...],
        dtype: Any,
        peer_rank: int,
        allocator: TorchTensorAllocator | None = None,
    ) -> Any:
        """A tensor from a rank that sends, in memory of `allocator`."""

    @property
    @abc.abstractmethod
    def recv_stream(self) -> Any:
        """A context in which `recv` runs on its own stream of the device."""

    @property
    @abc.abstractmethod
    def send_stream(self) -> Any:
        """As `recv_stream`, for `send`."""

    @abc.abstractmethod
    def allgather(self, send_buf: Any, recv_buf: Any) -> None:
        """`recv_buf` becomes all ranks' `send_buf`, one after the other."""

    @abc.abstractmethod
    def allreduce(self, send_buf: Any, recv_buf: Any, op: ReduceOp = ReduceOp.SUM) -> None:
        """`recv_buf` becomes the reduction of all ranks' `send_buf`."""

    @abc.abstractmethod
    def reducescatter(self, send_buf: Any, recv_buf: Any, op: ReduceOp = ReduceOp.SUM) -> None:
        """`recv_buf` becomes this rank's part of the reduction of all ranks' `send_buf`."""

    @abc.abstractmethod
    def destroy(self) -> None:
        """Leave the group; operations that wait end with an error."""

    @abc.abstractmethod
    def get_transport_name(self) -> str:
        """ "cpu" or "accelerator"."""

    @classmethod
    @abc.abstractmethod
    def generate_communicator_id(cls) -> str:
        """An id for a group."""


__getattr__ = absent.getter(__name__)
