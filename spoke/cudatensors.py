"""CUDA tensors in values: shared by CUDA IPC on a node, through pinned memory elsewhere.

A tensor that is put or returned with a tensor transport (`_tensor_transport="cuda_ipc"`, "nixl", "nccl")
stays where it is: its value holds a handle, and a ref to an object whose one block is the GPU memory
itself (`regions`).  A reader on the same node that may use the same device opens the handle, which waits,
on its stream, for the event that was recorded when the handle was made; nothing synchronises a device.
Readers on other nodes read the memory over RDMA where the owner's NIC can (GPUDirect: by dmabuf, else by
nvidia_peermem), straight into a tensor of their own device where theirs can (`cudadriver.Target`), else by
way of pinned memory.  Other readers ask for the block's bytes, which the owner copies through pinned memory
piece by piece.  `gpu_ways` and `why_no_gpu` of transport/verbs.py tell which.  The ref, kept by the reader's
storage, is what keeps the memory alive.

Without a transport a CUDA tensor is a copy, as in Ray: through pinned memory to the store, and to the
reader's device.  `counts` says what was done, and `why_not_ipc` why a handle was of no use.
"""

from __future__ import annotations

import pickle
import warnings
import weakref
from typing import TYPE_CHECKING, Any

from spoke import codec, cudadriver, current
from spoke.core.refs import PUT_SUFFIX, VALUE
from spoke.cudadriver import counts
from spoke.landing import get_into
from spoke.running import running
from spoke.store import Block

if TYPE_CHECKING:
    from spoke.client import Client
    from spoke.objectref import ObjectRef

why_not_ipc = ""  # the last reason
stream: Any = None  # that fills tensors, of `experimental.set_nixl_cuda_stream`; None: the current one
_buffers: list[Any] = []
_IDENTITY = pickle.dumps(pickle.PickleBuffer(bytearray(1)), 5, buffer_callback=_buffers.append)
_IN_PLACE = ("cuda_ipc", "nixl", "nccl")


class DeviceMemory:
    """A region over a GPU's memory: a NIC that can reads it itself, other reading copies by pinned memory."""

    on_gpu = True

    def __init__(self, tensor: Any) -> None:
        self._ready = cudadriver.driver.event(tensor)  # what fills the tensor may still run
        self._flat = tensor.detach().view(-1).view(_torch().uint8)
        self.address = int(tensor.data_ptr())
        self.size = self._flat.numel()

    def view(self, offset: int, length: int) -> memoryview:
        if not 0 <= offset <= offset + length <= self.size:
            raise ValueError(f"bytes {offset} to {offset + length} are not inside a tensor of {self.size}")
        counts["cuda_staged"] += offset == 0
        flat = self._flat[offset : offset + length]
        return memoryview(cudadriver.driver.to_host(flat, self._ready).numpy()).toreadonly()

    def settle(self) -> None:
        """Wait until what fills the tensor has run: a NIC knows nothing of streams."""
        cudadriver.driver.wait(self._ready)


def _torch() -> Any:
    import torch

    return torch


def reduce_cuda(tensor: Any) -> Any:
    """How a CUDA tensor is pickled in values; see the module."""
    with cudadriver.driver.on(stream):
        return _reduce(tensor)


def _reduce(tensor: Any) -> Any:
    plain = tensor.detach().contiguous()
    if _transport() not in _IN_PLACE or not plain.numel():
        counts["cuda_staged"] += 1
        host = cudadriver.driver.to_host(plain)
        return _from_host, (host, cudadriver.driver.uuid(tensor.device.index), tensor.requires_grad)
    handle = None
    try:
        uuid, handle = cudadriver.driver.export(plain)
    except RuntimeError as error:
        uuid = cudadriver.driver.uuid(tensor.device.index)
        _say_once(f"no CUDA IPC handle for this memory ({error}): its readers get copies by pinned memory")
    dtype = str(tensor.dtype).removeprefix("torch.")
    info = (_client().node_id, uuid, pickle.dumps(handle), dtype, tuple(plain.shape), tensor.requires_grad)
    return _rebuild, (info, _publish(plain))


def _client() -> Client:
    client = current.client
    assert client is not None, "values are packed and unpacked by a client only"
    return client


def _transport() -> str | None:
    """What the running `put`, or the method whose result is packed, asks for."""
    asked = codec.context.transport
    job = running.job()
    if asked is None and job is not None:
        asked = job.options.get("tensor_transport")
    return None if asked is None else str(asked).lower()


def _publish(tensor: Any) -> ObjectRef[Any]:
    """An object whose one block is the tensor's memory; it lives as long as refs to it."""
    client = _client()
    block: Block = client.store.register_memory(DeviceMemory(tensor), tensor)
    with client.lock:
        entry = client.refs.own(client.new_call_id() + PUT_SUFFIX)
        entry.value = [_IDENTITY, client.store.describe(block)]
        entry.status = VALUE
        ref: ObjectRef[Any] = client.make_ref(entry)
    return ref


def _rebuild(info: tuple[Any, ...], ref: ObjectRef[Any]) -> Any:
    node_id, uuid, handle, dtype, shape, requires_grad = info
    client = _client()
    index = cudadriver.driver.find(uuid)
    tensor = None
    if node_id == client.node_id and index is not None and ref._entry.owner is not None:
        tensor = _open(index, handle, ref)
    if tensor is None:
        tensor = cudadriver.driver.empty(shape, getattr(_torch(), dtype), index)
        get_into(client, ref, None, tensor.view(-1).view(_torch().uint8))
    return tensor.requires_grad_() if requires_grad else tensor


def _open(index: int, packed: bytes, ref: ObjectRef[Any]) -> Any:
    """By CUDA IPC; None where there is no handle or it cannot be opened."""
    handle = pickle.loads(packed)
    if handle is None:
        return None
    try:
        tensor = cudadriver.driver.open(index, handle)
    except RuntimeError as error:
        _say_once(f"a CUDA IPC handle could not be opened ({error}): a copy by pinned memory instead")
        return None
    counts["cuda_ipc"] += 1
    weakref.finalize(tensor.untyped_storage(), _release, ref).atexit = False
    return tensor


def _release(ref: Any) -> None:
    """The last view of an opened tensor is gone: with it goes the ref that kept the owner's memory."""


def _from_host(host: Any, uuid: str, requires_grad: bool) -> Any:
    tensor = cudadriver.driver.to_device(host, cudadriver.driver.find(uuid))
    return tensor.requires_grad_() if requires_grad else tensor


def _say_once(text: str) -> None:
    global why_not_ipc
    if not why_not_ipc:
        warnings.warn(text, RuntimeWarning, stacklevel=2)
    why_not_ipc = text
