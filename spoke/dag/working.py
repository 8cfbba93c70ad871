"""A compiled graph in the process of one of its actors: take what its calls need, run them, pass on.

One thread per graph and process sleeps in the read of its next value.  It ends, and closes all its
links, when one of them is closed: so the end of any part ends the whole, up to the driver.
"""

from __future__ import annotations

import os
import threading
import traceback
from collections import deque
from typing import Any, NamedTuple

from spoke import codec, current
from spoke.dag.frames import ERROR, VALUE, Codec, Failed
from spoke.dag.links import Closed, Link, join, listen
from spoke.dag.nodes import input_attribute
from spoke.errors import RayTaskError

INPUT = -1  # the number of the input, among those of calls
DRIVER = 0  # the number of the driver, among those of processes


class Slot(NamedTuple):
    """Where an argument comes from: call `number` of process `process`, or the input."""

    process: int
    number: int
    position: int | None = None  # of one of several returns
    key: int | str | None = None  # of a part of the input
    by_item: bool = False


class Operation(NamedTuple):
    """One call: its positional arguments are values or Slots."""

    number: int
    method: Any  # a method's name, or what is called instead
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    returns: int  # how many values it returns, where that is more than one
    takers: tuple[int, ...] = ()  # other processes that use its result

    @property
    def slots(self) -> list[Slot]:
        """The arguments that come from elsewhere, in order."""
        return [value for value in self.args if type(value) is Slot]


class Plan(NamedTuple):
    """One process's part."""

    process: int
    operations: tuple[Operation, ...]
    before: tuple[int, ...]  # processes that it takes from
    after: tuple[int, ...]
    inflight: int
    stored_above: int  # bytes of a pickle


class Inbox:
    """Values by producer and number, in the order of executions."""

    def __init__(self, links: dict[int, Link]) -> None:
        self._links = links
        self._early: dict[tuple[int, int], deque[tuple[int, bytes]]] = {}

    def take(self, process: int, number: int) -> tuple[int, bytes]:
        """The next frame of this call; waits."""
        early = self._early.get((process, number))
        if early:
            return early.popleft()
        link = self._links[process]
        while True:
            found, kind, body = link.receive()
            if found == number:
                return kind, body
            self._early.setdefault((process, found), deque()).append((kind, body))


class Worker:
    """Runs one `Plan` on one actor."""

    def __init__(
        self, instance: Any, plan: Plan, incoming: dict[int, Link], outgoing: dict[int, Link]
    ) -> None:
        self._plan = plan
        self._inbox = Inbox(incoming)
        self._outgoing = outgoing
        self._links = [*incoming.values(), *outgoing.values()]
        self._codec = Codec(plan.inflight, plan.stored_above)
        self._methods = [
            getattr(instance, operation.method) if isinstance(operation.method, str) else operation.method
            for operation in plan.operations
        ]
        self._values: dict[tuple[int, int], Any] = {}  # of the present execution: a value, or Failed

    def run(self) -> None:
        """Until a link is closed."""
        try:
            while True:
                self._values.clear()
                self._codec.begin()
                for operation, method in zip(self._plan.operations, self._methods, strict=True):
                    self._step(operation, method)
        except Closed:
            pass
        finally:
            for link in self._links:
                link.close()

    def _step(self, operation: Operation, method: Any) -> None:
        result: Any
        try:
            args = [self._value(value) if type(value) is Slot else value for value in operation.args]
        except Failed as failed:
            result, kind, body = failed, ERROR, failed.body
            self._drain(operation)
        except Closed:
            raise
        except Exception as error:  # such as a part that a value does not have
            body = pack_error(str(operation.method), error)
            result, kind = Failed(body), ERROR
            self._drain(operation)
        else:
            result, kind, body = self._call(operation, method, args)
        self._values[self._plan.process, operation.number] = result
        for taker in operation.takers:
            self._outgoing[taker].send(operation.number, kind, body)

    def _call(self, operation: Operation, method: Any, args: Any) -> tuple[Any, int, bytes]:
        try:
            result = method(*args, **operation.kwargs)
            if operation.returns > 1 and len(result) != operation.returns:
                raise ValueError(f"Expected {operation.returns} outputs, but got {len(result)} outputs")
            return (result, *(self._codec.encode(result) if operation.takers else (VALUE, b"")))
        except Exception as error:
            body = pack_error(getattr(method, "__name__", type(method).__name__), error)
            return Failed(body), ERROR, body

    def _drain(self, operation: Operation) -> None:
        """Take what the call would have taken, so that every execution takes the same."""
        for slot in operation.slots:
            try:
                self._value(slot)
            except Closed:
                raise
            except Exception:  # of that value; its call has told
                continue

    def _value(self, slot: Slot) -> Any:
        where = (slot.process, slot.number)
        if where in self._values:
            value = self._values[where]
        else:
            try:
                value = Codec.decode(*self._inbox.take(*where))
            except Failed as failed:
                value = failed
            self._values[where] = value
        if type(value) is Failed:
            raise value
        return part_of(slot, value)


def part_of(slot: Slot, value: Any) -> Any:
    """What a slot means of the value that it names."""
    if slot.number == INPUT:
        return input_attribute(value, slot.key, slot.by_item) if slot.key is not None else value
    return value if slot.position is None else value[slot.position]


def pack_error(name: str, error: BaseException) -> bytes:
    """The pickle of what ``get`` raises for an exception of a method; its text where it does not pickle."""
    if isinstance(error, RayTaskError) and error.cause is not None:
        told = error
    else:
        text = "".join(traceback.format_exception(error))
        told = RayTaskError(name, text, error, pid=os.getpid())
    try:
        return codec.dumps(told)[0]
    except TypeError:
        return codec.dumps(RayTaskError(name, told.traceback_str, None, pid=os.getpid()))[0]


# -- what the driver calls in the actors' processes ------------------------------------------------------

_listening: dict[bytes, list[Any]] = {}  # sockets by name, until the graph is linked


def prepare(instance: Any, name: bytes, remote: bool) -> tuple[list[Any], bytes]:
    """Listen; returns the addresses and the node."""
    assert current.client is not None
    address = current.client.address
    sockets, addresses = listen(name, address[2], remote)
    _listening[name] = sockets
    return addresses, address[1]


def start(instance: Any, name: bytes, secret: bytes, plan: Plan, after: dict[int, Any]) -> None:
    """Link up and run, in a thread of its own."""
    sockets = _listening.pop(name)

    def work() -> None:
        try:
            incoming, outgoing = join(plan.process, secret, sockets, list(plan.before), after)
        except (Closed, OSError):
            return  # who did not come is missed by the driver, too
        finally:
            for sock in sockets:
                sock.close()
        Worker(instance, plan, incoming, outgoing).run()

    threading.Thread(target=work, name="spoke-dag", daemon=True).start()


def drop(instance: Any, name: bytes) -> None:
    """The graph could not be linked: forget what `prepare` made."""
    for sock in _listening.pop(name, []):
        sock.close()
