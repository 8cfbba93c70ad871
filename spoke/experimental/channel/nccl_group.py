"""A communicator for tensors on CUDA devices, on torch's process groups (NCCL)."""

from __future__ import annotations

from typing import Any

from spoke import absent
from spoke.experimental.channel.cpu_communicator import CPUCommunicator
from spoke.util.collective import types


class NcclCommunicator(CPUCommunicator):
    """As `CPUCommunicator`, between GPUs; operations run on the present stream."""

    _backend = types.Backend.NCCL

    def get_transport_name(self) -> str:
        """Tensors go from device to device: "accelerator"."""
        return "accelerator"

    def _empty(self, shape: tuple[int, ...], dtype: Any) -> Any:
        import torch

        return torch.empty(shape, dtype=dtype, device="cuda")


__getattr__ = absent.getter(__name__)
