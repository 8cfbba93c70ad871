"""What operators of a `LocalIterator` count and time, shared by all operators of its chain."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from spoke import absent
from spoke.util.timer import _Timer

__all__ = ["MetricsContext", "SharedMetrics"]


class MetricsContext:
    """Counters, timers and values by name; ``LocalIterator.get_metrics()`` gives it to operators.

    Attributes:
        counters: numbers that grow.
        timers: stopwatches.
        info: whatever else.
        current_actor: who produced the present item, where items are gathered as they come.
    """

    def __init__(self) -> None:
        self.counters: dict[str, int] = defaultdict(int)
        self.timers: dict[str, _Timer] = defaultdict(_Timer)
        self.info: dict[str, Any] = {}
        self.current_actor: Any = None

    def save(self) -> dict[str, Any]:
        """Counters and values as plain data; timers are not kept."""
        return {"counters": dict(self.counters), "info": dict(self.info), "timers": None}

    def restore(self, values: dict[str, Any]) -> None:
        """Take over what `save` gave."""
        self.counters.clear()
        self.counters.update(values["counters"])
        self.timers.clear()
        self.info = values["info"]


class SharedMetrics:
    """Where the context of a chain is; a union gives one to all chains that it is made of."""

    def __init__(
        self, metrics: MetricsContext | None = None, parents: list[SharedMetrics] | None = None
    ) -> None:
        self.parents = parents or []
        self.metrics = metrics or MetricsContext()
        self.set(self.metrics)

    def set(self, metrics: MetricsContext) -> None:
        """Use this context from now on, in the parents too."""
        self.metrics = metrics
        for parent in self.parents:
            parent.set(metrics)

    def get(self) -> MetricsContext:
        """The context."""
        return self.metrics


__getattr__ = absent.getter(__name__)
