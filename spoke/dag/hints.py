"""Ray's hints how tensors travel, as objects that a program can look at."""

from __future__ import annotations

from typing import Any

from spoke.experimental.channel.auto_transport_type import AutoTransportType
from spoke.experimental.channel.common import ChannelOutputType
from spoke.experimental.channel.communicator import Communicator
from spoke.experimental.channel.torch_tensor_type import TorchTensorType

_WAYS = {
    "accelerator": TorchTensorType.ACCELERATOR,
    "nccl": TorchTensorType.ACCELERATOR,
    "shm": TorchTensorType.CPU,
}


def chosen(
    transport: Any = None, device: Any = "default", static_shape: bool = False, direct_return: bool = False
) -> ChannelOutputType:
    """The hint of `DAGNode.with_tensor_transport`; without a transport, that of nodes without a hint.

    Raises:
        ValueError: an unknown transport or device.
    """
    if transport is None:
        return ChannelOutputType()
    if transport == "auto":
        return AutoTransportType(device, static_shape, direct_return)
    if not isinstance(transport, Communicator) and transport not in _WAYS:
        raise ValueError(
            f"Invalid transport type: {transport}. Transport must be one of 'auto', 'nccl', 'shm', "
            "'accelerator' or a Communicator."
        )
    way = transport if isinstance(transport, Communicator) else _WAYS[transport]
    return TorchTensorType(way, device, static_shape, direct_return)
