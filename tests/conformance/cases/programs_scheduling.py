"""Where work goes on several nodes, and what nodes are called, as Ray's own test programs look at it."""

from __future__ import annotations

import os
from typing import Any

from tests.conformance.kit import Flag, caught, eventually, sub

INIT = None
THROUGH_RAY_COMPAT = True
_STATE: dict[str, Any] = {}


def _cluster(ray: Any) -> list[str]:
    """The ids of the nodes of one cluster for the whole area: a head and another one, 2 CPUs each."""
    if not _STATE:
        cluster = sub(ray, "cluster_utils").Cluster(
            initialize_head=True, head_node_args={"num_cpus": 2, "num_gpus": 0, "resources": {"head": 1}}
        )
        cluster.add_node(
            num_cpus=2,
            num_gpus=0,
            resources={"other": 1},
            labels={"zone": "z1", "ray.io/market-type": "spot"},
        )
        ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR", namespace="programs")
        cluster.wait_for_nodes()
        _STATE["cluster"] = cluster
    nodes = sorted(ray.nodes(), key=lambda node: "other" in node["Resources"])
    return [node["NodeID"] for node in nodes if node["Alive"]]


def _where(ray: Any) -> Any:
    @ray.remote(num_cpus=1)
    def where() -> str:
        return str(ray.get_runtime_context().get_node_id())

    return where


def _at(ray: Any) -> Any:
    return sub(ray, "util.scheduling_strategies").NodeAffinitySchedulingStrategy


class _Idle:
    def where(self) -> str:
        import ray

        return str(ray.get_runtime_context().get_node_id())


def labels_of_nodes(ray: Any) -> Any:
    ids = _cluster(ray)
    labels = {node["NodeID"]: node["Labels"] for node in ray.nodes()}
    seen = [{key: value for key, value in labels[one].items() if key != "ray.io/node-id"} for one in ids]
    return [seen, all(labels[one]["ray.io/node-id"] == one for one in ids)]


def spread_visits_the_nodes_in_turn(ray: Any) -> Any:
    ids = _cluster(ray)
    where = _where(ray).options(scheduling_strategy="SPREAD")
    seen = [ray.get(where.remote()) for _ in range(4)]
    return sorted(seen.count(one) for one in ids)


def a_node_that_is_too_small(ray: Any) -> Any:
    head, other = _cluster(ray)
    errors = sub(ray, "exceptions")
    where, strategy = _where(ray), _at(ray)
    actor = ray.remote(_Idle)

    def task(soft: bool, **options: Any) -> Any:
        return ray.get(
            where.options(scheduling_strategy=strategy(head, soft), **options).remote(), timeout=30
        )

    def act(soft: bool, **options: Any) -> Any:
        made = actor.options(scheduling_strategy=strategy(head, soft), **options).remote()
        return ray.get(made.where.remote(), timeout=30)

    kinds = (errors.TaskUnschedulableError, errors.ActorUnschedulableError)
    return [
        caught(lambda: task(False, resources={"other": 1}), kinds=kinds),
        caught(lambda: act(False, num_cpus=5), kinds=kinds),
        task(True, resources={"other": 1}) == other,
        act(True, resources={"other": 1}) == other,
    ]


def a_node_that_is_busy(ray: Any) -> Any:
    head, other = _cluster(ray)
    errors = sub(ray, "exceptions")
    where, strategy = _where(ray), _at(ray)
    holder = ray.remote(_Idle).options(num_cpus=2, scheduling_strategy=strategy(other, False)).remote()
    held = ray.get(holder.where.remote()) == other

    def elsewhere() -> Any:
        spill = strategy(other, soft=True, _spill_on_unavailable=True)
        return ray.get(where.options(scheduling_strategy=spill).remote(), timeout=30) == head

    def at_once() -> Any:
        fail = strategy(other, soft=False, _fail_on_unavailable=True)
        return ray.get(where.options(scheduling_strategy=fail).remote(), timeout=30)

    waiting = where.options(scheduling_strategy=strategy(other, soft=True)).remote()
    seen = [
        held,
        elsewhere(),
        caught(at_once, kinds=(errors.TaskUnschedulableError,)),
        ray.wait([waiting], timeout=0.5)[0] == [],
    ]
    ray.kill(holder)
    return [*seen, ray.get(waiting) == other]


