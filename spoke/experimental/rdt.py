"""`ray.experimental.rdt`: the names of direct tensor transfer; see `spoke.experimental.direct`."""

from __future__ import annotations

from typing import Any

from spoke.experimental.direct import (
    deregister_nixl_memory,
    register_nixl_memory,
    register_nixl_memory_pool,
    set_nixl_cuda_stream,
    set_target_device_for_ref,
    set_target_for_ref,
    wait_tensor_freed,
)

__all__ = [
    "deregister_nixl_memory",
    "register_nixl_memory",
    "register_nixl_memory_pool",
    "set_nixl_cuda_stream",
    "set_target_device_for_ref",
    "set_target_for_ref",
    "wait_tensor_freed",
]


def __getattr__(name: str) -> Any:
    from spoke import absent

    return absent.resolve(__name__, name)
