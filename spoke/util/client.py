"""Joining a cluster from outside in the style of Ray Client: ``client("host:port").connect()``.

There is no client server: the program becomes a driver of the cluster, with all that a driver can do.
"""

from __future__ import annotations

from typing import Any

from spoke.lifecycle import Context, init, is_initialized, shutdown


class ClientBuilder:
    """Collects arguments for `connect`; every method gives the builder back.

    Args:
        address: ``host:port``, with or without ``ray://``; None or "local" starts a cluster.
    """

    def __init__(self, address: str | None) -> None:
        self.address = address
        self._arguments: dict[str, Any] = {}

    def env(self, env: dict[str, Any]) -> ClientBuilder:
        """Set the runtime environment of the job."""
        self._arguments["runtime_env"] = env
        return self

    def namespace(self, namespace: str) -> ClientBuilder:
        """Set the namespace of named actors."""
        self._arguments["namespace"] = namespace
        return self

    def connect(self) -> Context:
        """Join the cluster.

        Raises:
            ConnectionError: there is none at the address.
            RuntimeError: this process is connected already.
        """
        return init(self.address, **self._arguments)


def client(address: str | None = None, _deprecation_warn_enabled: bool = True) -> ClientBuilder:
    """A builder of a connection to the cluster at `address`."""
    return ClientBuilder(address)


def connect(
    conn_str: str,
    secure: bool = False,
    metadata: list[tuple[str, str]] | None = None,
    connection_retries: int = 3,
    job_config: Any = None,
    namespace: str | None = None,
    *,
    ignore_version: bool = False,
    _credentials: Any = None,
    ray_init_kwargs: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Join the cluster at ``host:port`` as a driver; facts about the connection.

    Args:
        job_config, namespace: as of `init`.
        ray_init_kwargs: further arguments of `init`.
        secure, metadata, connection_retries, ignore_version, _credentials: accepted for compatibility;
            links prove the cluster token to each other.

    Raises:
        ConnectionError: there is no cluster at the address.
        RuntimeError: this process is connected already.
    """
    import sys

    from spoke.version import RAY_VERSION

    init(conn_str, job_config=job_config, namespace=namespace, **(ray_init_kwargs or {}))
    return {
        "num_clients": 1,
        "python_version": ".".join(str(part) for part in sys.version_info[:3]),
        "ray_version": RAY_VERSION,
        "ray_commit": "spoke",
    }


def disconnect() -> None:
    """Leave the cluster, if this process is in one."""
    if is_initialized():
        shutdown()
