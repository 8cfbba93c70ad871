"""`import ray` unchanged, on Spoke.

The folder `site` beside this module holds a package `ray`, which mirrors Spoke under Ray's names, and the
metadata of the distribution `ray` in the version whose interface this is.  Whoever has that folder on its
module search path, before any real Ray, imports Spoke by ``import ray``; everybody else is not affected.
So there is one switch for all ways in, and it is the search path:

    python -m ray_compat script.py [args]       one program and all its children
    export PYTHONPATH=$(python -m ray_compat --path)     a shell, a container, a service
    import ray_compat; ray_compat.install()     this process from now on, and its children

Its folder `bin` holds the executable ``ray``, whose commands are Spoke's; the first and the third way put it
on the PATH of what they start, in a shell one adds it: ``PATH=$(python -m ray_compat --bin):$PATH``.

Rules of this package: only Spoke's public names are used; nothing is patched, so going back is a matter
of not having the folder on the path.
"""

from __future__ import annotations

import os
import sys

__all__ = ["executables", "install", "search_path"]


def search_path() -> str:
    """The folder that makes ``import ray`` find Spoke, for PYTHONPATH."""
    return os.path.join(os.path.dirname(os.path.abspath(__file__)), "site")


def executables() -> str:
    """The folder with the executable ``ray``, for PATH."""
    return os.path.join(search_path(), "bin")


def install() -> None:
    """Make ``import ray`` find Spoke in this process and in all that it starts from now on.

    Calling it again changes nothing.

    Raises:
        RuntimeError: real Ray is imported already, or this process is connected to a cluster, whose
            workers then do not know of it.
    """
    known = sys.modules.get("ray")
    if known is not None and not hasattr(known, "__spoke__"):
        raise RuntimeError("Real Ray is imported already: call ray_compat.install() before `import ray`.")
    import spoke

    folder = search_path()
    if known is None and spoke.is_initialized() and folder not in sys.path:
        raise RuntimeError("Call ray_compat.install() before init(): the workers must know of it, too.")
    if folder not in sys.path[:1]:
        sys.path[:] = [folder, *(path for path in sys.path if path != folder)]
    _put_first("PYTHONPATH", folder)
    _put_first("PATH", executables())
    os.environ["RAY_COMPAT_PYTHON"] = sys.executable


def _put_first(variable: str, folder: str) -> None:
    """Make a folder the first of a list of folders that children inherit."""
    inherited = [path for path in os.environ.get(variable, "").split(os.pathsep) if path]
    if folder not in inherited[:1]:
        kept = [path for path in inherited if path != folder]
        os.environ[variable] = os.pathsep.join([folder, *kept])
