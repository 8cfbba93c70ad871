"""Values of refs for code that does not block in ``get``: futures and asyncio.

Resolution is noticed by whichever thread polls, and that thread must not unpickle for others (it
might have to wait for the very link it reads).  So asyncio futures are finished in their own loop
and `concurrent.futures` ones by one helper thread, started with the first.
"""

from __future__ import annotations

import queue
import sys
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from spoke.client import Client
    from spoke.objectref import ObjectRef


class _Callback:
    """A waiter that runs a function; called under the client's lock, so the function only hands on."""

    __slots__ = ("function",)

    def __init__(self, function: Any) -> None:
        self.function = function

    def resolved(self, entry: Any) -> None:
        self.function()


class Futures:
    """Futures of one client."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._queue: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def future(self, ref: ObjectRef[Any]) -> Any:
        """A `concurrent.futures.Future` of the value of `ref`."""
        import concurrent.futures

        future: concurrent.futures.Future[Any] = concurrent.futures.Future()
        self._start()
        self._client.when_resolved(ref, _Callback(lambda: self._queue.put(lambda: self._fill(future, ref))))
        return future

    def post(self, function: Callable[[], None]) -> None:
        """Have the helper thread call a function that runs code of the user's; with any lock held."""
        try:
            self._start()
        except RuntimeError:
            return  # the interpreter ends: no thread starts any more
        self._queue.put(function)

    def _start(self) -> None:
        if self._thread is None:
            thread = threading.Thread(target=self._run, name="spoke-futures", daemon=True)
            thread.start()
            self._thread = thread

    def _run(self) -> None:
        while True:
            item = self._queue.get()
            if item is None:
                return
            try:
                item()
            except Exception:  # of a function that the user set for errors: others still count on this thread
                sys.excepthook(*sys.exc_info())
            del item

    def _fill(self, future: Any, ref: ObjectRef[Any]) -> None:
        if future.set_running_or_notify_cancel():
            try:
                future.set_result(self._client.get_one(ref, None))
            except BaseException as error:  # the value of the future, whatever it is
                future.set_exception(error)

    def stop(self) -> None:
        if self._thread is not None:
            self._queue.put(None)
            self._thread.join(2.0)

    def asyncio_future(self, ref: ObjectRef[Any]) -> Any:
        """An asyncio future of the value of `ref`, finished in the running loop, or in this thread's next."""
        import asyncio

        loop = asyncio.get_event_loop()
        future: asyncio.Future[Any] = loop.create_future()

        def finish() -> None:
            if future.done():
                return
            try:
                future.set_result(self._client.get_one(ref, None))
            except BaseException as error:
                future.set_exception(error)

        def hand_on() -> None:
            try:
                loop.call_soon_threadsafe(finish)
            except RuntimeError:
                pass  # the loop is closed: nobody waits any more

        self._client.when_resolved(ref, _Callback(hand_on))
        return future
