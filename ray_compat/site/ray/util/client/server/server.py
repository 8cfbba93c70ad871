"""Names of `ray.util.client.server.server`: refused when used, as there is no client server."""

from __future__ import annotations

from ray_compat.refusing import refused

_WHY = "there is no client server: a program joins the cluster itself, init('ray://host:port') too"

init_and_serve = refused(f"{__name__}.init_and_serve", _WHY)
serve = refused(f"{__name__}.serve", _WHY)
shutdown_with_server = refused(f"{__name__}.shutdown_with_server", _WHY)
