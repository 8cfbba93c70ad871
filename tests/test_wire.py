"""Messages: fixed bytes, and nothing but ProtocolError for what is not a message."""

from __future__ import annotations

import random
from typing import Any

import msgpack
import pytest

from spoke import _native, wire
from spoke.errors import ProtocolError

EXAMPLE: dict[type, Any] = {
    bytes: b"\x01\x02", int: 7, str: "text", float: 1.5, dict: {"k": 1}, list: [1, "a", b"b"], bool: True,
    type(None): None, object: {"any": [None, 1.5]},
}  # fmt: skip

# One message of each family, byte for byte: a change here is a change of PROTOCOL_VERSION.
GOLDEN = {
    "HELLO": "9501" + "01" + "a6647269766572" + "c40101" + "c40102",
    "PROOF": "9402c40107c40107c40107",
    "ACCEPTED": "9203c40107",
    "REFUSED": "9204a46e6f7065",
    "HEARTBEAT": "920607",
    "RDMA_CONNECT": "935003c40101",
    "RDMA_GRANT": "9453059192cf000001000000000009a0",
    "RDMA_OFFER": "9565fb03940140400392cf000001000000000009",
    "RDMA_WITHDRAW": "9266fb",
}
GOLDEN_MESSAGES: dict[str, tuple[Any, ...]] = {
    "HELLO": (wire.HELLO, 1, "driver", b"\x01", b"\x02"),
    "PROOF": (wire.PROOF, b"\x07", b"\x07", b"\x07"),
    "ACCEPTED": (wire.ACCEPTED, b"\x07"),
    "REFUSED": (wire.REFUSED, "nope"),
    "HEARTBEAT": (wire.HEARTBEAT, 7),
    "RDMA_CONNECT": (wire.RDMA_CONNECT, 3, b"\x01"),
    "RDMA_GRANT": (wire.RDMA_GRANT, 5, [[1 << 40, 9]], ""),
    "RDMA_OFFER": (wire.RDMA_OFFER, -5, 3, [1, 64, 64, 3], [1 << 40, 9]),
    "RDMA_WITHDRAW": (wire.RDMA_WITHDRAW, -5),
}


def example(kind: int) -> list[Any]:
    return [kind, *(EXAMPLE[types[0]] for _, types in wire.SCHEMA[kind][1])]


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_bytes(name: str) -> None:
    assert wire.encode(*GOLDEN_MESSAGES[name]).hex() == GOLDEN[name]
    assert wire.decode(bytes.fromhex(GOLDEN[name])) == list(GOLDEN_MESSAGES[name])


@pytest.mark.parametrize("kind", wire.SCHEMA)
def test_every_message_survives_the_wire(kind: int) -> None:
    assert wire.decode(wire.encode(*example(kind))) == example(kind)


@pytest.mark.parametrize("kind", wire.SCHEMA)
def test_each_field_has_its_type(kind: int) -> None:
    for index, (name, types) in enumerate(wire.SCHEMA[kind][1], start=1):
        if object in types:
            continue
        wrong = next(value for type_, value in EXAMPLE.items() if type_ not in types and type_ is not object)
        message = example(kind)
        message[index] = wrong
        with pytest.raises(ProtocolError, match=rf"{wire.SCHEMA[kind][0]}\.{name}"):
            wire.decode(msgpack.packb(message))
    for cut in (example(kind)[:-1], [*example(kind), 1]):
        if len(cut) > 0:
            with pytest.raises(ProtocolError):
                wire.decode(msgpack.packb(cut))


def test_kinds_and_names_are_unique() -> None:
    names = [name for name, _ in wire.SCHEMA.values()]
    assert len(set(names)) == len(names)
    for kind, (name, _) in wire.SCHEMA.items():
        assert getattr(wire, name) == kind


@pytest.mark.parametrize("kind", wire.SCHEMA)
def test_truncated_and_extended_bytes(kind: int) -> None:
    whole = wire.encode(*example(kind))
    for cut in range(len(whole)):
        with pytest.raises(ProtocolError):
            wire.decode(whole[:cut])
    with pytest.raises(ProtocolError):
        wire.decode(whole + b"\0")


def test_random_bytes_give_a_message_or_ProtocolError() -> None:
    rng = random.Random(20260)
    whole = [wire.encode(*example(kind)) for kind in wire.SCHEMA]
    for _ in range(20_000):
        if rng.random() < 0.5:
            data = rng.randbytes(rng.randrange(40))
        else:
            mutable = bytearray(rng.choice(whole))
            for _ in range(rng.randrange(1, 4)):
                mutable[rng.randrange(len(mutable))] = rng.randrange(256)
            data = bytes(mutable)
        try:
            message = wire.decode(data)
        except ProtocolError:
            continue
        assert message[0] in wire.SCHEMA


@pytest.mark.parametrize(
    "value",
    [None, 1, "x", b"x", [], {}, [None], [[]], [{}], ["HELLO"], [-1], [10**6], [True], [1.0, 2], [b"x"]],
)
def test_values_that_are_no_message(value: Any) -> None:
    with pytest.raises(ProtocolError):
        wire.decode(msgpack.packb(value))


@pytest.mark.parametrize(
    "bomb", [b"\x91" * 100_000, b"\x81" * 5_000, b"\xdd\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff"]
)
def test_bombs(bomb: bytes) -> None:
    with pytest.raises(ProtocolError):
        wire.decode(bomb)


def test_unix_name_is_abstract_and_short() -> None:
    name = wire.unix_name(b"\xab" * 28)
    assert name[0] == 0 and len(name) < 108


def test_the_short_way_and_the_long_way_agree() -> None:
    """`decode` reads plain messages natively; what it leaves over is read by msgpack."""
    rng = random.Random(7)

    def value(depth: int) -> Any:
        kind = rng.randrange(9 if depth < 4 else 7)
        if kind == 0:
            return rng.choice([None, True, False])
        if kind in (1, 2):
            return rng.choice([-1, 1]) * rng.randrange(2 ** rng.choice([4, 7, 8, 15, 16, 31, 32, 63]))
        if kind == 3:
            return rng.choice([0.0, -1.5, 1e300, float("inf")])
        if kind in (4, 5):
            return rng.randbytes(rng.choice([0, 3, 40, 300, 70_000]))
        if kind == 6:
            return "tä" * rng.choice([0, 1, 15, 16, 200])
        if kind == 7:
            return [value(depth + 1) for _ in range(rng.choice([0, 2, 15, 17]))]
        return {rng.choice(["k", 7, b"b"]): value(depth + 1) for _ in range(rng.choice([0, 1, 3]))}

    for _ in range(300):
        meta = wire.encode(wire.RESPONSE, 1, None, value(0))
        short = _native.decode(meta, wire._SIGNATURES)
        assert short is not None and short == wire._decode_slowly(meta) == wire.decode(meta)
    deep: Any = 1
    for _ in range(100):
        deep = [deep]
    for odd in (deep, msgpack.Timestamp(5), msgpack.ExtType(3, b"x")):
        meta = wire.encode(wire.RESPONSE, 1, None, odd)
        assert _native.decode(meta, wire._SIGNATURES) is None
        assert wire.decode(meta)[3] == odd
