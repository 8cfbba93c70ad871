"""The native layer: sockets and frames, shared memory, allocation, processes.

No object here keeps a reference to a Python object.  What can wait or copies much runs without
the GIL.  Failures of the system are `OSError` with errno and a text that names what failed.
"""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from typing import Any

from typing_extensions import Buffer

class NativeBuffer:
    """Payload of a received frame above 64 KiB: read-only memory of its own, by the buffer protocol."""

    def __len__(self) -> int: ...
    def __buffer__(self, flags: int, /) -> memoryview: ...
    @property
    def address(self) -> int: ...

class Reactor:
    """Sockets of one process: cuts frames, queues what a socket does not take, waits in one epoll.

    A frame is ``u32 meta_bytes | u32 payload_bytes | meta | payload``, little endian.  `poll` runs in
    one thread at a time (a second caller waits for the first); all else may be called from any thread.
    Ids are never reused.  In a forked child only closing is allowed, and it changes nothing here.
    """

    def __init__(self) -> None: ...
    def listen_unix(self, name: bytes) -> int:
        """Listen on a unix socket (a name that begins with NUL is abstract); the listener's id."""

    def listen_tcp(self, host: str, port: int) -> tuple[int, int]:
        """Listen on TCP; the listener's id and the port bound (0 lets the kernel choose)."""

    def connect_unix(self, name: bytes) -> int:
        """Connect, waiting at most 10 s for room in the listener's backlog; the connection's id."""

    def connect_tcp(self, host: str, port: int, timeout_s: float) -> int:
        """Connect (TimeoutError after ``timeout_s``); the connection's id."""

    def adopt(self, fd: int) -> int:
        """Take over a connected stream socket, which is closed with its connection; its id."""

    def watch(self, fd: int) -> int:
        """Report while ``fd`` is readable.  It stays the caller's: `unwatch` before closing it."""

    def unwatch(self, id: int) -> None: ...
    def close(self, conn: int) -> None:
        """Close after one attempt to write what is queued; unknown ids are ignored, no CLOSED follows."""

    def close_all(self) -> None: ...
    def send(
        self,
        conn: int,
        meta: bytes,
        payload: Buffer | Sequence[Buffer] | None = None,
        fd: int = -1,
        hold: bool = False,
    ) -> int:
        """Send one frame: write what the socket takes now, copy and queue the rest for `poll`.

        With ``hold`` (frames without payload) it is only queued, and goes out with the next frame that
        is not held, or by `flush`.

        Returns the bytes still queued (0: all written), or -1 when the connection is gone; its CLOSED
        event follows or was delivered.  A descriptor ``fd >= 0`` travels along (unix sockets only).

        Raises:
            OSError: EMSGSIZE for a part of 4 GiB or more, EOPNOTSUPP for a descriptor over TCP.
        """

    def flush(self, conn: int) -> int:
        """Write what was held back; returns as `send` does."""

    def poll(self, timeout_us: int, spin_us: int = 0) -> list[tuple[int, int, bytes, Any]]:
        """Events ``(kind, id, meta, payload)``, waiting up to ``timeout_us`` (-1: for ever) for the first.

        kind 0 FRAME (payload is `bytes` up to 64 KiB, else `NativeBuffer`), 1 CLOSED (meta is the
        reason), 2 ACCEPTED (id is the new connection, payload the listener's id), 3 READABLE (a watched
        descriptor), 4 WOKEN, 5 RESUMED (see `receive_from`; meta is the reason), 6 BUSY (see `report_busy`).
        Up to ``spin_us`` it stays awake for frames out of a ring first, where their sender runs on another
        CPU and as long as that pays.  May return nothing early, after a signal whose handler raised no
        exception.
        """

    def divert(self, conn: int, tunnel: Tunnel, last: bytes = b"") -> None:
        """Send through the tunnel from now on.  OSError: the connection is gone.

        What is queued, and a frame of ``last`` where it is not empty, goes before, by the way used so far.
        """

    def receive_from(self, conn: int, tunnel: Tunnel) -> None:
        """Take this connection's frames out of the tunnel.

        If it fails, the connection goes on by its socket and RESUMED says why; on a unix socket it ends.
        """

    def report_busy(self, conn: int, frames: int) -> None:
        """One event of kind BUSY when so many more frames have arrived."""

    def take_fd(self, conn: int) -> int:
        """Next descriptor received on a connection, in order of sending (close-on-exec), or -1."""

    def wake(self) -> None:
        """Make a `poll`, running or next, return with WOKEN."""

    def set_limit(self, conn: int, max_frame_bytes: int) -> None:
        """Largest meta plus payload accepted (default 65536); a larger frame closes the connection.

        A larger frame right behind a smaller one is judged at the next `poll`, so that the smaller one
        can still raise the limit.
        """

    def queued(self, conn: int) -> int:
        """Bytes not yet written, -1 when the connection is gone."""

    def peer_uid(self, conn: int) -> int | None:
        """User of the process at the other end of a unix socket; None for TCP."""