def options_of_node_affinity(ray: Any) -> Any:
    head, _ = _cluster(ray)
    strategy = _at(ray)
    return [
        caught(lambda: strategy("x", soft=True), "Invalid node_id 'x'. Node ID must be a valid hex string"),
        caught(lambda: strategy("ff" * 28, soft=True), "Invalid node_id"),
        caught(
            lambda: strategy(head, soft=False, _spill_on_unavailable=True),
            "_spill_on_unavailable cannot be set when soft is False",
        ),
        caught(
            lambda: strategy(head, soft=True, _fail_on_unavailable=True),
            "_fail_on_unavailable cannot be set when soft is True",
        ),
    ]


def words_of_label_strategies(ray: Any) -> Any:
    found = sub(ray, "util.scheduling_strategies")
    by_label = found.NodeLabelSchedulingStrategy
    empty = "operator must be a non-empty tuple"
    return [
        caught(found.In, f"The variadic parameter of the In {empty}"),
        caught(found.NotIn, f"The variadic parameter of the NotIn {empty}"),
        caught(lambda: found.In(3), "Type of value in position 0 for the In operator must be str"),
        caught(lambda: by_label(None, soft=["1"]), "The soft parameter must be a map"),
        caught(lambda: by_label({1: "1"}), "The map key of the hard parameter must be of type str"),
        caught(lambda: by_label({"a": "1"}), "must be one of the `In`, `NotIn`, `Exists` or `DoesNotExist`"),
        caught(lambda: by_label({}), "The `hard` and `soft` parameter", "cannot both be empty"),
    ]


def label_keys_and_values(ray: Any) -> Any:
    labels = sub(ray, "_private.label_utils")
    keys = ["region", "ray.io/zone", "", "-a", "a-", "!a", "a!/b", "a/b/c", "/a", "a/", "A.b/c_d", "a" * 64]
    values = ["", "a", "a.b-c_d", "_a", "a-", "a b", "a" * 63, "a" * 64]
    conditions = [
        "", "a", "!a", "in(a)", "in(a, b)", "!in(a,b)", "in()", "in(a,", "in(a,b,)", "in(a,  b)", "in( a)",
        "!!a", "not_in(a)", "-a", "!", "a" * 64,
    ]  # fmt: skip

    def start(text: str | None) -> Any:
        return text if text is None else text.split("`")[0]

    return [
        {key: start(labels.validate_label_key(key)) for key in keys},
        {value: caught(lambda value=value: labels.validate_label_value(value)) for value in values},
        {value: start(labels.validate_label_selector_value(value)) for value in conditions},
    ]


def labels_as_text_and_json(ray: Any) -> Any:
    labels = sub(ray, "_private.label_utils")
    texts = ["", "a=", "a=b,c=d", " a = b ", "a=b=c", "a", "a=b,", "!a=b", "a=?", "ray.io/x=1"]
    objects = ["{}", '{"a": ""}', '{"ray.io/x": "1"}', '{"a": 5}', "[1]", "{1: 2}"]
    return [
        {text: caught(lambda text=text: labels.parse_node_labels_string(text)) for text in texts},
        {text: caught(lambda text=text: labels.parse_node_labels_json(text)) for text in objects},
    ]


def selectors_that_are_wrong(ray: Any) -> Any:
    where = ray.remote(_Idle)

    def give(*parts: str, **options: Any) -> Any:
        made = caught(lambda: where.options(**options), *parts)
        return made if "error" in made else "taken"

    return [
        give(label_selector={"a": 1}),
        give("Invalid label selector value `in(x`", label_selector={"a": "in(x"}),
        give("Invalid label key name `-a`", label_selector={"-a": "x"}),
        give(label_selector={"a": ""}),
        give("must be a dictionary", fallback_strategy=[3]),
        give("Empty dictionary found in `fallback_strategy`.", fallback_strategy=[{}]),
        give("Unsupported option found: 'memory'", fallback_strategy=[{"memory": 3}]),
        give("Invalid label key name `-a`", fallback_strategy=[{"label_selector": {"-a": "b"}}]),
        give(
            'The value of "label_selector" must be a dictionary.', fallback_strategy=[{"label_selector": 3}]
        ),
        give(fallback_strategy=[{"label_selector": {}}]),
    ]


