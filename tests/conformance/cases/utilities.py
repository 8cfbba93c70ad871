"""The small helpers of ray.util, and the shapes of the cluster's views."""

from __future__ import annotations

from typing import Any

from tests.conformance.kit import Flag, caught, sub

INIT: dict[str, Any] = {"num_cpus": 4, "num_gpus": 0, "resources": {"chip": 1}}


def _pool(ray: Any, size: int = 2) -> Any:
    @ray.remote
    class A:
        def double(self, x: int) -> int:
            return x * 2

        def fail(self, x: int) -> int:
            raise ValueError(str(x))

    return sub(ray, "util.actor_pool").ActorPool([A.remote() for _ in range(size)])


def pool_map(ray: Any) -> Any:
    return list(_pool(ray).map(lambda a, x: a.double.remote(x), range(6)))


def pool_map_unordered(ray: Any) -> Any:
    return sorted(_pool(ray).map_unordered(lambda a, x: a.double.remote(x), range(6)))


def pool_submit_and_next(ray: Any) -> Any:
    pool = _pool(ray)
    for x in range(3):
        pool.submit(lambda a, x: a.double.remote(x), x)
    seen = []
    while pool.has_next():
        seen.append(pool.get_next())
    return [seen, caught(lambda: pool.get_next(), kinds=(StopIteration,))]


def pool_next_unordered(ray: Any) -> Any:
    pool = _pool(ray)
    for x in range(3):
        pool.submit(lambda a, x: a.double.remote(x), x)
    return sorted(pool.get_next_unordered() for _ in range(3))


def pool_next_timeout(ray: Any) -> Any:
    flag = Flag()

    @ray.remote
    class A:
        def m(self, x: int) -> bool:
            return flag.wait()

    pool = sub(ray, "util.actor_pool").ActorPool([A.remote()])
    pool.submit(lambda a, x: a.m.remote(x), 1)
    seen = caught(lambda: pool.get_next(timeout=0.1), kinds=(TimeoutError,))
    flag.set()
    return seen


def pool_error(ray: Any) -> Any:
    pool = _pool(ray)
    pool.submit(lambda a, x: a.fail.remote(x), 3)
    return caught(lambda: pool.get_next(), "3", kinds=(ValueError,))


def pool_idle_pop_push(ray: Any) -> Any:
    pool = _pool(ray)
    actor = pool.pop_idle()
    seen = [pool.has_free(), actor is not None]
    pool.pop_idle()
    seen += [pool.has_free(), pool.pop_idle()]
    pool.push(actor)
    return [*seen, pool.has_free(), list(pool.map(lambda a, x: a.double.remote(x), [4]))]


def pool_push_of_a_member(ray: Any) -> Any:
    pool = _pool(ray)
    actor = pool.pop_idle()
    pool.push(actor)
    return caught(lambda: pool.push(actor), kinds=(ValueError,))


def queue_put_and_get(ray: Any) -> Any:
    queue = sub(ray, "util.queue").Queue()
    for i in range(3):
        queue.put(i)
    seen = [queue.qsize(), len(queue), queue.empty(), [queue.get() for _ in range(3)], queue.empty()]
    queue.shutdown()
    return seen


def queue_bound(ray: Any) -> Any:
    module = sub(ray, "util.queue")
    queue = module.Queue(maxsize=2)
    queue.put(1)
    queue.put_nowait(2)
    seen = [
        queue.full(),
        caught(lambda: queue.put_nowait(3), kinds=(module.Full,)),
        caught(lambda: queue.put(3, timeout=0.1), kinds=(module.Full,))["is"],
        caught(lambda: queue.put(3, block=False)),
    ]
    queue.shutdown()
    return seen


def queue_empty(ray: Any) -> Any:
    module = sub(ray, "util.queue")
    queue = module.Queue()
    seen = [
        caught(lambda: queue.get_nowait(), kinds=(module.Empty,)),
        caught(lambda: queue.get(timeout=0.1), kinds=(module.Empty,))["is"],
        caught(lambda: queue.get(block=False)),
    ]
    queue.shutdown()
    return seen


def queue_batches(ray: Any) -> Any:
    module = sub(ray, "util.queue")
    queue = module.Queue(maxsize=5)
    queue.put_nowait_batch([1, 2, 3])
    seen = [
        caught(lambda: queue.put_nowait_batch([4, 5, 6]), kinds=(module.Full,))["is"],
        queue.get_nowait_batch(2),
        caught(lambda: queue.get_nowait_batch(5), kinds=(module.Empty,))["is"],
        queue.qsize(),
    ]
    queue.shutdown()
    return seen


def queue_negative_timeout(ray: Any) -> Any:
    queue = sub(ray, "util.queue").Queue()
    seen = [caught(lambda: queue.get(timeout=-1)), caught(lambda: queue.put(1, timeout=-1))]
    queue.shutdown()
    return seen


def queue_between_tasks(ray: Any) -> Any:
    queue = sub(ray, "util.queue").Queue()

    @ray.remote
    def produce(q: Any) -> None:
        for i in range(5):
            q.put(i)

    @ray.remote
    def consume(q: Any) -> Any:
        return [q.get(timeout=20) for _ in range(5)]

    seen = consume.remote(queue)
    ray.get(produce.remote(queue))
    value = ray.get(seen)
    queue.shutdown()
    return value


def queue_async(ray: Any) -> Any:
    import asyncio

    queue = sub(ray, "util.queue").Queue()

    async def main() -> Any:
        await queue.put_async(1)
        return await queue.get_async()

    value = asyncio.run(main())
    queue.shutdown()
    return value


