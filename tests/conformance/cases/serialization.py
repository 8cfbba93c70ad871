"""What survives the way through a task and through the store."""

from __future__ import annotations

import collections
import dataclasses
import datetime
import decimal
import enum
import functools
import pathlib
import re
import uuid
from typing import Any, NamedTuple

from tests.conformance.kit import caught


class _Point(NamedTuple):
    x: int
    y: int


class _Colour(enum.Enum):
    RED = 1
    BLUE = "b"


class _Bits(enum.IntFlag):
    A = 1
    B = 2


@dataclasses.dataclass
class _Data:
    a: int
    b: list[int] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True, slots=True)
class _Frozen:
    a: int


class _Slots:
    __slots__ = ("a",)

    def __init__(self, a: int) -> None:
        self.a = a


class _Reduced:
    def __init__(self, a: int) -> None:
        self.a = a

    def __reduce__(self) -> Any:
        return (_Reduced, (self.a + 1,))


class _State:
    def __init__(self, a: int) -> None:
        self.a = a

    def __getstate__(self) -> Any:
        return {"saved": self.a}

    def __setstate__(self, state: Any) -> None:
        self.a = state["saved"] * 10


def _echo(ray: Any, value: Any) -> Any:
    @ray.remote
    def f(x: Any) -> Any:
        return x

    return ray.get(f.remote(value))


def namedtuples(ray: Any) -> Any:
    value = _echo(ray, _Point(1, 2))
    return [type(value) is _Point, value.x, value == (1, 2)]


def local_namedtuple(ray: Any) -> Any:
    local = collections.namedtuple("local", "a b")
    value = _echo(ray, local(1, b=2))
    return [value.a, value.b, value._fields]


def enums(ray: Any) -> Any:
    values = _echo(ray, [_Colour.RED, _Colour.BLUE, _Bits.A | _Bits.B])
    return [values[0] is _Colour.RED, values[1] is _Colour.BLUE, int(values[2])]


def local_enum(ray: Any) -> Any:
    class Local(enum.Enum):
        A = 1

    return [_echo(ray, Local.A).name, _echo(ray, Local.A) is Local.A]


def dataclass(ray: Any) -> Any:
    return [_echo(ray, _Data(1, [2])) == _Data(1, [2]), _echo(ray, _Frozen(3)) == _Frozen(3)]


def local_dataclass(ray: Any) -> Any:
    @dataclasses.dataclass
    class Local:
        a: int

    value = _echo(ray, Local(4))
    return [value.a, value == Local(4), type(value) is Local]


def slots(ray: Any) -> Any:
    return _echo(ray, _Slots(5)).a


def custom_reduce(ray: Any) -> Any:
    return ray.get(ray.put(_Reduced(1))).a


def custom_state(ray: Any) -> Any:
    return ray.get(ray.put(_State(1))).a


def cycles(ray: Any) -> Any:
    items: list[Any] = [1]
    items.append(items)
    value = _echo(ray, items)
    return [value[0], value[1] is value, len(value)]


def identity_within_a_value_and_between_arguments(ray: Any) -> Any:
    inner = [1]

    @ray.remote
    def same(a: Any, b: Any) -> Any:
        return a is b

    value = _echo(ray, [inner, inner])
    return [value[0] is value[1], ray.get(same.remote(inner, inner))]


def closures(ray: Any) -> Any:
    def make(n: int) -> Any:
        def add(x: int) -> int:
            return x + n

        return add

    return [_echo(ray, make(3))(4), ray.get(ray.remote(make(5)).remote(1))]


def lambdas_and_partials(ray: Any) -> Any:
    values = _echo(ray, [lambda x: x + 1, functools.partial(pow, 2)])
    return [values[0](1), values[1](10)]


def local_class_keeps_its_identity(ray: Any) -> Any:
    class Local:
        def __init__(self, a: int) -> None:
            self.a = a

    value = _echo(ray, Local(1))
    return [isinstance(value, Local), value.a]


def redefined_class(ray: Any) -> Any:
    def make(n: int) -> Any:
        class Same:
            def number(self) -> int:
                return n

        return Same

    @ray.remote
    def ask(x: Any) -> int:
        return int(x.number())

    return ray.get([ask.remote(make(i)()) for i in range(3)])


