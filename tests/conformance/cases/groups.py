"""Placement groups on one node."""

from __future__ import annotations

from typing import Any

from tests.conformance.kit import Flag, alive, caught, eventually, settled, sub

INIT: dict[str, Any] = {"num_cpus": 4, "num_gpus": 2, "resources": {"chip": 2}}


def _in(ray: Any, pg: Any, index: int = -1, capture: bool | None = None) -> Any:
    strategy = sub(ray, "util.scheduling_strategies").PlacementGroupSchedulingStrategy
    return strategy(pg, placement_group_bundle_index=index, placement_group_capture_child_tasks=capture)


def _free_cpus(ray: Any) -> float:
    return float(ray.available_resources().get("CPU", 0.0))


def ready_and_wait(ray: Any) -> Any:
    pg = ray.util.placement_group([{"CPU": 1}, {"CPU": 1}])
    again = ray.get(pg.ready())
    seen = [type(again).__name__, again.id == pg.id, pg.wait(10)]
    ray.util.remove_placement_group(pg)
    return [*seen, settled(ray)]


def bundles_and_id(ray: Any) -> Any:
    pg = ray.util.placement_group([{"CPU": 1, "GPU": 1}, {"chip": 2}], strategy="SPREAD")
    pg.wait(10)
    seen = [pg.bundle_specs, pg.bundle_count, len(pg.id.hex()), pg.is_empty]
    ray.util.remove_placement_group(pg)
    return seen


def every_strategy(ray: Any) -> Any:
    seen = []
    for strategy in ("PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD"):
        pg = ray.util.placement_group([{"CPU": 1}], strategy=strategy)
        seen.append(pg.wait(10))
        ray.util.remove_placement_group(pg)
    return [seen, settled(ray)]


def strict_spread_needs_nodes(ray: Any) -> Any:
    pg = ray.util.placement_group([{"CPU": 1}, {"CPU": 1}], strategy="STRICT_SPREAD")
    seen = pg.wait(0.3)
    ray.util.remove_placement_group(pg)
    return seen


def reserves_resources(ray: Any) -> Any:
    settled(ray)
    pg = ray.util.placement_group([{"CPU": 2}, {"CPU": 1}])
    pg.wait(10)
    held = eventually(lambda: _free_cpus(ray) == 1.0)
    ray.util.remove_placement_group(pg)
    return [held, settled(ray)]


def too_large_waits(ray: Any) -> Any:
    pg = ray.util.placement_group([{"CPU": 100}])
    seen = [pg.wait(0.2), caught(lambda: ray.get(pg.ready(), timeout=0.2))]
    ray.util.remove_placement_group(pg)
    return seen


def waits_for_another_group(ray: Any) -> Any:
    settled(ray)
    first = ray.util.placement_group([{"CPU": 3}])
    first.wait(10)
    second = ray.util.placement_group([{"CPU": 3}])
    early = second.wait(0.2)
    ray.util.remove_placement_group(first)
    late = second.wait(30)
    ray.util.remove_placement_group(second)
    return [early, late]


def all_or_nothing(ray: Any) -> Any:
    settled(ray)
    pg = ray.util.placement_group([{"CPU": 1}, {"CPU": 100}])
    placed = pg.wait(0.3)
    free = _free_cpus(ray)
    ray.util.remove_placement_group(pg)
    return [placed, free]


def task_in_a_bundle(ray: Any) -> Any:
    pg = ray.util.placement_group([{"CPU": 1}, {"CPU": 1}])

    @ray.remote
    def f() -> Any:
        return ray.get_runtime_context().get_placement_group_id()

    refs = [f.options(scheduling_strategy=_in(ray, pg, i)).remote() for i in (0, 1, -1)]
    seen = [value == pg.id.hex() for value in ray.get(refs)]
    ray.util.remove_placement_group(pg)
    return seen


