"""`ray.util.metrics`: what is accepted, and what a metric says of itself."""

from __future__ import annotations

from typing import Any

from tests.conformance.kit import caught, sub

INIT: dict[str, Any] = {"num_cpus": 1, "num_gpus": 0}


def _metrics(ray: Any) -> Any:
    return sub(ray, "util.metrics")


def info_of_each(ray: Any) -> Any:
    m = _metrics(ray)
    return [
        m.Counter("info_counter", description="d", tag_keys=("a", "b")).info,
        m.Gauge("info_gauge").info,
        m.Histogram("info_histogram", boundaries=[0.5, 2.0], tag_keys=("a",)).info,
    ]


def recording(ray: Any) -> Any:
    m = _metrics(ray)
    counter, gauge = m.Counter("rec_counter"), m.Gauge("rec_gauge", tag_keys=("k",))
    histogram = m.Histogram("rec_histogram", boundaries=[1, 2])
    return [
        counter.inc(),
        counter.inc(2.5),
        gauge.set(3, tags={"k": "v"}),
        gauge.set(None),
        histogram.observe(1.5),
    ]


def default_tags(ray: Any) -> Any:
    gauge = _metrics(ray).Gauge("default_gauge", tag_keys=("a", "b"))
    gauge.set_default_tags({"a": "1"})
    return [
        gauge.info["default_tags"],
        caught(lambda: gauge.set(1, tags={"b": "2"})),
        caught(lambda: gauge.set(1), "Missing value for tag key(s): b", kinds=(ValueError,)),
    ]


def wrong_tags(ray: Any) -> Any:
    counter = _metrics(ray).Counter("tags_counter", tag_keys=("a",))
    return [
        caught(lambda: counter.inc(tags={"x": "1"}), "Unrecognized tag key", kinds=(ValueError,)),
        caught(lambda: counter.inc(tags={"a": 1}), kinds=(TypeError,)),
        caught(lambda: counter.inc(), kinds=(ValueError,)),
        caught(lambda: counter.set_default_tags({"x": "1"}), "Unrecognized tag key x", kinds=(ValueError,)),
        caught(lambda: counter.set_default_tags({"a": 1}), kinds=(TypeError,)),
    ]


def wrong_names(ray: Any) -> Any:
    m = _metrics(ray)
    return [
        caught(lambda: m.Counter(""), "Empty name", kinds=(ValueError,)),
        caught(
            lambda: m.Counter("list_tags", tag_keys=["a"]), "tag_keys should be a tuple", kinds=(TypeError,)
        ),
        caught(lambda: m.Counter("int_tags", tag_keys=(1,)), kinds=(TypeError,)),
    ]


def wrong_values(ray: Any) -> Any:
    m = _metrics(ray)
    counter, gauge = m.Counter("value_counter"), m.Gauge("value_gauge")
    histogram = m.Histogram("value_histogram", boundaries=[1])
    return [
        caught(lambda: counter.inc(0), kinds=(ValueError,)),
        caught(lambda: counter.inc(-1), kinds=(ValueError,)),
        caught(lambda: counter.inc("1"), kinds=(TypeError,)),
        caught(lambda: gauge.set("1"), kinds=(TypeError,)),
        caught(lambda: histogram.observe("1"), kinds=(TypeError,)),
    ]


def wrong_boundaries(ray: Any) -> Any:
    m = _metrics(ray)
    return [
        caught(lambda: m.Histogram("no_bounds"), "boundaries", kinds=(ValueError,)),
        caught(lambda: m.Histogram("empty_bounds", boundaries=[]), kinds=(ValueError,)),
        caught(lambda: m.Histogram("zero_bounds", boundaries=[0, 1]), kinds=(ValueError,)),
    ]


def in_an_actor(ray: Any) -> Any:
    module = _metrics(ray).__name__

    @ray.remote
    class A:
        def __init__(self) -> None:
            import importlib

            self.counter = importlib.import_module(module).Counter("actor_counter", tag_keys=("n",))
            self.counter.set_default_tags({"n": "1"})

        def inc(self) -> Any:
            self.counter.inc()
            return self.counter.info["default_tags"]

    return ray.get(A.remote().inc.remote())


def pickled(ray: Any) -> Any:
    counter = _metrics(ray).Counter("pickled_counter", tag_keys=("a",))
    counter.set_default_tags({"a": "1"})

    @ray.remote
    def use(given: Any) -> Any:
        given.inc()
        return given.info["name"]

    return ray.get(use.remote(counter))
