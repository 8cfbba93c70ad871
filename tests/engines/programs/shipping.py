"""A cluster whose workers do not have Spoke: it is shipped, or the error says how to."""

from __future__ import annotations

import json
import os
import sys

import spoke as ray


@ray.remote(max_retries=0)
def answer() -> int:
    return 42


def main() -> None:
    address, shipped = sys.argv[1:]
    environment = {"py_modules": [os.path.dirname(ray.__file__)]} if shipped == "yes" else None
    ray.init(address, engine="ray", log_to_driver=False, runtime_env=environment)
    try:
        seen = {"answer": ray.get(answer.remote())}
    except ray.exceptions.RayError as error:
        seen = {"error": "cannot import Spoke: install it on its nodes, or ship it with" in str(error)}
    ray.shutdown()
    print("\n@result " + json.dumps(seen), flush=True)


if __name__ == "__main__":
    main()
