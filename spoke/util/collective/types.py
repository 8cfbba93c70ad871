"""Words of the collective API: reductions, backends, options of operations."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from enum import Enum
from typing import Final

from spoke import absent

unset_timeout_ms: Final = -1


def torch_available() -> bool:
    """Is torch installed?"""
    return importlib.util.find_spec("torch") is not None


def cupy_available() -> bool:
    """Is cupy installed?"""
    return importlib.util.find_spec("cupy") is not None


class ReduceOp(Enum):
    """How the tensors of all ranks become one."""

    SUM = 0
    PRODUCT = 1
    MIN = 2
    MAX = 3


class Backend(str):
    """The name of a backend, in capitals.

    Raises:
        ValueError: no backend of this name is registered.
    """

    NCCL = "NCCL"
    GLOO = "GLOO"
    SPOKE = "SPOKE"  # Spoke's own, on shared memory and RDMA
    UNRECOGNIZED = "unrecognized"

    _registered: Final[set[str]] = {NCCL, GLOO, SPOKE}

    def __new__(cls, name: str) -> Backend:
        """The backend with this name, in any case; "torch_gloo" is another one of gloo."""
        upper = str(name).upper().removeprefix("TORCH_")
        if upper not in cls._registered:
            raise ValueError(f"Backend {upper} not registered")
        return str.__new__(cls, upper)


@dataclass
class AllReduceOptions:
    """Options of allreduce; every `timeout_ms` is in milliseconds, -1 for the group's."""

    reduceOp: ReduceOp = ReduceOp.SUM
    timeout_ms: int = unset_timeout_ms


@dataclass
class BarrierOptions:
    """Options of barrier."""

    timeout_ms: int = unset_timeout_ms


@dataclass
class ReduceOptions:
    """Options of reduce."""

    reduceOp: ReduceOp = ReduceOp.SUM
    root_rank: int = 0
    root_tensor: int = 0
    timeout_ms: int = unset_timeout_ms


@dataclass
class AllGatherOptions:
    """Options of allgather."""

    timeout_ms: int = unset_timeout_ms


@dataclass
class BroadcastOptions:
    """Options of broadcast."""

    root_rank: int = 0
    root_tensor: int = 0
    timeout_ms: int = unset_timeout_ms


@dataclass
class ReduceScatterOptions:
    """Options of reducescatter."""

    reduceOp: ReduceOp = ReduceOp.SUM
    timeout_ms: int = unset_timeout_ms


@dataclass
class SendOptions:
    """Options of send."""

    dst_rank: int = 0
    dst_gpu_index: int = 0
    n_elements: int = 0
    timeout_ms: int = unset_timeout_ms


@dataclass
class RecvOptions:
    """Options of recv."""

    src_rank: int = 0
    src_gpu_index: int = 0
    n_elements: int = 0
    unset_timeout_ms: int = unset_timeout_ms


__getattr__ = absent.getter(__name__)
