"""What one lease or actor needs of a node: the parsed form of a scheduling spec.

Rules of this module: specs come from peers, so everything is checked here once, and any defect
raises `ValueError`; past this point the hub trusts a `Shape`.

The spec of a WANT or a CREATE_ACTOR::

    resources            {name: amount}         held while leased, or for the actor's life
    placement_resources  {name: amount}         must be free at the moment of placing (default: resources)
    strategy             None | "DEFAULT" | "SPREAD"
                         | {"kind": "node", "node_id": bytes, "soft": bool, "now": bool}
                           (now: where it is busy, go elsewhere if soft, else fail)
                         | {"kind": "group", "group_id": bytes, "index": int}   (-1: any bundle)
                         | {"kind": "labels", "hard": selector, "soft": selector}
    label_selector       {label: condition}
    env                  {"vars": {str: str}, "cwd": str | None, "hash": str} or {str: str}
    locality             {node_id: bytes of arguments there}
    fallback_strategy    [{"label_selector": {...}}, ...] tried in order where label_selector does not fit
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from spoke.core import selectors
from spoke.core.ledger import CPU, GPU, Amounts, to_units

_NODE_ID_BYTES: Final = 28

# Variables that a program, the interpreter or this package reads when a process starts, so that one that
# runs would not heed them, but for those that a rank is told by.
AT_START: Final = ("LD_", "PYTHON", "MALLOC_", "GLIBC_", "LC_", "LANG", "ASAN_", "TSAN_")
_AT_JOIN: Final = ("SPOKE_", "RAY_")
_LATER: Final = ("SPOKE_GANG_ID", "SPOKE_NIC")


class Shape:
    """Parsed needs.  Two shapes with equal `fit_key` fit on exactly the same nodes."""

    __slots__ = (
        "cpu",
        "cwd",
        "env_key",
        "env_vars",
        "fit_key",
        "gpu",
        "group_id",
        "group_index",
        "hard",
        "hards",
        "late_env",
        "locality",
        "need",
        "node_id",
        "node_now",
        "node_soft",
        "place",
        "soft",
        "spread",
    )

    def __init__(self, spec: Mapping[str, Any]) -> None:
        try:
            self._parse(spec)
        except (TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"malformed scheduling spec: {error!r}") from None

    def _parse(self, spec: Mapping[str, Any]) -> None:
        self.need: Amounts = to_units(spec.get("resources") or {})
        place = spec.get("placement_resources")
        self.place: Amounts = to_units(place) if place else self.need
        if any(self.place.get(name, 0) < units for name, units in self.need.items()):
            self.place = {name: max(self.place.get(name, 0), self.need.get(name, 0))
                          for name in {**self.need, **self.place}}  # fmt: skip
        self.cpu = self.need.get(CPU, 0)
        self.gpu = self.need.get(GPU, 0)
        self.spread = False
        self.node_id: bytes | None = None
        self.node_soft = False
        self.node_now = False
        self.group_id: bytes | None = None
        self.group_index = -1
        self.hard = selectors.parse(spec.get("label_selector"))
        self.soft: tuple[selectors.Selector, ...] = ()
        self._parse_strategy(spec.get("strategy"))
        fallbacks = spec.get("fallback_strategy") or ()
        self.hards = (self.hard, *(selectors.parse(one.get("label_selector")) for one in fallbacks))
        self._parse_env(spec.get("env") or {})
        locality = spec.get("locality") or {}
        self.locality: dict[bytes, int] = dict(locality)
        self.fit_key = (
            tuple(self.need.items()),
            tuple(self.place.items()) if self.place is not self.need else None,
            (self.node_id, self.node_soft, self.node_now),
            self.group_id,
            self.group_index,
            self.hards,
        )

    def _parse_strategy(self, strategy: Any) -> None:
        if strategy is None or strategy == "DEFAULT":
            return
        if strategy == "SPREAD":
            self.spread = True
            return
        kind = strategy["kind"]
        if kind == "node":
            self.node_id = strategy["node_id"]
            self.node_soft = bool(strategy.get("soft", False))
            self.node_now = bool(strategy.get("now", False))
            if type(self.node_id) is not bytes or len(self.node_id) != _NODE_ID_BYTES:
                raise ValueError(f"not a node id: {self.node_id!r}")
        elif kind == "group":
            self.group_id = strategy["group_id"]
            self.group_index = strategy.get("index", -1)
            if type(self.group_id) is not bytes or type(self.group_index) is not int:
                raise ValueError("malformed placement group strategy")
        elif kind == "labels":
            self.hard += selectors.parse(strategy.get("hard"))
            self.soft = selectors.parse(strategy.get("soft"))
        else:
            raise ValueError(f"unknown scheduling strategy {kind!r}")

    def _parse_env(self, env: Mapping[str, Any]) -> None:
        """The environment a worker must be started with; equal keys share workers."""
        if isinstance(env.get("vars"), Mapping) or "hash" in env or "cwd" in env:
            variables, cwd, digest = env.get("vars") or {}, env.get("cwd"), env.get("hash") or ""
        else:
            variables, cwd, digest = env, None, ""
        if not all(type(name) is str and type(text) is str for name, text in variables.items()):
            raise ValueError("environment variables must be text")
        if type(digest) is not str or not (cwd is None or type(cwd) is str):
            raise ValueError("malformed env")
        self.env_vars: dict[str, str] = dict(variables)
        self.cwd: str | None = cwd
        key = repr((digest, cwd, sorted(variables.items())))
        self.env_key = key if digest or cwd or variables else ""
        # Can a worker that runs already, but has run nothing, take this environment over?
        self.late_env = not digest and not any(
            name.startswith((*AT_START, *_AT_JOIN)) and name not in _LATER for name in variables
        )
