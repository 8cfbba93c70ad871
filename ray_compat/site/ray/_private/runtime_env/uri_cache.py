"""Names of `ray._private.runtime_env.uri_cache`."""

from __future__ import annotations

from ray_compat.refusing import refused

URICache = refused(f"{__name__}.URICache", "the parts of environments stay while a node's session does")
