"""The one place that puts a death into words."""

from __future__ import annotations

import signal
from typing import Any, Final


def describe_exit(code: int | None, signal_number: int) -> str:
    """Exit code or signal of a process, for people."""
    if signal_number:
        try:
            name = signal.Signals(signal_number).name
        except ValueError:
            name = "unknown"
        return f"killed by signal {signal_number} ({name})"
    return f"exit code {code}" if code is not None else "exit status unknown"


OUT_OF_SCOPE: Final = "all handles to it went out of scope"  # the reason of who counts none any more

_DEATHS: Final = {
    "worker_died": "The actor is dead because its worker process has died",
    "exited": "The actor is dead because its worker process has died",
    "node_died": "The actor died because its node has died",
    "out_of_scope": "The actor is dead because all references to the actor were removed",
    "owner_died": "The actor is dead because its owner has died",
}


def describe_death(name: str, info: dict[str, Any], actor_id: bytes = b"") -> str:
    """One paragraph on why an actor is gone, from the hub's ``info`` of its state; with an id, who it was.

    Keys used, all optional: cause, kind, code, signal, tail (last lines of its stderr), pid, memory (bytes),
    name, namespace, ip, last_call (the oldest call that was under way).
    """
    known = {"pid": info.get("pid"), "name": info.get("name"), "namespace": info.get("namespace")}
    lines = [f"\tclass_name: {name}"] if name else []
    if actor_id:
        lines.append(f"\tactor_id: {actor_id.hex()}")
        lines += [f"\t{key}: {value}" for key, value in (*known.items(), ("ip", info.get("ip"))) if value]
    text = "\n".join([*lines, ""])
    cause = info.get("cause")
    if cause:
        kind = str(info.get("kind"))
        known_kind = _DEATHS.get(kind, "The actor died")
        text += f"The actor is dead because {cause}." if kind == "killed" else f"{known_kind}: {cause}."
    details = []
    if info.get("code") is not None or info.get("signal"):
        exit_text = describe_exit(info.get("code"), info.get("signal") or 0)
        if exit_text not in text:
            details.append(exit_text)
    if info.get("pid"):
        details.append(f"pid {info['pid']}")
    if info.get("memory"):
        details.append(f"at most {info['memory'] >> 20} MiB of memory")
    if info.get("last_call"):
        details.append(f"its last call was {info['last_call']}()")
    if details:
        text += " Worker: " + ", ".join(details) + "."
    if info.get("tail"):
        text += " Last lines of its stderr:\n" + str(info["tail"]).rstrip()
    return text
