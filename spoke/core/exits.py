"""How a process ended, and the words for it.

Rules of this module: one record travels from the agent's report to every caller that waits, so that
all of them read the same cause.
"""

from __future__ import annotations

from typing import Any, Final

from spoke.core.obituary import describe_exit

LEFT: Final = "its agent shut down"  # begins the reason of a node that ended in order


class Exit:
    """Kind is ``worker_died``, ``node_died``, ``start_failed`` or ``runtime_env``."""

    __slots__ = ("code", "heard", "host", "kind", "memory", "pid", "signal", "tail", "text")

    def __init__(
        self,
        kind: str,
        text: str,
        *,
        pid: int = 0,
        code: int | None = None,
        signal: int = 0,
        tail: str = "",
        memory: int = 0,
        host: str = "",
    ) -> None:
        self.kind = kind
        self.text = text
        self.pid = pid
        self.code = code
        self.signal = signal
        self.tail = tail
        self.memory = memory  # the most that it had, in bytes; 0: unknown
        self.host = host
        self.heard = False  # everything that it said before is known

    @property
    def reason(self) -> str:
        """Text with pid and the last lines of stderr, for who waits for a task."""
        text = f"{self.text}, pid {self.pid}" if self.pid else self.text
        return f"{text}\nLast lines of its stderr:\n{self.tail}" if self.tail else text

    def info(self) -> dict[str, Any]:
        return {
            "cause": self.text,
            "kind": self.kind,
            "code": self.code,
            "signal": self.signal,
            "tail": self.tail,
            "pid": self.pid,
            "memory": self.memory,
            "ip": self.host,
        }


def worker_exit(pid: int, host: str, code: int | None, signal: int, tail: str, memory: int, why: str) -> Exit:
    """The obituary of a worker that its agent reaped."""
    text = f"its worker process on {host} ended ({describe_exit(code, signal)})" + (f": {why}" if why else "")
    return Exit("worker_died", text, pid=pid, code=code, signal=signal, tail=tail, memory=memory, host=host)


def environment_exit(host: str, why: str, pid: int = 0) -> Exit:
    """The obituary of a worker whose runtime environment could not be made; with a pid, its hook failed."""
    return Exit("runtime_env", f"on {host}: {why}", pid=pid)


def node_exit(node_id: bytes, host: str, why: str) -> Exit:
    """The obituary of everything on a node that is gone."""
    return Exit("node_died", f"its node {node_id.hex()} ({host}) died: {why}", host=host)
