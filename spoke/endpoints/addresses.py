"""What a name resolves to, and who resolves it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple


class ResolvedEndpoint(NamedTuple):
    """One address: `url` as ``spoke://host:port/name`` or ``actor:<id>``."""

    url: str
    actor_id: str
    metadata: dict[str, Any]
    handle: Any = None  # of an actor of the cluster


class ResolveResult(NamedTuple):
    """All addresses of a name, in order."""

    name: str
    endpoints: list[ResolvedEndpoint]

    @property
    def is_empty(self) -> bool:
        """Whether the name has no address."""
        return not self.endpoints

    def first(self) -> ResolvedEndpoint:
        """The first address.

        Raises:
            ValueError: there is none.
        """
        if not self.endpoints:
            raise ValueError(f"no endpoints for {self.name!r}")
        return self.endpoints[0]


Update = Callable[[list[ResolvedEndpoint]], None]


class Addresses:
    """Something that knows the addresses of names."""

    def resolve(self, name: str) -> ResolveResult:
        """The addresses of `name` now."""
        raise TypeError(f"{type(self).__name__} does not say how it resolves")

    def watch(self, name: str, update: Update) -> Callable[[], None] | None:
        """Call `update` with all addresses at each change; returns what ends that.  None: it cannot."""
        return None