def actor_in_a_bundle(ray: Any) -> Any:
    pg = ray.util.placement_group([{"CPU": 2}])

    @ray.remote(num_cpus=1)
    class A:
        def m(self) -> Any:
            c = ray.get_runtime_context()
            return [c.get_placement_group_id(), c.get_assigned_resources()]

    a = A.options(scheduling_strategy=_in(ray, pg, 0)).remote()
    group, resources = ray.get(a.m.remote())
    own = {k: v for k, v in resources.items() if "group" not in k}
    seen = [group == pg.id.hex(), own]
    ray.util.remove_placement_group(pg)
    return seen


def old_style_options(ray: Any) -> Any:
    pg = ray.util.placement_group([{"CPU": 1}])

    @ray.remote(num_cpus=1)
    def f() -> Any:
        return ray.get_runtime_context().get_placement_group_id()

    seen = caught(
        lambda: ray.get(f.options(placement_group=pg, placement_group_bundle_index=0).remote()) == pg.id.hex()
    )
    ray.util.remove_placement_group(pg)
    return seen


def a_bundle_limits_parallelism(ray: Any) -> Any:
    pg = ray.util.placement_group([{"CPU": 1}])
    flag, started = Flag(), Flag()

    @ray.remote(num_cpus=1)
    def f() -> None:
        started.append("x")
        flag.wait()

    refs = [f.options(scheduling_strategy=_in(ray, pg)).remote() for _ in range(2)]
    eventually(started.lines)
    ray.wait(refs, num_returns=2, timeout=0.3)
    count = len(started.lines())
    flag.set()
    ray.get(refs)
    ray.util.remove_placement_group(pg)
    return count


def more_than_a_bundle_holds(ray: Any) -> Any:
    pg = ray.util.placement_group([{"CPU": 1}])
    pg.wait(10)

    @ray.remote(num_cpus=2)
    def f() -> int:
        return 1

    seen = caught(
        lambda: ray.get(f.options(scheduling_strategy=_in(ray, pg)).remote(), timeout=1), kinds=(ValueError,)
    )
    ray.util.remove_placement_group(pg)
    return seen


def a_resource_the_group_lacks(ray: Any) -> Any:
    pg = ray.util.placement_group([{"CPU": 1}])
    pg.wait(10)

    @ray.remote(num_cpus=0, num_gpus=1)
    class A:
        pass

    seen = caught(
        lambda: A.options(scheduling_strategy=_in(ray, pg)).remote() and "made", kinds=(ValueError,)
    )
    ray.util.remove_placement_group(pg)
    return seen


def bundle_index_out_of_range(ray: Any) -> Any:
    pg = ray.util.placement_group([{"CPU": 1}])
    pg.wait(10)

    @ray.remote
    def f() -> int:
        return 1

    seen = [
        caught(lambda i=i: f.options(scheduling_strategy=_in(ray, pg, i)).remote(), kinds=(ValueError,))
        for i in (1, -2)
    ]
    ray.util.remove_placement_group(pg)
    return seen


def remove_kills_actors(ray: Any) -> Any:
    import os

    pg = ray.util.placement_group([{"CPU": 1}])

    @ray.remote(num_cpus=1)
    class A:
        def pid(self) -> int:
            return os.getpid()

    a = A.options(scheduling_strategy=_in(ray, pg)).remote()
    pid = ray.get(a.pid.remote())
    ray.util.remove_placement_group(pg)
    kinds = (ray.exceptions.ActorDiedError,)
    return [
        eventually(lambda: not alive(pid)),
        caught(lambda: ray.get(a.pid.remote(), timeout=20), kinds=kinds),
        settled(ray),
    ]


def remove_kills_tasks(ray: Any) -> Any:
    pg = ray.util.placement_group([{"CPU": 1}])
    started, never = Flag(), Flag()

    @ray.remote(num_cpus=1, max_retries=0)
    def f() -> bool:
        started.set()
        return never.wait()

    ref = f.options(scheduling_strategy=_in(ray, pg)).remote()
    started.wait()
    ray.util.remove_placement_group(pg)
    seen = caught(lambda: ray.get(ref, timeout=20), kinds=(ray.exceptions.RayError,))
    return [seen["is"], settled(ray)]


