"""The runtime context, in the driver, in tasks, in actors."""

from __future__ import annotations

from typing import Any

from tests.conformance.kit import caught

INIT: dict[str, Any] = {"num_cpus": 4, "num_gpus": 0, "namespace": "here"}


def ids_in_the_driver(ray: Any) -> Any:
    c = ray.get_runtime_context()
    return [
        len(c.get_job_id()),
        len(c.get_node_id()),
        len(c.get_worker_id()),
        c.get_actor_id(),
        c.get_task_id(),
        c.get_placement_group_id(),
        c.get_actor_name(),
        c.get_task_name(),
        c.get_task_function_name(),
    ]


def ids_in_a_task(ray: Any) -> Any:
    @ray.remote
    def f() -> Any:
        c = ray.get_runtime_context()
        return [
            c.get_job_id(),
            c.get_node_id(),
            len(c.get_worker_id()),
            c.get_actor_id(),
            len(c.get_task_id()),
            c.get_task_name(),
            c.get_placement_group_id(),
            c.get_actor_name(),
        ]

    c = ray.get_runtime_context()
    seen = ray.get(f.remote())
    return [seen[0] == c.get_job_id(), seen[1] == c.get_node_id(), *seen[2:]]


def ids_in_an_actor(ray: Any) -> Any:
    @ray.remote
    class A:
        def m(self) -> Any:
            c = ray.get_runtime_context()
            return [
                c.get_actor_id(),
                c.get_actor_name(),
                len(c.get_task_id()),
                c.get_task_name(),
                c.get_job_id(),
            ]

    a = A.options(name="named").remote()
    seen = ray.get(a.m.remote())
    job = ray.get_runtime_context().get_job_id()
    return [seen[0] == a._actor_id.hex(), len(seen[0]), *seen[1:4], seen[4] == job]


def unnamed_actor(ray: Any) -> Any:
    @ray.remote
    class A:
        def m(self) -> Any:
            return ray.get_runtime_context().get_actor_name()

    return ray.get(A.remote().m.remote())


def task_ids_differ(ray: Any) -> Any:
    @ray.remote
    def f() -> Any:
        return ray.get_runtime_context().get_task_id()

    return len(set(ray.get([f.remote() for _ in range(5)])))


def task_id_of_a_ref(ray: Any) -> Any:
    @ray.remote
    def f() -> Any:
        return ray.get_runtime_context().get_task_id()

    ref = f.remote()
    return ray.get(ref) == ref.task_id().hex()


def task_name_by_options(ray: Any) -> Any:
    @ray.remote
    def f() -> Any:
        return ray.get_runtime_context().get_task_name()

    return ray.get(f.options(name="my name").remote())


def current_actor_in_a_task(ray: Any) -> Any:
    @ray.remote
    def f() -> Any:
        return caught(lambda: ray.get_runtime_context().current_actor, kinds=(RuntimeError,))

    return ray.get(f.remote())


def current_actor_is_usable(ray: Any) -> Any:
    @ray.remote
    def call(handle: Any) -> Any:
        return ray.get(handle.leaf.remote())

    @ray.remote(max_concurrency=2)
    class A:
        def m(self) -> Any:
            return ray.get(call.remote(ray.get_runtime_context().current_actor))

        def leaf(self) -> str:
            return "leaf"

    return ray.get(A.remote().m.remote())


def current_actor_of_the_driver(ray: Any) -> Any:
    return caught(lambda: ray.get_runtime_context().current_actor)


def get_as_a_dict(ray: Any) -> Any:
    seen = ray.get_runtime_context().get()
    return [sorted(seen)[:3], seen["namespace"]]


def namespace_everywhere(ray: Any) -> Any:
    @ray.remote
    class A:
        def m(self) -> Any:
            return ray.get_runtime_context().namespace

    return [ray.get_runtime_context().namespace, ray.get(A.remote().m.remote())]


def runtime_env_in_the_context(ray: Any) -> Any:
    @ray.remote(runtime_env={"env_vars": {"X": "1"}})
    def f() -> Any:
        return ray.get_runtime_context().runtime_env.get("env_vars")

    return ray.get(f.remote())


def job_id_in_nested_tasks(ray: Any) -> Any:
    @ray.remote
    def inner() -> Any:
        return ray.get_runtime_context().get_job_id()

    @ray.remote
    def outer() -> Any:
        return ray.get(inner.remote())

    return ray.get(outer.remote()) == ray.get_runtime_context().get_job_id()


def workers_differ_from_the_driver(ray: Any) -> Any:
    @ray.remote
    def f() -> Any:
        return ray.get_runtime_context().get_worker_id()

    return ray.get(f.remote()) != ray.get_runtime_context().get_worker_id()


def is_initialized(ray: Any) -> Any:
    @ray.remote
    def f() -> Any:
        return ray.is_initialized()

    return [ray.is_initialized(), ray.get(f.remote())]


def address_is_shown(ray: Any) -> Any:
    host, port = ray.get_runtime_context().gcs_address.rsplit(":", 1)
    return [bool(host), port.isdigit()]


def node_ip_address(ray: Any) -> Any:
    from tests.conformance.kit import sub

    ip = sub(ray, "util").get_node_ip_address()
    return [ip.count("."), ip == ray.nodes()[0]["NodeManagerAddress"]]


def was_reconstructed(ray: Any) -> Any:
    @ray.remote
    class A:
        def m(self) -> Any:
            return ray.get_runtime_context().was_current_actor_reconstructed

    return ray.get(A.remote().m.remote())


def assigned_resources_of_the_driver(ray: Any) -> Any:
    return "error" in caught(lambda: ray.get_runtime_context().get_assigned_resources())


def capture_child_tasks(ray: Any) -> Any:
    return ray.get_runtime_context().should_capture_child_tasks_in_placement_group


def accelerator_ids_of_the_driver(ray: Any) -> Any:
    return ray.get_runtime_context().get_accelerator_ids()["GPU"]


def node_labels(ray: Any) -> Any:
    labels = ray.get_runtime_context().get_node_labels()
    return labels["ray.io/node-id"] == ray.get_runtime_context().get_node_id()


def session_name(ray: Any) -> Any:
    return [isinstance(ray.get_runtime_context().get_session_name(), str)]


class _Named:
    def __init__(self, ray: Any) -> None:
        context = ray.get_runtime_context()
        self._first = [context.get_task_function_name(), context.get_task_name()]

    def first(self) -> list[str]:
        return self._first

    async def later(self, ray: Any) -> str:
        return str(ray.get_runtime_context().get_task_function_name())

    def items(self, ray: Any) -> Any:
        yield ray.get_runtime_context().get_task_function_name()


def names_of_functions_have_their_module(ray: Any) -> Any:
    def name() -> Any:
        return ray.get_runtime_context().get_task_function_name()

    class Inner:
        def method(self) -> Any:
            return ray.get_runtime_context().get_task_function_name()

    actor, inner = ray.remote(_Named).remote(ray), ray.remote(Inner).remote()
    seen = [
        ray.get(ray.remote(name).remote()),
        ray.get(ray.remote(name).options(name="other").remote()),
        ray.get(actor.later.remote(ray)),
        ray.get(next(actor.items.remote(ray))),
        ray.get(inner.method.remote()),
        *ray.get(actor.first.remote()),
        ray.get_runtime_context().get_task_function_name(),
    ]
    return [one and one.rpartition("conformance.cases.")[2] for one in seen]
