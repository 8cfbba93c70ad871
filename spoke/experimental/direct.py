"""Ray's names for tensors that are transferred directly, carried by Spoke's own transports.

Registered memory is `spoke.register_memory`, a target is ``get(into=)``: what Ray does with NIXL, RDMA,
shared memory or TCP do here, whichever leads there.
"""

from __future__ import annotations

import time
from typing import Any

from spoke import current
from spoke.handles import engine
from spoke.tensors import Registration, register_memory

_registrations: dict[tuple[int, int], list[Registration]] = {}  # by address and bytes


def _key(tensor: Any) -> tuple[int, int]:
    if not hasattr(tensor, "data_ptr"):
        raise TypeError(f"expected a torch tensor, not {type(tensor).__name__}")
    return tensor.data_ptr(), tensor.numel() * tensor.element_size()


def register_nixl_memory(tensor: Any) -> None:
    """Keep a tensor's memory registered for peers until `deregister_nixl_memory`; may be repeated.

    A CUDA tensor needs none: with a tensor transport it is read from where it lies anyway.

    Raises:
        TypeError, ValueError: as `spoke.register_memory`.
    """
    key = _key(tensor)
    if tensor.device.type != "cuda":
        _registrations.setdefault(key, []).append(register_memory(tensor))


def deregister_nixl_memory(tensor: Any) -> None:
    """Undo one `register_nixl_memory`; objects that carry the memory keep it registered themselves.

    Raises:
        ValueError: it is not registered.
    """
    key = _key(tensor)
    if tensor.device.type == "cuda":
        return
    held = _registrations.get(key)
    if not held:
        raise ValueError("the tensor is not registered: register_nixl_memory comes first")
    held.pop().unregister()
    if not held:
        del _registrations[key]


def register_nixl_memory_pool(size: int, device: Any) -> None:
    """Have `size` bytes of shared memory ready, which ``put`` copies tensors into.

    Raises:
        ValueError: not a positive size.
        ObjectStoreFullError: there is not that much on this node.
    """
    if not isinstance(size, int) or size <= 0:
        raise ValueError(f"size must be a positive number of bytes, not {size!r}")
    if "cuda" not in str(device):
        store = engine().store
        store.release(store.allocate(size))  # the segment stays, empty and registered


def set_nixl_cuda_stream(stream: Any) -> None:
    """Say which CUDA stream fills the tensors that this process puts or returns with a tensor transport.

    What readers get is ordered after what that stream has been given so far; None goes back to the
    stream that is current where the tensor is put.  No device is synchronised in either case.

    Raises:
        TypeError: not a torch.cuda.Stream, and not None.
    """
    if stream is not None and not (hasattr(stream, "cuda_stream") and hasattr(stream, "wait_event")):
        raise TypeError(f"stream must be a torch.cuda.Stream or None, not {type(stream).__name__}")
    from spoke import cudatensors

    cudatensors.stream = stream


def set_target_for_ref(ref: Any, target: list[Any]) -> None:
    """Have ``get(ref)`` write the tensors of the value into these, and return it with these inside.

    The order is that of the tensors in the value, a tensor or a list or dict of tensors.  It replaces an
    earlier target of the ref; ``get`` raises ValueError where shapes or dtypes differ.

    Raises:
        TypeError: not a ref, or not a list.
    """
    _check_ref(ref)
    if not isinstance(target, (list, tuple)):
        raise TypeError(f"target must be a list of tensors, not {type(target).__name__}")
    current.targets[ref.binary()] = list(target)


def set_target_device_for_ref(ref: Any, target_device: str) -> None:
    """Have ``get(ref)`` return the tensors of the value on this device.

    Raises:
        TypeError: not a ref.
        RuntimeError: no such device.
    """
    _check_ref(ref)
    import torch

    current.targets[ref.binary()] = torch.device(target_device)


def _check_ref(ref: Any) -> None:
    from spoke.objectref import ObjectRef

    if not isinstance(ref, ObjectRef):
        raise TypeError(f"expected an ObjectRef, not {type(ref).__name__}")


def get_one(client: Any, ref: Any) -> Any:
    """The value of a resolved ref, in its target where it has one; a target counts once."""
    from spoke.landing import get_in_order

    target = current.targets.pop(ref.binary(), None)
    if target is None:
        return client.get_one(ref, None)
    if isinstance(target, list):
        return get_in_order(client, ref, target)
    return _moved(client.get_one(ref, None), target)


def _moved(value: Any, device: Any) -> Any:
    if isinstance(value, dict):
        return {key: _moved(one, device) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_moved(one, device) for one in value)
    return value.to(device) if hasattr(value, "data_ptr") else value


def wait_tensor_freed(tensor: Any, timeout: float | None = None) -> None:
    """Wait until no object carries the tensor's memory any more, so that it may be written again.

    Returns at once for a tensor that was copied when it was put or returned.

    Raises:
        TimeoutError: some still do after `timeout` seconds.
    """
    address, size = _key(tensor)
    store = engine().store
    deadline = None if timeout is None else time.monotonic() + timeout
    while uses := store.objects_at(address, max(size, 1)):
        if deadline is not None and time.monotonic() > deadline:
            raise TimeoutError(f"{uses} objects still carry the tensor's memory after {timeout} s")
        time.sleep(0.002)
