"""verl's single-controller worker groups on CPU workers: dispatch modes, data, co-located classes."""

from __future__ import annotations

import json
from typing import Any

import ray
import torch
from verl import DataProto
from verl.single_controller.base import Worker
from verl.single_controller.base.decorator import Dispatch, Execute, register
from verl.single_controller.ray.base import (
    RayClassWithInitArgs,
    RayResourcePool,
    RayWorkerGroup,
    create_colocated_worker_cls,
)


class Adder(Worker):
    """Adds to a number; data is cut by rank."""

    def __init__(self, start: int) -> None:
        super().__init__()
        self.start = start

    @register(dispatch_mode=Dispatch.ONE_TO_ALL)
    def add(self, value: int) -> int:
        """On every rank."""
        return self.start + value + self.rank

    @register(dispatch_mode=Dispatch.DP_COMPUTE_PROTO)
    def double(self, data: Any) -> Any:
        """On every rank's part of the data."""
        data.batch["a"] = data.batch["a"] * 2
        return data

    @register(dispatch_mode=Dispatch.ONE_TO_ALL, execute_mode=Execute.RANK_ZERO)
    def size(self) -> int:
        """On the first rank."""
        return int(self.world_size)

    @register(dispatch_mode=Dispatch.ONE_TO_ALL, blocking=False)
    def late(self) -> int:
        """Answers by refs."""
        return int(self.rank)


class Teller(Worker):
    """Another class of worker."""

    @register(dispatch_mode=Dispatch.ONE_TO_ALL)
    def tell(self, text: str) -> str:
        """On every rank."""
        return f"{text}{self.rank}"


def main() -> None:
    """Entry of the program."""
    ray.init(num_cpus=4, log_to_driver=False)
    seen: dict[str, Any] = {"engine": ray.__file__}
    pool = RayResourcePool([2], use_gpu=False, name_prefix="adders", max_colocate_count=1)
    group: Any = RayWorkerGroup(pool, RayClassWithInitArgs(ray.remote(Adder), start=10), name_prefix="adders")
    seen["add"], seen["size"] = group.add(1), group.size()
    data = DataProto.from_single_dict({"a": torch.arange(8).reshape(8, 1)})
    seen["double"] = group.double(data).batch["a"].flatten().tolist()
    seen["late"] = ray.get(group.late())
    names = [entry["name"] for entry in ray.util.list_named_actors(all_namespaces=True)]
    seen["names"] = sorted("Adder" in name for name in names)

    together = RayResourcePool([2], use_gpu=False, name_prefix="both", max_colocate_count=1)
    classes = {
        "adder": RayClassWithInitArgs(ray.remote(Adder), start=20),
        "teller": RayClassWithInitArgs(ray.remote(Teller)),
    }
    both = RayWorkerGroup(together, create_colocated_worker_cls(classes), name_prefix="both")
    parts: Any = both.spawn(prefix_set=classes.keys())
    seen["parts"] = [parts["adder"].add(2), parts["teller"].tell("t")]
    print("\n@result " + json.dumps(seen), flush=True)


if __name__ == "__main__":
    main()
