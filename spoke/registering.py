"""What may be registered for peers to read, and what is said where it may not."""

from __future__ import annotations

import sys
from typing import Any


def memory_of(given: Any) -> memoryview:
    """The flat bytes of a tensor, array or buffer.

    Raises:
        TypeError: not memory.
        ValueError: memory that cannot be registered; the message says why and what to do.
    """
    torch, numpy = sys.modules.get("torch"), sys.modules.get("numpy")
    if torch is not None and isinstance(given, torch.Tensor):
        return _tensor_memory(given, torch)
    if numpy is not None and isinstance(given, numpy.ndarray):
        if given.dtype.hasobject:
            raise ValueError("an array of Python objects cannot be registered")
        _check(
            given.flags.writeable, given.flags.c_contiguous, given.nbytes, "array", "numpy.ascontiguousarray"
        )
        return memoryview(given.reshape(-1).view("u1"))
    try:
        view = memoryview(given)
    except TypeError:
        raise TypeError(
            "register_memory takes a torch tensor, a numpy array or a writable buffer, "
            f"not {type(given).__name__}"
        ) from None
    _check(not view.readonly, view.c_contiguous, view.nbytes, "buffer", "a bytearray")
    return view.cast("B")


def _check(writable: bool, contiguous: bool, size: int, what: str, cure: str) -> None:
    if not size:
        raise ValueError(f"an empty {what} cannot be registered")
    if not writable:
        raise ValueError(f"a read-only {what} cannot be registered: copy it first")
    if not contiguous:
        raise ValueError(f"this {what} is not contiguous: register {cure} of it, or its base")


def _tensor_memory(tensor: Any, torch: Any) -> memoryview:
    if tensor.layout is not torch.strided or tensor.is_quantized:
        raise ValueError("only dense tensors can be registered")
    if tensor.device.type != "cpu":
        raise ValueError(
            f"register_memory takes CPU memory, this tensor is on {tensor.device}: pass it as it is, and it "
            "goes by CUDA IPC on the node and by a pinned copy between nodes"
        )
    size = tensor.numel() * tensor.element_size()
    _check(True, tensor.is_contiguous(), size, "tensor", "tensor.contiguous()")
    if tensor.untyped_storage().nbytes() < tensor.storage_offset() * tensor.element_size() + size:
        raise ValueError(
            "the tensor's memory was freed (its storage was resized): there is nothing to register"
        )
    return memoryview(tensor.detach().view(-1).view(torch.uint8).numpy())
