"""Collective operations between actors or tasks: every rank calls the same function with its tensor.

A group is made by all its ranks with `init_collective_group`, or declared once by whoever holds the
actors' handles with `create_collective_group`; then its ranks meet at their first operation.  Tensors
are torch tensors or numpy arrays, and change in place.
"""

from __future__ import annotations

import importlib.util
import json
import threading
from typing import Any

from spoke import absent
from spoke.experimental import internal_kv
from spoke.runtime_context import get_runtime_context
from spoke.util.collective import types
from spoke.util.collective.groups import KV_NAMESPACE, TorchGroup, key_of
from spoke.util.collective.own import OwnGroup
from spoke.util.collective.types import Backend, ReduceOp

__all__ = [
    "Backend", "ReduceOp", "allgather", "allgather_multigpu", "allreduce", "allreduce_multigpu", "barrier",
    "broadcast", "broadcast_multigpu", "create_collective_group", "destroy_collective_group",
    "get_collective_group_size", "get_group_handle", "get_rank", "gloo_available", "init_collective_group",
    "is_backend_available", "is_group_initialized", "nccl_available", "recv", "recv_multigpu", "reduce",
    "reduce_multigpu", "reducescatter", "reducescatter_multigpu", "register_collective_backend", "send",
    "send_multigpu",
]  # fmt: skip

_groups: dict[str, Any] = {}
_custom: dict[str, type] = {}
_lock = threading.Lock()
_NEEDS = {Backend.NCCL: "torch with CUDA and a GPU", Backend.GLOO: "torch", Backend.SPOKE: "numpy"}


# -- backends -------------------------------------------------------------------------------------


def gloo_available() -> bool:
    """Can groups of the backend "gloo" be made here?  It takes torch."""
    if not types.torch_available():
        return False
    import torch.distributed as dist

    return bool(dist.is_available() and dist.is_gloo_available())


def nccl_available() -> bool:
    """Can groups of the backend "nccl" be made here?  It takes torch with CUDA, and a GPU."""
    if not types.torch_available():
        return False
    import torch
    import torch.distributed as dist

    return bool(dist.is_available() and dist.is_nccl_available() and torch.cuda.is_available())


def is_backend_available(backend: str) -> bool:
    """Can groups of this backend be made here?

    Raises:
        ValueError: no backend of this name is registered.
    """
    name = Backend(backend)
    if name in _custom:
        return True
    if name == Backend.SPOKE:
        return importlib.util.find_spec("numpy") is not None
    return gloo_available() if name == Backend.GLOO else nccl_available()


def register_collective_backend(name: str, group_cls: type) -> None:
    """Add a backend: a class made as ``group_cls(world_size, rank, group_name)`` with `TorchGroup`'s methods.

    Raises:
        ValueError: the name is taken.
    """
    upper = name.upper()
    if upper in Backend._registered:
        raise ValueError(f"Backend {upper} already registered")
    setattr(Backend, upper, upper)
    Backend._registered.add(upper)
    _custom[upper] = group_cls


# -- groups ---------------------------------------------------------------------------------------


def init_collective_group(
    world_size: int,
    rank: int,
    backend: str = Backend.NCCL,
    group_name: str = "default",
    gloo_timeout: int = 30000,
) -> None:
    """Join a group as one of its ranks; returns when all have come.

    Args:
        backend: "nccl" (GPUs), "gloo" (CPUs, with torch) or "spoke" (CPUs, through Spoke's own movers).
        gloo_timeout: milliseconds for the ranks to meet, and for each operation.

    Raises:
        RuntimeError: this process is in a group of that name, or the backend cannot be used here.
        ValueError: no such backend.
        AssertionError: a world size or rank out of range.
    """
    name = Backend(backend)
    if not group_name:
        raise ValueError(f"group_name '{group_name}' needs to be a string.")
    with _lock:
        if group_name in _groups:
            raise RuntimeError("Trying to initialize a group a second time.")
    assert world_size > 0, f"world_size must be positive, not {world_size}"
    assert rank >= 0, f"rank must not be negative, not {rank}"
    assert rank < world_size, f"rank {rank} is not below the world size {world_size}"
    if not is_backend_available(name):
        raise RuntimeError(f"{name} is not available here: it needs {_NEEDS[name]}")
    made: Any
    if name in _custom:
        made = _custom[name](world_size, rank, group_name)
    elif name == Backend.SPOKE:
        made = OwnGroup(world_size, rank, group_name, gloo_timeout)
    else:
        made = TorchGroup(world_size, rank, group_name, name, gloo_timeout)
        _first_meeting(made)
    with _lock:
        _groups[group_name] = made


def _first_meeting(group: TorchGroup) -> None:
    """All ranks are connected when this returns, so that a first operation does not pay for it."""
    if group.world_size > 1 and group._backend == Backend.GLOO:
        group.barrier(types.BarrierOptions())


