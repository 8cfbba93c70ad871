"""Names of `ray.experimental` that programs use."""

from __future__ import annotations

from typing import Any

_MODULES = frozenset({"channel", "collective", "compiled_dag_ref", "internal_kv", "tqdm_ray"})


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        import importlib

        try:
            return importlib.import_module(f"{__name__}.{name}")
        except ModuleNotFoundError as error:
            if error.name != f"{__name__}.{name}":
                raise
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
