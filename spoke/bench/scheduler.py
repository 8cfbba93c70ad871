"""``python -m spoke.bench.scheduler``: how long the hub takes to decide, by the size of the cluster.

The hub alone is driven, by messages as agents and clients send them, in one thread and without sockets:
nodes of 64 CPUs and 8 GPUs in racks and zones, live actors spread over them, then gangs of 64 slots created
and removed.  A decision is the hub's whole step for a CREATE_GROUP: parsing, placing, reserving, telling.
Times are this thread's CPU time, so that other work on the machine does not count.  The table and the plot
go to the terminal and, with ``--out FILE``, to a file.
"""

from __future__ import annotations

import argparse
import gc
import random
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any, Final

from spoke import wire
from spoke.core import Received, Send
from spoke.core.hub import HubConfig, HubCore

SLOTS: Final = 64
PROMISED_MS: Final = {1_000: 1.0, 10_000: 5.0}
SIZES: Final = (10, 100, 1_000, 10_000)
PLOT_WIDTH: Final = 60

ONE: Final = {"CPU": 1.0, "GPU": 1.0}
MIXED: Final = [ONE] * 40 + [{"CPU": 2.0}] * 16 + [{"CPU": 4.0, "GPU": 2.0}] * 8


class Cluster:
    """A hub with nodes and live actors."""

    def __init__(self, nodes: int, actors: int) -> None:
        self.rng = random.Random(nodes)
        self.hub = HubCore(HubConfig(seed=b"bench", prestart=0))
        self.now = 1.0
        self.serial = 0
        self.driver = self._id(28)
        self.nodes = [self._id(28) for _ in range(nodes)]
        for number, node_id in enumerate(self.nodes):
            labels = {"rack": f"r{number // 32}", "zone": "abc"[number % 3]}
            resources = {"CPU": 64.0, "GPU": 8.0, "memory": 1e12}
            self.say(node_id, wire.AGENT_UP, node_id, f"h{number}", 1, resources, labels, 1)
        self.say(self.driver, wire.CLIENT_UP, "driver", [self.driver, self.nodes[0], "h0", 0], 1, {})
        share = 32.0 * nodes / actors if actors else 0.0  # half of all CPUs
        self.actor_times: list[float] = []
        for number in range(actors):
            self._actor(min(1.0, round(share, 2)), 0.5 if number % 40 == 0 and number < nodes * 80 else 0.0)

    def _id(self, size: int) -> bytes:
        self.serial += 1
        return self.serial.to_bytes(size, "big")

    def say(self, peer: bytes, *message: Any) -> tuple[list[Any], float]:
        """One message to the hub: its answers, and the CPU time they took."""
        started = time.thread_time()
        commands = self.hub.step(self.now, Received(peer, list(message)))
        return commands, time.thread_time() - started

    def _actor(self, cpus: float, gpus: float) -> None:
        """Create an actor; a worker is started for it and says that it runs."""
        actor_id = self._id(16)
        resources = {"CPU": cpus, **({"GPU": gpus} if gpus else {})}
        commands, seconds = self.say(self.driver, wire.CREATE_ACTOR, actor_id, {"resources": resources})
        self.actor_times.append(seconds)
        for command in commands:
            if type(command) is Send and command.message[0] == wire.SPAWN:
                worker_id, node_id = command.message[1], command.peer
                self.say(worker_id, wire.CLIENT_UP, "worker", [worker_id, node_id, "h", 0], 2, {})
                self.say(worker_id, wire.ACTOR_READY, actor_id, 0)

    def gang(self, spec: dict[str, Any]) -> float:
        """Create and remove one; the seconds of the decision."""
        group_id = self._id(18)
        commands, seconds = self.say(self.driver, wire.CREATE_GROUP, group_id, spec)
        states = [
            command.message[2]
            for command in commands
            if type(command) is Send and command.message[0] == wire.GROUP_STATE
        ]
        if states != ["CREATED"]:
            raise RuntimeError(f"a gang that fits was not placed: {states} {spec}")
        self.say(self.driver, wire.REMOVE_GROUP, group_id)
        self.now += 0.001
        return seconds


