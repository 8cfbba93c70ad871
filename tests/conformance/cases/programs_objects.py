"""What Ray's own test programs do with objects: refs made of ids, what pickling raises, places, counts."""

from __future__ import annotations

from typing import Any

from tests.conformance.kit import caught

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
