"""Blocks of other processes by one-sided RDMA READ, straight into their destination.

The machine of `core/rdma.py` decides; this carries it out: it makes queue pairs, registers memory, counts
leases in the store, and lets the reading thread wait.  A batch from one process is one lease and one chain
of reads, a thousand parameters as well; batches from several processes are asked for at once.

Rules: the control's lock is held for everything but waiting and registering destinations; a destination
belongs to the device until its operation is finished, whatever became of the peer.
"""

from __future__ import annotations

import mmap
import time
from typing import Any, Final, Protocol

from spoke import _native
from spoke.core import Lost, Received, Send, rdma
from spoke.errors import GetTimeoutError, ObjectLostError, RaySystemError
from spoke.store import Block, Store
from spoke.transport.base import Destination, Part, Transport, TransportFailed, land
from spoke.transport.verbs import ADDRESS_CHANGED, BROKEN, LOST, Device
from spoke.wire import RDMA_OFFER

OFFERED_BLOCKS: Final = 4  # of one value; where there are more, one question for all costs little
LOOK_S: Final = 1.0  # a waiting reader looks this often whether the device is alive
ALIGN: Final = 64


class Control(Protocol):
    """The process's links, as far as this needs them."""

    lock: Any

    def open_link(self, process_id: bytes) -> None:
        """Have a link to a process.  Raises OSError, KeyError, RaySystemError, GetTimeoutError."""

    def tell(self, peer: bytes, *message: Any) -> None:
        """Send a message; lock held."""

    def tell_ahead(self, peer: bytes, *message: Any) -> None:
        """Send it together with the next message to this peer, which follows at once; lock held."""

    def make_waiter(self) -> Any:
        """Something with `finish()` that `block_on` waits for."""

    def block_on(self, waiter: Any, timeout: float | None) -> bool:
        """Wait until it is finished."""

    def watch(self, fd: int) -> int:
        """Call `Rdma.on_readable` when the descriptor is readable."""

    def unwatch(self, source: int) -> None:
        """No more."""


class _Read:
    """One batch from one process."""

    __slots__ = ("error", "gpus", "number", "places", "process_id", "reader", "targets", "waiter")

    def __init__(self, process_id: bytes, targets: list[tuple[Any, int, int]], waiter: Any) -> None:
        self.process_id = process_id
        self.targets = targets  # (region, address, length)
        self.waiter = waiter
        self.gpus: dict[Any, int] = {}  # those written directly: an address of each
        self.places: list[list[int]] = []
        self.reader: Any = None
        self.error = ""
        self.number = 0


