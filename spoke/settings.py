"""What a daemon is told by whoever starts it, and nothing else: see `Settings`."""

from __future__ import annotations

import os
import time
from typing import Any


class Settings:
    """The configuration of one daemon; `token` and `node_id` must be given.

    Raises:
        ValueError: an unknown or missing setting.
    """

    mode: str  # "head": hub and agent, "node": agent of the cluster at `hub`
    link: str  # what descriptor 4 is: "driver", "tied" or "starter", see spoke.daemon
    driver_id: bytes  # process id of the driver, for "driver"
    driver_pid: int  # its death ends the daemon (not with "starter"); 0: not watched
    token: bytes
    node_id: bytes
    session: str
    num_cpus: float | None  # None, here and below: detected
    num_gpus: float | None
    memory: float | None  # bytes
    object_store_memory: int | None  # bytes
    resources: dict[str, float]
    labels: dict[str, str]
    log_dir: str | None  # None: in the session's own directory, removed at the end
    host: str  # where the TCP listener is bound
    port: int | None  # None: no TCP at all; 0: a free port
    hub: list[Any] | None  # [host, port] of the head, for "node"
    sys_path: list[str]  # of the driver, for workers
    prestart: int | None  # idle workers to keep ready
    state_dir: str | None  # of a head whose cluster outlives it: where its journal is
    scheduler: str | None  # of jobs; None: SPOKE_SCHEDULER
    restarts: int  # how often a supervisor, the daemon's parent, starts it again; 0: there is none
    record: bool  # can be found by init("auto") and `spoke stop`
    started: bool  # by `spoke start`: no program's own, nor a test's cluster

    def __init__(self, given: dict[str, Any]) -> None:
        for name in given:
            if name not in Settings.__annotations__:
                raise ValueError(f"unknown setting {name!r}")
        for name in ("token", "node_id"):
            if not given.get(name):
                raise ValueError(f"setting {name!r} is missing")
        values = {**_defaults(), **given}
        for name in Settings.__annotations__:
            setattr(self, name, values[name])
        if self.mode == "node" and not self.hub:
            raise ValueError("a node needs the address of its hub")


def _defaults() -> dict[str, Any]:
    return {
        "mode": "head",
        "link": "driver",
        "driver_id": b"",
        "driver_pid": 0,
        "session": f"session-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}",
        "num_cpus": None,
        "num_gpus": None,
        "memory": None,
        "object_store_memory": None,
        "resources": {},
        "labels": {},
        "log_dir": None,
        "host": "127.0.0.1",
        "port": None,
        "hub": None,
        "sys_path": [],
        "prestart": None,
        "state_dir": None,
        "scheduler": None,
        "restarts": 0,
        "record": False,
        "started": False,
    }
