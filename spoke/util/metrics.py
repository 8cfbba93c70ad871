"""Counters, gauges and histograms of a program, readable as Prometheus text.

Values are kept in the process that reports them; `exposition` gives them as text, for whatever serves
or collects it.  Two metrics of one name and kind are one.
"""

from __future__ import annotations

import bisect
import threading
import warnings
from typing import Any

from spoke import absent

_lock = threading.Lock()
_known: dict[str, _Series] = {}

Tags = tuple[tuple[str, str], ...]


class _Series:
    """The values of one metric by tags."""

    def __init__(self, kind: str, description: str, boundaries: list[float]) -> None:
        self.kind = kind
        self.description = description
        self.boundaries = boundaries
        self.values: dict[Tags, Any] = {}


class Metric:
    """What the kinds of metrics have in common.

    Args:
        name: letters, digits, underscores and colons, not beginning with a digit.
        description: what it measures.
        tag_keys: names of its tags; every report gives each a value, unless there is a default.

    Raises:
        ValueError: an empty name.
        TypeError: `tag_keys` is no tuple of texts.
    """

    _kind = ""

    def __init__(self, name: str, description: str = "", tag_keys: tuple[str, ...] | None = None) -> None:
        if len(name) == 0:
            raise ValueError("Empty name is not allowed. Please provide a metric name.")
        if tag_keys is not None and not isinstance(tag_keys, tuple):
            raise TypeError(f"tag_keys should be a tuple type, got: {type(tag_keys)}")
        for key in tag_keys or ():
            if not isinstance(key, str):
                raise TypeError(f"Tag keys must be str, got {type(key)}.")
        if not name.replace("_", "a").replace(":", "a").isalnum() or name[0].isdigit():
            warnings.warn(f"{name!r} is no name of a Prometheus metric", stacklevel=3)
        self._name = name
        self._description = str(description)
        self._tag_keys = tag_keys or ()
        self._default_tags: dict[str, str] = {}
        self._series = self._find(self._boundaries())

    def _boundaries(self) -> list[float]:
        return []

    def _find(self, boundaries: list[float]) -> _Series:
        with _lock:
            known = _known.get(self._name)
            if known is None or known.kind != self._kind:
                known = _known[self._name] = _Series(self._kind, self._description, boundaries)
            return known

    def set_default_tags(self, default_tags: dict[str, str]) -> Any:
        """Give tags the values that reports without them mean; returns the metric.

        Raises:
            ValueError: a tag that the metric does not have.
            TypeError: a value that is no text.
        """
        self._check(default_tags)
        self._default_tags = dict(default_tags)
        return self

    def _check(self, tags: dict[str, str]) -> None:
        for key, value in tags.items():
            if key not in self._tag_keys:
                raise ValueError(f"Unrecognized tag key {key}.")
            if not isinstance(value, str):
                raise TypeError(f"Tag values must be str, got {type(value)}.")

    def _tags(self, given: dict[str, str] | None) -> Tags:
        known = {key: value for key, value in (given or {}).items() if key in self._tag_keys}
        self._check(known)
        tags = {**self._default_tags, **known}
        missing = [key for key in self._tag_keys if key not in tags]
        if missing:
            raise ValueError(f"Missing value for tag key(s): {','.join(missing)}.")
        return tuple(sorted(tags.items()))

    @property
    def info(self) -> dict[str, Any]:
        """Name, description, tag_keys and default_tags."""
        return {
            "name": self._name,
            "description": self._description,
            "tag_keys": self._tag_keys,
            "default_tags": self._default_tags,
        }

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.info)


def _rebuild(kind: type[Metric], info: dict[str, Any]) -> Metric:
    given = {key: value for key, value in info.items() if key != "default_tags"}
    metric = kind(**given)
    metric._default_tags = info["default_tags"]
    return metric


def _number(value: Any) -> float:
    if not isinstance(value, int | float):
        raise TypeError(f"value must be int or float, got {type(value)}.")
    return float(value)


