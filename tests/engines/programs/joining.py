"""One call on the cluster at the address given, and what the cluster was before and is after."""

from __future__ import annotations

import json
import os
import sys
from typing import Any

import spoke as ray


@ray.remote
def where() -> Any:
    context = ray.get_runtime_context()
    return [context.get_node_id(), context.namespace]


class Place:
    def place(self) -> Any:
        return [os.environ["RANK"], ray.get_runtime_context().get_node_id()]


def main() -> None:
    address = sys.argv[1]
    given: dict[str, Any] = {} if address.startswith("ray://") else {"engine": "ray"}
    if "RAY_ADDRESS" not in sys.argv:
        given["address"] = address
    ray.init(namespace="joined", log_to_driver=False, **given)
    seen = {"where": ray.get(where.remote()), "cpus": ray.cluster_resources()["CPU"]}
    with ray.gang_allocate(1, 1, timeout=60) as gang:
        seen["slot"] = gang.slots[0].node_id
        gang.launch_actor(0, Place, name="place")
        gang.wait_ready(timeout=60)
        seen["rank"] = ray.get(ray.get_actor("place").place.remote())
    ray.shutdown()
    print("\n@result " + json.dumps(seen), flush=True)


if __name__ == "__main__":
    main()
