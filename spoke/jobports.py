"""Named ports of jobs: free ones of a range, no port to two jobs of a node."""

from __future__ import annotations

from _socket import AF_INET, SO_REUSEADDR, SOCK_STREAM, SOL_SOCKET
from _socket import socket as _Socket


class Ports:
    """The ports of one node."""

    def __init__(self, first: int, last: int) -> None:
        self._first = first
        self._last = last
        self._next = first
        self._taken: dict[int, bool] = {}

    def take(self, names: list[str]) -> dict[str, int]:
        """A free port for each name.

        Raises:
            OSError: there are not that many; none is taken.
        """
        found: dict[str, int] = {}
        tries = self._last - self._first + 1
        while len(found) < len(names):
            if not tries:
                self.give(found)
                raise OSError(f"No free ports available in {self._first}-{self._last}")
            tries -= 1
            port = self._next
            self._next = self._first if port == self._last else port + 1
            if port not in self._taken and _is_free(port):
                found[names[len(found)]] = port
                self._taken[port] = True
        return found

    def give(self, ports: dict[str, int]) -> None:
        """They are free again."""
        for port in ports.values():
            self._taken.pop(port, None)


def _is_free(port: int) -> bool:
    probe = _Socket(AF_INET, SOCK_STREAM)
    try:
        probe.setsockopt(SOL_SOCKET, SO_REUSEADDR, 1)
        probe.bind(("0.0.0.0", port))
        return True
    except OSError:
        return False
    finally:
        probe.close()
