"""How the functions of jobs reach a hub: by this process's engine, or from outside by an address.

Both ask and wait; the hub answers a wait when what is waited for happens, so nobody polls.
"""

from __future__ import annotations

import time
from typing import Any, Final

from spoke import current
from spoke.errors import GetTimeoutError
from spoke.handles import engine

ANSWER_S: Final = 30.0


class EngineLine:
    """By the engine of this process, which is started if there is none."""

    def ask(self, what: str, timeout: float | None = ANSWER_S, **args: Any) -> Any:
        """The hub's answer.

        Raises:
            the error the hub names; TimeoutError after `timeout` seconds.
        """
        client = current.client or engine()
        return client.request(what, timeout, **args)

    def close(self) -> None:
        """Nothing to close."""


class AddressLine:
    """By a link for each question, so that questions of several threads do not wait for each other.

    Args:
        address: ``host:port`` of a cluster; ``http://``, ``ray://`` and ``spoke://`` before it are dropped.
        timeout_s: limit for connecting.

    Raises:
        ConnectionError: no cluster answers there, or it does not let this user in.
    """

    def __init__(self, address: str, timeout_s: float = ANSWER_S) -> None:
        self.address = address  # `reach` drops the scheme
        self._timeout_s = timeout_s
        self._idle: list[Any] = []
        self._idle.append(self._open())

    def _open(self) -> Any:
        from spoke.observer import reach

        observer = reach(self.address, self._timeout_s)
        self.address = observer.address
        return observer

    def ask(self, what: str, timeout: float | None = ANSWER_S, **args: Any) -> Any:
        """As `EngineLine.ask`; ConnectionError when the cluster is gone."""
        observer = self._idle.pop() if self._idle else self._open()
        try:
            limit = timeout if timeout is not None else 1e9
            answer = observer.ask(what, limit, **args)
        except TimeoutError:
            observer.close()  # its answer may come yet
            raise
        except ConnectionError:
            observer.close()
            raise
        except Exception:
            self._idle.append(observer)
            raise
        self._idle.append(observer)
        return answer

    def close(self) -> None:
        """End the links."""
        while self._idle:
            self._idle.pop().close()


Line = EngineLine | AddressLine


def wait(line: Line, job_id: str, version: int | None, timeout: float | None) -> dict[str, Any] | None:
    """The job when its version is beyond `version` (None: when it has ended); None after `timeout`
    seconds.
    """
    deadline = None if timeout is None else time.monotonic() + timeout
    try:
        limit = None if deadline is None else max(0.0, deadline - time.monotonic())
        found: dict[str, Any] = line.ask("job_wait", limit, id=job_id, version=version)
        return found
    except (GetTimeoutError, TimeoutError):
        return None
