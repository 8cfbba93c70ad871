"""Where bundles go: compared with exhaustive search on small clusters."""

from __future__ import annotations

import itertools
import random
import time

import pytest

from spoke.core import placement, selectors
from spoke.core.ledger import GPU, UNIT, Ledger, to_units
from spoke.core.placement import Request


class Node:
    def __init__(self, label: str, labels: dict[str, str] | None = None, **resources: float) -> None:
        self.node_id = label.encode()
        self.labels = labels or {}
        self.ledger = Ledger(to_units(resources))


def request(bundles: list[dict[str, float]], strategy: str, **more: object) -> Request:
    return Request([to_units(bundle) for bundle in bundles], strategy, **more)  # type: ignore[arg-type]


def check(nodes: list[Node], one: Request, homes: list[bytes]) -> None:
    """The bundles really fit where they were put, as the strategy asks."""
    by_id = {node.node_id: node for node in nodes}
    for home in dict.fromkeys(homes):
        indices = [index for index, other in enumerate(homes) if other == home and one.fixed[index] is None]
        ledger = by_id[home].ledger.copy()
        assert placement.reserve(ledger, one, indices) is not None
        ledger.validate()
    if one.strategy == "STRICT_PACK":
        assert len(set(homes)) == 1
    if one.strategy == "STRICT_SPREAD":
        assert len(set(homes)) == len(homes)


def exists(nodes: list[Node], one: Request) -> bool:
    """Exhaustive search."""
    for homes in itertools.product(nodes, repeat=len(one.bundles)):
        ids = [node.node_id for node in homes]
        if one.strategy == "STRICT_PACK" and len(set(ids)) > 1:
            continue
        if one.strategy == "STRICT_SPREAD" and len(set(ids)) < len(ids):
            continue
        trial = {node.node_id: node.ledger.copy() for node in nodes}
        groups: dict[bytes, list[dict[str, int]]] = {}
        for index, node in enumerate(homes):
            groups.setdefault(node.node_id, []).append(one.bundles[index])
        if all(_all_orders(trial[home], bundles) for home, bundles in groups.items()):
            return True
    return False


def _all_orders(ledger: Ledger, bundles: list[dict[str, int]]) -> bool:
    """Whether some choice of devices takes them all (tried device by device)."""
    if not bundles:
        return True
    bundle, rest = bundles[0], bundles[1:]
    gpus = bundle.get(GPU, 0)
    if not 0 < gpus < UNIT:
        twin = ledger.copy()
        return twin.take(bundle) is not None and _all_orders(twin, rest)
    for index, room in ledger.device_free.items():
        if room >= gpus:
            twin = ledger.copy()
            if twin.take(bundle, ((index, gpus),)) is not None and _all_orders(twin, rest):
                return True
    return False


@pytest.mark.parametrize("strategy", placement.STRATEGIES)
def test_random_clusters(strategy: str) -> None:
    """Strict strategies succeed exactly when a placement exists; the others never lie."""
    rng = random.Random(strategy)
    found = missed = 0
    for _ in range(250):
        nodes = [
            Node(f"n{index}", CPU=float(rng.randrange(1, 5)), GPU=float(rng.randrange(0, 3)))
            for index in range(rng.randrange(1, 4))
        ]
        for node in nodes:  # somebody is there already
            node.ledger.take(to_units({"GPU": rng.choice([0.3, 0.5, 1.0]), "CPU": 0.5}))
        bundles = [
            {
                "CPU": rng.choice([0.5, 1.0, 2.0]),
                **rng.choice([{}, {}, {"GPU": 0.4}, {"GPU": 0.6}, {"GPU": 1.0}]),
            }
            for _ in range(rng.randrange(1, 5))
        ]
        one = request(bundles, strategy)
        homes = placement.choose(nodes, one)
        if homes is not None:
            found += 1
            check(nodes, one, homes)
        elif exists(nodes, one):
            missed += 1
    assert found > 50
    assert missed <= (0 if strategy.startswith("STRICT") else 5)


def test_strict_spread_needs_a_matching_not_a_greedy_walk() -> None:
    nodes = [Node("a", CPU=4.0), Node("b", CPU=2.0), Node("c", {"disk": "ssd"}, CPU=4.0)]
    small = [selectors.parse({}), selectors.parse({"disk": "ssd"}), selectors.parse({})]
    one = request([{"CPU": 4.0}, {"CPU": 1.0}, {"CPU": 1.0}], "STRICT_SPREAD", selectors=small)
    homes = placement.choose(nodes, one)
    assert homes == [b"a", b"c", b"b"]


