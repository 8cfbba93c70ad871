"""How an inference engine starts its tensor-parallel workers: the Ray way beside Spoke's gang API.

Run ``python examples/vllm_launcher.py [ranks]``.  Both launchers do what vLLM's Ray executor does: reserve,
create workers whose real initialisation is deferred, order them by node and address, agree on the address
of rank 0, initialise all, start their endless `run` whose refs tell of a death, and tear down so that
nothing is left.  Printed are the steps, those of them that wait for an answer, and the seconds of each.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import spoke
from spoke.util.scheduling_strategies import PlacementGroupSchedulingStrategy

PATIENCE_S = 60.0
WARM_S = 1.0  # for the pool of spare workers to be full again: both launchers start from the same


class Worker:
    """One rank; constructing it is cheap, `initialize` meets the others."""

    def __init__(self) -> None:
        self.rank = -1

    def where(self) -> tuple[str, str, list[int]]:
        """Node id, address, devices."""
        context = spoke.get_runtime_context()
        return context.get_node_id(), spoke.util.get_node_ip_address(), spoke.get_gpu_ids()

    def free_address(self) -> tuple[str, int]:
        """An address of this worker's node that is free now."""
        host = spoke.util.get_node_ip_address()
        with socket.socket() as probe:
            probe.bind((host, 0))
            return host, int(probe.getsockname()[1])

    def initialize(self, rank: int, world: int, host: str, port: int) -> int:
        """Meet the other ranks at rank 0's address; how many met."""
        self.rank = rank
        if rank == 0:
            with socket.create_server((host, port)) as server:
                others = [server.accept()[0] for _ in range(world - 1)]
            for other in others:
                other.sendall(world.to_bytes(4, "little"))
                other.close()
            return world
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                with socket.create_connection((host, port), timeout=PATIENCE_S) as link:
                    return int.from_bytes(link.recv(4, socket.MSG_WAITALL), "little")
            except ConnectionRefusedError:  # rank 0 does not listen yet
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.002)

    def initialize_from_environment(self) -> int:
        """As `initialize`; a gang's slot says who this is and where rank 0 is."""
        variables = os.environ
        return self.initialize(
            int(variables["RANK"]), int(variables["WORLD_SIZE"]),
            variables["MASTER_ADDR"], int(variables["MASTER_PORT"]),
        )  # fmt: skip

    def run(self) -> None:
        """Serve until the process ends; the ref of this call tells of its death."""
        threading.Event().wait()

    def pid(self) -> int:
        """The process of this rank."""
        return os.getpid()


class Steps:
    """Counts what a launcher does, and which of it waits for an answer."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.waits = 0
        self._started = time.monotonic()
        self.seconds = 0.0

    def do(self, name: str, work: Callable[[], Any], *, waits: bool = False) -> Any:
        """One step."""
        self.names.append(name)
        self.waits += waits
        result = work()
        self.seconds = time.monotonic() - self._started
        return result


def launch_as_on_ray(ranks: int, steps: Steps) -> tuple[list[Any], list[Any], Callable[[], None]]:
    """Workers by rank, their sentinels, and what ends them: the calls of vLLM's Ray executor."""
    bundles = [{"CPU": 1.0}] * ranks
    group = steps.do("placement_group", lambda: spoke.util.placement_group(bundles, strategy="PACK"))
    steps.do("wait for the group", lambda: spoke.get(group.ready(), timeout=PATIENCE_S), waits=True)
    table = steps.do("placement_group_table", lambda: spoke.util.placement_group_table(group), waits=True)
    here = spoke.get_runtime_context().get_node_id()
    order = sorted(table["bundles_to_node_id"].items(), key=lambda item: (item[1] != here, item[1], item[0]))

    def create(index: int) -> Any:
        strategy = PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=index)
        return spoke.remote(Worker).options(num_cpus=1, scheduling_strategy=strategy).remote()

    workers = steps.do("create workers", lambda: [create(index) for index, _ in order])
    told = steps.do(
        "ask where they are",
        lambda: spoke.get([worker.where.remote() for worker in workers], timeout=PATIENCE_S),
        waits=True,
    )
    placed = sorted(zip(told, workers, strict=True), key=lambda pair: (pair[0][0] != here, pair[0][1]))
    workers = [worker for _, worker in placed]
    host, port = steps.do(
        "rank 0 chooses an address",
        lambda: spoke.get(workers[0].free_address.remote(), timeout=PATIENCE_S),
        waits=True,
    )
    refs = steps.do(
        "initialise workers",
        lambda: [worker.initialize.remote(rank, ranks, host, port) for rank, worker in enumerate(workers)],
    )
    met = steps.do("wait for them", lambda: spoke.get(refs, timeout=PATIENCE_S), waits=True)
    assert met == [ranks] * ranks, met
    sentinels = steps.do("run", lambda: [worker.run.remote() for worker in workers])

    def end() -> None:
        for worker in workers:
            spoke.kill(worker)
        spoke.util.remove_placement_group(group)

    return workers, sentinels, end