class PrivateView:
    """A copy-on-write mapping of a part of a segment: writing changes nothing that others see."""

    def __len__(self) -> int: ...
    def __buffer__(self, flags: int, /) -> memoryview: ...

class SegmentView:
    """Bytes of a segment by the buffer protocol; keeps the mapping alive."""

    def __len__(self) -> int: ...
    def private(self) -> PrivateView:
        """The same bytes mapped copy-on-write, for consumers without a notion of read-only memory."""

    def __buffer__(self, flags: int, /) -> memoryview: ...
    @property
    def address(self) -> int: ...

class Segment:
    """Shared memory (memfd, its size sealed) mapped into this process."""

    @staticmethod
    def create(name: str, size: int) -> Segment:
        """New shared memory of ``size`` bytes.  OSError ENOMEM when it cannot be mapped."""

    @staticmethod
    def map(fd: int, size: int, writable: bool) -> Segment:
        """Map memory that another process made; keeps its own duplicate of ``fd``."""

    @property
    def fd(self) -> int: ...
    @property
    def size(self) -> int: ...
    @property
    def address(self) -> int: ...
    def view(self, offset: int, length: int, writable: bool = False) -> SegmentView:
        """A part as a buffer.  ValueError outside the segment."""

    def write(self, offset: int, buffers: Buffer | Sequence[Buffer]) -> int:
        """Copy buffers one after the other to ``offset``; the bytes copied.  ValueError outside."""

    def populate(self, offset: int, length: int) -> None:
        """Give a range its pages ahead of use.  OSError ENOMEM when there are none."""

class Arena:
    """Allocator of offsets over ``size`` bytes that it never touches.  Thread-safe.

    Sizes are rounded up to 64 bytes.  Memory used before is preferred to memory never used.
    """

    def __init__(self, size: int) -> None: ...
    def alloc(self, n: int, alignment: int = 64) -> int:
        """Offset of ``n`` free bytes, -1 when no hole is large enough."""

    def free(self, offset: int) -> None:
        """ValueError when no live block begins at ``offset``."""

    @property
    def size(self) -> int: ...
    @property
    def used(self) -> int: ...
    @property
    def blocks(self) -> int: ...
    @property
    def largest_free(self) -> int: ...

def spawn(
    argv: list[str],
    env: dict[str, str],
    cwd: str | PathLike[str] | None,
    fds: list[tuple[int, int]],
    death_signal: int,
    new_process_group: bool,
) -> tuple[int, int]:
    """Start a program; ``(pid, pidfd)``, the descriptor is the caller's.

    ``env`` is the whole environment.  ``fds`` are (ours, number in the child); 0, 1 and 2 default to
    /dev/null, all others are closed.  Signals are reset.  ``death_signal`` is sent to the child when
    this process ends (not when the calling thread does); 0 is none.

    Raises:
        OSError: with the errno of the step that failed in the child, such as FileNotFoundError.
    """

def fork_sibling() -> int:
    """As `os.fork`, but the copy's parent is this process's parent.  For processes of one thread only.

    Raises:
        OSError: there can be no copy; ENOSYS: the system does not offer what it takes.
    """

def reap(pidfd: int) -> tuple[int | None, int] | None:
    """``(exit code, 0)`` or ``(None, signal)`` of a child that ended, None while it runs."""

def decode(meta: bytes, signatures: dict[int, tuple[tuple[type, ...], ...]]) -> list[Any] | None:
    """The list that `meta` is in msgpack, where its first item is a key of `signatures` and the types of
    the others are among those there (`object`: any).  None where it is not, or is not plain msgpack.
    """

def become_subreaper() -> bool:
    """Orphans below this process become its children.  False where the system does not offer that."""

def set_death_signal(signal: int) -> bool:
    """This process gets `signal` when the thread that is its parent ends; 0: none.  False: not offered."""

def set_title(title: str) -> None:
    """Name shown by ps and top; cut to 15 bytes (thread name) and to the room of the command line."""

def show_title(title: str) -> None:
    """Name shown by ps, cut to the room of the command line; no system call; by one thread at a time."""

def buffer_address(buffer: Buffer) -> int:
    """Address of the first byte of a contiguous buffer."""

def check_refs(refs: list[Any], type: type, slot: Any) -> int:
    """0: all items are of this type and differ in the member `slot`; 1: another type; 2: one twice."""

def memcpy_rate(bytes: int) -> float:
    """Best of five copies of ``bytes`` between resident buffers, in bytes per second."""

class RdmaRegion:
    """Registered memory; deregistered when the last operation and object that use it are gone.

    It does not keep the memory itself, unless it is a segment: whoever registers does.
    """

    @property
    def address(self) -> int: ...
    @property
    def rkey(self) -> int: ...
    @property
    def way(self) -> str:
        """Of a GPU's memory "dmabuf" or "nvidia_peermem", else "host"."""

    def __len__(self) -> int: ...