def create_collective_group(
    actors: list[Any],
    world_size: int,
    ranks: list[int],
    backend: str = Backend.NCCL,
    group_name: str = "default",
    gloo_timeout: int = 30000,
) -> None:
    """Declare a group of actors; each joins at its first operation.

    Raises:
        RuntimeError: a group of this name was declared, or actors, ranks and world size do not fit.
        ValueError: no such backend.
    """
    name = Backend(backend)
    key = key_of("declared", group_name)
    if internal_kv._internal_kv_exists(key, namespace=KV_NAMESPACE):
        raise RuntimeError("Trying to initialize a group twice.")
    if len(ranks) != len(actors):
        raise RuntimeError(
            f"Each actor should correspond to one rank. Got '{len(ranks)}' ranks but '{len(actors)}' actors"
        )
    if set(ranks) != set(range(len(ranks))):
        raise RuntimeError(f"Ranks must be a permutation from 0 to '{len(ranks)}'. Got '{ranks}'.")
    if world_size <= 0:
        raise RuntimeError(f"World size must be greater than zero. Got '{world_size}'.")
    if not all(rank < world_size for rank in ranks):
        raise RuntimeError(f"Ranks cannot be greater than world_size. Got '{ranks}' for '{world_size}'.")
    told = {
        "ranks": {actor._actor_id.hex(): rank for actor, rank in zip(actors, ranks, strict=True)},
        "world_size": world_size,
        "backend": str(name),
        "timeout": gloo_timeout,
    }
    internal_kv._internal_kv_put(key, json.dumps(told), namespace=KV_NAMESPACE)


def destroy_collective_group(group_name: str = "default") -> None:
    """Leave a group; nothing happens if this process is in none of that name."""
    with _lock:
        group = _groups.pop(group_name, None)
    if group is not None:
        group.destroy_group()
        if group.rank == 0:
            internal_kv._internal_kv_del(key_of("declared", group_name), namespace=KV_NAMESPACE)


def is_group_initialized(group_name: str) -> bool:
    """Is this process in a group of that name?"""
    return group_name in _groups


def get_rank(group_name: str = "default") -> int:
    """This process's rank, or -1 if it is in no group of that name."""
    group = _groups.get(group_name)
    return -1 if group is None else int(group.rank)


def get_collective_group_size(group_name: str = "default") -> int:
    """How many ranks the group has, or -1 if this process is in no group of that name."""
    group = _groups.get(group_name)
    return -1 if group is None else int(group.world_size)


def get_group_handle(group_name: str = "default") -> Any:
    """The group; a declared one is joined now.

    Raises:
        RuntimeError: this process is in no group of that name, and none that names it is declared.
    """
    group = _groups.get(group_name)
    if group is not None:
        return group
    found = internal_kv._internal_kv_get(key_of("declared", group_name), namespace=KV_NAMESPACE)
    told = json.loads(found) if found else {"ranks": {}}
    rank = told["ranks"].get(get_runtime_context().get_actor_id())
    if rank is None:
        raise RuntimeError(f"The collective group '{group_name}' is not initialized in the process.")
    init_collective_group(told["world_size"], rank, told["backend"], group_name, told["timeout"])
    return _groups[group_name]


# -- operations -----------------------------------------------------------------------------------


def _checked(tensor: Any) -> Any:
    kind = type(tensor)
    module = kind.__module__.split(".")[0]
    if kind.__name__ == "ndarray" and module in ("numpy", "cupy"):
        return tensor
    if any(base.__module__.split(".")[0] == "torch" and base.__name__ == "Tensor" for base in kind.__mro__):
        return tensor
    raise RuntimeError(
        f"Unrecognized tensor type '{kind}'. Supported types are: np.ndarray, torch.Tensor, cupy.ndarray."
    )


def _checked_list(tensors: Any) -> Any:
    if not isinstance(tensors, list):
        raise RuntimeError(f"The input must be a list of tensors. Got '{type(tensors)}'.")
    if not tensors:
        raise RuntimeError("Got an empty list of tensors.")
    for tensor in tensors:
        _checked(tensor)
    return tensors


def _rank_of(group: Any, rank: int) -> int:
    if rank < 0:
        raise ValueError(f"rank '{rank}' is negative.")
    if rank >= group.world_size:
        raise ValueError(f"rank '{rank}' must be less than world size '{group.world_size}'")
    return rank


def allreduce(tensor: Any, group_name: str = "default", op: ReduceOp = ReduceOp.SUM) -> None:
    """Every rank's tensor becomes the reduction of all."""
    _checked(tensor)
    get_group_handle(group_name).allreduce([tensor], types.AllReduceOptions(op))


def barrier(group_name: str = "default") -> None:
    """Wait for all ranks."""
    get_group_handle(group_name).barrier(types.BarrierOptions())


