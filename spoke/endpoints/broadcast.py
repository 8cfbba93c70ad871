"""The answers of a broadcast: a list of refs or futures, in the order of the endpoints."""

from __future__ import annotations

import concurrent.futures
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

from spoke.endpoints.addresses import ResolvedEndpoint


class CallResult(NamedTuple):
    """What one endpoint answered."""

    endpoint: ResolvedEndpoint
    value: Any = None
    exception: BaseException | None = None

    @property
    def success(self) -> bool:
        """Whether it returned a value."""
        return self.exception is None


class BroadcastResult(list[Any]):
    """Refs or futures of a broadcast; timeouts are in seconds, for all answers together."""

    def __init__(self, endpoints: list[ResolvedEndpoint], calls: list[Any]) -> None:
        super().__init__(calls)
        self._endpoints = endpoints
        self._futures = [call.future() if hasattr(call, "hex") else call for call in calls]

    def wait_all(self, timeout: float | None = None) -> list[CallResult]:
        """Every answer, in the order of the endpoints; one that is late has a TimeoutError."""
        concurrent.futures.wait(self._futures, timeout)
        return [self._result(index) for index in range(len(self._futures))]

    def wait_any(self, timeout: float | None = None) -> CallResult:
        """The first answer that is a value; if all fail, the first failure.

        Raises:
            TimeoutError: there is none in time.
            RuntimeError: nobody was asked.
        """
        if not self._futures:
            raise RuntimeError("nobody was asked")
        failed = None
        for one in self.as_completed(timeout):
            if one.success:
                return one
            failed = failed or one
        assert failed is not None
        return failed

    def as_completed(self, timeout: float | None = None) -> Iterator[CallResult]:
        """The answers as they come.

        Raises:
            TimeoutError: the next is not there in time.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        left = dict(enumerate(self._futures))
        while left:
            limit = None if deadline is None else max(0.0, deadline - time.monotonic())
            done, _ = concurrent.futures.wait(
                left.values(), limit, return_when=concurrent.futures.FIRST_COMPLETED
            )
            if not done:
                raise TimeoutError(f"{len(left)} of {len(self)} endpoints did not answer in time")
            for index in [index for index, future in left.items() if future in done]:
                del left[index]
                yield self._result(index)

    def _result(self, index: int) -> CallResult:
        endpoint, future = self._endpoints[index], self._futures[index]
        if not future.done():
            return CallResult(endpoint, None, TimeoutError(f"{endpoint.url} did not answer in time"))
        error = future.exception()
        return CallResult(endpoint, None if error else future.result(), error)