def test_augmenting_path() -> None:
    """The only solution moves a bundle that was placed first."""
    nodes = [
        Node("a", {"x": "1"}, CPU=1.0),
        Node("b", {"x": "1", "y": "1"}, CPU=1.0),
        Node("c", {"y": "1"}, CPU=1.0),
    ]
    chosen = [selectors.parse({"x": "1"}), selectors.parse({"y": "1"}), selectors.parse({"x": "1"})]
    one = request([{"CPU": 1.0}] * 3, "STRICT_SPREAD", selectors=chosen)
    homes = placement.choose(nodes, one)
    assert homes is not None and homes[1] == b"c" and set(homes) == {b"a", b"b", b"c"}


def test_pack_uses_few_nodes_and_spread_many() -> None:
    nodes = [Node(f"n{index}", CPU=4.0) for index in range(4)]
    packed = placement.choose(nodes, request([{"CPU": 1.0}] * 6, "PACK"))
    spread = placement.choose(nodes, request([{"CPU": 1.0}] * 6, "SPREAD"))
    assert packed is not None and len(set(packed)) == 2
    assert spread is not None and len(set(spread)) == 4
    counts = sorted(spread.count(home) for home in set(spread))
    assert counts == [1, 1, 2, 2]


def test_target_and_fixed_bundles() -> None:
    nodes = [Node(f"n{index}", CPU=4.0) for index in range(3)]
    for strategy in placement.STRATEGIES:
        homes = placement.choose(nodes, request([{"CPU": 1.0}], strategy, target=b"n2"))
        assert homes == [b"n2"], strategy
    homes = placement.choose(nodes, request([{"CPU": 1.0}] * 2, "STRICT_SPREAD", fixed=[None, b"n0"]))
    assert homes == [b"n1", b"n0"]
    homes = placement.choose(nodes, request([{"CPU": 1.0}] * 2, "STRICT_PACK", fixed=[None, b"n1"]))
    assert homes == [b"n1", b"n1"]
    homes = placement.choose(nodes, request([{"CPU": 1.0}] * 3, "PACK", fixed=[None, b"n1", None]))
    assert homes == [b"n1"] * 3


def test_bundles_without_gpus_leave_gpu_nodes_alone() -> None:
    nodes = [Node("gpu", CPU=8.0, GPU=4.0), Node("cpu", CPU=8.0)]
    assert placement.choose(nodes, request([{"CPU": 1.0}] * 2, "PACK")) == [b"cpu"] * 2


def test_reasons() -> None:
    nodes = [Node("a", {"zone": "x"}, CPU=4.0), Node("b", CPU=4.0)]
    assert placement.explain(nodes, request([{"CPU": 4.0}] * 2, "PACK")) is None
    for bundles, strategy, words in (
        ([{"CPU": 5.0}], "PACK", "larger than every node"),
        ([{"CPU": 3.0}] * 2, "STRICT_PACK", "no single node"),
        ([{"CPU": 1.0}] * 3, "STRICT_SPREAD", "the cluster has 2 nodes"),
        ([{"CPU": 3.0}] * 3, "SPREAD", "larger than the cluster"),
    ):
        assert words in (placement.explain(nodes, request(bundles, strategy)) or "")
    labelled = request([{"CPU": 1.0}], "PACK", selectors=[selectors.parse({"zone": "y"})])
    assert "labels" in (placement.explain(nodes, labelled) or "")
    with pytest.raises(ValueError, match="STRICT_PACK"):
        request([{"CPU": 1.0}], "TIGHT")


def test_amounts() -> None:
    ledger = Ledger({"CPU": UNIT, "GPU": 2 * UNIT + 5})
    assert ledger.total[GPU] == 2 * UNIT, "part of a device is no device"
    taken = [ledger.take(to_units({"CPU": 0.1})) for _ in range(10)]
    assert all(taken) and ledger.free["CPU"] == 0 and not ledger.fits(to_units({"CPU": 0.0001}))
    for share in taken:
        assert share is not None
        ledger.give(share)
    assert ledger.idle()
    for bad in (
        {"CPU": -1.0},
        {"CPU": float("nan")},
        {"CPU": float("inf")},
        {"GPU": 1.5},
        {1: 1.0},
        {"CPU": True},
    ):
        with pytest.raises(ValueError):
            to_units(bad)  # type: ignore[arg-type]


@pytest.mark.parametrize("strategy", placement.STRATEGIES)
def test_a_gang_of_64_on_1000_nodes_is_quick(strategy: str) -> None:
    cpus = 128.0 if strategy == "STRICT_PACK" else 8.0
    nodes = [
        Node(f"n{index}", CPU=cpus, GPU=64.0 if strategy == "STRICT_PACK" else 4.0) for index in range(1000)
    ]
    one = request([{"CPU": 1.0, "GPU": 1.0}] * 64, strategy)
    best = 1.0
    for _ in range(3):
        start = time.perf_counter()
        homes = placement.choose(nodes, one)
        best = min(best, time.perf_counter() - start)
    assert homes is not None
    check(nodes, one, homes)
    print(f"{strategy}: 64 bundles on 1000 nodes in {best * 1e3:.1f} ms")
    assert best < 0.25
