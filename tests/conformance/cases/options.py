"""Validation of options: what is refused, by which error, and when."""

from __future__ import annotations

from typing import Any

from tests.conformance.kit import caught


def _define(ray: Any, **options: Any) -> Any:
    def f() -> int:
        return 1

    return ray.remote(**options)(f) and "defined"


def _define_actor(ray: Any, **options: Any) -> Any:
    class A:
        pass

    return ray.remote(**options)(A) and "defined"


def _each(make: Any, ray: Any, *choices: dict[str, Any]) -> Any:
    return [caught(lambda choice=choice: make(ray, **choice)) for choice in choices]


def unknown_option(ray: Any) -> Any:
    return _each(_define, ray, {"num_cpu": 1}, {"nonsense": 1})


def unknown_actor_option(ray: Any) -> Any:
    return _each(_define_actor, ray, {"num_cpu": 1}, {"num_returns": 2}, {"max_retries": 1})


def actor_options_on_a_task(ray: Any) -> Any:
    return _each(
        _define, ray, {"max_restarts": 1}, {"max_concurrency": 2}, {"lifetime": "detached"}, {"name": "n"}
    )


def task_options_on_an_actor(ray: Any) -> Any:
    return _each(_define_actor, ray, {"retry_exceptions": True}, {"max_calls": 1})


def num_cpus(ray: Any) -> Any:
    return _each(
        _define,
        ray,
        {"num_cpus": -1},
        {"num_cpus": "1"},
        {"num_cpus": 0},
        {"num_cpus": 0.5},
        {"num_cpus": None},
    )


def num_gpus(ray: Any) -> Any:
    return _each(_define, ray, {"num_gpus": -1}, {"num_gpus": "1"}, {"num_gpus": 0.25}, {"num_gpus": 1.5})


def num_gpus_of_an_actor(ray: Any) -> Any:
    return _each(_define_actor, ray, {"num_gpus": -1}, {"num_gpus": 0.25}, {"num_gpus": 2})


def memory(ray: Any) -> Any:
    return _each(_define, ray, {"memory": -1}, {"memory": "1"}, {"memory": 1000}, {"memory": 1.5})


def num_returns(ray: Any) -> Any:
    return _each(
        _define,
        ray,
        {"num_returns": -1},
        {"num_returns": "x"},
        {"num_returns": 0},
        {"num_returns": 1.5},
        {"num_returns": "streaming"},
        {"num_returns": "dynamic"},
        {"num_returns": None},
    )


def max_retries(ray: Any) -> Any:
    return _each(
        _define, ray, {"max_retries": -2}, {"max_retries": -1}, {"max_retries": 0}, {"max_retries": "1"}
    )


def max_restarts(ray: Any) -> Any:
    return _each(_define_actor, ray, {"max_restarts": -2}, {"max_restarts": -1}, {"max_restarts": "1"})


def max_task_retries(ray: Any) -> Any:
    return _each(
        _define_actor, ray, {"max_task_retries": -2}, {"max_task_retries": -1}, {"max_task_retries": 3}
    )


def max_concurrency(ray: Any) -> Any:
    return _each(
        _define_actor,
        ray,
        {"max_concurrency": 0},
        {"max_concurrency": -1},
        {"max_concurrency": "2"},
        {"max_concurrency": 1},
    )


def max_calls(ray: Any) -> Any:
    return _each(_define, ray, {"max_calls": -1}, {"max_calls": 0}, {"max_calls": 3}, {"max_calls": "1"})


def resources(ray: Any) -> Any:
    return _each(
        _define,
        ray,
        {"resources": {"CPU": 1}},
        {"resources": {"GPU": 1}},
        {"resources": {"memory": 1}},
        {"resources": {"x": -1}},
        {"resources": {"x": 1}},
        {"resources": {"x": 0}},
        {"resources": {"x": 0.5}},
        {"resources": {"x": 1.5}},
        {"resources": []},
        {"resources": {"x": "1"}},
        {"resources": None},
    )


def scheduling_strategy(ray: Any) -> Any:
    return _each(
        _define,
        ray,
        {"scheduling_strategy": "SPREAD"},
        {"scheduling_strategy": "DEFAULT"},
        {"scheduling_strategy": "WRONG"},
        {"scheduling_strategy": 5},
    )


