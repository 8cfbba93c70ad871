"""The actor of one tensor-parallel rank: its share of the model, and its place among the other ranks.

All ranks must make the same calls in the same order, for each `embed` holds collective operations: one
thread of the launcher calls them, and an actor runs one caller's calls in order.
"""

from __future__ import annotations

import os
import socket
import time
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from torch import Tensor

COLLECTIVE_TIMEOUT_S = 60.0  # a rank that keeps the others waiting longer than this counts as dead


class Rank:
    """Rank `rank` of `world`; it computes with `threads` threads."""

    def __init__(self, rank: int, world: int, model_dir: str, threads: int) -> None:
        started = time.monotonic()
        import torch

        torch.set_num_threads(threads)
        from .bert import ShardedBert  # after torch, whose import this times

        self._rank = rank
        self._world = world
        self._model = ShardedBert(Path(model_dir), rank, world)
        self._start_s = time.monotonic() - started
        self._store: Any = None

    def describe(self) -> dict[str, Any]:
        """The process id, and the seconds that importing torch and opening the model took."""
        return {"rank": self._rank, "pid": os.getpid(), "import_s": self._start_s}

    def open_store(self) -> int:
        """Open the store at which the ranks meet; returns its port.  Rank 0 only."""
        import torch.distributed as dist

        # The store would listen on every interface; handed a bound socket, it listens on loopback.
        listener = socket.create_server(("127.0.0.1", 0))
        port = int(listener.getsockname()[1])
        self._store = dist.TCPStore(  # type: ignore[attr-defined,unused-ignore]
            "127.0.0.1", port, self._world, is_master=True,
            wait_for_workers=False, master_listen_fd=listener.detach(),
        )  # fmt: skip
        return port

    def join(self, port: int) -> None:
        """Meet the other ranks; returns when all are there."""
        import torch.distributed as dist

        os.environ["GLOO_SOCKET_IFNAME"] = "lo"
        timeout = timedelta(seconds=COLLECTIVE_TIMEOUT_S)
        store = self._store or dist.TCPStore(  # type: ignore[attr-defined,unused-ignore]
            "127.0.0.1", port, self._world, is_master=False, timeout=timeout
        )
        dist.init_process_group("gloo", store=store, rank=self._rank, world_size=self._world, timeout=timeout)

    def load_embeddings(self) -> None:
        """Read the embedding tables."""
        self._model.load_embeddings()

    def load_layer(self) -> int:
        """Read this rank's share of the next layer; returns the parameters held so far."""
        self._model.load_layer()
        return self._model.parameters

    def ping(self) -> None:
        """Answer, which a dead rank does not."""

    def embed(self, ids: npt.NDArray[np.int32], lengths: npt.NDArray[np.int32]) -> Any:
        """Unit vectors of padded token ids, as a float32 array from rank 0, None from the others."""
        import torch

        # astype copies, and torch wants memory it may write to: arguments may be read-only maps.
        padded, counts = (torch.from_numpy(each.astype(np.int64)) for each in (ids, lengths))
        vectors = self._model.embed(padded, counts, self._all_reduce)
        return vectors.numpy() if self._rank == 0 else None

    def _all_reduce(self, tensor: Tensor) -> None:
        if self._world > 1:
            import torch.distributed as dist

            dist.all_reduce(tensor)
