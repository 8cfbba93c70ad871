"""How callers get their runtime environments fit for other nodes.

Light: the work is imported when it is needed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from spoke.client import Client


def resolver(client: Client) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    """What `upload.resolve` does, by this client's cluster."""

    def resolve(environment: Mapping[str, Any]) -> dict[str, Any]:
        from spoke.envs import upload

        return upload.resolve(environment, client.request)

    return resolve


def enter_job(client: Client, environment: Mapping[str, Any]) -> dict[str, Any]:
    """The environment of a driver's job: uploaded, and made ahead of need unless its config says no.

    Raises:
        ValueError, RuntimeEnvSetupError: as `upload.resolve`.
    """
    if not environment:
        return {}
    from spoke import runtime_env

    found = resolver(client)(environment) if runtime_env.rest_of(environment) else dict(environment)
    found.pop("excludes", None)
    eager = (environment.get("config") or {}).get("eager_install", True)
    if eager and runtime_env.rest_of(found):
        client.request("env_eager", 10.0, env=runtime_env.worker_variables(found))
    return found
