"""What Ray's own test programs do with objects: refs made of ids, what pickling raises, places, counts."""

from __future__ import annotations

import copy
import gc
import pickle
from typing import Any

from tests.conformance.kit import Flag, caught, eventually, sub

THROUGH_RAY_COMPAT = True
INIT: dict[str, Any] = {"num_cpus": 2, "num_gpus": 0}
_UNKNOWN = "Ray object whose owner is unknown"


def _echo(ray: Any) -> Any:
    @ray.remote
    def echo(x: Any) -> Any:
        return x

    return echo


# -- refs made of ids


def ref_made_of_an_id(ray: Any) -> Any:
    ref = ray.put("kept")
    again = ray.ObjectRef(ref.binary())
    del ref
    return [ray.get(again), again == ray.ObjectRef(again.binary()), ray.get(_echo(ray).remote(again))]


def ref_of_a_result_made_of_its_id(ray: Any) -> Any:
    ref = _echo(ray).remote(7)
    return ray.get(ray.ObjectRef(ref.binary()))


def wrong_ids(ray: Any) -> Any:
    return [
        caught(lambda: ray.ObjectRef(b"0123456789"), "ID string needs to have length 28, got 10"),
        caught(lambda: ray.ObjectRef(b"0" * 32), "needs to have length 28, got 32"),
        caught(lambda: ray.ObjectRef("0" * 28), kinds=(TypeError,)),
        caught(lambda: ray.TaskID(b"0"), "needs to have length 24, got 1"),
    ]


def nil_and_random_refs(ray: Any) -> Any:
    nil, drawn = ray.ObjectRef.nil(), ray.ObjectRef.from_random()
    return [
        nil.is_nil(),
        nil.hex(),
        drawn.is_nil(),
        len(drawn.binary()),
        drawn == ray.ObjectRef.from_random(),
    ]


def random_ref_passed_on(ray: Any) -> Any:
    ref = ray.ObjectRef.from_random()
    echo = _echo(ray)
    return [
        caught(lambda: echo.remote(ref), _UNKNOWN, kinds=(ValueError,)),
        caught(lambda: echo.remote([ref]), _UNKNOWN),
        caught(lambda: echo.remote(x=ref), _UNKNOWN),
        caught(lambda: ray.put([ref]), _UNKNOWN),
    ]


def random_ref_waited_for(ray: Any) -> Any:
    stray, known = ray.ObjectRef.from_random(), ray.put(1)
    ready, rest = ray.wait([stray, known], timeout=5)
    return [ready == [known], rest == [stray]]


# -- what a `__reduce__` raises


class _Refuses:
    def __init__(self, error: Exception) -> None:
        self.error = error

    def __reduce__(self) -> Any:
        raise self.error


def errors_of_reduce(ray: Any) -> Any:
    echo = _echo(ray)
    found = []
    for error in (ValueError("mine"), KeyError("mine"), RuntimeError("mine"), TypeError("mine")):
        found.append(caught(lambda error=error: ray.put(_Refuses(error)), "mine"))
        found.append(caught(lambda error=error: echo.remote(_Refuses(error)), "mine"))
    return found


# -- who refers to what, and where it is


def counts_of_references(ray: Any) -> Any:
    worker = sub(ray, "_private.worker").global_worker.core_worker

    @ray.remote
    def wait_for(flag: Flag, refs: list[Any]) -> None:
        flag.wait()

    def counts(*refs: Any) -> list[Any]:
        found = worker.get_all_reference_counts()
        return [found.get(ref.hex().encode()) for ref in refs]

    flag = Flag()
    kept = ray.put(1)
    again = ray.ObjectRef(kept.binary())
    both = counts(kept)
    del again
    call = wait_for.remote(flag, [kept])
    under_way = counts(kept, call)
    flag.set()
    ray.get(call)
    back = eventually(lambda kept=kept: counts(kept) == [{"local": 1, "submitted": 0}])
    name = kept.hex().encode()
    del kept
    return [both, under_way, back, eventually(lambda: name not in worker.get_all_reference_counts())]


def objects_that_are_there(ray: Any) -> Any:
    worker = sub(ray, "_private.worker").global_worker.core_worker

    @ray.remote
    def held(flag: Flag) -> int:
        flag.wait()
        return 1

    flag = Flag()
    result, put = held.remote(flag), ray.put(1)
    before = worker.object_exists(result)
    flag.set()
    ray.get(result)
    return [
        before,
        [worker.object_exists(ref) for ref in (result, put)],
        [worker.object_exists(ref, memory_store_only=True) for ref in (result, put)],
        worker.object_exists(ray.ObjectRef.from_random()),
    ]


def places_of_objects(ray: Any) -> Any:
    here = ray.get_runtime_context().get_node_id()
    small, large, result = ray.put("small"), ray.put(bytes(1 << 20)), _echo(ray).remote("small")
    ray.get(result)
    found = ray.experimental.get_object_locations([small, large, result])
    return [
        [found[ref]["node_ids"] == [here] for ref in (small, large, result)],
        [found[ref]["object_size"] > 0 for ref in (small, large, result)],
    ]