def launch_as_a_gang(ranks: int, steps: Steps) -> tuple[list[Any], list[Any], Callable[[], None]]:
    """Workers by rank, their sentinels, and what ends them: ranks, nodes and rank 0's address come first."""
    gang = steps.do(
        "gang_allocate", lambda: spoke.gang_allocate(1, ranks, {"CPU": 1}, timeout=PATIENCE_S), waits=True
    )
    workers = steps.do("launch", lambda: gang.launch(Worker))
    refs = steps.do(
        "initialise workers",
        lambda: [worker.initialize_from_environment.remote() for worker in workers],
    )
    met = steps.do("wait for them", lambda: spoke.get(refs, timeout=PATIENCE_S), waits=True)
    assert met == [ranks] * ranks, met
    sentinels = steps.do("run", lambda: [worker.run.remote() for worker in workers])

    def end() -> None:
        assert gang.release(timeout=PATIENCE_S)

    return workers, sentinels, end


def noticed(workers: list[Any], sentinels: list[Any], pid: int) -> float:
    """Seconds from the end of the last rank's process to the sentinel that tells of it."""
    killed = time.monotonic()
    os.kill(pid, signal.SIGKILL)
    ready, _ = spoke.wait(sentinels, num_returns=1, timeout=PATIENCE_S)
    seconds = time.monotonic() - killed
    try:
        spoke.get(ready, timeout=PATIENCE_S)
    except spoke.exceptions.RayActorError:
        return seconds
    raise AssertionError("a sentinel resolved without a death")


def settled() -> bool:
    """Wait until every CPU is free again."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        if spoke.available_resources().get("CPU") == spoke.cluster_resources()["CPU"]:
            return True
        time.sleep(0.005)
    return False


def main(ranks: int = 4) -> None:
    """Run both launchers, twice each in turn; the second times count, when all is warm."""
    spoke.init(num_cpus=ranks, num_gpus=0, log_to_driver=False)
    rows = []
    for launcher in (launch_as_on_ray, launch_as_a_gang) * 2:
        steps = Steps()
        workers, sentinels, end = launcher(ranks, steps)
        # `run` holds a worker's one thread, so its pid is asked for before: by the state of the cluster.
        victim = spoke.util.state.get_actor(workers[-1]._actor_id.hex()).pid
        death = noticed(workers, sentinels, victim)
        end()
        assert settled(), "resources did not come back"
        time.sleep(WARM_S)
        rows.append((launcher.__name__, steps, death))
    for name, steps, death in rows[2:]:
        print(f"{name}: {len(steps.names)} steps, {steps.waits} of them wait, {1000 * steps.seconds:.1f} ms; "
              f"a death is noticed in {1000 * death:.1f} ms")  # fmt: skip
        print(f"    {', '.join(steps.names)}")
    spoke.shutdown()


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 4)
