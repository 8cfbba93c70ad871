"""Names of `ray._private.services`."""

from __future__ import annotations

from typing import Any

from spoke.util import get_node_ip_address as _own_address


def get_node_ip_address(address: str = "8.8.8.8:53") -> str:
    """The address of this node as the cluster's other nodes see it."""
    return _own_address()


def canonicalize_bootstrap_address(addr: str | None, temp_dir: str | None = None) -> str | None:
    """``host:port`` of a cluster, or None for "auto" and the like."""
    return None if addr in (None, "auto", "local") else addr


def canonicalize_bootstrap_address_or_die(addr: str | None, temp_dir: str | None = None) -> str:
    """``host:port`` of a cluster; of the one on this machine for "auto".

    Raises:
        ConnectionError: there is none.
    """
    given = canonicalize_bootstrap_address(addr)
    if given is not None:
        return given
    from spoke import records

    found = records.find("auto")
    if found is None:
        raise ConnectionError("Could not find any running Ray instance. Specify the one to connect to.")
    return str(found["address"])


def find_gcs_addresses() -> set[str]:
    """The addresses of the clusters that have a daemon on this machine."""
    from spoke import records

    return {str(record["address"]) for record in records.live()}


def address_to_ip(address: str) -> str:
    """``host:port`` with the host as an address."""
    import socket

    host, separator, port = address.rpartition(":")
    return socket.gethostbyname(host or port) + separator + (port if host else "")


def get_ray_jars_dir(*args: Any) -> str:
    """Where Ray's Java part is: nowhere."""
    raise RuntimeError("Spoke has no Java part: run Python workers")
