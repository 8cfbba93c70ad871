"""Tasks: arguments, defaults, results, options that only shape the call."""

from __future__ import annotations

import functools
import os
from typing import Any

from tests.conformance.kit import caught


def _module_level(x: int) -> int:
    return x + 100


class _Holder:
    def __init__(self, value: int) -> None:
        self.value = value


def no_arguments(ray: Any) -> Any:
    @ray.remote
    def f() -> str:
        return "hello"

    return ray.get(f.remote())


def positional(ray: Any) -> Any:
    @ray.remote
    def f(a: int, b: int) -> int:
        return a - b

    return ray.get(f.remote(5, 3))


def keywords(ray: Any) -> Any:
    @ray.remote
    def f(a: int, b: int) -> int:
        return a - b

    return ray.get([f.remote(b=5, a=3), f.remote(3, b=1)])


def defaults(ray: Any) -> Any:
    @ray.remote
    def f(a: int, b: int = 7, *, c: str = "c") -> Any:
        return (a, b, c)

    return ray.get([f.remote(1), f.remote(1, 2), f.remote(1, c="d"), f.remote(b=0, a=9)])


def varargs(ray: Any) -> Any:
    @ray.remote
    def f(*args: Any, **kwargs: Any) -> Any:
        return (args, sorted(kwargs.items()))

    return ray.get([f.remote(), f.remote(1, 2), f.remote(1, x=2, y=3)])


def positional_only(ray: Any) -> Any:
    @ray.remote
    def f(a: int, /, b: int) -> Any:
        return (a, b)

    return [ray.get(f.remote(1, b=2)), caught(lambda: f.remote(a=1, b=2), kinds=(TypeError,))]


def missing_argument(ray: Any) -> Any:
    @ray.remote
    def f(a: int, b: int) -> int:
        return a

    return caught(lambda: f.remote(1), "missing a required argument: 'b'")


def too_many_arguments(ray: Any) -> Any:
    @ray.remote
    def f(a: int) -> int:
        return a

    return caught(lambda: f.remote(1, 2), "too many positional arguments")


def unexpected_keyword(ray: Any) -> Any:
    @ray.remote
    def f(a: int) -> int:
        return a

    return caught(lambda: f.remote(1, z=2), "got an unexpected keyword argument 'z'")


def duplicate_argument(ray: Any) -> Any:
    @ray.remote
    def f(a: int) -> int:
        return a

    return caught(lambda: f.remote(1, a=2), "multiple values for argument 'a'")


def keyword_only_missing(ray: Any) -> Any:
    @ray.remote
    def f(*, a: int) -> int:
        return a

    return [caught(lambda: f.remote()), caught(lambda: f.remote(1)), ray.get(f.remote(a=3))]


def direct_call(ray: Any) -> Any:
    @ray.remote
    def f() -> int:
        return 1

    return caught(lambda: f(), "cannot be called directly", "f.remote()")


def returns_none(ray: Any) -> Any:
    @ray.remote
    def f() -> None:
        pass

    return ray.get(f.remote())


def two_returns(ray: Any) -> Any:
    @ray.remote(num_returns=2)
    def f() -> Any:
        return 1, "two"

    a, b = f.remote()
    return [ray.get(a), ray.get(b), ray.get([b, a])]


def returns_by_options(ray: Any) -> Any:
    @ray.remote
    def f() -> Any:
        return 1, 2, 3

    one = f.remote()
    three = f.options(num_returns=3).remote()
    return [ray.get(one), type(three).__name__, ray.get(three)]


def one_return_is_a_ref(ray: Any) -> Any:
    @ray.remote(num_returns=1)
    def f() -> Any:
        return [1]

    ref = f.remote()
    return [isinstance(ref, ray.ObjectRef), ray.get(ref)]


def zero_returns(ray: Any) -> Any:
    @ray.remote(num_returns=0)
    def f() -> None:
        pass

    return f.remote()


def list_as_several_returns(ray: Any) -> Any:
    @ray.remote(num_returns=2)
    def f() -> Any:
        return ["x", "y"]

    return ray.get(f.remote())


def too_few_returned(ray: Any) -> Any:
    @ray.remote(num_returns=3, max_retries=0)
    def f() -> Any:
        return 1, 2

    return [caught(lambda ref=ref: ray.get(ref), kinds=(ValueError,)) for ref in f.remote()]


def too_many_returned(ray: Any) -> Any:
    @ray.remote(num_returns=2, max_retries=0)
    def f() -> Any:
        return 1, 2, 3

    return caught(lambda: ray.get(f.remote()[0]), kinds=(ValueError,))