def rows_of_the_state_module(ray: Any) -> Any:
    ids = _cluster(ray)
    state = sub(ray, "_private.state")
    words = sub(ray, "_private.gcs_utils").ActorTableData
    text = sub(ray, "_private.test_utils").convert_actor_state
    actor = ray.remote(_Idle).options(name="known", num_cpus=0).remote()
    home = ray.get(actor.where.remote())
    name = actor._actor_id.hex()
    row = state.actors(name)
    job = ray.get_runtime_context().get_job_id()
    seen = [
        row["ActorID"] == name,
        row["Address"]["NodeID"] == home,
        row["Address"]["IPAddress"] in {node["NodeManagerAddress"] for node in ray.nodes()},
        [row["ActorClassName"], row["Name"], row["IsDetached"], row["NumRestarts"], row["JobID"] == job],
        row["State"] == text(words.ALIVE) == "ALIVE",
        name in state.actors(job_id=ray.get_runtime_context().job_id, actor_state_name="ALIVE"),
        name in state.actors(actor_state_name="DEAD"),
        state.actors("ff" * 16),
        caught(lambda: state.actors(actor_state_name="nothing")),
        sorted(state.total_resources_per_node()) == sorted(ids),
        len(state.node_ids()),
        state.current_node_id() in state.node_ids(),
    ]
    ray.kill(actor)
    return [*seen, eventually(lambda: state.actors(name)["State"] == text(words.DEAD))]


def jobs_of_the_state_module(ray: Any) -> Any:
    _cluster(ray)
    mine = ray.get_runtime_context().get_job_id()
    (row,) = [one for one in sub(ray, "_private.state").jobs() if one["JobID"] == mine]
    seen = [row["IsDead"], row["DriverPid"] == os.getpid(), row["EndTime"], row["StartTime"] > 0]
    return [*seen, row["StartTime"] == row["Timestamp"], "runner" in row["Entrypoint"]]


def words_for_states(ray: Any) -> Any:
    found = sub(ray, "_private.gcs_utils")
    actors = found.ActorTableData
    return [
        list(actors.ActorState.keys()),
        [actors.ActorState.Name(number) for number in actors.ActorState.values()],
        [actors.ActorState.Value("DEAD"), actors.DEAD, actors.ALIVE],
        list(found.PlacementGroupTableData.PlacementGroupState.keys()),
        [found.GcsNodeInfo.ALIVE, found.GcsNodeInfo.DEAD],
        caught(lambda: actors.ActorState.Name(17)),
    ]


def devices_of_this_process(ray: Any) -> Any:
    manager = sub(ray, "_private.accelerators").NvidiaGPUAcceleratorManager
    before = os.environ.get("CUDA_VISIBLE_DEVICES")
    seen: list[Any] = [manager.get_resource_name(), manager.get_visible_accelerator_ids_env_var()]
    try:
        for value in ("0,1", "", "NoDevFiles", "GPU-a,GPU-b"):
            os.environ["CUDA_VISIBLE_DEVICES"] = value
            seen.append(manager.get_current_process_visible_accelerator_ids())
        del os.environ["CUDA_VISIBLE_DEVICES"]
        seen.append(manager.get_current_process_visible_accelerator_ids())
        manager.set_current_process_visible_accelerator_ids(["1", "3"])
        seen.append(os.environ["CUDA_VISIBLE_DEVICES"])
    finally:
        os.environ.pop("CUDA_VISIBLE_DEVICES", None)
        if before is not None:
            os.environ["CUDA_VISIBLE_DEVICES"] = before
    return seen


def a_queued_task_whose_node_leaves(ray: Any) -> Any:
    _cluster(ray)
    cluster, flag = _STATE["cluster"], Flag()
    node = cluster.add_node(num_cpus=1, num_gpus=0, resources={"leaving": 1})
    cluster.wait_for_nodes()
    leaving = node.node_id
    strategy = _at(ray)(leaving, soft=True)

    @ray.remote(num_cpus=1, max_retries=-1, scheduling_strategy=strategy)
    def held() -> bool:
        if ray.get_runtime_context().get_node_id() != leaving:
            return True
        flag.set()
        Flag().wait()
        return False

    ref = held.remote()
    ran = flag.wait()
    cluster.remove_node(node, allow_graceful=False)
    return [ran, ray.get(ref, timeout=60)]
