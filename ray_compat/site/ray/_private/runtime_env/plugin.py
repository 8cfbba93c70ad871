"""Names of `ray._private.runtime_env.plugin`."""

from __future__ import annotations


class RuntimeEnvPlugin:
    """What programs derive plugins of runtime environments from; Spoke loads none of them."""

    name: str | None = None
    priority = 10
