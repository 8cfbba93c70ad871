"""Names of `ray._private.runtime_env.constants`."""

from __future__ import annotations

from typing import Final

RAY_JOB_CONFIG_JSON_ENV_VAR: Final = "RAY_JOB_CONFIG_JSON_ENV_VAR"
