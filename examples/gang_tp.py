"""Tensor-parallel ranks as a gang: reserve, look, configure, launch, lose a rank, come back, release.

Run ``python examples/gang_tp.py [ranks]``.  Every rank multiplies its own columns of a weight matrix;
an all-reduce over gloo adds the partial products up, as a tensor-parallel layer does.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from typing import Any

import spoke

ROWS, COLUMNS = 8, 64


class Shard:
    """One tensor-parallel rank.  Its place in the world comes from the environment."""

    def __init__(self, config: dict[str, Any]) -> None:
        import torch
        import torch.distributed as dist

        dist.init_process_group("gloo")  # RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT
        self.rank, world = dist.get_rank(), dist.get_world_size()
        width = config["columns"] // world
        weights = torch.arange(config["rows"] * config["columns"], dtype=torch.float32)
        columns = slice(self.rank * width, (self.rank + 1) * width)
        self.columns = columns
        self.weights = weights.reshape(config["rows"], -1)[:, columns]

    def forward(self, inputs: list[float]) -> list[float]:
        """The whole product, from this rank's columns and the other ranks' sums."""
        import torch
        import torch.distributed as dist

        partial = self.weights @ torch.tensor(inputs)[self.columns]
        dist.all_reduce(partial)
        total: list[float] = partial.tolist()
        return total

    def pid(self) -> int:
        """The process of this rank."""
        return os.getpid()


def forward(gang: spoke.Gang) -> list[float]:
    """One step over all ranks; they agree, or something is wrong."""
    inputs = [1.0] * COLUMNS
    outputs = spoke.get([rank.forward.remote(inputs) for rank in gang.handles], timeout=60)
    assert all(output == outputs[0] for output in outputs), outputs
    result: list[float] = outputs[0]
    return result


def main(ranks: int = 2) -> None:
    """Run the example."""
    spoke.init(num_cpus=ranks, num_gpus=0, log_to_driver=False)
    with spoke.gang_allocate(1, ranks, {"CPU": 1}, restart="gang", max_restarts=1) as gang:
        print(gang.explain())
        config = {
            "rows": ROWS,
            "columns": COLUMNS,
            "hosts": [slot.node_ip for slot in gang.slots],
            "tensor_parallel_size": len(gang),
        }
        print(f"rendezvous at {gang.master_addr}:{gang.master_port}, config {config}")
        gang.launch(Shard, config)
        gang.wait_ready(timeout=60)
        first = forward(gang)
        print(f"step 1: {first[:4]} ...")

        pids = spoke.get([rank.pid.remote() for rank in gang.handles], timeout=30)
        print(f"killing rank {ranks - 1}, pid {pids[-1]}")
        killed = time.monotonic()
        os.kill(pids[-1], signal.SIGKILL)
        try:
            forward(gang)
        except spoke.exceptions.RayError as error:  # the rank's death, or that another rank misses it
            print(f"step 2 failed: {type(error).__name__}")
        gang.wait_ready(timeout=60)
        assert forward(gang) == first
        print(f"all {len(gang)} ranks are back as incarnation {gang.incarnation}, "
              f"{time.monotonic() - killed:.2f} s after the kill")  # fmt: skip
    print(f"released: {gang.release(timeout=10)}")
    spoke.shutdown()


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 2)
