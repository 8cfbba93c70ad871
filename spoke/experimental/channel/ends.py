"""The two ends of a channel between processes: one writer, and readers that all see every value in order.

The writer's process listens; a reader connects when it first reads, proves the channel's secret (which
came to it inside the pickled channel), and says after each value that it has taken it.  A write waits
until every reader has taken all values but the last `capacity` - 1.  Small values are sent as they are,
others as refs to objects.  At most `WINDOW` values are under way to a reader, which the buffers of a
socket hold, so that a write never waits for a socket.  When any end closes or its process dies, all
others see a closed channel.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from spoke import api, current
from spoke.dag.frames import Codec, encode
from spoke.dag.links import Closed, Link, accept, admit, answer, challenge, confirm, connect, listen
from spoke.errors import RayChannelError, RayChannelTimeoutError

WINDOW: Final = 4
INLINE_BYTES: Final = 1 << 15
READER, CLOSER = 0, 1  # what a process connects for
_TAKEN: Final = 0  # kind of the frames that a reader sends

_writers: dict[bytes, WriterEnd] = {}
_readers: dict[bytes, ReaderEnd] = {}
_lock = threading.Lock()


class Place(NamedTuple):
    """What a process must know of a channel to use it; pickled with the channel."""

    channel: bytes
    secret: bytes
    addresses: list[Any]
    node: bytes
    process: bytes  # the writer's


def _closed() -> Exception:
    return RayChannelError.from_message("Channel closed.")


def _late(what: str, seconds: float) -> Exception:
    return RayChannelTimeoutError.from_message(f"{what} within {seconds:g} s")


def check_timeout(seconds: float | None) -> float | None:
    """None for a wait without end, which -1 asks for too.

    Raises:
        AssertionError: another negative time.
    """
    assert seconds is None or seconds >= 0 or seconds == -1, "Timeout must be non-negative or -1."
    return None if seconds is None or seconds < 0 else seconds


class WriterEnd:
    """Values that not all readers have taken yet, and the links to the readers."""

    def __init__(self, readers: int, capacity: int) -> None:
        assert current.client is not None
        process, node, host = current.client.address[:3]
        remote = len([found for found in api.nodes() if found["Alive"]]) > 1
        channel = os.urandom(16)
        self._sockets, addresses = listen(channel, host, remote)
        self.place = Place(channel, os.urandom(32), addresses, node, process)
        self._readers = readers
        self._capacity = capacity
        self._changed = threading.Condition()
        self._frames: dict[int, tuple[int, bytes, Any]] = {}  # by number; what is not taken by all
        self.written = 0
        self._links: dict[Link, list[int]] = {}  # [sent, taken]: how many values
        self._is_closed = False
        with _lock:
            _writers[channel] = self
        current.at_shutdown[channel] = self.close
        threading.Thread(target=self._serve, name="spoke-channel", daemon=True).start()

    def write(self, value: Any, timeout: float | None) -> None:
        """Hand a value on to all readers; waits for room at most `timeout` seconds.

        Raises:
            RayChannelTimeoutError: readers have not taken what was written before.
            RayChannelError: the channel is closed.
        """
        with self._changed:
            if not self._changed.wait_for(self._may_write, timeout):
                raise _late("the readers have not read the values before", timeout or 0.0)
            if any(link.ended() for link in self._links):
                self._close()
            if self._is_closed:
                raise _closed()
            self._frames[self.written] = encode(value, INLINE_BYTES)
            self.written += 1
            for link in list(self._links):
                self._send(link)

    def _may_write(self) -> bool:
        return self._is_closed or self.written - self._taken_by_all() < self._capacity

    def _taken_by_all(self) -> int:
        if len(self._links) < self._readers:
            return 0
        return min(taken for _, taken in self._links.values())

    def _send(self, link: Link) -> None:
        """What fits into the window of a reader."""
        state = self._links[link]
        try:
            while state[0] < self.written and state[0] - state[1] < WINDOW:
                kind, body, _ = self._frames[state[0]]
                link.send(state[0], kind, body)
                state[0] += 1
        except Closed:
            self._close()

    # -- threads: one that accepts, one per reader

    def _serve(self) -> None:
        try:
            while not self._is_closed:
                link = Link(accept(self._sockets, None))
                threading.Thread(
                    target=self._attend, args=(link,), name="spoke-channel-reader", daemon=True
                ).start()
        except (Closed, OSError, ValueError):
            pass  # closed
        finally:
            for sock in self._sockets:
                sock.close()

    def _attend(self, link: Link) -> None:
        try:
            purpose = admit(link, self.place.secret, challenge(link))
        except (Closed, OSError):
            link.close()
            return
        with self._changed:
            if purpose == CLOSER:
                self._close()
            if self._is_closed or len(self._links) == self._readers:
                link.close()  # more than the readers that the channel was made for
                return
            self._links[link] = [0, 0]
            self._send(link)
        try:
            while True:
                link.receive()
                with self._changed:
                    self._note_taken(link)
        except Closed:
            self.close()

    def _note_taken(self, link: Link) -> None:
        state = self._links.get(link)
        if state is None:
            return
        state[1] += 1
        done = self._taken_by_all()
        for number in [number for number in self._frames if number < done]:
            del self._frames[number]
        self._send(link)
        self._changed.notify_all()

    def close(self) -> None:
        """End the channel for all; may be called again."""
        with self._changed:
            self._close()

    def _close(self) -> None:
        if self._is_closed:
            return
        self._is_closed = True
        with _lock:
            _writers.pop(self.place.channel, None)
        current.at_shutdown.pop(self.place.channel, None)
        for sock in self._sockets:
            try:
                sock.shutdown(2)  # wakes the thread that accepts, which closes them
            except OSError:
                pass  # it did so itself
        for link in self._links:
            link.close()
        self._frames.clear()
        self._changed.notify_all()


class _Source:
    """What keeps the refs in a value: the writer, until their owners know of this process, too."""

    def __init__(self, link: Link, number: int) -> None:
        self._link = link
        self._number = number
        self._awaited = 1  # the value itself is unpickled
        self._lock = threading.Lock()

    def pin(self, object_id: bytes) -> Callable[[], None]:
        """A ref was met whose owner does not know us yet; returns what to call when it does."""
        with self._lock:
            self._awaited += 1
        return self.done

    def done(self) -> None:
        """One less to wait for; after the last the writer hears that the value was taken."""
        with self._lock:
            self._awaited -= 1
            if self._awaited == 0:
                try:
                    self._link.send(self._number, _TAKEN, b"")
                except Closed:
                    pass  # nobody is there who keeps anything


class ReaderEnd:
    """The link to the writer; the threads of a process read one after the other."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._lock = threading.Lock()
        self._link = _reach(place, READER)
        self.taken = 0
        current.at_shutdown[place.channel, READER] = self.close

    def read(self, timeout: float | None) -> Any:
        """The next value; waits at most `timeout` seconds.

        Raises:
            RayChannelTimeoutError: none came.
            RayChannelError: the channel is closed.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        if not self._lock.acquire(timeout=-1 if timeout is None else timeout):
            raise _late("another thread was reading, and no value came", timeout or 0.0)
        try:
            self._link.wait_at_most(None if deadline is None else max(0.0, deadline - time.monotonic()))
            return self._next()
        except TimeoutError:
            raise _late("no value came", timeout or 0.0) from None
        except (Closed, OSError):
            self.close()
            raise _closed() from None
        finally:
            self._lock.release()

    def _next(self) -> Any:
        number, kind, body = self._link.receive()
        source = _Source(self._link, number)
        try:
            return Codec.decode(kind, body, source)
        finally:  # one that cannot be unpickled is over, too
            self.taken += 1
            source.done()

    def close(self) -> None:
        """End the channel for all; may be called again."""
        current.at_shutdown.pop((self._place.channel, READER), None)
        self._link.close()


def _reach(place: Place, purpose: int) -> Link:
    """A proven link to the writer.

    Raises:
        RayChannelError: it does not listen any more.
    """
    assert current.client is not None
    try:
        link = connect(place.addresses, current.client.address[1] == place.node)
    except (OSError, IndexError):
        raise _closed() from None
    try:
        confirm(link, answer(link, place.secret, purpose))
    except (Closed, OSError):
        link.close()
        raise _closed() from None
    return link


def writer_of(place: Place) -> WriterEnd | None:
    """The writing end, if this process is the writer.

    Raises:
        RayChannelError: it is, and the channel is closed.
    """
    end = _writers.get(place.channel)
    assert current.client is not None
    if end is None and place.process == current.client.address[0]:
        raise _closed()
    return end


def reader_of(place: Place) -> ReaderEnd:
    """The reading end of this process, which is made at the first use.

    Raises:
        RayChannelError: the channel is closed.
    """
    with _lock:
        end = _readers.get(place.channel)
        if end is None:
            end = _readers[place.channel] = ReaderEnd(place)
    return end


def close(place: Place) -> None:
    """End a channel from any process; may be called again."""
    writer = _writers.get(place.channel)
    if writer is not None:
        writer.close()
    with _lock:
        reader = _readers.pop(place.channel, None)
    if reader is not None:
        reader.close()
    elif writer is None:
        try:
            _reach(place, CLOSER).close()
        except RayChannelError:
            pass  # somebody was faster
