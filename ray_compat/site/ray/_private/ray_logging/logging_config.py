"""Names of `ray._private.ray_logging.logging_config`."""

from __future__ import annotations

from spoke.job_config import LoggingConfig as LoggingConfig
