"""Several nodes on this machine, through ``cluster_utils.Cluster``."""

from __future__ import annotations

from typing import Any

from tests.conformance.kit import caught, eventually, sub

INIT = None
_STATE: dict[str, Any] = {}


def _cluster(ray: Any) -> Any:
    """One cluster for the whole area: a head with 2 CPUs, two nodes with 2 CPUs each."""
    if not _STATE:
        cluster = sub(ray, "cluster_utils").Cluster(
            initialize_head=True, head_node_args={"num_cpus": 2, "num_gpus": 0, "resources": {"head": 1}}
        )
        _STATE["cluster"] = cluster
        _STATE["nodes"] = [
            cluster.add_node(num_cpus=2, num_gpus=0, resources={f"n{i}": 1}, labels={"zone": f"z{i}"})
            for i in range(2)
        ]
        ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR", namespace="multi")
        cluster.wait_for_nodes()
    return _STATE["cluster"]


def _where(ray: Any) -> Any:
    @ray.remote(num_cpus=1)
    def where() -> Any:
        return ray.get_runtime_context().get_node_id()

    return where


def nodes_and_resources(ray: Any) -> Any:
    _cluster(ray)
    total = ray.cluster_resources()
    nodes = [node for node in ray.nodes() if node["Alive"]]
    return [len(nodes), total["CPU"], total["n0"], total["n1"], len({node["NodeID"] for node in nodes})]


def custom_resource_chooses_the_node(ray: Any) -> Any:
    _cluster(ray)
    where = _where(ray)
    ids = ray.get([where.options(resources={name: 1}).remote() for name in ("head", "n0", "n1")])
    by_resource = {
        name: node["NodeID"]
        for node in ray.nodes()
        for name in ("head", "n0", "n1")
        if name in node["Resources"]
    }
    return [ids[i] == by_resource[name] for i, name in enumerate(("head", "n0", "n1"))]


def node_affinity(ray: Any) -> Any:
    _cluster(ray)
    strategy = sub(ray, "util.scheduling_strategies").NodeAffinitySchedulingStrategy
    where = _where(ray)
    return [
        ray.get(where.options(scheduling_strategy=strategy(node["NodeID"], soft=False)).remote())
        == node["NodeID"]
        for node in ray.nodes()
    ]


def strict_spread(ray: Any) -> Any:
    _cluster(ray)
    pg = ray.util.placement_group([{"CPU": 1}] * 3, strategy="STRICT_SPREAD")
    placed = pg.wait(30)
    nodes = set(ray.util.placement_group_table(pg)["bundles_to_node_id"].values())
    too_many = ray.util.placement_group([{"CPU": 1}] * 4, strategy="STRICT_SPREAD")
    seen = [placed, len(nodes), too_many.wait(0.3)]
    for group in (pg, too_many):
        ray.util.remove_placement_group(group)
    return seen


def strict_pack(ray: Any) -> Any:
    _cluster(ray)
    pg = ray.util.placement_group([{"CPU": 1}] * 2, strategy="STRICT_PACK")
    placed = pg.wait(30)
    nodes = set(ray.util.placement_group_table(pg)["bundles_to_node_id"].values())
    too_large = ray.util.placement_group([{"CPU": 2}] * 2, strategy="STRICT_PACK")
    seen = [placed, len(nodes), too_large.wait(0.3)]
    for group in (pg, too_large):
        ray.util.remove_placement_group(group)
    return seen


def pack_over_nodes_when_one_is_too_small(ray: Any) -> Any:
    _cluster(ray)
    pg = ray.util.placement_group([{"CPU": 2}] * 3, strategy="PACK")
    placed = pg.wait(30)
    nodes = set(ray.util.placement_group_table(pg)["bundles_to_node_id"].values())
    ray.util.remove_placement_group(pg)
    return [placed, len(nodes)]


def label_selector(ray: Any) -> Any:
    _cluster(ray)
    where = _where(ray)
    by_zone = {node["Labels"].get("zone"): node["NodeID"] for node in ray.nodes()}
    return [
        ray.get(where.options(label_selector={"zone": "z1"}).remote()) == by_zone["z1"],
        ray.get(where.options(label_selector={"zone": "in(z0)"}).remote()) == by_zone["z0"],
        ray.get(where.options(label_selector={"zone": "!z0"}).remote()) != by_zone["z0"],
    ]


