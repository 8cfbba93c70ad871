"""What a put of 256 MiB copies, and what a reader copies: `python examples/tensor_zero_copy.py`.

An ordinary tensor is written once into shared memory by `put`.  A tensor of `spoke.empty` lies there
already, so its `put` copies nothing.  Either way readers on the node map the same pages.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch

import spoke as ray

SHAPE = (64, 1024, 1024)  # float32: 256 MiB


@ray.remote
class Reader:
    """Another process, which maps what it is given."""

    def corner(self, tensor: torch.Tensor) -> float:
        """One number of the tensor."""
        return float(tensor[-1, -1, -1])


def timed(what: str, action: Callable[..., Any], *arguments: Any) -> Any:
    """Call `action`; print its time and how many bytes this process copied into shared memory."""
    copied, began = ray.object_store_stats()["copied_bytes"], time.perf_counter()
    value = action(*arguments)
    elapsed_ms = (time.perf_counter() - began) * 1e3
    copied = ray.object_store_stats()["copied_bytes"] - copied
    print(f"{what:34} {elapsed_ms:9.3f} ms  {copied / 2**20:6.1f} MiB copied")
    return value


def main() -> None:
    """Compare an ordinary tensor with one that is born in shared memory."""
    ray.init()
    reader = Reader.remote()  # type: ignore[attr-defined]  # mypy ignores class decorators
    ordinary = torch.full(SHAPE, 1.0)
    shared = ray.empty(SHAPE, torch.float32)
    shared.fill_(2.0)  # computing in place, as into any tensor
    ray.get(reader.corner.remote(torch.zeros(1, 1, 1)))  # start the reader, import torch there

    for name, tensor in (("ordinary tensor", ordinary), ("tensor of spoke.empty", shared)):
        ref = timed(f"put, {name}", ray.put, tensor)
        timed("  get, in this process", ray.get, ref)
        seen = timed("  read, in another process", lambda ref: ray.get(reader.corner.remote(ref)), ref)
        assert seen == float(tensor[-1, -1, -1])
    ray.shutdown()


if __name__ == "__main__":
    main()
