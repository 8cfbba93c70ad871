"""get, wait and put."""

from __future__ import annotations

import threading
from typing import Any

from tests.conformance.kit import Flag, caught


def put_and_get_plain_values(ray: Any) -> Any:
    values = [None, True, 0, -1, 2**80, 1.5, "text", b"bytes", [1, [2]], (1, 2), {"a": {1}}, {3, 4}]
    return [ray.get(ray.put(value)) for value in values] == values


def get_of_a_list(ray: Any) -> Any:
    return ray.get([ray.put(i) for i in range(5)])


def get_of_an_empty_list(ray: Any) -> Any:
    return ray.get([])


def get_of_a_list_with_duplicates(ray: Any) -> Any:
    ref = ray.put(1)
    return ray.get([ref, ref])


def get_of_a_plain_value(ray: Any) -> Any:
    return [
        caught(lambda: ray.get(5), "ObjectRef"),
        caught(lambda: ray.get("x")),
        caught(lambda: ray.get(None)),
    ]


def get_of_a_list_with_a_plain_value(ray: Any) -> Any:
    return caught(lambda: ray.get([ray.put(1), 5]), "ObjectRef")


def get_of_a_tuple(ray: Any) -> Any:
    return caught(lambda: ray.get((ray.put(1), ray.put(2))))


def get_of_a_dict(ray: Any) -> Any:
    return caught(lambda: ray.get({"a": ray.put(1)}))


def get_twice_gives_separate_copies(ray: Any) -> Any:
    ref = ray.put([1])
    first, second = ray.get(ref), ray.get(ref)
    first.append(2)
    return [first, second, ray.get(ref)]


def put_takes_a_copy(ray: Any) -> Any:
    mine = [1]
    ref = ray.put(mine)
    mine.append(2)
    return ray.get(ref)


def put_of_a_ref(ray: Any) -> Any:
    return caught(lambda: ray.put(ray.put(1)), "not allowed")


def get_timeout(ray: Any) -> Any:
    flag = Flag()

    @ray.remote
    def f() -> bool:
        return flag.wait()

    ref = f.remote()
    kinds = (ray.exceptions.GetTimeoutError, ray.exceptions.RayError, TimeoutError)
    try:
        return [
            caught(lambda: ray.get(ref, timeout=0.1), kinds=kinds),
            caught(lambda: ray.get(ref, timeout=0)),
        ]
    finally:
        flag.set()


def get_timeout_zero_of_a_ready_object(ray: Any) -> Any:
    return ray.get(ray.put(3), timeout=0)


def get_timeout_then_value(ray: Any) -> Any:
    flag = Flag()

    @ray.remote
    def f() -> str:
        flag.wait()
        return "later"

    ref = f.remote()
    first = caught(lambda: ray.get(ref, timeout=0.05))
    flag.set()
    return [first, ray.get(ref, timeout=30)]


def get_of_several_with_one_not_ready(ray: Any) -> Any:
    flag = Flag()

    @ray.remote
    def f() -> bool:
        return flag.wait()

    ref = f.remote()
    try:
        return caught(lambda: ray.get([ray.put(1), ref], timeout=0.1))
    finally:
        flag.set()


def get_negative_timeout(ray: Any) -> Any:
    return caught(lambda: ray.get(ray.put(1), timeout=-1))


def get_raises_the_first_failure_of_the_list(ray: Any) -> Any:
    @ray.remote(max_retries=0)
    def f(i: int) -> int:
        if i in (2, 4):
            raise ValueError(f"number {i}")
        return i

    return caught(lambda: ray.get([f.remote(i) for i in range(6)]), "number 2", "number 4")


