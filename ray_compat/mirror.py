"""Modules under Ray's names that show Spoke's: what ``import ray`` finds.

Rules of this module: a mirror holds nothing of its own.  It looks every name up in the module of Spoke
with the same path, at each use, so that what is set on a mirror (a test that replaces ``ray.get``)
stays there.  Files below ``site/ray`` win over mirrors: they are the private corners that programs reach
into.  Nothing else is found below ``ray``, whatever else is installed.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

import spoke
from spoke import current, errors

TOP = "ray"


def _spoke_name(name: str) -> str:
    return "spoke" + name.removeprefix(TOP)


class Mirror(ModuleType):
    """A module that shows another one's names."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name.endswith("__"):
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        own = f"{self.__name__}.{name}"
        if _file(own, self.__path__ if "__path__" in self.__dict__ else []) is not None:
            return importlib.import_module(own)  # such as `ray._private`, which nobody imported
        value = getattr(importlib.import_module(_spoke_name(self.__name__)), name)
        if isinstance(value, ModuleType) and value.__name__ == _spoke_name(own):
            return importlib.import_module(own)
        return value

    def __setattr__(self, name: str, value: Any) -> None:
        # The import system sets each submodule on its package; `ray.util.placement_group` is a module
        # and a function, and the function is what the attribute must stay.
        if isinstance(value, ModuleType) and value.__name__ == f"{self.__name__}.{name}":
            shown = getattr(importlib.import_module(_spoke_name(self.__name__)), name, None)
            if shown is not None and not isinstance(shown, ModuleType):
                return
        super().__setattr__(name, value)

    def __reduce__(self) -> tuple[Any, ...]:
        return importlib.import_module, (self.__name__,)  # a function of `__main__` that uses `ray`

    def __dir__(self) -> list[str]:
        return sorted({*self.__dict__, *dir(importlib.import_module(_spoke_name(self.__name__)))})


class _MirrorLoader(Loader):
    """Makes mirrors."""

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """An empty mirror."""
        return Mirror(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Take over what the import system reads from a module's own dict."""
        become(module)


def become(module: ModuleType) -> None:
    """Turn a module into a mirror of the one of Spoke with the same path."""
    module.__class__ = Mirror
    source = importlib.import_module(_spoke_name(module.__name__))
    module.__dict__.setdefault("__doc__", source.__doc__)
    names = getattr(source, "__all__", None)
    module.__dict__["__all__"] = (
        [name for name in dir(source) if not name.startswith("_")] if names is None else list(names)
    )


class RayFinder(MetaPathFinder):
    """Finds everything below ``ray``, and nothing else."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The file below ``site/ray``, or a mirror.

        Raises:
            ModuleNotFoundError: Spoke does not carry the module, and it is being imported.
        """
        if not fullname.startswith(f"{TOP}."):
            return None
        own = _tests() if fullname == f"{TOP}.tests" else _file(fullname, path)
        if own is not None:
            return own
        source = _public(fullname)
        if source is not None:
            below = None if source.submodule_search_locations is None else [_folder(fullname)]
            spec = ModuleSpec(fullname, _MirrorLoader(), origin=source.origin, is_package=below is not None)
            spec.submodule_search_locations = below
            return spec
        if _is_import():
            raise ModuleNotFoundError(
                f"{fullname} is not carried by Spoke, which stands in for ray here; spoke/COVERAGE.md "
                "says of every name what works and what to use instead",
                name=TOP,  # with its own name, `from ray import data` would hide this text
            )
        return None


def _file(fullname: str, path: Sequence[str] | None) -> ModuleSpec | None:
    """The spec of the file below ``site/ray``, or None; a mere folder holds files of what is mirrored."""
    found = PathFinder.find_spec(fullname, path)
    return None if found is None or found.loader is None else found


def _tests() -> ModuleSpec | None:
    """Ray's own tests, where a program has them: no part of what is installed, and written for any `ray`."""
    return PathFinder.find_spec(f"{TOP}.tests", [os.path.join(path, TOP) for path in sys.path])


def _public(fullname: str) -> ModuleSpec | None:
    """The spec of Spoke's public module of this path, or None."""
    if fullname.split(".")[1] not in spoke.MODULES:
        return None
    try:
        return importlib.util.find_spec(_spoke_name(fullname))
    except (ImportError, ValueError):
        return None


def _folder(fullname: str) -> str:
    """Where own files below a mirrored package are."""
    top = os.path.dirname(os.path.abspath(__file__))
    return os.path.join(top, "site", *fullname.split("."))


def _is_import() -> bool:
    """Is it an import that asks, and not ``importlib.util.find_spec``, which must not raise?"""
    frame = sys._getframe(1)
    while frame is not None and frame.f_code.co_name in ("find_spec", "_find_spec"):
        if frame.f_code.co_filename == importlib.util.__file__:
            return False
        frame = frame.f_back  # type: ignore[assignment]
    return frame is not None and frame.f_code.co_name == "_find_and_load_unlocked"


def _client(address: str | None = None, _deprecation_warn_enabled: bool = True) -> Any:
    """See `ray.client_builder.client`."""
    return importlib.import_module(f"{TOP}.client_builder").client(address, _deprecation_warn_enabled)


def _joined(*told: Any) -> None:
    importlib.import_module(f"{TOP}._private.worker").log_joined(*told)


def serve(module: ModuleType) -> None:
    """Make `module`, the package ``ray``, the mirror of ``spoke``."""
    if not any(isinstance(finder, RayFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, RayFinder())
    errors.show_as("ray.exceptions")
    current.joined = _joined
    module.__dict__["__spoke__"] = spoke.__version__
    module.__dict__["__version__"] = spoke.RAY_VERSION
    module.__dict__["__commit__"] = "spoke"
    module.__dict__["client"] = _client  # in `spoke`, this is the name of a module
    current.joins_started_heads = True
    current.first_path = os.path.dirname(_folder(TOP))
    become(module)
