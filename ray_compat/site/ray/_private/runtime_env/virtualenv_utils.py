"""Names of `ray._private.runtime_env.virtualenv_utils`."""

from __future__ import annotations

import os
import sys


def is_in_virtualenv() -> bool:
    """Whether this interpreter is that of a virtual environment."""
    return sys.base_prefix != sys.prefix


def get_virtualenv_path(target_dir: str) -> str:
    """Where the environment of a directory is."""
    return os.path.join(target_dir, "virtualenv")


def get_virtualenv_python(target_dir: str) -> str:
    """Its interpreter."""
    return os.path.join(get_virtualenv_path(target_dir), "bin", "python")