def copies_of_a_ref(ray: Any) -> Any:
    worker = sub(ray, "_private.worker").global_worker.core_worker

    def count(ref: Any) -> int:
        return int(worker.get_all_reference_counts()[ref.hex().encode()]["local"])

    ref = ray.put(1)
    counts = [count(ref)]
    shallow = copy.copy(ref)
    counts.append(count(ref))
    deep = copy.deepcopy([ref])
    counts.append(count(ref))
    same = shallow == ref == deep[0]
    del shallow, deep
    return [counts, same, count(ref), ray.get(pickle.loads(pickle.dumps(ref)))]


def bytes_of_a_ref_keep_its_object(ray: Any) -> Any:
    cloudpickle = sub(ray, "cloudpickle")
    ref = ray.put("kept")
    data = cloudpickle.dumps({"ref": ref})
    del ref
    again = [ray.get(cloudpickle.loads(data)["ref"]) for _ in range(2)]
    result = _echo(ray).remote("result")
    ray.get(result)
    data = cloudpickle.dumps(result)
    del result
    return [again, ray.get(cloudpickle.loads(data))]


def object_that_another_process_owns(ray: Any) -> Any:
    worker = sub(ray, "_private.worker").global_worker.core_worker

    @ray.remote
    def put() -> Any:
        return [ray.put(bytes(1 << 20))]

    [ref] = ray.get(put.remote())
    there = eventually(lambda ref=ref: worker.object_exists(ref))
    name = ref.binary()
    del ref
    return [there, eventually(lambda: not worker.object_exists(ray.ObjectRef(name)))]


def put_for_another_owner(ray: Any) -> Any:
    @ray.remote
    class Owner:
        pass

    owner = Owner.remote()
    return caught(lambda: ray.put(1, _owner=owner), "`_owner` argument to `ray.put` has been removed")


# -- generators in batches


def batches_of_generators(ray: Any) -> Any:
    wait_for = sub(ray, "_private.worker")._wait_generators_bulk

    @ray.remote(num_cpus=0)
    def count(flag: Flag | None, base: int, items: int) -> Any:
        for index in range(items):
            if flag is not None and index == 1:
                flag.wait()
            yield base + index

    flag = Flag()
    quick, slow = count.remote(None, 10, 3), count.remote(flag, 20, 2)
    first = wait_for([(quick, [True, False]), (slow, [False, True])], num_return=1, timeout=20)
    none_yet = wait_for([(slow, [False, True])], timeout=0.05)
    flag.set()
    second = wait_for([(slow, [True, True])], timeout=20)
    beyond = wait_for([(quick, [True, True, True])], timeout=20)[0][1]
    return [
        [first[0][0] is quick, ray.get(first[0][1])],
        none_yet,
        [second[0][0] is slow, ray.get(second[0][1])],
        [ray.get(beyond[0]), len(set(beyond))],
        caught(lambda: ray.get(beyond[1]), kinds=(ray.exceptions.ObjectRefStreamEndOfStreamError,))["is"],
    ]


def wrong_batches(ray: Any) -> Any:
    wait_for = sub(ray, "_private.worker")._wait_generators_bulk

    @ray.remote(num_cpus=0)
    def one() -> Any:
        yield 1

    generator = one.remote()
    return [
        wait_for([]),
        caught(lambda: wait_for({}), kinds=(TypeError,)),
        caught(lambda: wait_for([(ray.put(1), [False])]), kinds=(TypeError,)),
        caught(lambda: wait_for([(generator, False)]), kinds=(TypeError,)),
        caught(lambda: wait_for([(generator, [1])]), kinds=(TypeError,)),
        caught(lambda: wait_for([(generator, [])]), kinds=(ValueError,)),
        caught(lambda: wait_for([(generator, [False])], num_return=2), kinds=(ValueError,)),
        caught(lambda: wait_for([(generator, [False])], num_return=0), kinds=(ValueError,)),
        caught(lambda: wait_for([(generator, [True]), (generator, [True])]), kinds=(ValueError,)),
        caught(lambda: wait_for([(generator, [True])], timeout=-1), "must be nonnegative"),
    ]


# -- what functions and classes close over


def captured_refs_outlive_their_names(ray: Any) -> Any:
    @ray.remote
    class Gate:
        async def __init__(self) -> None:
            import asyncio

            self.event = asyncio.Event()

        async def open(self) -> None:
            self.event.set()

        async def wait(self) -> None:
            await self.event.wait()

    def task(gate: Any) -> Any:
        captured = ray.put(bytes(1 << 20))

        @ray.remote(num_cpus=0)
        def read(_: None) -> int:
            return len(ray.get(captured))

        return read.remote(gate.wait.remote())

    def method(gate: Any) -> Any:
        captured = ray.put(bytes(1 << 20))

        @ray.remote(num_cpus=0)
        class Reader:
            def read(self, _: None) -> int:
                return len(ray.get(captured))

        return Reader.remote().read.remote(gate.wait.remote())

    gate = Gate.remote()
    refs = [task(gate), method(gate)]
    gc.collect()
    ray.get(gate.open.remote())
    return ray.get(refs)
