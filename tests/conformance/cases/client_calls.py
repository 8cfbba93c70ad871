"""Calls, options and variables that known clients of Ray use, in the shapes that they use (see `clients`)."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import threading
import types
from typing import Any

from tests.conformance.kit import Flag, caught, settled, sub

INIT: dict[str, Any] = {"num_cpus": 4, "num_gpus": 4, "resources": {"NPU": 2, "actor_worker": 4}}

NOSET = "RAY_EXPERIMENTAL_NOSET_{}_VISIBLE_DEVICES"


class Worker:
    """A plain class that clients decorate."""

    def __init__(self, rank: int = 0) -> None:
        self.rank = rank

    def tell(self) -> int:
        return self.rank


def _in(ray: Any, pg: Any, index: int = -1, capture: bool | None = None) -> Any:
    strategy = sub(ray, "util.scheduling_strategies").PlacementGroupSchedulingStrategy
    return strategy(
        placement_group=pg,
        placement_group_bundle_index=index,
        placement_group_capture_child_tasks=capture,
    )


# -- the cluster (vLLM, SGLang) -------------------------------------------------------------------


def is_initialized_in_a_daemon_thread(ray: Any) -> Any:
    seen: list[bool] = []
    thread = threading.Thread(target=lambda: seen.append(ray.is_initialized()), daemon=True)
    thread.start()
    thread.join()
    return seen


def counts_of_resources_are_floats(ray: Any) -> Any:
    total = ray.cluster_resources()
    node = ray.nodes()[0]["Resources"]
    return [total.get("GPU", 0), type(total["GPU"]).__name__, total.get("TPU", 0), node["GPU"], node["CPU"]]


def fields_of_a_node(ray: Any) -> Any:
    (node,) = ray.nodes()
    wanted = ("NodeID", "Alive", "NodeManagerAddress", "NodeManagerHostname", "Resources", "Labels", "alive")
    return [[name for name in wanted if name in node], node["NodeManagerHostname"] == socket.gethostname()]


def the_own_address_can_be_bound(ray: Any) -> Any:
    ip = ray.util.get_node_ip_address()
    with socket.socket() as taken:
        taken.bind((ip, 0))
        return [taken.getsockname()[0] == ip, ip == ray.nodes()[0]["NodeManagerAddress"]]


def group_by_keywords(ray: Any) -> Any:
    pg = ray.util.placement_group(name="dp_rank_0", strategy="STRICT_PACK", bundles=[{"GPU": 1}, {"CPU": 1}])
    kinds = [[type(amount).__name__ for amount in bundle.values()] for bundle in pg.bundle_specs]
    row = ray.util.placement_group_table(pg)
    seen = [pg.wait(30), pg.wait(timeout_seconds=5), pg.bundle_specs, kinds, row["name"], row["strategy"]]
    ray.util.remove_placement_group(pg)
    return [*seen, settled(ray)]


def positional_strategy_of_a_group(ray: Any) -> Any:
    pg = ray.util.placement_group([{"CPU": 1}], "SPREAD")
    seen = [ray.get(pg.ready()) is not None, ray.util.placement_group_table(pg)["strategy"]]
    ray.util.remove_placement_group(pg)
    return seen


def workers_and_engine_of_a_pending_group(ray: Any) -> Any:
    settled(ray)
    ip = ray.util.get_node_ip_address()
    share = {f"node:{ip}": 0.001}
    pg = ray.util.placement_group(
        name="dp",
        strategy="STRICT_PACK",
        bundles=[{"GPU": 1.0, **share}, {"GPU": 1.0, **share}, {"CPU": 1.0, **share}],
    )
    options = {"num_cpus": 0, "num_gpus": 1.0}
    workers = [
        ray.remote(Worker)
        .options(name=f"w{i}", scheduling_strategy=_in(ray, pg, i), **options)
        .remote(rank=i)
        for i in range(2)
    ]
    environment = {"env_vars": {"DP_RANK": "0"}}
    engine = ray.remote(Worker).options(scheduling_strategy=_in(ray, pg, 2), runtime_env=environment)
    engine = engine.remote(rank=2)
    told = ray.get([actor.tell.remote() for actor in (*workers, engine)], timeout=60)
    ids = ray.get([worker.__ray_call__.remote(lambda self: ray.get_gpu_ids()) for worker in workers])
    ray.util.remove_placement_group(pg)
    return [told, len({i for part in ids for i in part}), settled(ray)]


def capture_of_children_by_keyword(ray: Any) -> Any:
    pg = ray.util.placement_group([{"CPU": 1, "GPU": 1}, {"CPU": 1}])

    @ray.remote(num_cpus=0)
    def child() -> Any:
        return ray.get_runtime_context().get_placement_group_id()

    class Parent:
        def ask(self) -> Any:
            return ray.get(child.remote())

    made = ray.remote(num_cpus=0, num_gpus=1, scheduling_strategy=_in(ray, pg, 0, True))(Parent).remote()
    told = ray.get(made.ask.remote(), timeout=60)
    ray.util.remove_placement_group(pg)
    return told == pg.id.hex()


def old_style_group_options_of_a_task(ray: Any) -> Any:
    pg = ray.util.placement_group([{"CPU": 1}, {"CPU": 1}])

    @ray.remote(placement_group=pg, placement_group_bundle_index=1)
    def decorated() -> Any:
        return ray.get_runtime_context().get_placement_group_id()

    @ray.remote
    def plain() -> Any:
        return ray.get_runtime_context().get_placement_group_id()

    refs = [
        decorated.remote(),
        plain.options(placement_group=pg).remote(),
        plain.options(placement_group=pg, placement_group_bundle_index=0, num_cpus=0.5).remote(),
        plain.options(placement_group="default").remote(),
        plain.options(placement_group=None).remote(),
    ]
    told = ray.get(refs, timeout=60)
    both = caught(
        lambda: plain.options(placement_group=pg, scheduling_strategy="SPREAD").remote(), kinds=(ValueError,)
    )
    ray.util.remove_placement_group(pg)
    return [[None if one is None else one == pg.id.hex() for one in told], both]


# -- GPUs -----------------------------------------------------------------------------------------


def shares_of_many_sizes_in_one_bundle(ray: Any) -> Any:
    pg = ray.util.placement_group([{"GPU": 1.0, "CPU": 1.0}])
    pg.wait(30)
    made = ray.remote(num_cpus=0)(Worker)
    actors = [
        made.options(num_gpus=share, scheduling_strategy=_in(ray, pg, 0)).remote()
        for share in (0.4, 0.2, 0.1, 0.01)
    ]
    ids = ray.get([one.__ray_call__.remote(lambda self: ray.get_gpu_ids()) for one in actors], timeout=60)
    ray.util.remove_placement_group(pg)
    return [len({tuple(part) for part in ids}), len(ids[0]), settled(ray)]


def an_info_task_learns_the_device_of_a_bundle(ray: Any) -> Any:
    pg = ray.util.placement_group([{"GPU": 1, "CPU": 1}] * 2)
    pg.wait(30)

    @ray.remote(num_cpus=0, num_gpus=1)
    def look() -> Any:
        return ray.util.get_node_ip_address(), ray.get_gpu_ids()[0]

    told = [ray.get(look.options(scheduling_strategy=_in(ray, pg, index)).remote()) for index in (0, 1)]
    again = ray.get(look.options(scheduling_strategy=_in(ray, pg, 0)).remote(), timeout=30)
    ray.util.remove_placement_group(pg)
    return [len({device for _, device in told}), again == told[0], settled(ray)]


def devices_hidden_of_other_makers(ray: Any) -> Any:
    names = ("ASCEND_RT", "HIP", "ROCR", "HABANA", "NEURON_RT", "TPU", "ONEAPI", "RBLN", "MUSA")
    variables = {NOSET.format(name): "1" for name in names}

    @ray.remote(num_gpus=1, runtime_env={"env_vars": variables})
    def look() -> Any:
        ids = [str(one) for one in ray.get_gpu_ids()]
        return os.environ.get("CUDA_VISIBLE_DEVICES") == ",".join(ids), len(ids)

    return ray.get(look.remote())


def forms_of_the_switch_that_leaves_devices_alone(ray: Any) -> Any:
    @ray.remote(num_gpus=1)
    def look() -> Any:
        return "CUDA_VISIBLE_DEVICES" in os.environ

    return [
        ray.get(look.options(runtime_env={"env_vars": {NOSET.format("CUDA"): form}}).remote())
        for form in ("1", "true", "True", "0", "false", "")
    ]


def an_accelerator_as_a_resource(ray: Any) -> Any:
    @ray.remote(num_cpus=0, resources={"NPU": 1})
    def look() -> Any:
        return ray.get_runtime_context().get_accelerator_ids()["GPU"], ray.get_gpu_ids()

    return ray.get(look.remote())


# -- options and keywords -------------------------------------------------------------------------


def every_option_of_a_worker(ray: Any) -> Any:
    environment = sub(ray, "runtime_env").RuntimeEnv(env_vars={"A": "1"})
    options = {
        "name": "worker_1",
        "namespace": "engine",
        "num_cpus": 0,
        "num_gpus": 0.5,
        "resources": {"actor_worker": 1},
        "max_concurrency": 8,
        "max_restarts": 0,
        "max_task_retries": 0,
        "lifetime": "detached",
        "memory": 1024 * 1024,
        "scheduling_strategy": "SPREAD",
        "get_if_exists": True,
        "runtime_env": environment,
    }
    actor = ray.remote(Worker).options(**options).remote(rank=3)
    found = ray.get_actor(name="worker_1", namespace="engine")
    seen = [ray.get(found.tell.remote()), found == actor]
    ray.kill(actor, no_restart=True)
    return [*seen, settled(ray)]


def options_of_the_decorator_and_of_a_call(ray: Any) -> Any:
    made = ray.remote(num_cpus=0, num_gpus=1)(Worker)
    lighter = made.options(num_gpus=0)
    return [
        len(ray.get(kind.remote().__ray_call__.remote(lambda self: ray.get_gpu_ids())))
        for kind in (made, lighter)
    ]


def strategies_by_name(ray: Any) -> Any:
    @ray.remote
    def one() -> int:
        return 1

    return ray.get([one.options(scheduling_strategy=name).remote() for name in ("SPREAD", "DEFAULT")])


def keywords_of_wait(ray: Any) -> Any:
    flag = Flag()

    @ray.remote
    def held(flag: Flag) -> bool:
        return flag.wait()

    refs = [ray.put(1), held.remote(flag)]
    first = ray.wait(refs, num_returns=1, timeout=None)
    second = ray.wait(refs, num_returns=2, timeout=0)
    third = ray.wait(refs, num_returns=len(refs), timeout=0.1, fetch_local=False)
    flag.set()
    last = ray.wait(refs, num_returns=2)
    return [[len(part) for part in pair] for pair in (first, second, third, last)]


def keywords_of_kill_and_cancel(ray: Any) -> Any:
    actor = ray.remote(Worker).remote()
    ray.get(actor.tell.remote())
    flag = Flag()

    @ray.remote
    def held(flag: Flag) -> bool:
        return flag.wait()

    ref = held.remote(flag)
    kinds = (ray.exceptions.TaskCancelledError, ray.exceptions.WorkerCrashedError)
    return [
        ray.kill(actor, no_restart=True),
        ray.cancel(ref, force=True),
        caught(lambda: ray.get(ref, timeout=30), kinds=kinds)["is"] != [],
    ]


def gather_of_several_rounds_in_an_actor(ray: Any) -> Any:
    workers = [ray.remote(Worker).remote(rank) for rank in range(3)]

    class Router:
        async def rounds(self, workers: list[Any]) -> Any:
            return [await asyncio.gather(*[worker.tell.remote() for worker in workers]) for _ in range(3)]

    return ray.get(ray.remote(Router).options(max_concurrency=4).remote().rounds.remote(workers))


def put_refs_into_calls_each_step(ray: Any) -> Any:
    class Engine:
        def __init__(self) -> None:
            self.outputs: list[Any] = []

        async def forward_async(self, inputs: Any) -> None:
            self.outputs.append(sum(inputs))

        async def get_outputs(self) -> Any:
            return self.outputs.pop(0)

    engines = [ray.remote(num_gpus=0.01)(Engine).remote() for _ in range(2)]

    async def steps() -> Any:
        seen = []
        for step in range(3):
            ref = ray.put([step, 10])
            await asyncio.gather(*[engine.forward_async.remote(ref) for engine in engines])
            seen.append(await asyncio.gather(*[engine.get_outputs.remote() for engine in engines]))
        return seen

    return asyncio.run(steps())


def a_box_keeps_its_ref(ray: Any) -> Any:
    class Box:
        def __init__(self, ref: Any) -> None:
            self.ref = ref

    @ray.remote
    def look(box: Any, plain: Any, several: Any) -> Any:
        return [
            isinstance(box.ref, ray.ObjectRef),
            plain,
            isinstance(several[0], ray.ObjectRef),
            ray.get(box.ref),
        ]

    ref = ray.put(7)
    return ray.get(look.remote(Box(ref), ref, [ref]))


def several_returns_of_an_actor_method(ray: Any) -> Any:
    class Pair:
        def both(self) -> Any:
            return 1, 2

        def many(self, count: int) -> Any:
            yield 10
            yield 20 + count

    actor = ray.remote(Pair).remote()
    first, second = actor.both.options(num_returns=2).remote()
    streamed = actor.many.options(num_returns="streaming").remote(3)
    kind = isinstance(streamed, ray.ObjectRefGenerator)
    return [ray.get([first, second]), kind, [ray.get(ref) for ref in streamed]]


def pickle_of_a_module_by_value(ray: Any) -> Any:
    module = types.ModuleType("remote_code_of_a_model")
    exec(
        "class Config:\n    def __init__(self): self.size = 8\ndef double(x):\n    return 2 * x\n",
        module.__dict__,
    )
    module.Config.__module__ = module.double.__module__ = module.__name__
    sys.modules[module.__name__] = module
    cloudpickle = sub(ray, "cloudpickle")
    cloudpickle.register_pickle_by_value(module)
    try:

        @ray.remote
        def use(config: Any, function: Any) -> Any:
            return type(config).__name__, function(config.size)

        return ray.get(use.remote(module.Config(), module.double))
    finally:
        cloudpickle.unregister_pickle_by_value(module)
        del sys.modules[module.__name__]


def metrics_by_keywords(ray: Any) -> Any:
    m = sub(ray, "util.metrics")
    gauge = m.Gauge(name="calls_gauge", description="d", tag_keys=("model", "engine"))
    counter = m.Counter(name="calls_counter", description="d", tag_keys=("model",))
    histogram = m.Histogram(
        name="calls_histogram", description="d", boundaries=[1.0, 2.0], tag_keys=("model",)
    )
    done = [
        gauge.set(1.0, tags={"model": "m", "engine": "0"}),
        counter.inc(2, tags={"model": "m"}),
        histogram.observe(1.5, tags={"model": "m"}),
    ]
    return [
        done,
        gauge._tag_keys,
        counter._tag_keys,
        all(isinstance(x, m.Metric) for x in (gauge, counter, histogram)),
    ]


def timer_of_the_utilities(ray: Any) -> Any:
    timer = sub(ray, "util.timer")._Timer(window_size=2)
    for units in (1, 2, 3):
        with timer:
            pass
        timer.push_units_processed(units)
    return [timer.count, timer.mean >= 0, timer.mean_units_processed, timer.has_units_processed()]


def tensor_transport_of_a_worker(ray: Any) -> Any:
    made = ray.remote(Worker).options(num_cpus=0, enable_tensor_transport=True).remote(4)
    return [ray.get(made.tell.remote()), made._ray_enable_tensor_transport]


def a_method_with_a_direct_transport(ray: Any) -> Any:
    class Trainer:
        @ray.method(tensor_transport="nixl")
        def weights(self) -> int:
            return 1

    made = ray.remote(Trainer).options(num_cpus=0, enable_tensor_transport=True).remote()
    return [
        caught(lambda: ray.get(made.weights.remote(), timeout=30), kinds=(ValueError,)),
        caught(lambda: ray.put(1, _tensor_transport="nonsense"), kinds=(ValueError,)),
        callable(sub(ray, "experimental").register_nixl_memory),
        callable(sub(ray, "experimental").set_target_for_ref),
    ]


def version_is_new_enough(ray: Any) -> Any:
    version = sub(ray, "_version").version if ray.__name__ == "ray" else ray.RAY_VERSION
    return [int(part) for part in version.split(".")]


def exceptions_made_by_hand(ray: Any) -> Any:
    found = ray.exceptions
    return [
        caught(lambda: _raised(found.GetTimeoutError("late")), "late", kinds=(TimeoutError,)),
        caught(lambda: _raised(found.RayActorError()), kinds=(found.RayError,)),
        caught(lambda: _raised(found.RaySystemError("broken")), "broken", kinds=(found.RayError,)),
        caught(lambda: _raised(found.TaskCancelledError()), kinds=(found.RayError,)),
        caught(lambda: _raised(found.WorkerCrashedError()), kinds=(found.RayError,)),
        caught(lambda: _raised(found.ActorDiedError()), kinds=(found.RayActorError,)),
        caught(
            lambda: _raised(found.ActorUnavailableError("away", None)), "away", kinds=(found.RayActorError,)
        ),
        caught(lambda: _raised(found.RayChannelError("channel")), "channel", kinds=(found.RayError,)),
        caught(lambda: _raised(found.ObjectStoreFullError("full")), "full", kinds=(found.RayError,)),
        caught(lambda: _raised(found.OutOfMemoryError("memory")), "memory", kinds=(found.RayError,)),
        caught(lambda: _raised(found.NodeDiedError("node")), "node", kinds=(found.RayError,)),
    ]


def _raised(error: BaseException) -> None:
    raise error


# -- what real Ray no longer has ------------------------------------------------------------------


def the_group_function_is_not_the_module(ray: Any) -> Any:
    import importlib

    module = importlib.import_module(f"{ray.__name__}.util.placement_group")
    return [callable(ray.util.placement_group), ray.util.placement_group is module.placement_group]


def ids_of_groups_have_no_order(ray: Any) -> Any:
    first, second = (ray.util.placement_group([{"CPU": 1}]) for _ in range(2))
    seen = [
        caught(lambda: (first.id < second.id) in (True, False), kinds=(TypeError,)),
        first.id != second.id,
        first.id == first.id,
    ]
    for pg in (first, second):
        ray.util.remove_placement_group(pg)
    return seen
