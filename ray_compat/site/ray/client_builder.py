"""Names of `ray.client_builder`: joining in the style of Ray Client, which says that `init` does the same."""

from __future__ import annotations

import importlib
import os
import warnings
from typing import Any

from spoke.lifecycle import Context
from spoke.util import client as _client


class ClientBuilder(_client.ClientBuilder):
    """As Spoke's; `connect` warns."""

    def __init__(self, address: str | None) -> None:
        super().__init__(address)
        self._deprecation_warn_enabled = True

    def connect(self) -> Context:
        """Join the cluster."""
        if self._deprecation_warn_enabled:
            self._warn()
        return super().connect()

    def _warn(self) -> None:
        scheme = "" if isinstance(self, _LocalClientBuilder) else "ray://"
        given = [f'"{scheme}{self.address}"'] if self.address else []
        if self._arguments.get("namespace"):
            given.append(f'namespace="{self._arguments["namespace"]}"')
        if self._arguments.get("runtime_env"):
            given.append("runtime_env=<your_runtime_env>")
        warnings.warn(
            "Starting a connection through `ray.client` will be deprecated in future ray versions in favor "
            f"of `ray.init`. The same is: ray.init({', '.join(given)})",
            DeprecationWarning,
            stacklevel=3,
        )


class _LocalClientBuilder(ClientBuilder):
    """Of a cluster on this machine: a new one ("local"), or the one that `init` finds or makes."""


def _split_address(address: str) -> tuple[str, str]:
    module, mark, rest = address.partition("://")
    return (module, rest) if mark else ("ray", address)


def _get_builder_from_address(address: str | None) -> Any:
    if address in (None, "local"):
        return _LocalClientBuilder(address)
    assert address is not None
    if address.startswith(("http://", "https://")):
        raise ValueError(
            f"{address!r} is where jobs are submitted. If it comes from RAY_ADDRESS, unset that, or set it "
            f"to the {'GCS'} address: host:port of the head"
        )
    name, inner = _split_address(address)
    try:
        module = importlib.import_module(name)
    except Exception as error:
        raise RuntimeError(f"Module: {name} does not exist; it was named by the address {address}") from error
    if "ClientBuilder" not in dir(module):
        raise RuntimeError(f"Module: {name} does not have ClientBuilder.")
    return ClientBuilder(inner) if name == "ray" else module.ClientBuilder(inner)


def client(address: str | None = None, _deprecation_warn_enabled: bool = True) -> Any:
    """A builder of a connection.

    Args:
        address: None for the cluster that `init` finds or makes, "local" for a new one, ``host:port``, or
            ``module://...`` for the `ClientBuilder` of that module.

    Raises:
        RuntimeError: there is no such module, or it has no `ClientBuilder`.
        ValueError: an address of HTTP.
    """
    builder = _get_builder_from_address(os.environ.get("RAY_ADDRESS") if address is None else address)
    builder._deprecation_warn_enabled = _deprecation_warn_enabled
    return builder
