"""Named actors, namespaces, lifetimes."""

from __future__ import annotations

from typing import Any

from tests.conformance.kit import caught, eventually, sub

INIT: dict[str, Any] = {"num_cpus": 4, "num_gpus": 0, "namespace": "conformance"}


def _actor(ray: Any) -> Any:
    @ray.remote
    class Store:
        def __init__(self, value: int = 0) -> None:
            self.value = value

        def add(self) -> int:
            self.value += 1
            return self.value

    return Store


def _gone(ray: Any, name: str) -> bool:
    def look() -> bool:
        try:
            ray.get_actor(name)
        except ValueError:
            return True
        return False

    return eventually(look)


def get_actor_by_name(ray: Any) -> Any:
    a = _actor(ray).options(name="one").remote(5)
    b = ray.get_actor("one")
    return [ray.get([a.add.remote(), b.add.remote()]), a == b]


def get_actor_in_a_task(ray: Any) -> Any:
    keep = _actor(ray).options(name="for task").remote()

    @ray.remote
    def f() -> int:
        return int(ray.get(ray.get_actor("for task").add.remote()))

    return [ray.get(f.remote()), ray.get(keep.add.remote())]


def unknown_name(ray: Any) -> Any:
    return caught(lambda: ray.get_actor("nobody"), "nobody", "Failed to look up actor", kinds=(ValueError,))


def empty_name(ray: Any) -> Any:
    return caught(lambda: ray.get_actor(""), kinds=(ValueError,))


def name_taken(ray: Any) -> Any:
    keep = _actor(ray).options(name="taken").remote()
    ray.get(keep.add.remote())
    return caught(lambda: _actor(ray).options(name="taken").remote(), "taken", kinds=(ValueError,))


def name_is_free_again_after_kill(ray: Any) -> Any:
    a = _actor(ray).options(name="again").remote(10)
    ray.get(a.add.remote())
    ray.kill(a)
    gone = _gone(ray, "again")
    b = _actor(ray).options(name="again").remote(20)
    return [gone, ray.get(b.add.remote())]


def name_is_free_after_the_last_handle(ray: Any) -> Any:
    a = _actor(ray).options(name="counted").remote()
    ray.get(a.add.remote())
    del a
    return _gone(ray, "counted")


def looked_up_handle_does_not_keep_it_alive(ray: Any) -> Any:
    a = _actor(ray).options(name="weak").remote()
    ray.get(a.add.remote())
    b = ray.get_actor("weak")
    del a
    gone = _gone(ray, "weak")
    return [gone, caught(lambda: ray.get(b.add.remote()), kinds=(ray.exceptions.RayActorError,))]


def get_if_exists(ray: Any) -> Any:
    store = _actor(ray).options(name="shared", get_if_exists=True)
    a = store.remote(1)
    b = store.remote(100)
    return [ray.get([a.add.remote(), b.add.remote()]), a == b]


def get_if_exists_needs_a_name(ray: Any) -> Any:
    return caught(lambda: _actor(ray).options(get_if_exists=True).remote(), "name", kinds=(ValueError,))


def other_namespace(ray: Any) -> Any:
    a = _actor(ray).options(name="n", namespace="elsewhere").remote(3)
    ray.get(a.add.remote())
    found = ray.get_actor("n", namespace="elsewhere")
    return [caught(lambda: ray.get_actor("n")), ray.get(found.add.remote())]


def same_name_in_two_namespaces(ray: Any) -> Any:
    a = _actor(ray).options(name="twin", namespace="first").remote(1)
    b = _actor(ray).options(name="twin", namespace="second").remote(10)
    return ray.get([a.add.remote(), b.add.remote(), ray.get_actor("twin", "second").add.remote()])


def detached_survives_its_handles(ray: Any) -> Any:
    a = _actor(ray).options(name="detached", lifetime="detached").remote(1)
    ray.get(a.add.remote())
    del a
    b = ray.get_actor("detached")
    value = ray.get(b.add.remote())
    ray.kill(b)
    return [value, _gone(ray, "detached")]


def detached_made_by_a_task_survives_it(ray: Any) -> Any:
    store = _actor(ray)

    @ray.remote
    def make() -> None:
        actor = store.options(name="made", lifetime="detached").remote(7)
        ray.get(actor.add.remote())

    ray.get(make.remote())
    found = ray.get_actor("made")
    value = ray.get(found.add.remote())
    ray.kill(found)
    return value


def detached_without_a_name(ray: Any) -> Any:
    return caught(lambda: _actor(ray).options(lifetime="detached").remote().add.remote() and "made")


def bad_lifetime(ray: Any) -> Any:
    return caught(
        lambda: _actor(ray).options(name="x", lifetime="forever").remote(), kinds=(ValueError, TypeError)
    )


def name_of_a_wrong_type(ray: Any) -> Any:
    return caught(lambda: _actor(ray).options(name=5).remote(), kinds=(ValueError, TypeError))


def namespace_of_a_wrong_type(ray: Any) -> Any:
    return caught(lambda: _actor(ray).options(name="x", namespace=5).remote(), kinds=(ValueError, TypeError))


def empty_name_for_a_new_actor(ray: Any) -> Any:
    return caught(lambda: _actor(ray).options(name="").remote(), kinds=(ValueError,))


def list_named_actors(ray: Any) -> Any:
    keep = _actor(ray).options(name="listed").remote()
    other = _actor(ray).options(name="listed elsewhere", namespace="far").remote()
    ray.get([keep.add.remote(), other.add.remote()])
    names = sub(ray, "util").list_named_actors()
    everything = sub(ray, "util").list_named_actors(all_namespaces=True)
    return [
        "listed" in names,
        "listed elsewhere" in names,
        {"name": "listed elsewhere", "namespace": "far"} in everything,
        {"name": "listed", "namespace": "conformance"} in everything,
    ]


def namespace_of_the_context(ray: Any) -> Any:
    @ray.remote
    def f() -> str:
        return str(ray.get_runtime_context().namespace)

    return [ray.get_runtime_context().namespace, ray.get(f.remote())]


def unicode_name(ray: Any) -> Any:
    keep = _actor(ray).options(name="naïve ✓ 名").remote(1)
    found = ray.get_actor("naïve ✓ 名")
    return [ray.get(found.add.remote()), ray.get(keep.add.remote())]


def lookup_right_after_creation(ray: Any) -> Any:
    values = []
    for i in range(3):
        keep = _actor(ray).options(name=f"quick {i}").remote(i)
        values.append(ray.get(ray.get_actor(f"quick {i}").add.remote()))
        ray.kill(keep)
    return values


def methods_of_a_looked_up_actor(ray: Any) -> Any:
    keep = _actor(ray).options(name="methods").remote()
    found = ray.get_actor("methods")
    seen = [hasattr(found, "add"), hasattr(found, "nothing"), caught(lambda: found.add.remote(1))]
    ray.get(keep.add.remote())
    return seen
