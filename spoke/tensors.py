"""Tensors that already live in shared memory, so that passing or returning them copies nothing.

``empty`` allocates a block of this process's segment and lays a tensor over it.  A call, ``put`` or
return value that carries the tensor (or a contiguous part of it) names the block instead of copying
it; the block is reused when the tensor and every object that carries it are gone.  The receiver sees
the bytes as they are when it reads them: do not write to the tensor while somebody may be reading.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from spoke.handles import engine


def empty(shape: int | Sequence[int], dtype: Any = None) -> Any:
    """An uninitialised tensor in shared memory.

    Args:
        shape: number of elements per dimension.
        dtype: a torch dtype (or its name, or None for torch.float32) gives a `torch.Tensor`, a numpy
            dtype gives a `numpy.ndarray`.

    Raises:
        ObjectStoreFullError: there is not that much shared memory left on this node.
        ValueError, TypeError: a wrong shape or dtype.
    """
    sizes = (shape,) if isinstance(shape, int) else tuple(shape)
    if any(not isinstance(size, int) or size < 0 for size in sizes):
        raise ValueError(f"shape must be non-negative integers, not {shape!r}")
    count = 1
    for size in sizes:
        count *= size
    if _is_numpy(dtype):
        return _empty_numpy(sizes, count, dtype)
    import torch

    kind = _torch_dtype(dtype)
    if count == 0:
        return torch.empty(sizes, dtype=kind)
    _, view = engine().store.empty(count * kind.itemsize)
    return torch.frombuffer(view, dtype=kind).view(sizes)


def _is_numpy(dtype: Any) -> bool:
    module = type(dtype).__module__.partition(".")[0]
    return module == "numpy" or (isinstance(dtype, type) and dtype.__module__ == "numpy")


def _empty_numpy(sizes: tuple[int, ...], count: int, dtype: Any) -> Any:
    import numpy

    kind = numpy.dtype(dtype)
    if kind.hasobject:
        raise TypeError("an array of Python objects cannot live in shared memory")
    if count == 0:
        return numpy.empty(sizes, kind)
    _, view = engine().store.empty(count * kind.itemsize)
    return numpy.frombuffer(memoryview(view), dtype=kind).reshape(sizes)


def _torch_dtype(dtype: Any) -> Any:
    import torch

    kind = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype or torch.float32
    if not isinstance(kind, torch.dtype):
        raise TypeError(f"dtype must be a torch or numpy dtype, not {dtype!r}")
    return kind


def from_tensor(tensor: Any) -> Any:
    """A copy of a CPU tensor or array in shared memory (the one copy; passing it on makes none).

    Raises:
        ObjectStoreFullError: there is not that much shared memory left on this node.
        TypeError: not a torch tensor or numpy array.
        ValueError: a tensor on another device: move it to the CPU first.
    """
    if type(tensor).__module__ == "numpy":
        copy = empty(tensor.shape, tensor.dtype)
        copy[...] = tensor
        return copy
    if not hasattr(tensor, "data_ptr"):
        raise TypeError(f"from_tensor takes a torch tensor or a numpy array, not {type(tensor).__name__}")
    if tensor.device.type != "cpu":
        raise ValueError(f"from_tensor takes CPU tensors, this one is on {tensor.device}: call .cpu() first")
    copy = empty(tuple(tensor.shape), tensor.dtype)
    copy.copy_(tensor.detach())
    return copy


class Registration:
    """Memory that peers may read where it lies, until `unregister` or the end of a ``with`` block.

    Objects that carry the memory keep it registered as long as they live.
    """

    def __init__(self, buffer: memoryview, keep: Any) -> None:
        self._store = engine().store
        self._block: Any = self._store.register(buffer, keep)
        self._store.claim(self._block, 1)
        self.nbytes = buffer.nbytes

    def unregister(self) -> None:
        """New objects copy the memory again; may be repeated."""
        block, self._block = self._block, None
        if block is not None:
            self._store.claim(block, -1)
            self._store.release(block)

    def __enter__(self) -> Registration:
        return self

    def __exit__(self, *_: object) -> None:
        self.unregister()

    def __repr__(self) -> str:
        state = "unregistered" if self._block is None else "registered"
        return f"<Registration of {self.nbytes} bytes, {state}>"


def register_memory(tensor_or_buffer: Any) -> Registration:
    """Let peers read memory of yours in place: no copy is made when it is put, passed or returned.

    Readers on other nodes fetch it by RDMA straight from where it lies; where there is no RDMA, and on the
    same node, it is sent over a socket from where it lies (`spoke.empty` gives memory that the same node can
    map, which is faster there).  A reader gets the bytes as they are when it reads them: do not write while
    somebody may be reading.  It stays registered until `Registration.unregister`.

    Args:
        tensor_or_buffer: a contiguous CPU tensor, numpy array or writable buffer.

    Raises:
        TypeError: not memory.
        ValueError: read-only, not contiguous, freed or empty memory, or a tensor on another device.
    """
    from spoke.registering import memory_of

    return Registration(memory_of(tensor_or_buffer), tensor_or_buffer)


def object_store_stats() -> dict[str, int]:
    """Counters of this process's shared memory.

    segments, segment_bytes, regions, blocks, used_bytes: what it holds; copied_bytes: what it has copied into
    blocks so far (does not grow when `empty` tensors are passed); mapped_bytes: what it has read in
    place.  shm_, tcp_ and rdma_blocks, _bytes, _copies: what came here by each path otherwise, and how
    often the bytes of a block were copied here after they had arrived.
    """
    client = engine()
    return {**client.store.stats(), **client.router.stats()}