def remove_twice(ray: Any) -> Any:
    pg = ray.util.placement_group([{"CPU": 1}])
    pg.wait(10)
    ray.util.remove_placement_group(pg)
    return caught(lambda: ray.util.remove_placement_group(pg))


def remove_while_pending(ray: Any) -> Any:
    pg = ray.util.placement_group([{"CPU": 100}])
    ray.util.remove_placement_group(pg)
    return [eventually(lambda: ray.util.placement_group_table(pg)["state"] == "REMOVED"), settled(ray)]


def remove_of_something_else(ray: Any) -> Any:
    return caught(lambda: ray.util.remove_placement_group("x"))


def wrong_bundles(ray: Any) -> Any:
    make = ray.util.placement_group
    return [
        caught(lambda bundles=bundles: make(bundles) and "made")
        for bundles in ([], [{}], [{"CPU": 0}], {"CPU": 1}, "x", [1], [{"CPU": "1"}], [{5: 1}], None)
    ]


def wrong_strategy_and_lifetime(ray: Any) -> Any:
    make = ray.util.placement_group
    return [
        caught(lambda: make([{"CPU": 1}], strategy="X"), kinds=(ValueError,)),
        caught(lambda: make([{"CPU": 1}], lifetime="x"), kinds=(ValueError,)),
        caught(lambda: make([{"CPU": 1}], strategy=5)),
    ]


def table(ray: Any) -> Any:
    pg = ray.util.placement_group([{"CPU": 1}, {"chip": 1}], name="in the table", strategy="SPREAD")
    pg.wait(10)
    row = ray.util.placement_group_table(pg)
    whole = ray.util.placement_group_table()
    node = ray.nodes()[0]["NodeID"]
    seen = [
        [key for key in ("bundles", "state", "strategy") if key in row],
        row["name"],
        row["bundles"],
        row["strategy"],
        row["state"],
        row["placement_group_id"] == pg.id.hex(),
        row["bundles_to_node_id"] == {0: node, 1: node},
        pg.id.hex() in whole,
    ]
    ray.util.remove_placement_group(pg)
    return seen


def states_in_the_table(ray: Any) -> Any:
    pending = ray.util.placement_group([{"CPU": 100}])
    made = ray.util.placement_group([{"CPU": 1}])
    made.wait(10)
    seen = [ray.util.placement_group_table(pg)["state"] for pg in (pending, made)]
    for pg in (pending, made):
        ray.util.remove_placement_group(pg)
    return [*seen, eventually(lambda: ray.util.placement_group_table(made)["state"] == "REMOVED")]


def lookup_by_name(ray: Any) -> Any:
    pg = ray.util.placement_group([{"CPU": 1}], name="findable")
    pg.wait(10)
    found = ray.util.get_placement_group("findable")
    seen = [found.id == pg.id, found == pg, found.bundle_specs]
    ray.util.remove_placement_group(pg)
    return seen


def lookup_of_an_unknown_name(ray: Any) -> Any:
    return [
        caught(lambda: ray.util.get_placement_group("nope"), "nope", kinds=(ValueError,)),
        caught(lambda: ray.util.get_placement_group(""), kinds=(ValueError,)),
    ]


def name_taken(ray: Any) -> Any:
    pg = ray.util.placement_group([{"CPU": 1}], name="double")
    pg.wait(10)
    seen = caught(lambda: ray.util.placement_group([{"CPU": 1}], name="double").wait(5))
    ray.util.remove_placement_group(pg)
    return "error" in seen


def current_group(ray: Any) -> Any:
    pg = ray.util.placement_group([{"CPU": 1}])

    @ray.remote
    def f() -> Any:
        current = ray.util.get_current_placement_group()
        return [current is not None, current.id.hex() if current else None]

    outside = ray.util.get_current_placement_group()
    inside = ray.get(f.options(scheduling_strategy=_in(ray, pg)).remote())
    ray.util.remove_placement_group(pg)
    return [outside, inside[0], inside[1] == pg.id.hex()]


