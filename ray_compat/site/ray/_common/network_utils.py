"""Names of `ray._common.network_utils`: addresses and ports."""

from __future__ import annotations

import ipaddress
import socket
from contextlib import closing
from typing import Any


def build_address(host: str, port: int | str) -> str:
    """``host:port``; an IPv6 address goes into brackets."""
    return f"[{host}]:{port}" if is_ipv6(host) else f"{host}:{port}"


def parse_address(address: str) -> tuple[str, str] | None:
    """Host and port as texts, or None where no port is."""
    host, mark, port = address.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if not mark or (":" in host and not bracketed):
        return None
    return (host[1:-1] if bracketed else host), port


def is_ipv6(host: str) -> bool:
    """Whether this is an IPv6 address, or a name that has no other."""
    try:
        return ipaddress.ip_address(host).version == 6
    except ValueError:
        pass
    try:
        return all(found[0] == socket.AF_INET6 for found in socket.getaddrinfo(host, None))
    except OSError:
        return False


def is_localhost(host: str) -> bool:
    """Whether a host is this machine by its loopback's usual names."""
    return host in ("localhost", "127.0.0.1", "::1")


def get_localhost_ip() -> str:
    """The loopback's address."""
    return "127.0.0.1"


def get_all_interfaces_ip() -> str:
    """The address that means all interfaces, to listen on."""
    return "0.0.0.0"


def node_ip_address_from_perspective(address: str | None = None) -> str:
    """The address of this machine on the way to another."""
    from spoke import machine

    return machine.outward_ip()


def find_free_port(family: Any = socket.AF_INET) -> int:
    """A port that nobody listens on at the moment."""
    with closing(socket.socket(family, socket.SOCK_STREAM)) as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])