def local_class_and_inheritance(ray: Any) -> Any:
    class Base:
        def who(self) -> str:
            return "base"

    class Derived(Base):
        def who(self) -> str:
            return "derived of " + super().who()

    return _echo(ray, Derived()).who()


def standard_library_values(ray: Any) -> Any:
    values = [
        datetime.datetime(2020, 1, 2, 3, 4, 5, tzinfo=datetime.timezone.utc),
        datetime.timedelta(seconds=5),
        decimal.Decimal("1.10"),
        uuid.UUID(int=5),
        pathlib.Path("/a/b"),
        re.compile("a+"),
        complex(1, 2),
        range(3),
        collections.Counter("aab"),
        collections.OrderedDict(a=1),
        collections.deque([1, 2], maxlen=3),
        slice(1, 2),
        frozenset({1}),
        Ellipsis,
        NotImplemented,
        bytearray(b"x"),
        float("inf"),
        10**100,
    ]
    return [a == b for a, b in zip(_echo(ray, values), values, strict=True)]


def defaultdict(ray: Any) -> Any:
    value = _echo(ray, collections.defaultdict(list, a=[1]))
    value["b"].append(2)
    return [dict(value), value.default_factory is list]


def nan(ray: Any) -> Any:
    value = _echo(ray, float("nan"))
    return value != value


def types_and_functions_by_reference(ray: Any) -> Any:
    values = _echo(ray, [int, len, ValueError, _Point, collections.OrderedDict])
    return [values[0] is int, values[1] is len, values[2] is ValueError, values[3] is _Point]


def modules(ray: Any) -> Any:
    return _echo(ray, collections) is collections


def deep_nesting(ray: Any) -> Any:
    value: Any = 0
    for _ in range(100):
        value = [value]
    got, depth = _echo(ray, value), 0
    while isinstance(got, list):
        got, depth = got[0], depth + 1
    return depth


def bytes_of_every_size(ray: Any) -> Any:
    sizes = [0, 1, 1000, 100_000, 102_400, 102_401, 1_000_000, 5_000_000]
    return [len(_echo(ray, b"x" * n)) == n for n in sizes]


def text_of_every_kind(ray: Any) -> Any:
    values = ["", "ascii", "ünïcödé", "名前", "🎉", "a\0b", "x" * 300_000]
    return _echo(ray, values) == values


def lone_surrogate(ray: Any) -> Any:
    return caught(lambda: _echo(ray, "\ud800") == "\ud800")


def custom_serializer(ray: Any) -> Any:
    class Unpicklable:
        def __init__(self, a: int) -> None:
            self.a = a

        def __reduce__(self) -> Any:
            raise TypeError("not by pickle")

    before = caught(lambda: ray.put(Unpicklable(1)), kinds=(TypeError,))
    ray.util.register_serializer(
        Unpicklable, serializer=lambda o: o.a, deserializer=lambda a: Unpicklable(a + 1)
    )
    value = ray.get(ray.put(Unpicklable(1))).a
    ray.util.deregister_serializer(Unpicklable)
    return [before, value, caught(lambda: ray.put(Unpicklable(1)))["error"]]


def generator_object(ray: Any) -> Any:
    return caught(lambda: ray.put(i for i in range(3)), kinds=(TypeError,))


def exception_as_a_value(ray: Any) -> Any:
    value = _echo(ray, ValueError("just a value"))
    return [type(value).__name__, value.args]


def exception_returned_not_raised(ray: Any) -> Any:
    @ray.remote
    def f() -> Any:
        return KeyError("returned")

    return type(ray.get(f.remote())).__name__


def bound_method_as_a_value(ray: Any) -> Any:
    return _echo(ray, _Point(3, 4)._asdict)()


def memoryview_value(ray: Any) -> Any:
    return caught(lambda: bytes(ray.get(ray.put(memoryview(b"abc")))))


def global_of_the_case_module(ray: Any) -> Any:
    @ray.remote
    def f() -> Any:
        return _Colour.RED.value

    return ray.get(f.remote())


def large_dictionary(ray: Any) -> Any:
    value = {i: str(i) for i in range(20_000)}
    return _echo(ray, value) == value