class Counter(Metric):
    """A sum that only grows."""

    _kind = "counter"

    def inc(self, value: float = 1.0, tags: dict[str, str] | None = None) -> None:
        """Add `value`.

        Raises:
            ValueError: not positive, or a tag without a value.
            TypeError: no number.
        """
        amount = _number(value)
        if amount <= 0:
            raise ValueError(f"value must be >0, got {value}")
        key = self._tags(tags)
        with _lock:
            self._series.values[key] = self._series.values.get(key, 0.0) + amount


class Gauge(Metric):
    """A value that is what was set last."""

    _kind = "gauge"

    def set(self, value: float | None, tags: dict[str, str] | None = None) -> None:
        """Set the value; None changes nothing.

        Raises:
            ValueError: a tag without a value.
            TypeError: no number.
        """
        if value is None:
            return
        number, key = _number(value), self._tags(tags)
        with _lock:
            self._series.values[key] = number


class Histogram(Metric):
    """How often observed values fall into ranges.

    Args:
        boundaries: upper ends of the ranges, positive and at least one.

    Raises:
        ValueError: no boundaries, or one that is not positive.
    """

    _kind = "histogram"

    def __init__(
        self,
        name: str,
        description: str = "",
        boundaries: list[float] | None = None,
        tag_keys: tuple[str, ...] | None = None,
    ) -> None:
        if not boundaries:
            raise ValueError(
                "boundaries argument should be provided when using the Histogram class. "
                'e.g., Histogram("name", boundaries=[1.0, 2.0])'
            )
        for index, boundary in enumerate(boundaries):
            if boundary <= 0:
                raise ValueError(
                    f"Invalid `boundaries` argument at index {index}, {boundaries}. "
                    "Use positive values for the arguments."
                )
        self.boundaries = list(boundaries)
        super().__init__(name, description, tag_keys)

    def _boundaries(self) -> list[float]:
        return sorted(self.boundaries)

    def observe(self, value: float, tags: dict[str, str] | None = None) -> None:
        """Count one value.

        Raises:
            ValueError: a tag without a value.
            TypeError: no number.
        """
        number, key = _number(value), self._tags(tags)
        series = self._series
        with _lock:
            counts, total = series.values.get(key) or ([0] * (len(series.boundaries) + 1), 0.0)
            counts[bisect.bisect_left(series.boundaries, number)] += 1
            series.values[key] = (counts, total + number)

    @property
    def info(self) -> dict[str, Any]:
        """As of every metric, and boundaries."""
        return {**super().info, "boundaries": self.boundaries}


def exposition() -> str:
    """The values of this process's metrics as Prometheus text."""
    lines: list[str] = []
    with _lock:
        for name, series in sorted(_known.items()):
            lines += [f"# HELP {name} {series.description}", f"# TYPE {name} {series.kind}"]
            for tags, value in sorted(series.values.items()):
                if series.kind == "histogram":
                    lines += _histogram_lines(name, tags, series.boundaries, *value)
                else:
                    lines.append(f"{name}{_labels(tags)} {value}")
    return "\n".join([*lines, ""])


def _labels(tags: Tags) -> str:
    def escaped(value: str) -> str:
        return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")

    shown = ",".join(f'{key}="{escaped(value)}"' for key, value in tags)
    return f"{{{shown}}}" if shown else ""


def _histogram_lines(
    name: str, tags: Tags, boundaries: list[float], counts: list[int], total: float
) -> list[str]:
    lines, below = [], 0
    for boundary, count in zip([*map(str, boundaries), "+Inf"], counts, strict=True):
        below += count
        lines.append(f"{name}_bucket{_labels((*tags, ('le', boundary)))} {below}")
    return [*lines, f"{name}_sum{_labels(tags)} {total}", f"{name}_count{_labels(tags)} {below}"]


__getattr__ = absent.getter(__name__)
