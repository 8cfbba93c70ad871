"""Gangs: slots seen before the launch, devices, ports, what the loss of a rank means under each policy."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from typing import Any

import spoke

PATIENCE_S = 90.0
NAMES = ("RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "WORLD_SIZE", "MASTER_PORT", "CUDA_VISIBLE_DEVICES")


class Rank:
    """One rank."""

    def __init__(self, extra: str = "") -> None:
        self.extra = extra

    def about(self) -> dict[str, Any]:
        """What its process was started with."""
        found: dict[str, Any] = {name: os.environ.get(name) for name in NAMES}
        return {**found, "gpus": spoke.get_gpu_ids(), "pid": os.getpid(), "extra": self.extra}

    def bind(self, port: int) -> bool:
        """Can this rank listen where the gang holds a port?"""
        with socket.socket() as one:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            one.bind(("", port))
            one.listen()
            return True


class Broken:
    """A rank whose constructor raises."""

    def __init__(self) -> None:
        raise OSError("no model here")


def until(condition: Any) -> bool:
    """Whether it comes true in time."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def error_of(call: Any) -> str:
    """The name of the error that a call raises, and its first line."""
    try:
        call()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


def slots() -> dict[str, Any]:
    """A gang with devices, from its slots to its release."""
    seen: dict[str, Any] = {}
    gang = spoke.gang_allocate(1, 2, {"CPU": 1, "GPU": 2}, timeout=PATIENCE_S)
    seen["slots"] = [
        [slot.global_rank, slot.local_rank, slot.local_size, list(slot.gpu_ids)] for slot in gang.slots
    ]
    seen["same node"] = len({slot.node_id for slot in gang.slots}) == 1
    seen["environment"] = {name: gang.environment(1)[name] for name in NAMES if name != "MASTER_PORT"}
    seen["reached"] = gang.topology["reached"]
    seen["ports differ"] = gang.free_port(0) != gang.free_port(1)
    handles = gang.launch(Rank, per_rank=lambda slot: {"extra": f"rank {slot.global_rank}"})
    assert gang.wait_ready(PATIENCE_S) == handles
    about = spoke.get([handle.about.remote() for handle in handles])
    seen["ranks"] = [[one["RANK"], one["CUDA_VISIBLE_DEVICES"], one["gpus"], one["extra"]] for one in about]
    seen["master port"] = {one["MASTER_PORT"] for one in about} == {str(gang.master_port)}
    seen["rank 0 listens there"] = spoke.get(handles[0].bind.remote(gang.master_port))
    seen["launched twice"] = error_of(lambda: gang.launch_actor(0, Rank)).split(":")[0]
    seen["released"] = [gang.release(PATIENCE_S), gang.state, error_of(lambda: gang.slots).split(":")[0]]
    gone = until(lambda: spoke.available_resources().get("GPU") == 4)
    seen["devices are back"] = gone
    return seen


def policies() -> dict[str, Any]:
    """What the loss of a rank means."""
    seen: dict[str, Any] = {}
    for restart in ("none", "member", "gang"):
        with spoke.gang_allocate(1, 2, {"CPU": 1}, restart=restart, timeout=PATIENCE_S) as gang:
            handles = gang.launch(Rank)
            gang.wait_ready(PATIENCE_S)
            before = [one["pid"] for one in spoke.get([handle.about.remote() for handle in handles])]
            os.kill(before[1], signal.SIGKILL)
            if restart == "none":
                assert until(lambda gang=gang: gang.state == "REMOVED")
                lost = error_of(
                    lambda handles=handles: spoke.get(handles[0].about.remote(), timeout=PATIENCE_S)
                )
                why = error_of(lambda gang=gang: gang.wait_ready(PATIENCE_S))
                seen[restart] = [
                    lost.split(":")[0],
                    why.split(":")[0],
                    "latest loss: rank 1" in gang.explain(),
                ]
                continue
            if restart == "gang":
                assert until(lambda gang=gang: gang.incarnation == 1)
            handles = gang.wait_ready(PATIENCE_S)

            def replaced(handles: Any = handles, before: Any = before) -> bool:
                try:
                    now = spoke.get([handle.about.remote() for handle in handles])
                except spoke.exceptions.RayActorError:
                    return False
                return bool(now[1]["pid"] != before[1])

            assert until(replaced)
            after = [one["pid"] for one in spoke.get([handle.about.remote() for handle in handles])]
            seen[restart] = [after[0] == before[0], after[1] == before[1], gang.incarnation]
    with spoke.gang_allocate(1, 1, restart="gang", max_restarts=0, timeout=PATIENCE_S) as gang:
        gang.launch(Broken)
        seen["constructor"] = error_of(lambda: gang.wait_ready(PATIENCE_S)).split(":")[0]
        seen["its cause is told"] = until(
            lambda: "no model here" in error_of(lambda: gang.wait_ready(PATIENCE_S))
        )
    return seen


def refusals() -> dict[str, Any]:
    """What cannot be had, by name."""
    seen = {
        "never": error_of(lambda: spoke.gang_allocate(1, 1, {"CPU": 99}, timeout=1)).split(":")[0],
        "two nodes": error_of(lambda: spoke.gang_allocate(2, 1, timeout=1)).split(":")[0],
        "same": error_of(lambda: spoke.gang_allocate(1, 1, {"GPU": 1}, same="nvlink")).split(":")[0],
        "gpu_ids": error_of(lambda: spoke.gang_allocate(1, 1, {"GPU": 1}, gpu_ids=[0])).split(":")[0],
    }
    unused = spoke.gang_allocate(1, 1, launch_timeout=0.2, timeout=PATIENCE_S)
    seen["launch_timeout"] = until(lambda: unused.state == "REMOVED")
    with spoke.gang_allocate(1, 2, {"CPU": 1, "GPU": 0.5}, timeout=PATIENCE_S) as gang:
        seen["shared device"] = len({gpu for slot in gang.slots for gpu in slot.gpu_ids})
    return seen


def main() -> None:
    spoke.init(num_cpus=4, num_gpus=4, log_to_driver=False)
    seen = {"slots": slots(), "policies": policies(), "refusals": refusals()}
    spoke.shutdown()
    print("\n@result " + json.dumps(seen), flush=True)


if __name__ == "__main__":
    main()