class Rdma(Transport):
    """Reads blocks of processes that have a device; and lets them read this process's.

    Args:
        control: the process's links.
        store: the blocks that others may read.
    """

    name = "rdma"

    def __init__(self, control: Control, store: Store) -> None:
        super().__init__()
        self._control = control
        self._store = store
        self.device = Device(control.watch, control.unwatch)
        store.on_gone = self.device.forget
        self._machine = rdma.Reads()
        self._readers: dict[tuple[bytes, int], _native.RdmaReader] = {}
        self._responders: dict[tuple[bytes, int], _native.RdmaResponder] = {}
        self._reads: dict[int, _Read] = {}
        self._leases: dict[tuple[bytes, int], list[Block]] = {}
        self._last_of_node: dict[bytes, bytes] = {}  # node -> process that was read last
        self._next_read = 1

    # -- the transport

    def unable(self, node_id: bytes) -> str | None:
        with self._control.lock:
            why = self.device.unable()
            last = self._last_of_node.get(node_id)
            if why is None and last is not None:
                why = self._machine.why_not(time.monotonic(), last) or None
        return why

    def read(self, parts: list[Part], into: list[Any]) -> None:
        by_process: dict[bytes, list[int]] = {}
        for index, part in enumerate(parts):
            if part[4]:
                by_process.setdefault(part[1], []).append(index)
        started: list[_Read] = []
        failed: TransportFailed | None = None
        try:
            for process_id, indices in by_process.items():
                batch = [parts[index] for index in indices]
                started.append(self._begin(process_id, batch, [into[index] for index in indices]))
        except TransportFailed as error:
            failed = error
        for read in started:  # each of them to its end, whatever became of the others
            try:
                self._end(read)
            except TransportFailed as error:
                failed = failed or error
        if failed is not None:
            raise failed
        self.count(parts, land(into))

    def fetch(self, parts: list[Part]) -> list[Any]:
        starts: list[int] = []
        total = 0
        for part in parts:
            starts.append(total)
            total += -(-part[4] // ALIGN) * ALIGN
        memory = memoryview(mmap.mmap(-1, max(total, 1)))
        views = [memory[start : start + part[4]] for start, part in zip(starts, parts, strict=True)]
        self.read(parts, views)
        return [view.toreadonly() for view in views]

    def _begin(self, process_id: bytes, parts: list[Part], into: list[Destination]) -> _Read:
        control = self._control
        try:
            with control.lock:
                self.device.engine()
                self._last_of_node[parts[0][0]] = process_id
            control.open_link(process_id)
            found = self.device.writable(into)
        except (OSError, KeyError, RaySystemError, GetTimeoutError) as error:
            raise TransportFailed(str(error)) from None
        targets = [(*target, part[4]) for target, part in zip(found, parts, strict=True)]
        read = _Read(process_id, targets, control.make_waiter())
        for (region, address), one in zip(found, into, strict=True):
            if region.way != "host" and not isinstance(one, memoryview):
                read.gpus[one.device] = address
        with control.lock:
            read.number, self._next_read = self._next_read, self._next_read + 1
            self._reads[read.number] = read
            self._step(rdma.Want(read.number, process_id, [[p[2], p[3], p[4], p[5]] for p in parts]))
        return read

    def _end(self, read: _Read) -> None:
        try:
            while not self._control.block_on(read.waiter, LOOK_S):
                if not self.device.is_open:
                    raise TransportFailed("the RDMA device was lost")
            if not read.error:
                read.error = self._carry(read)
        except OSError as error:
            read.error = str(error)
        except BaseException:  # an interrupt: nothing of it is under way, or `_carry` saw to its end
            read.error = read.error or "interrupted"
            raise
        finally:
            with self._control.lock:
                self._reads.pop(read.number, None)
                self._step(rdma.Finished(read.number, read.error))
        if read.error:
            raise TransportFailed(read.error)

    def _carry(self, read: _Read) -> str:
        slices = [
            (region, address, place[0], place[1], length)
            for (region, address, length), place in zip(read.targets, read.places, strict=True)
        ]
        operation = read.reader.read(slices)
        try:
            while not operation.wait(LOOK_S):
                pass
        except BaseException:
            # The destination is the device's until the operation is finished.
            read.reader.close("the reader was interrupted")
            raise
        if not operation.error:
            for address in read.gpus.values():
                self.device.settle(address)
        error: str = operation.error
        return error

    # -- events; the control's lock is held

    def on_message(self, peer: bytes, message: list[Any]) -> None:
        """One of the RDMA_ messages of a proven peer."""
        self._step(Received(peer, message))

    def offer(self, peer: bytes, parts: list[Any]) -> None:
        """A message with these parts goes to a peer next: what it may read is lent ahead of it."""
        if not self._machine.offers_to(peer):
            return
        mine = self._store.process_id
        # The user's own memory (negative ids) may have to wait for a GPU, which nobody should here.
        found = [part for part in parts if type(part) is not bytes and part[1] == mine and part[2] > 0]
        for part in found if len(found) <= OFFERED_BLOCKS else ():
            self._step(rdma.Offer(peer, part[2:6]))

    def withdraw(self) -> None:
        """Ask back what was offered of blocks that nothing else keeps in use."""
        idle = self._store.idle
        while idle:
            for peer, lease_id in idle.popleft().offers:
                self._step(rdma.Idle(peer, lease_id))

    def peer_lost(self, peer: bytes) -> None:
        """Its responders end here and now, before anything that it held is given up."""
        self._step(Lost(peer))

    def on_readable(self) -> None:
        """The device has something to tell."""
        for kind, number, text in self.device.notices():
            if kind == BROKEN:
                for (peer, mine), reader in list(self._readers.items()):
                    if reader.number == number:
                        self._step(rdma.Failed(peer, mine, True, text))
            elif kind == ADDRESS_CHANGED:
                for peer, mine in list(self._readers):
                    self._step(rdma.Failed(peer, mine, True, text))
            elif kind == LOST:
                self._step(rdma.DeviceLost(text))
                self._readers.clear()
                self.device.close(text)

    def close(self) -> None:
        """The process leaves the cluster."""
        with self._control.lock:
            for peer in self._machine.peers():
                self._step(Lost(peer))
            self.device.close("the process left the cluster")

    def _step(self, event: Any) -> None:
        pending = [event]
        while pending:
            for command in self._machine.step(time.monotonic(), pending.pop(0)):
                answer = self._carry_out(command)
                if answer is not None:
                    pending.append(answer)

    def _carry_out(self, command: Any) -> Any:
        """Do it; the event that it leads to, if any."""
        if isinstance(command, Send):
            ahead = command.message[0] == RDMA_OFFER
            (self._control.tell_ahead if ahead else self._control.tell)(command.peer, *command.message)
        elif isinstance(command, rdma.Start):
            read = self._reads.get(command.read_id)
            if read is None:
                return rdma.Finished(command.read_id, "nobody waits for it")
            read.places = command.places
            read.reader = self._readers[command.peer, command.number]
            read.waiter.finish()
        elif isinstance(command, rdma.Refuse):
            read = self._reads.get(command.read_id)
            if read is not None and read.reader is None:
                read.error = command.why
                read.waiter.finish()
        elif isinstance(command, rdma.Lend):
            return self._lend(command)
        elif isinstance(command, rdma.EndLease):
            self._end_lease(command.peer, command.lease_id)
        else:
            return self._pair_command(command)
        return None

    def _pair_command(self, command: Any) -> Any:
        key = (command.peer, command.number)
        reader = isinstance(command, (rdma.MakeReader, rdma.ConnectReader))
        try:
            if isinstance(command, rdma.MakeReader):
                made = self._readers[key] = _native.RdmaReader(self.device.engine())
                return rdma.Made(*key, True, made.address)
            if isinstance(command, rdma.ConnectReader):
                self._readers[key].connect(command.address)
            elif isinstance(command, rdma.MakeResponder):
                answering = self._responders[key] = _native.RdmaResponder(self.device.engine())
                answering.connect(command.address)
                return rdma.Made(*key, False, answering.address)
            elif isinstance(command, rdma.DestroyResponder):
                self._responders.pop(key).close()
            elif isinstance(command, rdma.DropReader):
                dropped = self._readers.pop(key, None)
                if dropped is not None:
                    dropped.abort(command.why)
        except (OSError, TransportFailed) as error:
            if isinstance(command, rdma.MakeResponder) and key in self._responders:
                self._responders.pop(key).close()
            return rdma.Failed(*key, reader, str(error))
        return None

    def _lend(self, command: rdma.Lend) -> rdma.Lent:
        places: list[list[int]] = []
        key = (command.peer, command.lease_id)
        try:
            found = self._store.pin(command.ranges, key if command.lease_id < 0 else None)
        except ObjectLostError as error:
            return rdma.Lent(*key, None, str(error))
        self._leases[key] = [block for block, _ in found]
        try:
            for block, address in found:
                memory = block.segment.memory
                region = self.device.readable(block.segment.segment_id, memory)
                if region.way != "host":
                    memory.settle()
                places.append([address, region.rkey])
        except (OSError, TransportFailed) as error:
            self._end_lease(*key)
            return rdma.Lent(*key, None, str(error))
        return rdma.Lent(*key, places, "")

    def _end_lease(self, peer: bytes, lease_id: int) -> None:
        for block in self._leases.pop((peer, lease_id), ()):
            if lease_id < 0:
                self._store.end_offer(block, (peer, lease_id))
            else:
                self._store.release(block)
