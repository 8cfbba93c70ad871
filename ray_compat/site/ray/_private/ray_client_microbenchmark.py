"""Names of `ray._private.ray_client_microbenchmark`: the rows of a driver that joins a cluster from outside.

Ray's rows go through its client server; a Spoke driver joins by address and talks to workers directly,
so these rows are those of a driver that joined.
"""

from __future__ import annotations

from typing import Any

import numpy as np

import spoke
from ray._private.ray_microbenchmark_helpers import timeit
from spoke.cluster_utils import Cluster

LARGE_ITEMS = 100 * 1024 * 1024
BATCH = 1000


@spoke.remote
def _small() -> bytes:
    return b"ok"


@spoke.remote
def _put_many() -> None:
    for _ in range(100):
        spoke.put(0)


class _Actor:
    def small_value(self) -> bytes:
        return b"ok"


def main(results: list[Any] | None = None) -> list[Any]:
    """Print the rows and return them after `results`."""
    rows = list(results or [])
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 4, "object_store_memory": 2 << 30})
    try:
        spoke.init(address=cluster.address)
        rows += _measure()
    finally:
        spoke.shutdown()
        cluster.shutdown()
    return rows


def _measure() -> list[Any]:
    value = spoke.put(0)
    large = np.zeros(LARGE_ITEMS, dtype=np.int64)
    actor = spoke.remote(num_cpus=0)(_Actor).remote()
    batch, tens = range(BATCH), range(10)
    threaded = spoke.remote(num_cpus=0, max_concurrency=16)(_Actor).remote()
    return [
        *timeit("client: get calls", lambda: spoke.get(value)),
        *timeit("client: tasks and get batch", lambda: spoke.get([_small.remote() for _ in batch])),
        *timeit("client: put calls", lambda: spoke.put(0)),
        *timeit("client: tasks and put batch", lambda: spoke.get([_put_many.remote() for _ in tens]), BATCH),
        *timeit("client: put gigabytes", lambda: spoke.put(large), 8 * 0.1),
        *timeit("client: 1:1 actor calls sync", lambda: spoke.get(actor.small_value.remote())),
        *timeit(
            "client: 1:1 actor calls async",
            lambda: spoke.get([actor.small_value.remote() for _ in batch]),
            BATCH,
        ),
        *timeit(
            "client: 1:1 actor calls concurrent",
            lambda: spoke.get([threaded.small_value.remote() for _ in batch]),
            BATCH,
        ),
    ]
