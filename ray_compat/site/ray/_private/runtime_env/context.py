"""Names of `ray._private.runtime_env.context`."""

from __future__ import annotations

from ray_compat.refusing import refused

RuntimeEnvContext = refused(
    f"{__name__}.RuntimeEnvContext", "it is handed on inside of Ray's agent; see runtime_env of tasks"
)
