"""Tasks, actors, objects, generators, errors, names: the answers are those of any engine."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any

import spoke as ray
from spoke.util import ActorPool
from spoke.util.queue import Queue


@ray.remote
def double(value: Any) -> Any:
    return value * 2


@ray.remote
def nested(value: int) -> Any:
    return ray.get(double.remote(value))


@ray.remote(num_returns=2)
def pair() -> tuple[int, int]:
    return 1, 2


@ray.remote
def counted(count: int) -> Any:
    yield from range(count)


@ray.remote(max_retries=0)
def fails(text: str) -> None:
    raise KeyError(text)


@ray.remote(max_retries=0)
def fails_below() -> Any:
    return ray.get(fails.remote("deep"))


@ray.remote
def slow() -> None:
    time.sleep(5)


@ray.remote
def inside(refs: list[Any], counter: Any) -> Any:
    return ray.get(refs), ray.get(counter.add.remote(10))


@ray.remote
class Counter:
    def __init__(self, start: int = 0) -> None:
        self.count = start

    def add(self, by: int = 1) -> int:
        self.count += by
        return self.count

    async def later(self, value: int) -> int:
        await asyncio.sleep(0)
        return value

    def me(self) -> Any:
        return ray.get_runtime_context().current_actor

    def leave(self) -> None:
        ray.actor.exit_actor()


class Named:
    def name(self) -> str:
        return type(self).__name__


def error_of(call: Any) -> list[str]:
    """Names of the classes of the error that a call raises, as users catch them."""
    try:
        call()
    except Exception as error:
        return [kind.__name__ for kind in type(error).__mro__ if not kind.__name__.startswith("_")][:4]
    return []


async def awaited(ref: Any) -> Any:
    return await ref


def main() -> None:
    ray.init(num_cpus=4, namespace="calls", log_to_driver=False)
    seen: dict[str, Any] = {
        "engine": type(ray.get_runtime_context()).__module__,
        "real": "ray" in sys.modules,
    }
    held = double.remote(4)
    counter = Counter.options(name="counted").remote(1)
    seen["tasks"] = [
        ray.get(double.remote(double.remote(1))),
        ray.get(nested.remote(3)),
        ray.get(pair.remote()),
    ]
    seen["streams"] = [ray.get(ref) for ref in counted.remote(3)]
    seen["nested refs and handles"] = ray.get(inside.remote([held, ray.put("put")], counter))
    seen["one object in a list"] = ray.get(ray.get(ray.put([held]))[0])
    seen["actor"] = [ray.get(counter.add.remote(by=2)), ray.get(counter.later.remote(5))]
    found = ray.get_actor("counted")
    seen["found by name"] = [
        found == counter,
        ray.get(found.add.remote()),
        ray.get(found.me.remote()) == counter,
    ]
    seen["await"] = asyncio.run(awaited(double.remote("ab")))
    seen["future"] = double.remote(21).future().result(60)
    seen["wait"] = [len(part) for part in ray.wait([double.remote(1), double.remote(2)], num_returns=2)]
    seen["errors"] = {
        "task": error_of(lambda: ray.get(fails.remote("x"))),
        "below": error_of(lambda: ray.get(fails_below.remote())),
        "timeout": error_of(lambda: ray.get(slow.remote(), timeout=0.01)),
        "arguments": error_of(lambda: counter.add.remote("one", "two")),
        "name": error_of(lambda: ray.get_actor("nobody")),
        "taken": error_of(lambda: Counter.options(name="counted").remote()),
    }
    pool = ActorPool([Counter.remote() for _ in range(2)])
    seen["pool"] = sorted(pool.map(lambda actor, value: actor.later.remote(value), [1, 2, 3]))
    queue = Queue(maxsize=2)
    queue.put("item")
    seen["queue"] = [queue.get(timeout=60), queue.empty()]
    queue.shutdown()
    ray.kill(counter)
    while not (killed := error_of(lambda: ray.get(counter.add.remote(), timeout=60))):
        pass  # Ray kills when it gets to it
    seen["errors"]["killed"] = killed
    leaver = Counter.remote()
    seen["errors"]["left"] = error_of(lambda: ray.get(leaver.leave.remote(), timeout=60))
    ray.register("kept")(Named)
    seen["registered"] = [ray.actor_types(), ray.get(ray.spawn("kept").name.remote())]
    unfit = ray.remote(num_cpus=50)(Named).remote()
    seen["errors"]["unfit"] = error_of(lambda: ray.wait_ready(unfit, 1))[:1]
    with ray.gang_allocate(1, 1, name="taken", timeout=60):
        seen["errors"]["group"] = error_of(lambda: ray.gang_allocate(1, 1, name="taken"))[:1]
    context = ray.get_runtime_context()
    nodes = ray.nodes()
    seen["facts"] = [
        context.namespace,
        ray.cluster_resources()["CPU"],
        len(nodes),
        nodes[0]["NodeID"] == context.get_node_id(),
    ]
    ray.shutdown()
    seen["shut down"] = not ray.is_initialized()
    print("\n@result " + json.dumps(seen), flush=True)


if __name__ == "__main__":
    main()
