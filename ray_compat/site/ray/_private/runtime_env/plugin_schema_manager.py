"""Names of `ray._private.runtime_env.plugin_schema_manager`."""

from __future__ import annotations

from typing import Any

from ray_compat.refusing import refused


class RuntimeEnvPluginSchemaManager:
    """Schemas of fields that plugins add to runtime environments: there are no plugins."""

    schemas: dict[str, Any] = {}
    loaded = False
    validate = staticmethod(
        refused(f"{__name__}.RuntimeEnvPluginSchemaManager.validate", "runtime environments have no plugins")
    )

    @classmethod
    def clear(cls) -> None:
        """Forget all schemas."""
        cls.schemas.clear()
        cls.loaded = False
