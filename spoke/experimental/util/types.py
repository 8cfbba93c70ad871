"""Names of `ray.experimental.util.types`: reductions and devices of collective operations."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from spoke import absent


class ReduceOp(Enum):
    """How values of ranks become one."""

    SUM = 0
    PRODUCT = 1
    MAX = 2
    MIN = 3
    AVG = 4

    def __str__(self) -> str:
        return self.name.lower()


class Device(Enum):
    """Where a received tensor lies; DEFAULT is where the sender's was."""

    DEFAULT = "default"
    CPU = "cpu"
    GPU = "gpu"
    CUDA = "cuda"

    def __str__(self) -> str:
        return self.value


class _CollectiveOp:
    """A collective operation."""


@dataclass
class AllGatherOp(_CollectiveOp):
    """Every rank gets the values of all."""


@dataclass
class AllReduceOp(_CollectiveOp):
    """Every rank gets the reduction of all."""

    reduceOp: ReduceOp = ReduceOp.SUM


@dataclass
class ReduceScatterOp(_CollectiveOp):
    """Every rank gets its part of the reduction of all."""

    reduceOp: ReduceOp = ReduceOp.SUM


__getattr__ = absent.getter(__name__)
