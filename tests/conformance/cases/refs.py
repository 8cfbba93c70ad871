"""Object refs as arguments and results."""

from __future__ import annotations

import pickle
from typing import Any

from tests.conformance.kit import caught


def top_level_is_resolved(ray: Any) -> Any:
    @ray.remote
    def f(x: Any, y: Any = None) -> Any:
        return [type(x).__name__, x, type(y).__name__]

    ref = ray.put(3)
    return ray.get(f.remote(ref, y=ref))


def nested_is_not_resolved(ray: Any) -> Any:
    @ray.remote
    def f(items: list[Any]) -> Any:
        return [isinstance(items[0], ray.ObjectRef), ray.get(items[0]), items[1]]

    return ray.get(f.remote([ray.put("inside"), 2]))


def nested_in_dict_and_object(ray: Any) -> Any:
    class Box:
        def __init__(self, ref: Any) -> None:
            self.ref = ref

    @ray.remote
    def f(where: dict[str, Any], box: Any) -> Any:
        return ray.get([where["a"], box.ref])

    return ray.get(f.remote({"a": ray.put(1)}, Box(ray.put(2))))


def chain(ray: Any) -> Any:
    @ray.remote
    def add(x: int) -> int:
        return x + 1

    ref = add.remote(0)
    for _ in range(10):
        ref = add.remote(ref)
    return ray.get(ref)


def fan_in(ray: Any) -> Any:
    @ray.remote
    def one(i: int) -> int:
        return i

    @ray.remote
    def total(*parts: int) -> int:
        return sum(parts)

    return ray.get(total.remote(*[one.remote(i) for i in range(20)]))


def returned_ref(ray: Any) -> Any:
    @ray.remote
    def f() -> Any:
        return ray.put("deep")

    ref = ray.get(f.remote())
    return [isinstance(ref, ray.ObjectRef), ray.get(ref)]


def returned_ref_of_a_child_task(ray: Any) -> Any:
    @ray.remote
    def child() -> str:
        return "child"

    @ray.remote
    def parent() -> Any:
        return [child.remote(), child.remote()]

    return ray.get(ray.get(parent.remote()))


def ref_in_a_closure(ray: Any) -> Any:
    ref = ray.put([1, 2])

    @ray.remote
    def f() -> Any:
        return ray.get(ref)

    return ray.get(f.remote())


def put_of_a_list_of_refs(ray: Any) -> Any:
    refs = [ray.put(i) for i in range(3)]
    outer = ray.put(refs)
    return [ray.get(outer) == refs, ray.get(ray.get(outer))]


def ref_in_ref_outlives_the_names(ray: Any) -> Any:
    inner = ray.put("kept")
    outer = ray.put([inner])
    del inner
    return ray.get(ray.get(outer)[0])


def borrowed_ref_given_back(ray: Any) -> Any:
    @ray.remote
    def same(items: list[Any]) -> Any:
        return items[0]

    ref = ray.put(5)
    back = ray.get(same.remote([ref]))
    return [back == ref, hash(back) == hash(ref), ray.get(back)]


def borrowed_ref_kept_by_an_actor(ray: Any) -> Any:
    @ray.remote
    class Keeper:
        def keep(self, items: list[Any]) -> None:
            self.ref = items[0]

        def value(self) -> Any:
            return ray.get(self.ref)

    keeper = Keeper.remote()
    ref = ray.put("long" * 100_000)
    ray.get(keeper.keep.remote([ref]))
    del ref
    return len(ray.get(keeper.value.remote()))


def equality_and_hash(ray: Any) -> Any:
    a, b = ray.put(1), ray.put(1)
    return [a == a, a == b, len({a, b, a}), a != b]


def shape_of_a_ref(ray: Any) -> Any:
    ref = ray.put(1)
    return [
        len(ref.binary()),
        len(ref.hex()),
        str(ref) == f"ObjectRef({ref.hex()})",
        repr(ref) == str(ref),
        ref.is_nil(),
        len(ref.task_id().hex()),
    ]


def ref_from_binary_is_nil(ray: Any) -> Any:
    return [ray.ObjectRef.nil().is_nil(), ray.ObjectRef.nil() == ray.ObjectRef.nil()]


def pickled_ref_outside_of_a_call(ray: Any) -> Any:
    return caught(lambda: pickle.loads(pickle.dumps(ray.put(1))), "serializ")


