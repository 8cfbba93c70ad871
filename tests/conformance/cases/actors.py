"""Actors: state, order, methods of every kind, handles."""

from __future__ import annotations

import os
import pickle
from typing import Any

from tests.conformance.kit import Flag, caught


def _counter(ray: Any) -> Any:
    @ray.remote
    class Counter:
        """Counts."""

        def __init__(self, start: int = 0, *, step: int = 1) -> None:
            self.n = start
            self.step = step

        def add(self, by: int | None = None) -> int:
            self.n += self.step if by is None else by
            return self.n

        def value(self) -> int:
            return self.n

    return Counter


def state_is_kept(ray: Any) -> Any:
    c = _counter(ray).remote()
    return ray.get([c.add.remote() for _ in range(5)])


def constructor_arguments(ray: Any) -> Any:
    counter = _counter(ray)
    a, b = counter.remote(10), counter.remote(start=1, step=5)
    return ray.get([a.add.remote(), b.add.remote(), a.add.remote(by=3)])


def constructor_takes_refs(ray: Any) -> Any:
    c = _counter(ray).remote(ray.put(40))
    return ray.get(c.add.remote(ray.put(2)))


def constructor_wrong_arguments(ray: Any) -> Any:
    counter = _counter(ray)
    return [
        caught(lambda: counter.remote(1, 2), "too many positional arguments"),
        caught(lambda: counter.remote(wrong=2), "unexpected keyword argument 'wrong'"),
    ]


def method_wrong_arguments(ray: Any) -> Any:
    c = _counter(ray).remote()
    return [
        caught(lambda: c.add.remote(1, 2), "too many positional arguments"),
        caught(lambda: c.value.remote(x=1), "unexpected keyword argument 'x'"),
    ]


def direct_instantiation(ray: Any) -> Any:
    return caught(lambda: _counter(ray)(), "cannot be instantiated directly", ".remote()")


def direct_method_call(ray: Any) -> Any:
    c = _counter(ray).remote()
    return caught(lambda: c.add(), "cannot be called directly", ".remote()")


def missing_method(ray: Any) -> Any:
    c = _counter(ray).remote()
    return [caught(lambda: c.nothing, "nothing"), hasattr(c, "nothing"), hasattr(c, "add")]


def attribute_is_not_visible(ray: Any) -> Any:
    c = _counter(ray).remote()
    return caught(lambda: c.n)


def two_actors_do_not_share(ray: Any) -> Any:
    counter = _counter(ray)
    a, b = counter.remote(), counter.remote()
    ray.get([a.add.remote() for _ in range(3)])
    return ray.get([a.value.remote(), b.value.remote()])


def own_process(ray: Any) -> Any:
    @ray.remote
    class A:
        def pid(self) -> int:
            return os.getpid()

    a, b = A.remote(), A.remote()
    pids = ray.get([a.pid.remote(), b.pid.remote(), a.pid.remote()])
    return [len(set(pids)), pids[0] == pids[2], os.getpid() in pids]


def calls_run_in_order(ray: Any) -> Any:
    @ray.remote
    class Log:
        def __init__(self) -> None:
            self.items: list[int] = []

        def add(self, i: int) -> None:
            self.items.append(i)

        def all(self) -> list[int]:
            return self.items

    log = Log.remote()
    for i in range(200):
        log.add.remote(i)
    return ray.get(log.all.remote()) == list(range(200))


def order_with_a_slow_argument(ray: Any) -> Any:
    flag = Flag()

    @ray.remote
    def slow() -> str:
        flag.wait()
        return "slow"

    @ray.remote
    class Log:
        def __init__(self) -> None:
            self.items: list[str] = []

        def add(self, item: str) -> None:
            self.items.append(item)

        def all(self) -> list[str]:
            return self.items

    log = Log.remote()
    log.add.remote(slow.remote())
    second = log.add.remote("quick")
    ready, _ = ray.wait([second], timeout=0.3)
    flag.set()
    return [len(ready), ray.get(log.all.remote())]


def inheritance(ray: Any) -> Any:
    class Base:
        def __init__(self) -> None:
            self.trail = ["base"]

        def hello(self) -> str:
            return "base hello"

        def trail_of(self) -> list[str]:
            return self.trail

    @ray.remote
    class Derived(Base):
        def __init__(self) -> None:
            super().__init__()
            self.trail.append("derived")

        def hello(self) -> str:
            return "derived " + super().hello()

    d = Derived.remote()
    return ray.get([d.hello.remote(), d.trail_of.remote()])


