"""Names of `ray.runtime_env.runtime_env`."""

from __future__ import annotations

from spoke import runtime_env as _environments

RuntimeEnv = _environments.RuntimeEnv
RuntimeEnvConfig = _environments.RuntimeEnvConfig