def runtime_env(ray: Any) -> Any:
    return _each(
        _define, ray, {"runtime_env": {"env_vars": {"A": "b"}}}, {"runtime_env": {}}, {"runtime_env": None}
    )


def runtime_env_wrong(ray: Any) -> Any:
    def submit(ray: Any, **options: Any) -> Any:
        @ray.remote
        def f() -> int:
            return 1

        return f.options(**options).remote() and "submitted"

    return _each(
        submit,
        ray,
        {"runtime_env": {"env_vars": {"A": 1}}},
        {"runtime_env": {"env_vars": ["A"]}},
        {"runtime_env": 5},
        {"runtime_env": {"working_dir": 5}},
    )


def retry_exceptions(ray: Any) -> Any:
    return _each(
        _define,
        ray,
        {"retry_exceptions": True},
        {"retry_exceptions": [ValueError]},
        {"retry_exceptions": "x"},
        {"retry_exceptions": [5]},
        {"retry_exceptions": 5},
    )


def label_selector(ray: Any) -> Any:
    return _each(
        _define,
        ray,
        {"label_selector": {"zone": "a"}},
        {"label_selector": {"zone": "!a"}},
        {"label_selector": {"zone": "in(a,b)"}},
        {"label_selector": {"zone": 5}},
        {"label_selector": "zone"},
    )


def options_validates_too(ray: Any) -> Any:
    @ray.remote
    def f() -> int:
        return 1

    @ray.remote
    class A:
        pass

    return [
        caught(lambda: f.options(num_cpus=-1)),
        caught(lambda: f.options(nonsense=1)),
        caught(lambda: f.options(max_restarts=1)),
        caught(lambda: A.options(nonsense=1)),
        caught(lambda: A.options(num_returns=1)),
    ]


def method_decorator(ray: Any) -> Any:
    def define(**options: Any) -> Any:
        @ray.method(**options)
        def m(self: Any) -> int:
            return 1

        return m and "defined"

    return [
        caught(lambda: define(num_returns=2)),
        caught(lambda: define(concurrency_group="io")),
        caught(lambda: define(nonsense=1)),
        caught(lambda: define()),
        caught(lambda: define(max_task_retries=1, retry_exceptions=True)),
    ]


def bare_method_decorator(ray: Any) -> Any:
    def define() -> Any:
        @ray.method
        def m(self: Any) -> int:
            return 1

        return m and "defined"

    return caught(define)


def accelerator_type(ray: Any) -> Any:
    return _each(_define, ray, {"accelerator_type": "A100"}, {"accelerator_type": 5})


def placement_group_bundle_index(ray: Any) -> Any:
    return _each(
        _define,
        ray,
        {"placement_group_bundle_index": -1},
        {"placement_group_bundle_index": 0},
        {"placement_group": "default"},
        {"placement_group": None},
    )


def name_of_a_task(ray: Any) -> Any:
    return _each(_define, ray, {"name": 5}, {"name": ""}, {"name": "fine"})


def decorator_positional_misuse(ray: Any) -> Any:
    return [
        caught(lambda: ray.remote("x")),
        caught(lambda: ray.remote(lambda: 1, num_cpus=1)),
        caught(lambda: ray.remote()),
    ]


def decorating_twice(ray: Any) -> Any:
    @ray.remote
    def f() -> int:
        return 1

    return caught(lambda: ray.remote(f))


def actor_lifetime_and_name(ray: Any) -> Any:
    return _each(
        _define_actor,
        ray,
        {"name": "x"},
        {"lifetime": "detached"},
        {"lifetime": "x"},
        {"get_if_exists": True},
    )


def enable_task_events(ray: Any) -> Any:
    return _each(_define, ray, {"enable_task_events": False}, {"enable_task_events": "no"})


def init_of_a_second_cluster(ray: Any) -> Any:
    return [
        caught(lambda: ray.init(), "ignore_reinit_error", kinds=(RuntimeError,)),
        caught(lambda: ray.init(ignore_reinit_error=True) and "again"),
        ray.is_initialized(),
    ]
