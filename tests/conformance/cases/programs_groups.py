"""Placement groups as Ray's own test programs use them: what their tables say, and what they refuse."""

from __future__ import annotations

from typing import Any

from tests.conformance.kit import caught, eventually, settled, sub

INIT: dict[str, Any] = {"num_cpus": 4, "num_gpus": 1, "resources": {"chip": 2}}


def _stats(ray: Any, pg: Any) -> Any:
    return ray.util.placement_group_table(pg)["stats"]


def _state(ray: Any, pg: Any) -> str:
    return str(_stats(ray, pg)["scheduling_state"])


def _removed(ray: Any, *pgs: Any) -> bool:
    for pg in pgs:
        ray.util.remove_placement_group(pg)
    return settled(ray)


def stats_of_a_placed_group(ray: Any) -> Any:
    pg = ray.util.placement_group([{"CPU": 1}])
    ray.get(pg.ready())
    stats = _stats(ray, pg)
    seen = [
        stats["scheduling_state"],
        stats["scheduling_attempt"],
        stats["end_to_end_creation_latency_ms"] > 0,
        stats["highest_retry_delay_ms"],
    ]
    return [*seen, _removed(ray, pg), _state(ray, pg)]


def a_group_that_waits_for_others(ray: Any) -> Any:
    first = ray.util.placement_group([{"CPU": 4}])
    ray.get(first.ready())
    second = ray.util.placement_group([{"CPU": 4}])
    waits = eventually(lambda: _state(ray, second) == "NO_RESOURCES")
    late = _stats(ray, second)["end_to_end_creation_latency_ms"]
    ray.util.remove_placement_group(first)
    ray.get(second.ready())
    seen = [waits, late, _state(ray, second), _stats(ray, second)["end_to_end_creation_latency_ms"] > 0]
    return [*seen, _removed(ray, second)]


def groups_that_can_never_be(ray: Any) -> Any:
    asked = {
        "a bundle is too large": ([{"CPU": 8}], "PACK"),
        "a resource is unknown": ([{"CPU": 1, "nothing": 1}], "SPREAD"),
        "all on one node": ([{"CPU": 3}, {"CPU": 3}], "STRICT_PACK"),
        "a node for each": ([{"CPU": 1}, {"CPU": 1}], "STRICT_SPREAD"),
    }
    seen = {}
    for what, (bundles, strategy) in asked.items():
        pg = ray.util.placement_group(bundles, strategy=strategy)
        seen[what] = eventually(lambda pg=pg: _state(ray, pg) == "INFEASIBLE")
        ray.util.remove_placement_group(pg)
        seen[what + ", removed"] = eventually(lambda pg=pg: _state(ray, pg) == "REMOVED")
    return seen


def bundles_that_are_too_many_together(ray: Any) -> Any:
    pg = ray.util.placement_group([{"CPU": 3}, {"CPU": 3}])
    seen = eventually(lambda: _state(ray, pg) == "NO_RESOURCES")
    return [seen, _removed(ray, pg)]


def resources_of_a_group(ray: Any) -> Any:
    pg = ray.util.placement_group([{"CPU": 1}, {"CPU": 2, "GPU": 1}])
    ray.get(pg.ready())
    text = pg.id.hex()

    def named(found: dict[str, float]) -> dict[str, float]:
        return {name.replace(text, "ID"): found[name] for name in sorted(found) if text in name}

    eventually(lambda: ray.available_resources().get(f"CPU_group_{text}") == 3.0)
    seen = [named(ray.cluster_resources()), named(ray.available_resources())]
    inside = [name for node in ray.nodes() for name in node["Resources"] if text in name]
    gone = _removed(ray, pg)
    return [*seen, inside, gone, named(ray.cluster_resources())]


class _Idle:
    def ping(self) -> int:
        return 1


def resources_of_a_group_in_use(ray: Any) -> Any:
    pg = ray.util.placement_group([{"CPU": 2}])
    ray.get(pg.ready())
    text = pg.id.hex()
    actor = ray.remote(_Idle).options(num_cpus=1, placement_group=pg).remote()
    ray.get(actor.ping.remote())
    used = eventually(lambda: ray.available_resources().get(f"CPU_group_0_{text}") == 1.0)
    return [used, ray.cluster_resources()[f"CPU_group_0_{text}"], _removed(ray, pg)]


def a_name_that_is_taken(ray: Any) -> Any:
    pg = ray.util.placement_group([{"CPU": 1}], name="twice")
    ray.get(pg.ready())
    kind = sub(ray, "exceptions").RaySystemError
    seen = caught(
        lambda: ray.util.placement_group([{"CPU": 1}], name="twice"),
        "because name 'twice' already exists",
        kinds=(kind, ValueError),
    )
    return [seen, _removed(ray, pg)]


def work_without_gpus_leaves_the_bundle_with_one(ray: Any) -> Any:
    pg = ray.util.placement_group([{"CPU": 1, "GPU": 1}, {"CPU": 1}])
    ray.get(pg.ready())
    actors = [ray.remote(_Idle).options(num_cpus=1, placement_group=pg).remote()]
    ray.get(actors[0].ping.remote())
    actors.append(ray.remote(_Idle).options(num_cpus=1, num_gpus=1, placement_group=pg).remote())
    return [ray.get(actors[1].ping.remote(), timeout=20), _removed(ray, pg)]


def a_reserved_name_in_a_bundle(ray: Any) -> Any:
    kind = sub(ray, "exceptions").RaySystemError
    return caught(
        lambda: ray.util.placement_group([{"bundle": 1}]),
        "bundle is a system reserved resource",
        kinds=(kind,),
    )


def wrong_arguments_in_words(ray: Any) -> Any:
    def make(*parts: str, bundles: Any = None, **options: Any) -> Any:
        bundles = [{"CPU": 1}] if bundles is None else bundles
        return caught(lambda: ray.util.placement_group(bundles, **options), *parts)

    return [
        make("must be either `None` or 'detached'. Got x.", lifetime="x"),
        make("currently only works with STRICT_PACK but got PACK", _soft_target_node_id="ab"),
        make(
            "Invalid hex ID of _soft_target_node_id, got ab",
            strategy="STRICT_PACK",
            _soft_target_node_id="ab",
        ),
        make("a list of string dictionary label selectors", bundle_label_selector=[{"a": 1}]),
        make("a list of string dictionary label selectors", bundle_label_selector=["a"]),
        make(
            "in bundle_label_selector list",
            "Invalid label key name `a!`",
            bundle_label_selector=[{"a!": "b"}],
        ),
        make("in bundle_label_selector list", "value `in(x`", bundle_label_selector=[{"a": "in(x"}]),
        make("list of resource dictionaries", '`[{"CPU": 1.0}, {"GPU": 1.0}]`', bundles=[{"CPU": "1"}]),
    ]


def an_actor_needs_a_cpu_to_be_placed(ray: Any) -> Any:
    pg = ray.util.placement_group([{"chip": 1}])
    ray.get(pg.ready())

    def place(**options: Any) -> Any:
        def make() -> Any:
            actor = ray.remote(_Idle).options(placement_group=pg, **options).remote()
            return ray.get(actor.ping.remote())

        return caught(make, "cannot fit into any bundles")

    seen = [
        place(),
        place(num_cpus=1),
        place(num_cpus=0),
        place(resources={"chip": 1}),
        place(num_cpus=0, resources={"chip": 1}),
        place(num_cpus=0, resources={"chip": 2}),
    ]
    return [*seen, _removed(ray, pg)]
