"""At the driver: an environment with local paths becomes one that every node can make.

Rules of this module: directories and archives become packages that the hub keeps; each is sent once per
cluster, as its name says what is in it.  What the user may do wrong is raised here, at `init`, at the
first `remote`, or at the submission of a job.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

from spoke import config
from spoke.envs import packages
from spoke.errors import RuntimeEnvSetupError
from spoke.limits import MAX_SETUP_HOOK_BYTES, PACKAGE_PIECE_BYTES
from spoke.runtime_env import is_uri

Ask = Callable[..., Any]  # (what, timeout, **args) -> the hub's answer

UPLOAD_S = 300.0  # for one piece


def resolve(environment: Mapping[str, Any], ask: Ask) -> dict[str, Any]:
    """The environment with URIs in place of paths, and a setup hook that travels.

    Raises:
        ValueError: a path that is neither a directory nor an archive.
        RuntimeEnvSetupError: a package is too large, or could not be uploaded.
    """
    found = dict(environment)
    excludes = list(found.pop("excludes", None) or [])
    if found.get("working_dir"):
        found["working_dir"] = _working_dir(found["working_dir"], excludes, ask)
    if found.get("py_modules"):
        found["py_modules"] = [_module(module, excludes, ask) for module in found["py_modules"]]
    hook = found.get("worker_process_setup_hook")
    if callable(hook):
        found["worker_process_setup_hook"] = _pickled(hook)
    return found


def uris(environment: Mapping[str, Any]) -> list[str]:
    """The packages that a resolved environment names."""
    named = [environment.get("working_dir"), *(environment.get("py_modules") or ())]
    return [uri for uri in named if isinstance(uri, str) and uri.startswith(packages.PREFIX)]


def _working_dir(path: str, excludes: list[str], ask: Ask) -> str:
    if is_uri(path):
        return path
    limit, gitignore = _limit(), not config.get("runtime_env_ignore_gitignore")
    what = f"working_dir {path}"
    if os.path.isdir(path):
        default = config.get("runtime_env_default_excludes").split(",")
        patterns = [one.strip() for one in default if one.strip()] + excludes
        return _send(what, lambda: packages.pack(path, patterns, gitignore, limit), "", ask)
    if not os.path.isfile(path) or not packages.is_archive(path):
        kinds = ", ".join(packages.ARCHIVES)
        raise ValueError(f"directory {path} must be an existing directory or a supported archive ({kinds})")
    return _send(what, lambda: packages.read_archive(path, limit), path, ask)


def _module(module: Any, excludes: list[str], ask: Ask) -> str:
    path = _path_of(module) if isinstance(module, ModuleType) else str(module)
    if is_uri(path):
        return path
    limit, gitignore = _limit(), not config.get("runtime_env_ignore_gitignore")
    what = f"module {path}"
    if os.path.isdir(path) or path.endswith(".py"):
        parent = os.path.isdir(path)
        return _send(what, lambda: packages.pack(path, excludes, gitignore, limit, parent=parent), "", ask)
    if path.endswith(".whl"):
        return _send(what, lambda: packages.read_archive(path, limit), path, ask)
    if packages.is_archive(path):
        return _send(what, lambda: packages.read_archive(path, limit), path, ask)
    raise ValueError(
        f"py_modules entry must be a .py file, a directory, an archive or a .whl file; got {path}"
    )


def _path_of(module: ModuleType) -> str:
    places = list(getattr(module, "__path__", ()))
    if not places:
        return str(module.__file__)
    if len(places) > 1:
        raise ValueError("py_modules only supports modules whose __path__ has length 1 or single files.")
    return str(places[0])


def _limit() -> int:
    return int(config.get("runtime_env_package_bytes"))


def _send(what: str, read: Callable[[], bytes], name: str, ask: Ask) -> str:
    """Upload a package unless the cluster has it; its URI."""
    try:
        data = read()
        uri = packages.uri_of(data, name)
        if ask("package_hold", UPLOAD_S, uri=uri):
            return uri
        count = max(1, -(-len(data) // PACKAGE_PIECE_BYTES))
        for index in range(count):
            start = index * PACKAGE_PIECE_BYTES
            piece = data[start : start + PACKAGE_PIECE_BYTES]
            ask("package_put", UPLOAD_S, uri=uri, index=index, count=count, data=piece)
    except (ValueError, OSError) as error:
        raise RuntimeEnvSetupError(f"Failed to upload {what} to the cluster: {error}") from error
    return uri


def _pickled(hook: Callable[[], Any]) -> dict[str, str]:
    from spoke import codec

    name = str(getattr(hook, "__qualname__", hook))
    try:
        body = codec.dumps_function(hook)
    except Exception as error:
        text = f"worker_process_setup_hook {name} cannot be pickled: {error}"
        raise RuntimeEnvSetupError(f"Failed to export the setup function. {text}") from error
    if len(body) > MAX_SETUP_HOOK_BYTES:
        raise RuntimeEnvSetupError(
            f"worker_process_setup_hook {name} has {len(body)} bytes pickled, more than "
            f"{MAX_SETUP_HOOK_BYTES}: give its name, 'module.function', and its module by py_modules"
        )
    return {"name": name, "pickled": base64.b64encode(body).decode()}
