"""What the driver of a compiled graph reads: the outputs of one execution after the other.

An execution of which one output failed has failed: its error is known when it comes, whatever else still
runs.  The frames that such an execution owes are passed over when they come.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable

from spoke.dag.frames import ERROR
from spoke.dag.links import Link, ready

Where = tuple[int, int]  # a process and the number of its call
Frame = tuple[int, bytes]


class Outputs:
    """Frames by process and call, gathered to executions.

    Args:
        links: to take from, by process.
        wanted: the calls that every execution brings a frame of.
    """

    def __init__(self, links: dict[int, Link], wanted: Iterable[Where]) -> None:
        self._links = links
        self._arrived: dict[Where, deque[Frame]] = {where: deque() for where in wanted}
        self._owed = dict.fromkeys(self._arrived, 0)  # frames of executions that have failed
        self._present: dict[Where, Frame] = {}  # of the execution that is next

    def behind(self) -> int:
        """How many executions have failed and not ended."""
        return max(self._owed.values(), default=0)

    def next(self, seconds: float | None) -> dict[Where, Frame]:
        """The frames of the next execution; for one that has failed, its error in the place of each.

        Raises:
            TimeoutError: not within this time; what has arrived stays for the next call.
            Closed: a link has ended.
        """
        deadline = None if seconds is None else time.monotonic() + seconds
        while True:
            self._sort()
            failed = next((frame for frame in self._present.values() if frame[0] == ERROR), None)
            if failed is not None or len(self._present) == len(self._arrived):
                break
            self._receive([where for where in self._arrived if where not in self._present], deadline)
        present, self._present = self._present, {}
        if failed is None:
            return present
        for where in self._arrived:
            if where not in present:
                self._owed[where] += 1
        return dict.fromkeys(self._arrived, failed)

    def pass_over(self, seconds: float | None) -> None:
        """Wait until a failed execution has ended; raises as `next`."""
        deadline = None if seconds is None else time.monotonic() + seconds
        before = self.behind()
        while before and self.behind() == before:
            self._receive([where for where, owed in self._owed.items() if owed == before], deadline)
            self._sort()

    def _sort(self) -> None:
        for where, frames in self._arrived.items():
            while frames and self._owed[where]:
                frames.popleft()
                self._owed[where] -= 1
            if frames and where not in self._present:
                self._present[where] = frames.popleft()

    def _receive(self, missing: list[Where], deadline: float | None) -> None:
        """One frame of those who have not given all."""
        left = None if deadline is None else max(0.0, deadline - time.monotonic())
        processes = list(dict.fromkeys(process for process, _ in missing))
        process = processes[0] if len(processes) == 1 else ready(self._links, processes, left)
        link = self._links[process]
        link.wait_at_most(left)
        number, kind, body = link.receive()
        self._arrived[process, number].append((kind, body))