def nodes_shape(ray: Any) -> Any:
    nodes = ray.nodes()
    node = nodes[0]
    wanted = ["Alive", "Labels", "NodeID", "NodeManagerAddress", "NodeManagerHostname", "Resources", "alive"]
    return [
        len(nodes),
        [key for key in wanted if key in node],
        node["Alive"],
        len(node["NodeID"]),
        node["Resources"]["CPU"],
        node["Resources"]["chip"],
        node["NodeID"] == ray.get_runtime_context().get_node_id(),
        node["Labels"]["ray.io/node-id"] == node["NodeID"],
        "GPU" in node["Resources"],
    ]


def node_affinity(ray: Any) -> Any:
    strategy = sub(ray, "util.scheduling_strategies").NodeAffinitySchedulingStrategy
    here = ray.get_runtime_context().get_node_id()

    @ray.remote
    def f() -> Any:
        return ray.get_runtime_context().get_node_id()

    return [
        ray.get(f.options(scheduling_strategy=strategy(here, soft=soft)).remote()) == here
        for soft in (False, True)
    ]


def node_affinity_to_an_unknown_node(ray: Any) -> Any:
    strategy = sub(ray, "util.scheduling_strategies").NodeAffinitySchedulingStrategy

    @ray.remote(max_retries=0)
    def f() -> int:
        return 1

    @ray.remote
    class A:
        def m(self) -> int:
            return 1

    hard, soft = strategy("ab" * 28, soft=False), strategy("ab" * 28, soft=True)
    kinds = (ray.exceptions.TaskUnschedulableError, ray.exceptions.ActorUnschedulableError)
    actor = A.options(scheduling_strategy=hard).remote()
    return [
        caught(lambda: ray.get(f.options(scheduling_strategy=hard).remote(), timeout=20), kinds=kinds),
        caught(lambda: ray.get(actor.m.remote(), timeout=20), kinds=kinds),
        ray.get(f.options(scheduling_strategy=soft).remote()),
    ]


def node_affinity_validation(ray: Any) -> Any:
    strategy = sub(ray, "util.scheduling_strategies").NodeAffinitySchedulingStrategy
    return [
        caught(lambda: strategy("zz", soft=False) and "made"),
        caught(lambda: strategy("ab" * 28) and "made"),
    ]


def spread_strategy(ray: Any) -> Any:
    @ray.remote(scheduling_strategy="SPREAD")
    def f(i: int) -> int:
        return i

    return ray.get([f.remote(i) for i in range(4)])


def wrong_strategy_at_submission(ray: Any) -> Any:
    def f() -> int:
        return 1

    return caught(lambda: ray.get(ray.remote(scheduling_strategy="WRONG")(f).remote()), kinds=(ValueError,))


def placement_group_strategy_of_a_wrong_type(ray: Any) -> Any:
    strategy = sub(ray, "util.scheduling_strategies").PlacementGroupSchedulingStrategy

    @ray.remote
    def f() -> int:
        return 1

    return (
        caught(lambda: ray.get(f.options(scheduling_strategy=strategy("x")).remote(), timeout=5)).get("error")
        is not None
    )


def internal_kv(ray: Any) -> Any:
    kv = sub(ray, "experimental.internal_kv")
    put, get = kv._internal_kv_put, kv._internal_kv_get
    return [
        put(b"key", b"one"),
        put(b"key", b"two", overwrite=False),
        get(b"key"),
        put(b"key", b"three"),
        get(b"key"),
        kv._internal_kv_exists(b"key"),
        kv._internal_kv_list(b"ke"),
        kv._internal_kv_del(b"key"),
        get(b"key"),
        kv._internal_kv_exists(b"key"),
        kv._internal_kv_initialized(),
    ]


def internal_kv_namespaces(ray: Any) -> Any:
    kv = sub(ray, "experimental.internal_kv")
    kv._internal_kv_put(b"k", b"1", namespace=b"a")
    return [kv._internal_kv_get(b"k", namespace=b"a"), kv._internal_kv_get(b"k", namespace=b"b")]


def core_names_exist(ray: Any) -> Any:
    names = [
        "ObjectRef",
        "ObjectRefGenerator",
        "actor",
        "available_resources",
        "cancel",
        "cluster_resources",
        "exceptions",
        "get",
        "get_actor",
        "get_gpu_ids",
        "get_runtime_context",
        "init",
        "is_initialized",
        "kill",
        "method",
        "nodes",
        "put",
        "remote",
        "runtime_env",
        "shutdown",
        "timeline",
        "util",
        "wait",
        "__version__",
        "ActorID",
        "JobID",
        "NodeID",
        "TaskID",
        "ObjectID",
        "UniqueID",
        "WorkerID",
        "PlacementGroupID",
        "SCRIPT_MODE",
        "WORKER_MODE",
        "client",
        "runtime_context",
    ]
    return [name for name in names if not hasattr(ray, name)]


def unknown_name_of_the_module(ray: Any) -> Any:
    return caught(lambda: ray.no_such_name, "no_such_name")


def remote_function_of_a_class_method(ray: Any) -> Any:
    class Plain:
        @staticmethod
        def add(x: int) -> int:
            return x + 1

    return ray.get(ray.remote(Plain.add).remote(1))


def runtime_env_class(ray: Any) -> Any:
    env = ray.runtime_env.RuntimeEnv(env_vars={"CONFORMANCE_X": "y"})

    @ray.remote(runtime_env=env)
    def f() -> Any:
        import os

        return os.environ.get("CONFORMANCE_X")

    return [isinstance(env, dict), env["env_vars"], ray.get(f.remote())]
