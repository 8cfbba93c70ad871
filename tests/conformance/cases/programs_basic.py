"""What Ray's own test programs do around `init` and `shutdown`, and see of processes and options."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from tests.conformance.kit import QUIET, caught, eventually, sub

THROUGH_RAY_COMPAT = True
INIT = None


def _init(ray: Any, **options: Any) -> Any:
    return ray.init(**{"num_cpus": 2, "num_gpus": 0, **QUIET, **options})


# -- refs of an earlier session


def refs_of_an_earlier_session(ray: Any) -> Any:
    @ray.remote
    def echo(x: Any) -> Any:
        return x

    unknown = "whose owner is unknown"
    _init(ray)
    old, result = ray.put("old"), echo.remote(1)
    ray.get(result)
    ray.shutdown()
    _init(ray)
    try:
        ready, rest = ray.wait([ray.put("new"), old])
        return [
            caught(lambda: echo.remote(old), unknown, kinds=(ValueError,)),
            caught(lambda: echo.remote([result]), unknown, kinds=(ValueError,)),
            caught(lambda: ray.get(old, timeout=30), unknown, kinds=(ValueError,)),
            [ray.get(ready), len(rest)],
            caught(lambda: ray.wait(rest, timeout=30), unknown, kinds=(ValueError,)),
        ]
    finally:
        ray.shutdown()


# -- what a node has


def resources_by_the_environment(ray: Any) -> Any:
    os.environ["RAY_OVERRIDE_RESOURCES"] = '{"custom1": 1, "custom2": 2, "CPU": 3}'
    try:
        _init(ray, resources={"custom1": 3, "custom3": 3})
        found = ray.cluster_resources()
        return [found[name] for name in ("CPU", "custom1", "custom2", "custom3")]
    finally:
        del os.environ["RAY_OVERRIDE_RESOURCES"]
        ray.shutdown()


def object_store_memory_as_a_float(ray: Any) -> Any:
    _init(ray, object_store_memory=200e6)
    found = ray.cluster_resources()["object_store_memory"]
    ray.shutdown()
    return found


def settings_of_a_cluster_that_runs(ray: Any) -> Any:
    cluster = sub(ray, "cluster_utils").Cluster()
    cluster.add_node(num_cpus=1)
    given: list[dict[str, Any]] = [
        {"num_cpus": 2},
        {"resources": {"x": 1}},
        {"object_store_memory": 10**8},
        {"_system_config": {"object_timeout_milliseconds": 200}},
    ]
    try:
        return [
            caught(
                lambda options=options: ray.init(address=cluster.address, **QUIET, **options),
                "When connecting to an existing cluster",
                *options,
                kinds=(ValueError,),
            )
            for options in given
        ]
    finally:
        cluster.shutdown()


# -- wrong options, in the words that programs look for


def texts_of_wrong_options(ray: Any) -> Any:
    def function() -> None:
        pass

    class Actor:
        pass

    count, infinite = "only accepts None, 0 or a positive integer", "0, -1 or a positive integer, where -1"
    cases: list[tuple[Any, dict[str, Any], str]] = [
        (function, {"max_retries": 0.5}, "'max_retries' must be (<class 'int'>, <class 'NoneType'>), but"),
        (function, {"max_calls": 0.5}, "but received type <class 'float'>"),
        (function, {"num_returns": 0.5}, "must be (<class 'int'>, <class 'str'>, <class 'NoneType'>)"),
        (function, {"num_returns": -1}, "The keyword 'num_returns' only accepts None"),
        (function, {"max_calls": -1}, f"The keyword 'max_calls' {count}"),
        (function, {"max_retries": -5}, f"The keyword 'max_retries' only accepts None, {infinite}"),
        (function, {"num_cpus": "1"}, "(<class 'float'>, <class 'int'>, <class 'NoneType'>), but received"),
        (function, {"memory": -1}, "The quantity of resource memory cannot be negative"),
        (function, {"resources": [1]}, "must be (<class 'dict'>, <class 'NoneType'>), but received type"),
        (function, {"resources": {"GPU": 1}}, "Use the 'num_cpus' and 'num_gpus' keyword instead of 'CPU'"),
        (function, {"placement_group_bundle_index": "x"}, "must be <class 'int'>, but received type"),
        (Actor, {"max_restarts": 0.5}, "'max_restarts' must be (<class 'int'>, <class 'NoneType'>), but"),
        (Actor, {"max_restarts": -5}, f"The keyword 'max_restarts' only accepts None, {infinite}"),
        (Actor, {"max_task_retries": -5}, "represents infinity"),
        (Actor, {"max_concurrency": -1}, f"The keyword 'max_concurrency' {count}"),
        (Actor, {"lifetime": "x"}, "actor `lifetime` argument must be one of 'detached', 'non_detached' and"),
        (Actor, {"namespace": 1}, "must be (<class 'str'>, <class 'NoneType'>), but received type"),
    ]
    return [
        [*options, caught(lambda options=options, of=of: ray.remote(**options)(of), text)]
        for of, options, text in cases
    ]


def defaults_of_options(ray: Any) -> Any:
    utilities = sub(ray, "_common.ray_option_utils")

    @ray.remote
    def function() -> None:
        pass

    @ray.remote
    class Actor:
        pass

    tasks = {name: option.default_value for name, option in utilities.task_options.items()}
    actors = {name: option.default_value for name, option in utilities.actor_options.items()}
    tasks.pop("max_calls")
    actors.pop("concurrency_groups")
    return [
        tasks,
        actors,
        type(function.options(**tasks)).__name__ != "",
        type(Actor.options(**actors)).__name__ != "",
        caught(lambda: function.options(max_calls=1), "'max_calls' is not supported in '.options()'"),
        caught(lambda: Actor.options(concurrency_groups=[]), "not supported in '.options()'"),
        utilities.update_options({"a": 1, "b": 1}, {"b": 2}),
    ]


# -- what ps shows of workers


def _title(pid: int | str = "self") -> str:
    with open(f"/proc/{pid}/cmdline", encoding="utf-8") as file:
        return file.read().partition("\0")[0]


def titles_of_workers(ray: Any) -> Any:
    @ray.remote
    def short() -> str:
        return _title()

    @ray.remote
    class Titled:
        def __init__(self) -> None:
            self.first = _title()

        def titles(self) -> tuple[str, str]:
            return self.first, _title()

        def pid(self) -> int:
            return os.getpid()

    _init(ray)
    try:
        actor = Titled.remote()
        pid = ray.get(actor.pid.remote())
        return [
            ray.get([short.remote(), short.remote()]),
            ray.get(short.options(name="a name").remote()),
            ray.get(actor.titles.remote()),
            ray.get(actor.titles.options(name="another").remote()),
            eventually(lambda: _title(pid) == "ray::Titled"),
        ]
    finally:
        ray.shutdown()


def context_as_a_mapping(ray: Any) -> Any:
    context = _init(ray)
    found = [
        "node_id" in context,
        "nothing" in context,
        context.get("nothing"),
        context.get("node_id") == context["node_id"] == dict(context.items())["node_id"],
        "address" in set(context.keys()),
        len(context) == len(list(context)) == len(list(context.values())),
        caught(lambda: context["nothing"], kinds=(KeyError,)),
    ]
    context.disconnect()
    return [*found, ray.is_initialized()]


def default_options_of_a_function(ray: Any) -> Any:
    @ray.remote
    def plain() -> None:
        pass

    @ray.remote(num_cpus=0.5, max_retries=1)
    def given() -> None:
        pass

    return [plain._default_options, given._default_options]


def ids_name_the_job(ray: Any) -> Any:
    @ray.remote
    def nothing() -> None:
        pass

    @ray.remote
    class Actor:
        def ping(self) -> None:
            pass

    @ray.remote(num_cpus=0)
    def look(job_id: Any) -> list[bool]:
        def of_this_job() -> list[bool]:
            actor = Actor.options(num_cpus=0).remote()
            refs = [nothing.remote(), ray.put(1), actor.ping.remote()]
            return [one.job_id() == job_id for one in (task, *refs)] + [actor._actor_id.job_id == job_id]

        task = ray.TaskID.from_hex(ray.get_runtime_context().get_task_id())
        found = of_this_job()
        with ThreadPoolExecutor(1) as threads:
            return found + threads.submit(of_this_job).result()

    _init(ray)
    try:
        return ray.get(look.remote(ray.get_runtime_context().job_id))
    finally:
        ray.shutdown()