def objects_cross_nodes(ray: Any) -> Any:
    _cluster(ray)

    @ray.remote
    def make() -> bytes:
        return b"x" * 3_000_000

    @ray.remote
    def size(data: bytes) -> int:
        return len(data)

    ref = make.options(resources={"n0": 0.1}).remote()
    return [ray.get(size.options(resources={"n1": 0.1}).remote(ref)), len(ray.get(ref))]


def driver_object_read_on_a_node(ray: Any) -> Any:
    _cluster(ray)

    @ray.remote
    def size(data: bytes) -> int:
        return len(data)

    return ray.get(size.options(resources={"n1": 0.1}).remote(ray.put(b"y" * 2_000_000)))


def actors_on_two_nodes_call_each_other(ray: Any) -> Any:
    _cluster(ray)

    @ray.remote(num_cpus=0)
    class A:
        def call(self, other: Any, data: bytes) -> int:
            return int(ray.get(other.size.remote(data)))

        def size(self, data: bytes) -> int:
            return len(data)

    a = A.options(resources={"n0": 0.1}).remote()
    b = A.options(resources={"n1": 0.1}).remote()
    return [ray.get(a.call.remote(b, b"small")), ray.get(a.call.remote(b, b"z" * 1_000_000))]


def spread_uses_several_nodes(ray: Any) -> Any:
    _cluster(ray)
    from tests.conformance.kit import Flag

    flag, seen = Flag(), Flag()

    @ray.remote(num_cpus=1, scheduling_strategy="SPREAD")
    def hold() -> None:
        seen.append(ray.get_runtime_context().get_node_id())
        flag.wait()

    refs = [hold.remote() for _ in range(6)]
    all_started = eventually(lambda: len(seen.lines()) == 6)
    nodes = len(set(seen.lines()))
    flag.set()
    ray.get(refs)
    return [all_started, nodes]


def a_new_node_takes_waiting_work(ray: Any) -> Any:
    cluster = _cluster(ray)
    where = _where(ray)
    ref = where.options(resources={"late": 1}).remote()
    early, _ = ray.wait([ref], timeout=0.3)
    node = cluster.add_node(num_cpus=1, num_gpus=0, resources={"late": 1})
    value = ray.get(ref, timeout=30)
    cluster.remove_node(node)
    return [len(early), len(value)]


def a_lost_node_restarts_its_actor_elsewhere(ray: Any) -> Any:
    cluster = _cluster(ray)
    node = cluster.add_node(num_cpus=1, num_gpus=0, resources={"lost": 1})

    @ray.remote(num_cpus=1, max_restarts=1, max_task_retries=3)
    class A:
        def where(self) -> Any:
            return ray.get_runtime_context().get_node_id()

    strategy = sub(ray, "util.scheduling_strategies").NodeAffinitySchedulingStrategy
    first = next(n["NodeID"] for n in ray.nodes() if n["Alive"] and "lost" in n["Resources"])
    a = A.options(scheduling_strategy=strategy(first, soft=True)).remote()
    before = ray.get(a.where.remote())
    cluster.remove_node(node)
    after = ray.get(a.where.remote(), timeout=30)
    return [before == first, after != first]


def a_lost_node_fails_its_actor_by_name(ray: Any) -> Any:
    cluster = _cluster(ray)
    node = cluster.add_node(num_cpus=1, num_gpus=0, resources={"gone": 1})

    @ray.remote(num_cpus=0, resources={"gone": 1})
    class A:
        def m(self) -> int:
            return 1

    a = A.remote()
    ray.get(a.m.remote())
    cluster.remove_node(node)
    died = caught(lambda: ray.get(a.m.remote(), timeout=30), kinds=(ray.exceptions.RayActorError,))
    return [died["is"], eventually(lambda: len([n for n in ray.nodes() if n["Alive"]]) == 3)]


def shutdown_of_the_cluster(ray: Any) -> Any:
    cluster = _cluster(ray)
    ray.shutdown()
    cluster.shutdown()
    _STATE.clear()
    return ray.is_initialized()