def requests(nodes: int) -> dict[str, dict[str, Any]]:
    """What is measured, as far as a cluster of this size can hold it."""
    alike = [ONE] * SLOTS
    found: dict[str, dict[str, Any]] = {
        "PACK": {"bundles": alike, "strategy": "PACK"},
        "PACK, unequal": {"bundles": MIXED, "strategy": "PACK"},
        "SPREAD": {"bundles": alike, "strategy": "SPREAD"},
        "SPREAD, unequal": {"bundles": MIXED, "strategy": "SPREAD"},
    }
    if nodes >= 4 * SLOTS:
        zone = [{"zone": "in(a,b)"}] * SLOTS
        found.update(
            {
                "STRICT_SPREAD": {"bundles": alike, "strategy": "STRICT_SPREAD"},
                "STRICT_SPREAD, unequal": {"bundles": MIXED, "strategy": "STRICT_SPREAD"},
                "PACK, labels": {"bundles": MIXED, "strategy": "PACK", "selectors": zone},
                "PACK, same rack": {"bundles": alike, "strategy": "PACK", "same": "rack"},
                "16 x 4 on a node each": {"bundles": alike, "strategy": "STRICT_SPREAD", "per_node": 4},
            }
        )
    return found


def measure(nodes: int, actors: int, rounds: int) -> dict[str, float]:
    """Median milliseconds per kind of request, and of creating an actor."""
    cluster = Cluster(nodes, actors)
    gc.collect()
    gc.freeze()  # the cluster itself is not what is measured
    found = {}
    for name, spec in requests(nodes).items():
        cluster.gang(spec)
        times = [cluster.gang(spec) for _ in range(rounds)]
        found[name] = statistics.median(times) * 1e3
    gc.unfreeze()
    late = cluster.actor_times[-1000:]
    if late:
        found["one actor"] = statistics.median(late) * 1e3
    return found


def report(results: dict[int, dict[str, float]], actors: int) -> str:
    """A table of milliseconds by size, and a plot of its growth."""
    sizes = list(results)
    names = list(dict.fromkeys(name for row in results.values() for name in row))
    lines = [
        f"Decision of the hub for a gang of {SLOTS} slots, median ms of CPU time, {actors:,} live actors",
        "",
        "| request | " + " | ".join(f"{size:,} nodes" for size in sizes) + " |",
        "|---|" + "---|" * len(sizes),
    ]
    for name in names:
        cells = [f"{results[size][name]:.2f}" if name in results[size] else "-" for size in sizes]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    most = max(value for row in results.values() for value in row.values())
    lines += ["", f"Growth (a full bar is {most:.2f} ms):", "", "```"]
    for name in names:
        for size in sizes:
            if name in results[size]:
                value = results[size][name]
                bar = "#" * max(1, round(PLOT_WIDTH * value / most))
                rate = 1e3 / value
                lines.append(f"{name:24s} {size:>6,} {bar:{PLOT_WIDTH}s} {value:6.2f} ms {rate:8,.0f} /s")
    lines += ["```", ""]
    for size, limit in PROMISED_MS.items():
        if size in results:
            worst = max((value, name) for name, value in results[size].items())
            kept = "kept" if worst[0] <= limit else "MISSED"
            text = f"{limit:g} ms on {size:,} nodes: {kept} (the slowest, {worst[1]}: {worst[0]:.2f} ms)"
            lines.append(f"Promise of {text}")
    return "\n".join(lines) + "\n"


def main(argv: list[str] | None = None, show: Callable[[str], object] = sys.stdout.write) -> int:
    """0, or 1 with ``--check`` where a promise is missed."""
    parser = argparse.ArgumentParser(prog="python -m spoke.bench.scheduler", description=__doc__)
    parser.add_argument("--actors", type=int, default=100_000, help="live actors (default 100,000)")
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES), help="numbers of nodes")
    parser.add_argument("--rounds", type=int, default=40, help="gangs of each kind (default 40)")
    parser.add_argument("--out", metavar="FILE", help="write the report to FILE, too")
    parser.add_argument("--check", action="store_true", help="exit with 1 where a promise is missed")
    options = parser.parse_args(argv)
    results = {}
    for size in options.sizes:
        results[size] = measure(size, min(options.actors, size * 4000), options.rounds)
    text = report(results, options.actors)
    show(text)
    if options.out:
        with open(options.out, "w", encoding="utf-8") as file:
            file.write(text)
    return 1 if options.check and "MISSED" in text else 0


if __name__ == "__main__":
    sys.exit(main())
