"""A process enters its runtime environment: search path, interpreter, setup hook.

Rules of this module: run once, before user code is imported.  `config` is `parts.Made.config`: `front`
(directories searched first), `prefix` and `site` (of a virtual environment), `foreign` (another
interpreter, whose own search path counts), `hook`.
"""

from __future__ import annotations

import os
import sys
from typing import Any, Final

HOOK_FAILED: Final = 76  # exit code of a worker whose setup hook raised

_config: dict[str, Any] = {}


def enter(config: dict[str, Any], sys_path: list[str], own: list[str]) -> None:
    """Take over an environment.

    Args:
        sys_path: of the driver; empty if it is not known yet.
        own: the directories that hold Spoke and what it needs.
    """
    _config.update(config)
    if config.get("prefix") and not config.get("foreign") and sys.prefix != config["prefix"]:
        sys.prefix = sys.exec_prefix = config["prefix"]
        sys.executable = os.path.join(config["prefix"], "bin", "python")
    before = [path for path in sys.path if path not in own]
    if sys_path:
        base = _without_stdlib(sys_path) + before if config.get("foreign") else sys_path
        sys.path[:] = base
    sys.path[:] = arranged(sys.path)
    sys.path += [path for path in own if path not in sys.path]
    if not config.get("foreign"):
        for directory in config.get("site") or ():
            _read_path_files(directory)


def take_paths(sys_path: list[str]) -> None:
    """The driver's search path, known only now: before this process's own, but for the environment's."""
    mine = _without_stdlib(sys_path) if _config.get("foreign") else sys_path
    sys.path[:] = arranged([*mine, *(path for path in sys.path if path not in mine)])


def arranged(paths: list[str]) -> list[str]:
    """A search path with the environment's directories where they belong: those that the user names first,
    installed packages before those that were installed already."""
    front, site = _config.get("front") or [], _config.get("site") or []
    rest = [path for path in paths if path not in front and path not in site]
    at = next((index for index, path in enumerate(rest) if _installed(path)), len(rest))
    return [*front, *rest[:at], *site, *rest[at:]]


def _installed(path: str) -> bool:
    return os.path.basename(path) in ("site-packages", "dist-packages")


def _without_stdlib(sys_path: list[str]) -> list[str]:
    """The entries of the driver's path that are no part of its interpreter."""
    found = []
    for path in sys_path:
        parts = path.split(os.sep)
        if not any(part.startswith("python3") for part in parts) and not path.endswith(".zip"):
            found.append(path)
    return found


def _read_path_files(directory: str) -> None:
    """Heed the .pth files of a virtual environment, as the interpreter's start does."""
    import site

    known = list(sys.path)
    site.addsitedir(directory, set(known))
    added = [path for path in sys.path if path not in known]
    if added:  # behind the directory that names them
        rest = [path for path in sys.path if path not in added]
        at = rest.index(directory) + 1 if directory in rest else len(rest)
        sys.path[:] = [*rest[:at], *added, *rest[at:]]


def run_hook() -> str:
    """Run the setup hook; the reason why it failed, or an empty text."""
    hook = _config.get("hook")
    if not hook:
        return ""
    try:
        if isinstance(hook, str):
            import importlib

            module, _, name = hook.rpartition(".")
            function = getattr(importlib.import_module(module), name)
        else:
            import base64

            from spoke import codec

            function = codec.loads(base64.b64decode(hook["pickled"]))
        function()
    except BaseException:
        import traceback

        name = hook if isinstance(hook, str) else hook.get("name", "")
        return f"Failed to execute the setup hook method. Function name:{name}\n{traceback.format_exc()}"
    return ""
