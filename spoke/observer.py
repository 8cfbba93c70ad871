"""A look at a cluster from outside: ask its hub, without being a driver.

For the command line and for tests' clusters: one link, one question at a time, no threads.
"""

from __future__ import annotations

import time
from typing import Any

from spoke import errors, ids, link, wire
from spoke._native import Reactor
from spoke.loop import CLOSED, FRAME

Target = link.Target


class Observer:
    """A link to a hub, for questions.

    Args:
        target: the hub's (host, port) or abstract unix name.
        token: the cluster token.
        timeout_s: limit for connecting, in seconds.

    Raises:
        OSError, AuthenticationError, ProtocolError: as `spoke.link.connect`.
    """

    def __init__(self, target: Target, token: bytes, timeout_s: float = 10.0) -> None:
        self._reactor = Reactor()
        self._id = ids.random_bytes(ids.UNIQUE_BYTES)
        self._conn, self.hub_id = link.connect(self._reactor, target, token, self._id, "cli", timeout_s)
        self._next = 1
        import os

        address = [self._id, b"", "", 0]
        self.address = ""  # host:port, where `reach` found it
        self._reactor.send(self._conn, wire.encode(wire.CLIENT_UP, "observer", address, os.getpid(), {}))

    def ask(self, what: str, timeout_s: float = 10.0, **args: Any) -> Any:
        """The hub's answer to a REQUEST.

        Raises:
            the error the hub names; TimeoutError; ConnectionError when the link ended.
        """
        request_id = self._next
        self._next += 1
        self._reactor.send(self._conn, wire.encode(wire.REQUEST, request_id, what, args))
        deadline = time.monotonic() + timeout_s
        while True:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError(f"the hub did not answer {what!r} within {timeout_s:g} s")
            for kind, _, meta, _payload in self._reactor.poll(int(left * 1e6) + 1):
                if kind == CLOSED:
                    raise ConnectionError(f"the hub closed the link: {meta.decode('utf-8', 'replace')}")
                if kind != FRAME:
                    continue
                message = wire.decode(meta)
                if message[0] == wire.RESPONSE and message[1] == request_id:
                    if message[2] is not None:
                        raise _named(message[2])
                    return message[3]

    def close(self) -> None:
        """End the link."""
        self._reactor.close_all()


def reach(address: str | None, timeout_s: float = 10.0) -> Observer:
    """An observer of a cluster, with the token that this user has for it.

    Args:
        address: ``host:port`` of its head; None: SPOKE_ADDRESS, else "auto", the cluster of this machine.

    Raises:
        ConnectionError: nobody answers there, there is no token for it, or it is the wrong one.
        ValueError: `address` is none.
    """
    from spoke import config, records

    address = records.without_scheme(address or config.get("api_address") or config.get("address") or "auto")
    if address == "auto":
        record = records.find("auto")
        if record is None:
            raise ConnectionError("no cluster runs on this machine; start one with: spoke start --head")
        address = str(record["address"])
    token = records.token_for(address)
    if token is None:
        raise ConnectionError(f"no token for the cluster at {address}: set SPOKE_TOKEN or SPOKE_TOKEN_FILE")
    try:
        observer = Observer(link.parse_target(address), token, timeout_s)
        observer.address = address
        return observer
    except (OSError, errors.AuthenticationError, errors.ProtocolError) as error:
        raise ConnectionError(f"cannot reach a cluster at {address}: {error}") from None


def _named(error: list[Any]) -> Exception:
    """The exception of ``[class name, message]``."""
    import builtins

    name, text = str(error[0]), str(error[1])
    found = getattr(errors, name, None) or getattr(builtins, name, None)
    if isinstance(found, type) and issubclass(found, Exception):
        return found(text)
    return RuntimeError(f"{name}: {text}")
