"""What a gang of the Ray engine asks the nodes of its bundles, from within the bundles.

Rules of this module: it runs in workers of the Ray cluster; a port that a `Holder` told is a bound socket of
its process until it ends.  Whoever binds it with SO_REUSEADDR, as servers do, has it.
"""

from __future__ import annotations

import socket
from typing import Any

from spoke import config


class Holder:
    """An actor in a bundle: tells its node and holds ports there."""

    def __init__(self) -> None:
        self._sockets: list[socket.socket] = []

    def where(self) -> tuple[str, str]:
        """Node id in hexadecimal, and address."""
        import ray

        return ray.get_runtime_context().get_node_id(), ray.util.get_node_ip_address()

    def ports(self, count: int) -> list[int]:
        """So many new ports; those of before are let go."""
        for one in self._sockets:
            one.close()
        self._sockets = []
        for _ in range(count):
            one = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            one.bind(("", 0))
            self._sockets.append(one)
        return [one.getsockname()[1] for one in self._sockets]


def gpu_ids() -> list[int]:
    """The GPUs that Ray gives to this task, as the node numbers them."""
    import ray

    return sorted(int(one) for one in ray.get_gpu_ids())


def actor_row(actor_id: str) -> dict[str, Any]:
    """Ray's row of an actor: State, NumRestarts, Cause (a text); empty if unknown."""
    from ray._private import state

    row = state.actors(actor_id)
    if not row:
        return {}
    return {"State": row.get("State"), "NumRestarts": row.get("NumRestarts"), "Cause": _cause(row)}


def gang_gpus() -> list[Any] | None:
    """The GPUs of this rank's slot; None outside of gangs."""
    listed = config.get("gang_gpus")
    return None if listed is None else [int(one) for one in listed.split(",") if one]


def _cause(row: dict[str, Any]) -> str:
    """Why Ray says that an actor ended."""
    cause = row.get("DeathCause")
    for name in ("actor_died_error_context", "creation_task_failure_context", "runtime_env_failed_context"):
        context = getattr(cause, name, None)
        text = getattr(context, "error_message", "") or getattr(context, "formatted_exception_string", "")
        if text:
            return str(text)
    return " ".join(str(cause).split()) if cause else ""
