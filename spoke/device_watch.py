"""Who is on the GPUs of workers that ended: a device goes back into the pool when nobody is (GANG-3).

Rules of this module: what NVML shows is compared with who was on a device before the first of its present
workers came: such processes are somebody else's business, all others left behind are told to the hub
(DEVICES_HELD) before the worker's exit is, and again whenever they change.  While another worker of this
node shares the device nothing is concluded.  Without NVML there is nothing to see, and nothing is said.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from spoke import devices
from spoke.loop import Loop
from spoke.wire import DEVICES_HELD

LOOK_S: Final = 0.1  # until the next look at a device that is held, at first
LOOK_MAX_S: Final = 1.0


class DeviceWatch:
    """See the module.

    Args:
        visible: entries of CUDA_VISIBLE_DEVICES, None for all devices.
    """

    def __init__(
        self, loop: Loop, visible: list[str] | None, emit: Callable[[tuple[Any, ...]], None]
    ) -> None:
        self._loop = loop
        self._visible = visible
        self._emit = emit
        self._users: dict[int, dict[bytes, bool]] = {}  # workers, by device
        self._known: dict[int, dict[int, bool]] = {}  # processes that were there before them
        self._left: dict[int, list[int]] = {}  # what was told last
        self._looking = False
        self._pause_s = LOOK_S

    def starts(self, worker_id: bytes, gpu_ids: list[int] | None) -> None:
        """A worker that may use these devices is about to be started."""
        if not gpu_ids or devices.nvml() is None:
            return
        fresh = [index for index in gpu_ids if not self._users.get(index) and index not in self._left]
        for index, pids in devices.gpu_processes(self._visible, fresh).items():
            self._known[index] = dict.fromkeys(pids, True)
        for index in gpu_ids:
            self._users.setdefault(index, {})[worker_id] = True

    def ended(self, worker_id: bytes) -> None:
        """A worker is reaped: tell what is left on devices that were its alone."""
        alone = []
        for index, users in self._users.items():
            if users.pop(worker_id, False) and not users:
                alone.append(index)
        if alone:
            self._pause_s = LOOK_S
            self._look_at(alone)

    def tell(self) -> None:
        """Say what is held to a hub that may not know."""
        if self._left:
            self._emit(self._message())

    def _message(self) -> tuple[Any, ...]:
        return DEVICES_HELD, [[index, pids] for index, pids in self._left.items()]

    def _look_at(self, indices: list[int]) -> None:
        before = dict(self._left)
        for index, pids in devices.gpu_processes(self._visible, indices).items():
            if index in self._left:  # whoever came later is not what is waited for
                strange = [pid for pid in self._left[index] if pid in pids]
            elif self._users.get(index):
                strange = []
            else:
                strange = sorted(pid for pid in pids if pid not in self._known.get(index, {}))
            if strange:
                self._left[index] = strange
            else:
                self._left.pop(index, None)
        if self._left != before:
            self._emit(self._message())
        if self._left and not self._looking:
            self._looking = True
            self._loop.after_s(self._pause_s, self._again)
            self._pause_s = min(LOOK_MAX_S, self._pause_s * 1.5)

    def _again(self) -> None:
        self._looking = False
        self._look_at(list(self._left))
