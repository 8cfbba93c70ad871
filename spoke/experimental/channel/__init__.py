"""Channels: values from one writer to its readers, without a call for each.

Spoke's own compiled graphs have no use for them (`spoke.dag.links`); they are for programs that are
written with Ray's channels.
"""

from __future__ import annotations

from typing import Any

from spoke import absent

_PLACES = {
    "AwaitableBackgroundReader": "common",
    "AwaitableBackgroundWriter": "common",
    "BufferedSharedMemoryChannel": "shared_memory_channel",
    "CPUCommunicator": "cpu_communicator",
    "CachedChannel": "cached_channel",
    "Channel": "shared_memory_channel",
    "ChannelContext": "common",
    "ChannelInterface": "common",
    "ChannelOutputType": "common",
    "Communicator": "communicator",
    "CompiledDAGArgs": "common",
    "CompositeChannel": "shared_memory_channel",
    "IntraProcessChannel": "intra_process_channel",
    "ReaderInterface": "common",
    "SynchronousReader": "common",
    "SynchronousWriter": "common",
    "TorchTensorAcceleratorChannel": "torch_tensor_accelerator_channel",
    "WriterInterface": "common",
}

__all__ = [
    "AwaitableBackgroundReader",
    "AwaitableBackgroundWriter",
    "BufferedSharedMemoryChannel",
    "CPUCommunicator",
    "CachedChannel",
    "Channel",
    "ChannelContext",
    "Communicator",
    "CompiledDAGArgs",
    "CompositeChannel",
    "IntraProcessChannel",
    "ReaderInterface",
    "SynchronousReader",
    "SynchronousWriter",
    "TorchTensorAcceleratorChannel",
    "WriterInterface",
]


def __getattr__(name: str) -> Any:
    place = _PLACES.get(name)
    if place is None:
        return absent.resolve(__name__, name)
    import importlib

    found = importlib.import_module(f"{__name__}.{place}")
    return getattr(found, name)