def future_of_a_ref(ray: Any) -> Any:
    @ray.remote
    def f() -> int:
        return 5

    return f.remote().future().result(timeout=30)


def future_of_a_failure(ray: Any) -> Any:
    @ray.remote(max_retries=0)
    def f() -> None:
        raise KeyError("k")

    return caught(lambda: f.remote().future().result(timeout=30), kinds=(KeyError,))


def await_a_ref_in_the_driver(ray: Any) -> Any:
    import asyncio

    @ray.remote
    def f(i: int) -> int:
        return i

    async def main() -> Any:
        return [await f.remote(1), await asyncio.gather(f.remote(2), f.remote(3))]

    return asyncio.run(main())


def await_a_failure(ray: Any) -> Any:
    import asyncio

    @ray.remote(max_retries=0)
    def f() -> None:
        raise ValueError("bad")

    async def main() -> Any:
        try:
            await f.remote()
        except ValueError as error:
            return type(error).__name__
        return None

    return asyncio.run(main())


def asyncio_wait_for_times_out(ray: Any) -> Any:
    import asyncio

    from tests.conformance.kit import Flag

    flag = Flag()

    @ray.remote
    def f() -> bool:
        return flag.wait()

    async def main() -> Any:
        ref = f.remote()
        try:
            await asyncio.wait_for(ref, timeout=0.2)
        except asyncio.TimeoutError:
            return "timeout"
        finally:
            flag.set()
        return None

    return asyncio.run(main())


def same_ref_twice_as_argument(ray: Any) -> Any:
    @ray.remote
    def f(a: Any, b: Any) -> bool:
        return bool(a == b)

    ref = ray.put([1])
    return ray.get(f.remote(ref, ref))


def ref_of_a_failure_as_argument(ray: Any) -> Any:
    @ray.remote(max_retries=0)
    def bad() -> None:
        raise ValueError("first")

    @ray.remote
    def use(x: Any) -> Any:
        return "ran"

    return caught(lambda: ray.get(use.remote(bad.remote())), "first", kinds=(ValueError,))


def failure_nested_is_only_seen_by_get(ray: Any) -> Any:
    @ray.remote(max_retries=0)
    def bad() -> None:
        raise ValueError("first")

    @ray.remote
    def use(items: list[Any]) -> Any:
        return caught(lambda: ray.get(items[0]), kinds=(ValueError,))

    return ray.get(use.remote([bad.remote()]))


def actor_result_as_task_argument(ray: Any) -> Any:
    @ray.remote
    class A:
        def value(self) -> int:
            return 4

    @ray.remote
    def add(x: int) -> int:
        return x + 1

    a = A.remote()
    return ray.get(add.remote(a.value.remote()))


def large_argument_by_ref(ray: Any) -> Any:
    @ray.remote
    def size(x: bytes) -> int:
        return len(x)

    ref = ray.put(b"x" * 3_000_000)
    return ray.get([size.remote(ref) for _ in range(4)])


def ref_result_passed_through_three_processes(ray: Any) -> Any:
    @ray.remote
    def make() -> Any:
        return [ray.put(b"y" * 200_000)]

    @ray.remote
    def pass_on(items: list[Any]) -> Any:
        return items

    @ray.remote
    def size(items: list[Any]) -> int:
        return len(ray.get(items[0]))

    return ray.get(size.remote(pass_on.remote(make.remote())))


def made_of_the_bytes_of_an_id(ray: Any) -> Any:
    ref = ray.put("value")
    made = ray.ObjectRef(ref.binary())
    seen = [made == ref, ray.get(made), ray.ObjectRef.from_binary(ref.binary()) == ref]
    del ref
    return [*seen, ray.get(made)]


def made_of_something_else(ray: Any) -> Any:
    return [
        caught(lambda: ray.ObjectRef(b"x"), "28", kinds=(ValueError,)),
        caught(lambda: ray.ObjectRef("x" * 28), "expected bytes", kinds=(TypeError,)),
        ray.ObjectRef.size(),
        ray.ObjectRef.nil().is_nil(),
    ]


def a_random_ref_names_nothing(ray: Any) -> Any:
    ref = ray.ObjectRef.from_random()
    ready, missing = ray.wait([ref], timeout=0.1)
    return [
        ready == [], missing == [ref], len(ref.binary()), ref.is_nil(),
        caught(lambda: ray.get(ref, timeout=0.1), kinds=(TimeoutError,)),
    ]  # fmt: skip
