"""How a process ended, and the words for it.

Rules of this module: one record travels from the agent's report to every caller that waits, so that
all of them read the same cause.
"""

from __future__ import annotations

from typing import Any

_SIGNALS = {
    1: "SIGHUP",
    2: "SIGINT",
    4: "SIGILL",
    6: "SIGABRT",
    7: "SIGBUS",
    8: "SIGFPE",
    9: "SIGKILL",
    11: "SIGSEGV",
    13: "SIGPIPE",
    15: "SIGTERM",
}


class Exit:
    """Kind is ``worker_died``, ``node_died`` or ``start_failed``."""

    __slots__ = ("code", "kind", "pid", "signal", "tail", "text")

    def __init__(
        self, kind: str, text: str, *, pid: int = 0, code: int | None = None, signal: int = 0, tail: str = ""
    ) -> None:
        self.kind = kind
        self.text = text
        self.pid = pid
        self.code = code
        self.signal = signal
        self.tail = tail

    @property
    def reason(self) -> str:
        """Text with the last lines of stderr."""
        return f"{self.text}\nLast lines of its stderr:\n{self.tail}" if self.tail else self.text

    def info(self) -> dict[str, Any]:
        return {
            "cause": self.text,
            "kind": self.kind,
            "code": self.code,
            "signal": self.signal,
            "tail": self.tail,
            "pid": self.pid,
        }


def worker_exit(pid: int, host: str, code: int | None, signal: int, tail: str, why: str) -> Exit:
    """The obituary of a worker that its agent reaped."""
    if signal:
        how = f"was killed by signal {signal} ({_SIGNALS.get(signal, 'unnamed')})"
    elif code is not None:
        how = f"exited with code {code}"
    else:
        how = "ended"
    text = f"The worker (pid {pid} on {host}) {how}" + (f": {why}" if why else "")
    return Exit("worker_died", text, pid=pid, code=code, signal=signal, tail=tail)


def node_exit(node_id: bytes, host: str, why: str) -> Exit:
    """The obituary of everything on a node that is gone."""
    return Exit("node_died", f"Its node {node_id.hex()} ({host}) died: {why}")
