"""numpy arrays and torch tensors."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.conformance.kit import caught


def _echo(ray: Any, value: Any) -> Any:
    @ray.remote
    def f(x: Any) -> Any:
        return x

    return ray.get(f.remote(value))


def values_and_types(ray: Any) -> Any:
    arrays = [
        np.arange(5),
        np.ones((2, 3), np.float32),
        np.array([True, False]),
        np.array(5),
        np.zeros((0, 3)),
        np.array([1 + 2j]),
        np.array(["a", "bc"]),
        np.float16([1.5]),
        np.array(["2020-01-01"], "datetime64[D]"),
    ]
    got = _echo(ray, arrays)
    return [
        [a.dtype == b.dtype, a.shape == b.shape, bool((a == b).all())]
        for a, b in zip(arrays, got, strict=True)
    ]


def object_arrays(ray: Any) -> Any:
    value = _echo(ray, np.array([1, "a", None], dtype=object))
    return [str(value.dtype), value.tolist()]


def structured_arrays(ray: Any) -> Any:
    array = np.array([(1, 2.5)], dtype=[("a", "i4"), ("b", "f8")])
    value = _echo(ray, array)
    return [value.dtype == array.dtype, value["b"].tolist()]


def small_result_of_get_is_read_only(ray: Any) -> Any:
    value = ray.get(ray.put(np.arange(3)))
    return [value.flags.writeable, caught(lambda: value.__setitem__(0, 5), "read-only", kinds=(ValueError,))]


def large_result_of_get_is_read_only(ray: Any) -> Any:
    value = ray.get(ray.put(np.zeros(1_000_000)))
    return [value.flags.writeable, caught(lambda: value.__setitem__(0, 5), "read-only", kinds=(ValueError,))]


def large_argument_is_read_only(ray: Any) -> Any:
    @ray.remote
    def f(x: Any) -> Any:
        return bool(x.flags.writeable)

    return [ray.get(f.remote(np.zeros(1_000_000))), ray.get(f.remote(ray.put(np.zeros(1_000_000))))]


def small_argument_is_read_only(ray: Any) -> Any:
    @ray.remote
    def f(x: Any) -> Any:
        return bool(x.flags.writeable)

    return [ray.get(f.remote(np.zeros(3))), ray.get(f.remote(ray.put(np.zeros(3))))]


def two_gets_share_memory(ray: Any) -> Any:
    ref = ray.put(np.zeros(1_000_000))
    return bool(np.shares_memory(ray.get(ref), ray.get(ref)))


def the_original_stays_writable(ray: Any) -> Any:
    array = np.zeros(1_000_000)
    ref = ray.put(array)
    array[0] = 7
    return [float(ray.get(ref)[0]), float(array[0])]


def non_contiguous(ray: Any) -> Any:
    base = np.arange(20).reshape(4, 5)
    return [_echo(ray, a).tolist() == a.tolist() for a in (base.T, base[::2], base[:, 1:3], base[::-1])]


def fortran_order(ray: Any) -> Any:
    value = _echo(ray, np.asfortranarray(np.arange(6).reshape(2, 3)))
    return [value.tolist(), bool(value.flags.f_contiguous)]


def inside_containers(ray: Any) -> Any:
    value = _echo(ray, {"a": [np.arange(3), {"b": np.ones(200_000)}]})
    return [value["a"][0].tolist(), float(value["a"][1]["b"].sum())]


def a_view_outlives_its_ref(ray: Any) -> Any:
    ref = ray.put(np.arange(500_000))
    value = ray.get(ref)
    del ref
    more = [ray.put(np.zeros(500_000)) for _ in range(5)]
    return [int(value[-1]), len(more)]


def a_slice_outlives_the_array(ray: Any) -> Any:
    part = ray.get(ray.put(np.arange(500_000)))[100:103]
    ray.get([ray.put(np.zeros(500_000)) for _ in range(5)])
    return part.tolist()


def large_result(ray: Any) -> Any:
    @ray.remote
    def f() -> Any:
        return np.arange(1_000_000)

    value = ray.get(f.remote())
    return [int(value.sum()), value.flags.writeable]


def several_large_results(ray: Any) -> Any:
    @ray.remote(num_returns=3)
    def f() -> Any:
        return [np.full(200_000, i) for i in range(3)]

    return [int(value[0]) for value in ray.get(f.remote())]


def large_through_a_chain(ray: Any) -> Any:
    @ray.remote
    def add(x: Any) -> Any:
        return x + 1

    ref = ray.put(np.zeros(500_000))
    for _ in range(4):
        ref = add.remote(ref)
    return float(ray.get(ref).sum())


def actor_keeps_a_large_argument(ray: Any) -> Any:
    @ray.remote
    class A:
        def keep(self, x: Any) -> None:
            self.x = x

        def total(self) -> float:
            return float(self.x.sum())

    a = A.remote()
    ref = ray.put(np.ones(500_000))
    ray.get(a.keep.remote(ref))
    del ref
    ray.get([ray.put(np.zeros(500_000)) for _ in range(5)])
    return ray.get(a.total.remote())


def empty_and_zero_dimensional(ray: Any) -> Any:
    return [_echo(ray, np.empty((0,))).shape, _echo(ray, np.float64(1.5)), _echo(ray, np.int8(3)) == 3]


def readonly_input(ray: Any) -> Any:
    array = np.arange(5)
    array.flags.writeable = False
    return _echo(ray, array).tolist()


def array_subclass(ray: Any) -> Any:
    value = _echo(ray, np.ma.masked_array([1, 2], mask=[0, 1]))
    return [type(value).__name__, value.mask.tolist()]


def many_small_arrays(ray: Any) -> Any:
    value = _echo(ray, [np.array([i]) for i in range(1000)])
    return [len(value), int(sum(a[0] for a in value))]


def torch_tensors(ray: Any) -> Any:
    import torch

    tensors = [
        torch.arange(5),
        torch.ones(2, 3),
        torch.tensor(5),
        torch.zeros(0),
        torch.tensor([True]),
        torch.ones(3, dtype=torch.bfloat16),
        torch.ones(300_000),
    ]
    got = _echo(ray, tensors)
    return [[str(b.dtype), list(b.shape), bool((a == b).all())] for a, b in zip(tensors, got, strict=True)]


def torch_non_contiguous(ray: Any) -> Any:
    import torch

    base = torch.arange(20).reshape(4, 5)
    return [bool((_echo(ray, t) == t).all()) for t in (base.t(), base[::2], base[:, 1:3])]


def torch_requires_grad(ray: Any) -> Any:
    import torch

    value = _echo(ray, torch.ones(2, requires_grad=True))
    return [value.requires_grad, value.tolist()]


def torch_in_an_actor(ray: Any) -> Any:
    @ray.remote
    class A:
        def __init__(self) -> None:
            import torch

            self.w = torch.ones(3)

        def add(self, x: Any) -> Any:
            return self.w + x

    import torch

    return ray.get(A.remote().add.remote(torch.arange(3))).tolist()


def torch_state_dict(ray: Any) -> Any:
    import torch

    layer = torch.nn.Linear(2, 2)
    got = _echo(ray, layer.state_dict())
    return [sorted(got), all(bool((got[k] == v).all()) for k, v in layer.state_dict().items())]