def inheritance_from_an_actor_class(ray: Any) -> Any:
    base = _counter(ray)

    def define() -> Any:
        class Derived(base):  # type: ignore[misc, valid-type]
            pass

        return ray.remote(Derived)

    seen = caught(define, "nherit", kinds=(TypeError,))
    return [seen["has"], seen["is"]]


def class_and_static_methods(ray: Any) -> Any:
    @ray.remote
    class A:
        name = "A"

        @classmethod
        def of_class(cls, x: int) -> Any:
            return [cls.__name__, cls.name, x]

        @staticmethod
        def of_nothing(x: int) -> int:
            return x + 1

    a = A.remote()
    return ray.get([a.of_class.remote(1), a.of_nothing.remote(1)])


def private_methods(ray: Any) -> Any:
    @ray.remote
    class A:
        def _one(self) -> int:
            return 1

        def __two(self) -> int:
            return 2

        def both(self) -> int:
            return self._one() + self.__two()

    a = A.remote()
    return [ray.get(a.both.remote()), ray.get(a._one.remote()), ray.get(a._A__two.remote())]


def special_methods(ray: Any) -> Any:
    @ray.remote
    class A:
        def __call__(self, x: int) -> int:
            return x * 2

        def __len__(self) -> int:
            return 3

    a = A.remote()
    return ray.get([a.__call__.remote(4), a.__len__.remote()])


def property_is_not_a_method(ray: Any) -> Any:
    @ray.remote
    class A:
        @property
        def p(self) -> int:
            return 1

        def read(self) -> int:
            return self.p

    a = A.remote()
    return [ray.get(a.read.remote()), caught(lambda: a.p)]


def class_attributes(ray: Any) -> Any:
    @ray.remote
    class A:
        shared: list[int] = []

        def add(self) -> int:
            self.shared.append(1)
            return len(self.shared)

    a, b = A.remote(), A.remote()
    return ray.get([a.add.remote(), a.add.remote(), b.add.remote()])


def no_constructor(ray: Any) -> Any:
    @ray.remote
    class A:
        def m(self) -> str:
            return "m"

    return [ray.get(A.remote().m.remote()), caught(lambda: A.remote(1))]


def several_returns(ray: Any) -> Any:
    @ray.remote
    class A:
        @ray.method(num_returns=2)
        def two(self) -> Any:
            return 1, 2

        def one(self) -> Any:
            return 1, 2

    a = A.remote()
    x, y = a.two.remote()
    p, q = a.one.options(num_returns=2).remote()
    return [ray.get([x, y]), ray.get(a.one.remote()), ray.get([p, q])]


def zero_returns(ray: Any) -> Any:
    c = _counter(ray).remote()
    nothing = c.add.options(num_returns=0).remote()
    return [nothing, ray.get(c.value.remote())]


def returns_none_and_self_reference(ray: Any) -> Any:
    @ray.remote
    class A:
        def none(self) -> None:
            pass

        def myself(self) -> Any:
            return ray.get_runtime_context().current_actor

    a = A.remote()
    again = ray.get(a.myself.remote())
    return [ray.get(a.none.remote()), ray.get(again.none.remote()), again == a]


def handle_to_a_task(ray: Any) -> Any:
    c = _counter(ray).remote()

    @ray.remote
    def bump(handle: Any) -> int:
        return int(ray.get(handle.add.remote()))

    return [sorted(ray.get([bump.remote(c) for _ in range(4)])), ray.get(c.value.remote())]


def handle_nested_in_a_list(ray: Any) -> Any:
    c = _counter(ray).remote()

    @ray.remote
    def bump(handles: list[Any]) -> int:
        return int(ray.get(handles[0].add.remote()))

    return ray.get(bump.remote([c]))


def handle_in_a_closure(ray: Any) -> Any:
    c = _counter(ray).remote()

    @ray.remote
    def bump() -> int:
        return int(ray.get(c.add.remote()))

    return ray.get(bump.remote())


def handle_to_another_actor(ray: Any) -> Any:
    c = _counter(ray).remote()

    @ray.remote
    class User:
        def __init__(self, counter: Any) -> None:
            self.counter = counter

        def use(self) -> int:
            return int(ray.get(self.counter.add.remote()))

    u, v = User.remote(c), User.remote(c)
    return sorted([ray.get(u.use.remote()), ray.get(v.use.remote()), ray.get(c.add.remote())])


def actor_created_in_an_actor(ray: Any) -> Any:
    counter = _counter(ray)

    @ray.remote
    class Parent:
        def __init__(self) -> None:
            self.child = counter.remote(5)

        def ask(self) -> int:
            return int(ray.get(self.child.add.remote()))

        def child_handle(self) -> Any:
            return self.child

    parent = Parent.remote()
    first = ray.get(parent.ask.remote())
    child = ray.get(parent.child_handle.remote())
    return [first, ray.get(child.add.remote())]


