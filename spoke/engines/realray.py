"""The one place that imports real Ray, under its own name.

Rules of this module: nothing is imported before a program asks for the engine.  The switch of `ray_compat`
makes ``import ray`` find Spoke; real Ray cannot run then, as its own modules import each other by that name,
so the engine is refused with the way out.
"""

from __future__ import annotations

import sys
from typing import Any

NEEDED = (2, 9)  # first version with all calls that the engine makes


def is_switched() -> bool:
    """Does ``import ray`` mean Spoke in this process?"""
    if "ray" in sys.modules:
        return hasattr(sys.modules["ray"], "__spoke__")
    from importlib.util import find_spec

    found = find_spec("ray")
    origin = (found.origin or "") if found is not None else ""
    return origin.replace("\\", "/").endswith("ray_compat/site/ray/__init__.py")


def is_connected() -> bool:
    """Does this process belong to a Ray cluster, as a driver or a worker of its own?"""
    ray = sys.modules.get("ray")
    worker = sys.modules.get("ray._private.worker")
    if ray is None or worker is None or hasattr(ray, "__spoke__"):
        return False
    return bool(worker.global_worker.connected)


def in_worker() -> bool:
    """Is this process a worker of a Ray cluster?"""
    worker = sys.modules.get("ray._private.worker")
    return worker is not None and is_connected() and worker.global_worker.mode == worker.WORKER_MODE


def load() -> Any:
    """The module ``ray``.

    Raises:
        RuntimeError: ``import ray`` finds Spoke.
        ImportError: Ray is not installed, or too old.
    """
    if is_switched():
        raise RuntimeError(
            "engine='ray' needs real Ray, and in this process `import ray` is Spoke (ray_compat's switch "
            "is on). Run the program without the switch and import Spoke by its name: `import spoke as ray`."
        )
    try:
        import ray
    except ImportError as error:
        if error.name != "ray":
            raise
        raise ImportError(
            "engine='ray' needs Ray in this environment: pip install 'ray>=2.9', or leave the engine out to "
            "run on Spoke's own cluster",
            name="ray",
        ) from None
    version = tuple(int(part) for part in ray.__version__.split(".")[:2] if part.isdigit())
    if version < NEEDED:
        raise ImportError(f"engine='ray' needs Ray 2.9 or newer, found {ray.__version__}", name="ray")
    return ray