def not_iterable_returned(ray: Any) -> Any:
    @ray.remote(num_returns=2, max_retries=0)
    def f() -> Any:
        return 5

    return caught(lambda: ray.get(f.remote()), kinds=(TypeError, ValueError))


def module_level_function(ray: Any) -> Any:
    return ray.get(ray.remote(_module_level).remote(1))


def module_level_class_instance(ray: Any) -> Any:
    @ray.remote
    def f(holder: _Holder) -> _Holder:
        return _Holder(holder.value + 1)

    result = ray.get(f.remote(_Holder(4)))
    return [type(result) is _Holder, result.value]


def lambda_task(ray: Any) -> Any:
    return ray.get(ray.remote(lambda x: x * 2).remote(21))


def partial_function(ray: Any) -> Any:
    return caught(lambda: ray.get(ray.remote(functools.partial(_module_level, 1)).remote()))


def wrapped_function(ray: Any) -> Any:
    def double(function: Any) -> Any:
        @functools.wraps(function)
        def inner(*args: Any) -> Any:
            return 2 * function(*args)

        return inner

    @ray.remote
    @double
    def f(x: int) -> int:
        return x + 1

    return ray.get(f.remote(1))


def shape_of_a_remote_function(ray: Any) -> Any:
    @ray.remote
    def documented() -> None:
        pass

    return [hasattr(documented, "remote"), hasattr(documented, "options")]


def remote_with_options_call(ray: Any) -> Any:
    def f(x: int) -> int:
        return x

    task = ray.remote(num_cpus=1, max_retries=0)(f)
    return ray.get(task.remote(3))


def options_do_not_change_the_original(ray: Any) -> Any:
    @ray.remote
    def f() -> Any:
        return 1, 2

    two = f.options(num_returns=2)
    return [len(two.remote()), isinstance(f.remote(), ray.ObjectRef)]


def options_name(ray: Any) -> Any:
    @ray.remote
    def f() -> int:
        return 1

    return ray.get(f.options(name="a name").remote())


def recursion(ray: Any) -> Any:
    @ray.remote
    def factorial(n: int) -> int:
        return 1 if n <= 1 else n * ray.get(factorial.remote(n - 1))

    return ray.get(factorial.remote(5))


def another_process(ray: Any) -> Any:
    @ray.remote
    def f() -> int:
        return os.getpid()

    return ray.get(f.remote()) != os.getpid()


def many_tasks_keep_their_results(ray: Any) -> Any:
    @ray.remote
    def f(i: int) -> int:
        return i * i

    return ray.get([f.remote(i) for i in range(200)]) == [i * i for i in range(200)]


def global_state_of_driver_is_not_shared(ray: Any) -> Any:
    seen: list[int] = []

    @ray.remote
    def f() -> int:
        seen.append(1)
        return len(seen)

    ray.get(f.remote())
    return len(seen)


def mutating_an_argument_is_local(ray: Any) -> Any:
    @ray.remote
    def f(items: list[int]) -> list[int]:
        items.append(9)
        return items

    mine = [1]
    return [ray.get(f.remote(mine)), mine]


def runtime_env_variables(ray: Any) -> Any:
    @ray.remote
    def f() -> Any:
        return os.environ.get("CONFORMANCE_COLOUR")

    coloured = f.options(runtime_env={"env_vars": {"CONFORMANCE_COLOUR": "blue"}})
    return ray.get([coloured.remote(), f.remote()])


def remote_on_a_value(ray: Any) -> Any:
    return caught(lambda: ray.remote(5), "remote")


def remote_without_keywords(ray: Any) -> Any:
    return caught(lambda: ray.remote(1, 2))


def async_function_as_task(ray: Any) -> Any:
    async def f() -> int:
        return 1

    return caught(lambda: ray.get(ray.remote(f).remote()), "async", kinds=(ValueError,))


def generator_function_without_num_returns(ray: Any) -> Any:
    @ray.remote
    def f() -> Any:
        yield 1
        yield 2

    return [ray.get(ref) for ref in f.remote()]


def nested_function_definition_in_task(ray: Any) -> Any:
    @ray.remote
    def outer() -> Any:
        @ray.remote
        def inner(x: int) -> int:
            return x + 1

        return ray.get([inner.remote(i) for i in range(3)])

    return ray.get(outer.remote())


def a_task_passed_as_an_argument(ray: Any) -> Any:
    @ray.remote
    def add(x: int) -> int:
        return x + 1

    @ray.remote
    def apply(function: Any, x: int) -> Any:
        return ray.get(function.remote(x))

    return ray.get(apply.remote(add, 4))


def redefining_a_task(ray: Any) -> Any:
    def make(n: int) -> Any:
        @ray.remote
        def f() -> int:
            return n

        return f

    return ray.get([make(n).remote() for n in range(4)])
