"""The floor of a call: two Python processes that send each other 100 bytes over TCP, one wake at each end.

    python tests/softroce/floor.py PORT     answers one connection, then ends
"""

from __future__ import annotations

import socket
import sys
import time

BYTES = 100


def serve(port: int) -> None:
    with socket.create_server(("0.0.0.0", port)) as listener:
        print("ready", flush=True)
        connection, _ = listener.accept()
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    while data := connection.recv(BYTES):
        connection.sendall(data)


class Floor:
    """The asking end."""

    def __init__(self, host: str, port: int) -> None:
        self._socket = socket.create_connection((host, port), timeout=60)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def round_trips(self, count: int) -> list[float]:
        """So many, in microseconds."""
        data, times = b"x" * BYTES, []
        for _ in range(count):
            started = time.perf_counter()
            self._socket.sendall(data)
            self._socket.recv(BYTES)
            times.append(time.perf_counter() - started)
        return [time * 1e6 for time in times]

    def close(self) -> None:
        self._socket.close()


if __name__ == "__main__":
    serve(int(sys.argv[1]))
