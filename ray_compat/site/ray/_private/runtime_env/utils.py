"""Names of `ray._private.runtime_env.utils`."""

from __future__ import annotations

import subprocess

from ray_compat.refusing import refused


class SubprocessCalledProcessError(subprocess.CalledProcessError):
    """A command failed that makes an environment."""


check_output_cmd = refused(f"{__name__}.check_output_cmd", "use asyncio.create_subprocess_exec")
