"""Commands on the other node: `serve` runs there, `Peer` talks to it, `stop` ends it.

One line of JSON per message, over TCP on the nodes' own Ethernet.  The connection of a command is the
command's life: when it is closed, the command and its children are killed.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from typing import Any

PORT = 7700
ADDRESS = "10.77.0.2"


class Peer:
    """The other node, as node 0 sees it."""

    def run(self, *command: str, timeout_s: float = 60, env: dict[str, str] | None = None) -> str:
        """Run to its end; what it printed.  AssertionError where its status is not 0."""
        with self.start(*command, env=env) as started:
            return started.finish(timeout_s)

    def start(self, *command: str, env: dict[str, str] | None = None) -> Started:
        """Start a command; ends with the `with` block."""
        return Started(list(command), env or {})


class Started:
    """A command that runs on the other node."""

    def __init__(self, command: list[str], env: dict[str, str]) -> None:
        self._command = command
        self._socket = _connect()
        self._file = self._socket.makefile("rw")
        self._send({"command": command, "env": env})

    def __enter__(self) -> Started:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._socket.close()

    def _send(self, message: dict[str, Any]) -> None:
        self._file.write(json.dumps(message) + "\n")
        self._file.flush()

    def line(self, timeout_s: float = 60) -> str:
        """The next line that it prints; EOFError with its status after the last."""
        self._socket.settimeout(timeout_s)
        message = json.loads(self._file.readline() or '{"status": -1}')
        if "line" in message:
            return str(message["line"])
        raise EOFError(message["status"])

    def say(self, text: str) -> None:
        """A line to its standard input."""
        self._send({"say": text})

    def kill(self, number: int = signal.SIGKILL) -> None:
        """A signal to its process group."""
        self._send({"signal": number})

    def finish(self, timeout_s: float = 60) -> str:
        """All that it still prints, until its end."""
        lines = []
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                lines.append(self.line(max(0.1, deadline - time.monotonic())))
            except EOFError as end:
                text = "\n".join(lines)
                assert end.args[0] == 0, f"{self._command} ended with {end.args[0]}:\n{text}"
                return text


def _connect() -> socket.socket:
    deadline = time.monotonic() + 120  # the other node may still boot
    while True:
        try:
            return socket.create_connection((ADDRESS, PORT), timeout=5)
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


# -- the other node


def serve() -> None:
    """Run commands until `stop`."""
    listener = socket.create_server(("0.0.0.0", PORT))
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=_serve_one, args=(connection,), daemon=True).start()


def _serve_one(connection: socket.socket) -> None:
    file = connection.makefile("rw")
    lock = threading.Lock()

    def send(message: dict[str, Any]) -> None:
        with lock, contextlib.suppress(OSError, ValueError):
            file.write(json.dumps(message) + "\n")
            file.flush()

    request = json.loads(file.readline() or "{}")
    if "stop" in request:
        os._exit(0)
    if "command" not in request:
        return
    process = subprocess.Popen(
        request["command"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, env={**os.environ, **request["env"]}, start_new_session=True,
    )  # fmt: skip

    def forward() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            send({"line": line.rstrip("\n")})
        send({"status": process.wait()})

    threading.Thread(target=forward, daemon=True).start()
    with contextlib.suppress(OSError, ValueError):
        for text in file:
            message = json.loads(text)
            if "say" in message:
                assert process.stdin is not None
                process.stdin.write(message["say"] + "\n")
                process.stdin.flush()
            else:
                os.killpg(process.pid, message["signal"])
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def stop() -> None:
    """End `serve`: the node powers off."""
    with contextlib.suppress(OSError), socket.create_connection((ADDRESS, PORT), timeout=5) as connection:
        connection.sendall(b'{"stop": 1}\n')


if __name__ == "__main__":
    {"serve": serve, "stop": stop}[sys.argv[1]]()