def reduce(tensor: Any, dst_rank: int = 0, group_name: str = "default", op: ReduceOp = ReduceOp.SUM) -> None:
    """The tensor of rank `dst_rank` becomes the reduction of all."""
    _checked(tensor)
    group = get_group_handle(group_name)
    group.reduce([tensor], types.ReduceOptions(op, _rank_of(group, dst_rank)))


def broadcast(tensor: Any, src_rank: int = 0, group_name: str = "default") -> None:
    """Every rank's tensor becomes that of rank `src_rank`."""
    _checked(tensor)
    group = get_group_handle(group_name)
    group.broadcast([tensor], types.BroadcastOptions(_rank_of(group, src_rank)))


def allgather(tensor_list: list[Any], tensor: Any, group_name: str = "default") -> None:
    """Every rank's list of tensors becomes the tensors of all ranks.

    Raises:
        RuntimeError: the list has not one tensor per rank.
    """
    _checked(tensor)
    _checked_list(tensor_list)
    group = get_group_handle(group_name)
    if len(tensor_list) != group.world_size:
        raise RuntimeError("The length of the tensor list operands to allgather must be equal to world_size.")
    group.allgather([tensor_list], [tensor], types.AllGatherOptions())


def reducescatter(
    tensor: Any, tensor_list: list[Any], group_name: str = "default", op: ReduceOp = ReduceOp.SUM
) -> None:
    """Every rank's tensor becomes the reduction of all ranks' list entries of its number.

    Raises:
        RuntimeError: the list has not one tensor per rank.
    """
    _checked(tensor)
    _checked_list(tensor_list)
    group = get_group_handle(group_name)
    if len(tensor_list) != group.world_size:
        raise RuntimeError(
            "The length of the tensor list operands to reducescatter must be equal to world_size."
        )
    group.reducescatter([tensor], [tensor_list], types.ReduceScatterOptions(op))


def send(tensor: Any, dst_rank: int, group_name: str = "default") -> None:
    """Send to a rank that calls `recv`.

    Raises:
        RuntimeError: the rank is this one.
    """
    _checked(tensor)
    group = get_group_handle(group_name)
    if _rank_of(group, dst_rank) == group.rank:
        raise RuntimeError(f"The destination rank '{dst_rank}' is self.")
    group.send([tensor], types.SendOptions(dst_rank))


def recv(tensor: Any, src_rank: int, group_name: str = "default") -> None:
    """Receive into the tensor what a rank sends.

    Raises:
        RuntimeError: the rank is this one.
    """
    _checked(tensor)
    group = get_group_handle(group_name)
    if _rank_of(group, src_rank) == group.rank:
        raise RuntimeError(f"The destination rank '{src_rank}' is self.")
    group.recv([tensor], types.RecvOptions(src_rank))


# -- several devices of one process ---------------------------------------------------------------


def _one_process_per_gpu() -> RuntimeError:
    return RuntimeError(
        "Multigpu calls requires NCCL and Cupy. Run one actor per GPU and use the function without _multigpu."
    )


def allreduce_multigpu(
    tensor_list: list[Any], group_name: str = "default", op: ReduceOp = ReduceOp.SUM
) -> None:
    """`allreduce` of several devices of this process: refused, as in Ray without cupy."""
    raise _one_process_per_gpu()


def reduce_multigpu(
    tensor_list: list[Any],
    dst_rank: int = 0,
    dst_tensor: int = 0,
    group_name: str = "default",
    op: ReduceOp = ReduceOp.SUM,
) -> None:
    """`reduce` of several devices of this process: refused, as in Ray without cupy."""
    raise _one_process_per_gpu()


def broadcast_multigpu(
    tensor_list: list[Any], src_rank: int = 0, src_tensor: int = 0, group_name: str = "default"
) -> None:
    """`broadcast` of several devices of this process: refused, as in Ray without cupy."""
    raise _one_process_per_gpu()


def allgather_multigpu(
    output_tensor_lists: list[Any], input_tensor_list: list[Any], group_name: str = "default"
) -> None:
    """`allgather` of several devices of this process: refused, as in Ray without cupy."""
    raise _one_process_per_gpu()


def reducescatter_multigpu(
    output_tensor_list: list[Any],
    input_tensor_lists: list[Any],
    group_name: str = "default",
    op: ReduceOp = ReduceOp.SUM,
) -> None:
    """`reducescatter` of several devices of this process: refused, as in Ray without cupy."""
    raise _one_process_per_gpu()


def send_multigpu(
    tensor: Any, dst_rank: int, dst_gpu_index: int, group_name: str = "default", n_elements: int = 0
) -> None:
    """`send` from one of several devices of this process: refused, as in Ray without cupy."""
    raise _one_process_per_gpu()


def recv_multigpu(
    tensor: Any, src_rank: int, src_gpu_index: int, group_name: str = "default", n_elements: int = 0
) -> None:
    """`recv` to one of several devices of this process: refused, as in Ray without cupy."""
    raise _one_process_per_gpu()


__getattr__ = absent.getter(__name__)
