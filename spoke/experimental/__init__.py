"""Names of `ray.experimental` that programs use."""

from __future__ import annotations

from typing import Any

_LAZY = {
    "deregister_nixl_memory": "direct",
    "register_nixl_memory": "direct",
    "register_nixl_memory_pool": "direct",
    "set_nixl_cuda_stream": "direct",
    "set_target_device_for_ref": "direct",
    "set_target_for_ref": "direct",
    "wait_tensor_freed": "direct",
    "get_local_object_locations": "locations",
    "get_object_locations": "locations",
    "set_resource": "dynamic_resources",
}
_MODULES = frozenset({
    "channel", "collective", "compiled_dag_ref", "dynamic_resources", "internal_kv", "locations",
    "multiprocessing", "queue", "rdt", "state", "tqdm_ray", "util",
})  # fmt: skip


def __getattr__(name: str) -> Any:
    import importlib

    if name in _LAZY:
        return getattr(importlib.import_module(f"{__name__}.{_LAZY[name]}"), name)
    if name in _MODULES:
        try:
            return importlib.import_module(f"{__name__}.{name}")
        except ModuleNotFoundError as error:
            if error.name != f"{__name__}.{name}":
                raise
    from spoke import absent

    return absent.resolve(__name__, name)
