"""The RDMA device of one process, opened when it is first needed, and what is registered with it.

Rules: a segment or a region of the user's is registered once, for peers to read, and deregistered when
the store lets go of it; a destination is registered for one read, and only its own pages; nothing is
cached by address, since memory at an address can become another's.  A device that was lost is opened
anew after a pause.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from typing import Any, Final

from spoke import _native, config
from spoke.transport.base import Destination, TransportFailed

PAGE_BYTES: Final = 4096
REOPEN_S: Final = 1.0  # after a device could not be opened, or was lost
REGION_BYTES_MAX: Final = 7 << 29  # of one registration, as in csrc/verbs_device.h
PORT_DOWN, PORT_UP, ADDRESS_CHANGED, LOST, BROKEN = range(1, 6)  # kinds of notices


class Device:
    """At most one open device.

    Args:
        watch: begins to report that a descriptor is readable; returns what `unwatch` takes.
    """

    def __init__(self, watch: Callable[[int], int], unwatch: Callable[[int], None]) -> None:
        self._watch, self._unwatch = watch, unwatch
        self._engine: _native.RdmaEngine | None = None
        self._retry_at = 0.0
        self._why = ""
        self.source = 0  # of the engine's notices, as `watch` numbered it
        self._regions: dict[int, _native.RdmaRegion] = {}  # by segment id
        # Tensors on GPUs that were registered, to be read or written, by "dmabuf" or "nvidia_peermem".
        self.gpu_ways: dict[str, int] = {}
        self._said_no_gpu = False
        self.why_no_gpu = ""  # the last reason why one was not: its bytes go through pinned memory

    @property
    def is_open(self) -> bool:
        return self._engine is not None

    def engine(self) -> _native.RdmaEngine:
        """The open device.

        Raises:
            TransportFailed: there is none that works; the text says why.
        """
        if self._engine is None:
            if self._why and time.monotonic() < self._retry_at:
                raise TransportFailed(self._why)
            self._open()
        assert self._engine is not None
        return self._engine

    def unable(self) -> str | None:
        """Why there is no device to use; None where there is one."""
        try:
            self.engine()
        except TransportFailed as error:
            return str(error)
        return self._why or None

    def _open(self) -> None:
        library = config.get("rdma_library")
        if library == "none":
            self._why, self._retry_at = "SPOKE_RDMA_LIBRARY=none", float("inf")
            raise TransportFailed(self._why)
        try:
            self._engine = _native.RdmaEngine(
                library, config.get("rdma_device"), config.get("rdma_port"), config.get("rdma_gid_index")
            )
        except OSError as error:
            self._why = error.strerror or str(error)
            self._retry_at = time.monotonic() + REOPEN_S
            raise TransportFailed(self._why) from None
        self._why = ""
        self.source = self._watch(self._engine.fd)

    def notices(self) -> list[tuple[int, int, str]]:
        """What happened to the device; a port that is down is remembered here."""
        taken = [] if self._engine is None else self._engine.take_notices()
        for kind, _, text in taken:
            if kind == PORT_DOWN:
                self._why = text
            elif kind == PORT_UP:
                self._why = ""
        return taken

    def close(self, why: str = "") -> None:
        """Let go of the device and all that is registered with it; it may be opened again."""
        if self._engine is not None:
            self._unwatch(self.source)
            self._engine = None
            self.source = 0
        self._regions.clear()
        self._why = why
        self._retry_at = time.monotonic() + REOPEN_S

    # -- memory

    def readable(self, segment_id: int, memory: Any) -> _native.RdmaRegion:
        """The registration of a whole segment, or of a region of the user's (negative ids).

        Raises:
            OSError: it cannot be registered; the text says what to do.
        """
        region = self._regions.get(segment_id)
        if region is None:
            if segment_id > 0:
                region = self.engine().register_segment(memory)
            elif getattr(memory, "on_gpu", False):
                region = self._register_gpu(memory.address, memory.size, True)
            else:
                region = self.engine().register(memory.address, memory.size, True)
            self._regions[segment_id] = region
        return region

    def _register_gpu(self, address: int, size: int, remote_read: bool) -> _native.RdmaRegion:
        """GPUDirect: the NIC reads or writes a GPU's memory itself; `gpu_ways` counts by what means."""
        try:
            region = self.engine().register_gpu(address, size, config.get("cuda_library"), remote_read)
        except OSError as error:
            self.why_no_gpu = error.strerror or str(error)
            raise
        self.gpu_ways[region.way] = self.gpu_ways.get(region.way, 0) + 1
        return region

    def forget(self, segment_id: int) -> None:
        """A segment or region goes: its registration does before it."""
        self._regions.pop(segment_id, None)

    def writable(self, targets: list[Destination]) -> list[tuple[_native.RdmaRegion, int]]:
        """For each destination a registration that it lies in, and its address.

        Destinations that share or touch pages are registered together.  One on a GPU whose memory cannot be
        is replaced by its `staging`.

        Raises:
            OSError: the memory cannot be registered.
        """
        engine = self.engine()
        found: list[Any] = [None] * len(targets)
        spans: list[tuple[int, int]] = []
        for index, target in enumerate(targets):
            if not isinstance(target, memoryview):
                found[index] = self._writable_on_gpu(target)
                target = target.staging() if found[index] is None else memoryview(b"")
            spans.append((_native.buffer_address(target), target.nbytes))
        group: list[int] = []
        begin = end = 0
        for index in sorted((i for i, one in enumerate(found) if one is None), key=lambda i: spans[i]):
            address, length = spans[index]
            first = address // PAGE_BYTES * PAGE_BYTES
            last = -(-(address + length) // PAGE_BYTES) * PAGE_BYTES
            if group and (first > end or max(end, last) - begin > REGION_BYTES_MAX):
                self._register(engine, begin, end, group, spans, found)
                group = []
            if not group:
                begin, end = first, last
            group.append(index)
            end = max(end, last)
        if group:
            self._register(engine, begin, end, group, spans, found)
        return found

    def _writable_on_gpu(self, target: Any) -> tuple[_native.RdmaRegion, int] | None:
        target.ready()  # a NIC knows nothing of streams
        try:
            return self._register_gpu(target.address, target.nbytes, False), target.address
        except OSError:
            if not self._said_no_gpu:
                self._said_no_gpu = True
                text = f"the network card cannot write this GPU's memory ({self.why_no_gpu}): "
                warnings.warn(text + "it goes through pinned memory", RuntimeWarning, stacklevel=2)
            return None

    def settle(self, address: int) -> None:
        """Let what runs on the GPU of this address see what was read into it.  Raises OSError."""
        _native.settle_gpu(address, config.get("cuda_library"))

    def _register(
        self, engine: _native.RdmaEngine, begin: int, end: int, group: list[int],
        spans: list[tuple[int, int]], found: list[Any],
    ) -> None:  # fmt: skip
        region = engine.register(begin, end - begin, False)
        for index in group:
            found[index] = (region, spans[index][0])
