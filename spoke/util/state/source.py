"""Where the answers come from: the cluster that this process is in, or one that is looked at from outside."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import msgpack

from spoke import current
from spoke.errors import GetTimeoutError, RaySystemError
from spoke.util.state.exception import DataSourceUnavailable, ServerUnavailable


class Source:
    """One look: `ask` puts a question to the hub, `notes` are what the answers do not show."""

    def __init__(self, ask: Callable[..., Any], timeout_s: float) -> None:
        self._ask = ask
        self.timeout_s = timeout_s
        self.notes: list[str] = []

    def ask(self, what: str, **args: Any) -> Any:
        """The hub's answer.

        Raises:
            DataSourceUnavailable: it does not answer in time.
        """
        try:
            return self._ask(what, self.timeout_s, **args)
        except (TimeoutError, GetTimeoutError, ConnectionError, RaySystemError) as error:
            raise DataSourceUnavailable(f"the hub does not answer: {error}") from None

    def inspect(self, topic: str, process: bytes | None = None) -> list[tuple[dict[str, Any], list[Any]]]:
        """What every driver and worker says of itself: its facts and its rows; see `spoke.inspecting`.

        Facts beside the process's own: role, process_id, node_id, pid, ip, job_id.
        """
        # Time is left for the hub's word on who did not answer.
        limit_s = max(0.1, min(3.0, 0.8 * self.timeout_s))
        found = self.ask("inspect", topic=topic, process=process, within_s=limit_s)
        for role, _, _, pid, ip, _ in found["missing"]:
            self.notes.append(f"the {role} with pid {pid} on {ip} did not answer")
        looks = []
        for role, process_id, node_id, pid, ip, job_id, packed in found["answers"]:
            facts, rows = msgpack.unpackb(packed, strict_map_key=False)
            if facts["left_out"]:
                self.notes.append(f"{facts['left_out']} older rows of the {role} with pid {pid} are left out")
            facts.update(role=role, process_id=process_id, node_id=node_id)
            facts.update(pid=pid, ip=ip, job_id=job_id)
            looks.append((facts, rows))
        return looks


@contextmanager
def looking(address: str | None, timeout_s: float) -> Iterator[Source]:
    """A source for one question of the user.

    Args:
        address: ``host:port`` of a head, used where this process is in no cluster; None: SPOKE_ADDRESS, else
            the cluster of this machine.
        timeout_s: for each answer.

    Raises:
        ServerUnavailable: there is no such cluster.
    """
    client = current.client
    if client is not None:
        yield Source(client.request, timeout_s)
        return
    from spoke.observer import reach

    try:
        observer = reach(address, timeout_s)
    except (ConnectionError, ValueError) as error:
        text = f"This process is in no cluster, and {error}. Call init() first, or give an address."
        raise ServerUnavailable(text) from None
    try:
        yield Source(observer.ask, timeout_s)
    finally:
        observer.close()
