"""What Ray cannot carry is refused by name, at the call that needs it; what a program asks twice, too."""

from __future__ import annotations

import json
from typing import Any

import spoke
from spoke import endpoints, jobs


@spoke.remote
class Echo:
    """An actor."""

    def echo(self, value: Any) -> Any:
        """The value."""
        return value


def refused(call: Any) -> list[Any]:
    """The error's name, and whether it says what to use instead."""
    try:
        call()
    except Exception as error:
        return [type(error).__name__, "engine='ray' does not have it; " in str(error)]
    return []


def main() -> None:
    spoke.init(num_cpus=2, log_to_driver=False)
    echo = Echo.remote()
    array = bytearray(4)
    seen = {
        "empty": refused(lambda: spoke.empty((2,), "float32")),
        "into": refused(lambda: spoke.get(spoke.put(b"1234"), into=array)),
        "endpoints": refused(lambda: endpoints.list()),
        "jobs": refused(lambda: jobs.list()),
        "stats": refused(lambda: spoke.object_store_stats()),
        "twice": refused(lambda: spoke.init())[:1],
        "rdma": echo.init_rdma(),
        "rdma says why": "Ray" in echo._transport[1],
    }
    spoke.shutdown()
    print("\n@result " + json.dumps(seen), flush=True)


if __name__ == "__main__":
    main()