class RdmaEngine:
    """A verbs device, opened, with its one thread.

    ``library`` is "system" (libibverbs) or "fake" (the software device).  With an empty ``device`` the
    first usable one; ``port`` 0 is its first active port, ``gid_index`` -1 the best one.

    Raises:
        OSError: no library, no device, no usable port; the text says which and why.
    """

    def __init__(self, library: str, device: str = "", port: int = 0, gid_index: int = -1) -> None: ...
    @property
    def fd(self) -> int:
        """Readable while there are notices."""

    @property
    def alive(self) -> bool:
        """False once the device or its completion queue is lost."""

    @property
    def completions(self) -> int: ...
    def info(self) -> dict[str, Any]:
        """The port as it is now: device, port, active, link_layer, mtu_bytes, gid, problem, ..."""

    def take_notices(self) -> list[tuple[int, int, str]]:
        """(kind, number, text): 1 port down, 2 up, 3 address changed, 4 device lost, 5 connection broken."""

    def register(self, address: int, length: int, remote_read: bool) -> RdmaRegion:
        """Register memory to be read by peers with ``remote_read``, else for reads into it.

        Raises:
            OSError: ENOMEM where too little memory may be locked, EINVAL for 0 or more than 3.5 GiB.
        """

    def register_gpu(self, address: int, length: int, driver: str, remote_read: bool) -> RdmaRegion:
        """A GPU's memory for peers to read; `driver` is the CUDA driver's library.

        Raises:
            OSError: EINVAL for memory of several allocations (expandable segments), ENODEV without a driver,
                else why neither dmabuf nor nvidia_peermem can.
        """

    def register_segment(self, segment: Segment) -> RdmaRegion:
        """Register a whole segment of this process.  OSError EACCES for one mapped read-only."""

class RdmaOperation:
    """A list of reads under way; it owns its destination until it is finished."""

    def wait(self, timeout_s: float) -> bool: ...
    @property
    def finished(self) -> bool: ...
    @property
    def error(self) -> str:
        """Why it failed; empty where it did not, once finished."""

class RdmaReader:
    """The reading end of a connection to one peer."""

    def __init__(self, engine: RdmaEngine) -> None: ...
    @property
    def address(self) -> bytes: ...
    @property
    def number(self) -> int: ...
    @property
    def usable(self) -> bool: ...
    @property
    def bytes_read(self) -> int: ...
    def connect(self, peer: bytes) -> None:
        """OSError EPROTO for an address that no responder gave."""

    def read(self, slices: list[tuple[RdmaRegion, int, int, int, int]]) -> RdmaOperation:
        """Read (region, local address, remote address, rkey, length) each, in one chain.

        Raises:
            OSError: EINVAL for a destination outside its region, ENOTCONN where the connection failed;
                nothing was posted then.
        """

    def abort(self, why: str) -> None:
        """End the connection; its operations are finished as soon as nothing is under way."""

    def close(self, why: str) -> None:
        """End the connection; every operation on it is finished afterwards, with this reason."""

class RdmaResponder:
    """The end of a connection whose memory is read: nothing is, after `close`."""

    def __init__(self, engine: RdmaEngine) -> None: ...
    @property
    def address(self) -> bytes: ...
    @property
    def usable(self) -> bool: ...
    def connect(self, peer: bytes) -> None: ...
    def close(self) -> None: ...

class Tunnel:
    """Another way for the frames of a connection."""

class Ring(Tunnel):
    """Memory shared with a process of this node, for frames in both directions.

    OSError: no descriptors or memory left.
    """

    def __init__(self) -> None: ...
    @staticmethod
    def join(memory: int, bell_out: int, bell_in: int) -> Ring:
        """The other end of the ring whose ``fds`` these were, taken over.  OSError EPROTO: it is none."""

    @property
    def fds(self) -> tuple[int, int, int]:
        """Descriptors for the process that joins it."""

    @property
    def sent(self) -> int:
        """Bytes that went into it."""

    def passed(self) -> None:
        """The descriptors are with the other process."""

class RdmaPipe(Tunnel):
    """A ring at each end, written by the other by RDMA WRITE with immediate."""

    def __init__(self, engine: RdmaEngine) -> None: ...
    @property
    def address(self) -> bytes: ...
    @property
    def messages(self) -> int:
        """Slots written so far."""

    @property
    def failure(self) -> str:
        """Why it ended; empty while it works."""

    def connect(self, peer: bytes) -> None:
        """OSError EPROTO for an address that no pipe gave."""

    def close(self, why: str) -> None: ...

def rdma_ports(library: str) -> list[dict[str, Any]]:
    """All ports of all devices, each with the ``problem`` that keeps it from being used, or "".

    Raises:
        OSError: ENODEV where libibverbs cannot be loaded.
    """

def settle_gpu(address: int, driver: str) -> None:
    """Have what a NIC wrote into the GPU of this address seen by what runs there.  Raises OSError."""

def fake_rdma(command: str, value: int = 0) -> None:
    """Let the software devices of this process fail: see csrc/fake_verbs.h.  OSError EINVAL if unknown."""

def fake_rdma_requests() -> int:
    """Work requests that the software devices of this process carried out."""