def get_from_threads(ray: Any) -> Any:
    @ray.remote
    def f(i: int) -> int:
        return i

    results: dict[int, int] = {}

    def one(i: int) -> None:
        results[i] = ray.get(f.remote(i))

    threads = [threading.Thread(target=one, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sorted(results.items())


def one_ref_from_many_threads(ray: Any) -> Any:
    flag = Flag()

    @ray.remote
    def f() -> int:
        flag.wait()
        return 7

    ref = f.remote()
    results: list[int] = []
    threads = [threading.Thread(target=lambda: results.append(ray.get(ref))) for _ in range(5)]
    for thread in threads:
        thread.start()
    flag.set()
    for thread in threads:
        thread.join()
    return results


def wait_all_ready(ray: Any) -> Any:
    refs = [ray.put(i) for i in range(3)]
    ready, rest = ray.wait(refs, num_returns=3)
    return [ready == refs, rest]


def wait_default_is_one(ray: Any) -> Any:
    refs = [ray.put(i) for i in range(3)]
    ready, rest = ray.wait(refs)
    return [len(ready), len(rest), set(ready) | set(rest) == set(refs)]


def wait_keeps_the_order(ray: Any) -> Any:
    flag = Flag()

    @ray.remote
    def slow() -> bool:
        return flag.wait()

    blocked = slow.remote()
    a, b = ray.put("a"), ray.put("b")
    ready, rest = ray.wait([b, blocked, a], num_returns=2, timeout=30)
    flag.set()
    return [ray.get(ready), rest == [blocked]]


def wait_timeout(ray: Any) -> Any:
    flag = Flag()

    @ray.remote
    def slow() -> bool:
        return flag.wait()

    blocked = slow.remote()
    ready, rest = ray.wait([blocked], timeout=0.05)
    flag.set()
    return [ready, rest == [blocked]]


def wait_timeout_zero(ray: Any) -> Any:
    flag = Flag()

    @ray.remote
    def slow() -> bool:
        return flag.wait()

    blocked, here = slow.remote(), ray.put(1)
    ready, rest = ray.wait([blocked, here], num_returns=2, timeout=0)
    flag.set()
    return [ready == [here], rest == [blocked]]


def wait_counts_a_failure_as_ready(ray: Any) -> Any:
    @ray.remote(max_retries=0)
    def f() -> None:
        raise ValueError("x")

    ref = f.remote()
    ready, rest = ray.wait([ref], timeout=30)
    return [ready == [ref], rest]


def wait_for_tasks_in_turn(ray: Any) -> Any:
    @ray.remote
    def f(i: int) -> int:
        return i

    rest, seen = [f.remote(i) for i in range(10)], []
    while rest:
        ready, rest = ray.wait(rest, num_returns=1)
        seen += ray.get(ready)
    return sorted(seen)


def wait_duplicates(ray: Any) -> Any:
    ref = ray.put(1)
    return caught(lambda: ray.wait([ref, ref]), "unique")


def wait_too_many(ray: Any) -> Any:
    return caught(lambda: ray.wait([ray.put(1)], num_returns=2), "num_returns")


def wait_zero(ray: Any) -> Any:
    return caught(lambda: ray.wait([ray.put(1)], num_returns=0), "num_returns")


def wait_negative_num_returns(ray: Any) -> Any:
    return caught(lambda: ray.wait([ray.put(1)], num_returns=-1), "num_returns")


def wait_negative_timeout(ray: Any) -> Any:
    return caught(lambda: ray.wait([ray.put(1)], timeout=-1), "timeout")


def wait_empty(ray: Any) -> Any:
    return caught(lambda: ray.wait([]))


def wait_of_one_ref(ray: Any) -> Any:
    return caught(lambda: ray.wait(ray.put(1)), "list")


def wait_of_values(ray: Any) -> Any:
    return caught(lambda: ray.wait([1, 2]), "ObjectRef")


def wait_of_a_tuple(ray: Any) -> Any:
    return caught(lambda: ray.wait((ray.put(1),)), "list")


def wait_without_fetching(ray: Any) -> Any:
    ref = ray.put(1)
    return [part == [ref] for part in ray.wait([ref], fetch_local=False)]


def wait_many(ray: Any) -> Any:
    refs = [ray.put(i) for i in range(300)]
    ready, rest = ray.wait(refs, num_returns=300)
    return [len(ready), len(rest), ready == refs]


def wait_returns_no_more_than_asked(ray: Any) -> Any:
    refs = [ray.put(i) for i in range(10)]
    ready, rest = ray.wait(refs, num_returns=4)
    return [len(ready), len(rest)]


def positional_arguments_of_wait(ray: Any) -> Any:
    return caught(lambda: ray.wait([ray.put(1)], 1))


def positional_timeout_of_get(ray: Any) -> Any:
    return caught(lambda: ray.get(ray.put(1), 5))


def large_objects_keep_their_bytes(ray: Any) -> Any:
    data = bytes(range(256)) * 20_000
    return ray.get(ray.put(data)) == data


def put_of_something_unpicklable(ray: Any) -> Any:
    return caught(lambda: ray.put(threading.Lock()), "pickle", kinds=(TypeError,))