def actor_created_in_a_task_and_returned(ray: Any) -> Any:
    counter = _counter(ray)

    @ray.remote
    class Holder:
        def make(self) -> Any:
            self.made = counter.remote(1)
            return self.made

    holder = Holder.remote()
    made = ray.get(holder.make.remote())
    return ray.get(made.add.remote())


def handle_put_in_the_store(ray: Any) -> Any:
    c = _counter(ray).remote()
    handle = ray.get(ray.put(c))
    return [ray.get(handle.add.remote()), ray.get(c.add.remote())]


def equality_and_hash_of_handles(ray: Any) -> Any:
    counter = _counter(ray)
    a, b = counter.remote(), counter.remote()
    copy = ray.get(ray.put(a))
    return [a == a, a == b, copy == a, hash(copy) == hash(a), len({a, copy, b})]


def pickled_handle(ray: Any) -> Any:
    c = _counter(ray).remote()
    ray.get(c.add.remote())
    return caught(lambda: ray.get(pickle.loads(pickle.dumps(c)).add.remote()))


def repr_of_class_and_handle(ray: Any) -> Any:
    counter = _counter(ray)
    c = counter.remote()
    return [
        "ActorClass(Counter)" in repr(counter),
        repr(c).startswith("Actor("),
        "Counter" in repr(c),
        c._actor_id.hex() in repr(c),
        len(c._actor_id.hex()),
    ]


def generator_method(ray: Any) -> Any:
    @ray.remote
    class A:
        def items(self, n: int) -> Any:
            for i in range(n):  # noqa: UP028 (Ray drives a generator by send, which range has not)
                yield i

    a = A.remote()
    return [ray.get(ref) for ref in a.items.options(num_returns="streaming").remote(3)]


def actor_class_options(ray: Any) -> Any:
    counter = _counter(ray)
    c = counter.options(num_cpus=1, max_restarts=0).remote(3)
    return ray.get(c.value.remote())


def decorator_with_options(ray: Any) -> Any:
    @ray.remote(num_cpus=0, max_restarts=1)
    class A:
        def m(self) -> int:
            return 1

    return ray.get(A.remote().m.remote())


def remote_applied_to_a_class(ray: Any) -> Any:
    class Plain:
        def m(self) -> str:
            return type(self).__name__

    actor = ray.remote(Plain).remote()
    return [ray.get(actor.m.remote()), Plain().m()]


def method_that_raises_does_not_kill(ray: Any) -> Any:
    @ray.remote
    class A:
        def __init__(self) -> None:
            self.n = 0

        def m(self, fail: bool) -> int:
            self.n += 1
            if fail:
                raise ValueError("x")
            return self.n

    a = A.remote()
    return [caught(lambda: ray.get(a.m.remote(True))), ray.get(a.m.remote(False))]


def runtime_env_of_an_actor(ray: Any) -> Any:
    @ray.remote
    class A:
        def read(self) -> Any:
            return os.environ.get("CONFORMANCE_ACTOR")

    with_env = A.options(runtime_env={"env_vars": {"CONFORMANCE_ACTOR": "yes"}}).remote()
    return ray.get([with_env.read.remote(), A.remote().read.remote()])


def large_state_round_trip(ray: Any) -> Any:
    @ray.remote
    class Store:
        def put(self, data: bytes) -> int:
            self.data = data
            return len(data)

        def get(self) -> bytes:
            return self.data

    store = Store.remote()
    data = bytes(range(256)) * 10_000
    return [ray.get(store.put.remote(data)), ray.get(store.get.remote()) == data]


def actor_calls_itself_by_handle(ray: Any) -> Any:
    @ray.remote
    class A:
        def first(self, me: Any) -> Any:
            return [me.second.remote()]

        def second(self) -> str:
            return "second"

    a = A.remote()
    return ray.get(ray.get(a.first.remote(a))[0])


def fire_and_forget(ray: Any) -> Any:
    c = _counter(ray).remote()
    for _ in range(100):
        c.add.remote()
    return ray.get(c.value.remote())


def actor_method_as_a_value(ray: Any) -> Any:
    c = _counter(ray).remote()
    add = c.add
    return ray.get([add.remote(), add.remote()])


def handle_outlives_the_driver_name(ray: Any) -> Any:
    @ray.remote
    def use(handle: Any) -> int:
        return int(ray.get(handle.add.remote()))

    return ray.get(use.remote(_counter(ray).remote(7)))