def children_are_captured(ray: Any) -> Any:
    pg = ray.util.placement_group([{"CPU": 2}])

    @ray.remote
    def child() -> Any:
        return ray.get_runtime_context().get_placement_group_id()

    @ray.remote
    class Parent:
        def m(self) -> Any:
            c = ray.get_runtime_context()
            return [c.should_capture_child_tasks_in_placement_group, ray.get(child.remote())]

    seen = []
    for capture in (True, False):
        parent = Parent.options(num_cpus=1, scheduling_strategy=_in(ray, pg, 0, capture)).remote()
        captured, group = ray.get(parent.m.remote())
        seen.append([captured, group == pg.id.hex(), group is None])
        ray.kill(parent)
    ray.util.remove_placement_group(pg)
    return seen


def child_with_its_own_strategy_leaves(ray: Any) -> Any:
    pg = ray.util.placement_group([{"CPU": 2}])

    @ray.remote
    def child() -> Any:
        return ray.get_runtime_context().get_placement_group_id()

    @ray.remote
    def parent() -> Any:
        return ray.get(child.options(scheduling_strategy="DEFAULT").remote())

    seen = ray.get(parent.options(scheduling_strategy=_in(ray, pg, 0, True)).remote())
    ray.util.remove_placement_group(pg)
    return [seen is None]


def handle_to_a_task(ray: Any) -> Any:
    pg = ray.util.placement_group([{"CPU": 1}])

    @ray.remote(num_cpus=0)
    def f(group: Any) -> Any:
        ray.get(group.ready())
        return [group.bundle_specs, group.wait(5)]

    seen = ray.get(f.remote(pg))
    ray.util.remove_placement_group(pg)
    return seen


def detached_group(ray: Any) -> Any:
    pg = ray.util.placement_group([{"CPU": 1}], name="lasting", lifetime="detached")
    pg.wait(10)
    identity = pg.id
    del pg
    found = ray.util.get_placement_group("lasting")
    seen = [found.id == identity]
    ray.util.remove_placement_group(found)
    return [*seen, settled(ray)]


def group_out_of_scope_stays(ray: Any) -> Any:
    settled(ray)
    name = "still there"
    ray.util.placement_group([{"CPU": 1}], name=name).wait(10)
    held = eventually(lambda: _free_cpus(ray) == 3.0)
    ray.util.remove_placement_group(ray.util.get_placement_group(name))
    return [held, settled(ray)]


def gpu_bundles(ray: Any) -> Any:
    pg = ray.util.placement_group([{"GPU": 1, "CPU": 1}] * 2)

    @ray.remote(num_cpus=0, num_gpus=1)
    class A:
        def ids(self) -> Any:
            return ray.get_gpu_ids()

    actors = [A.options(scheduling_strategy=_in(ray, pg, i)).remote() for i in range(2)]
    ids = ray.get([a.ids.remote() for a in actors])
    ray.util.remove_placement_group(pg)
    return [sorted(i for part in ids for i in part), settled(ray)]


def fractional_bundles(ray: Any) -> Any:
    settled(ray)
    pg = ray.util.placement_group([{"CPU": 0.5}, {"CPU": 0.25}])
    pg.wait(10)
    held = eventually(lambda: _free_cpus(ray) == 3.25)
    ray.util.remove_placement_group(pg)
    return [held, settled(ray)]


def ready_in_wait(ray: Any) -> Any:
    pg = ray.util.placement_group([{"CPU": 1}])
    ready, rest = ray.wait([pg.ready()], timeout=20)
    ray.util.remove_placement_group(pg)
    return [len(ready), len(rest)]


def strategy_class(ray: Any) -> Any:
    pg = ray.util.placement_group([{"CPU": 1}])
    strategy = _in(ray, pg, 0)
    seen = [
        strategy.placement_group == pg,
        strategy.placement_group_bundle_index,
        strategy.placement_group_capture_child_tasks,
    ]
    ray.util.remove_placement_group(pg)
    return seen
