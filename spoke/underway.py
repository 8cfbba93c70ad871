"""What a worker does at this moment, for people who ask why something takes so long.

Rules of this module: the path of a call keeps no notes for it.  When a call began and where it is now is read
off the frames of the threads, and off the coroutines of an async actor.
"""

from __future__ import annotations

import sys
import time
from types import CodeType, FrameType
from typing import TYPE_CHECKING, Any

from spoke.actor_host import ActorHost

if TYPE_CHECKING:
    from spoke.execution import Executor

_PACKAGE = __name__.partition(".")[0]


def explain(executor: Executor, name: bytes) -> str:
    """Of the call `name`, or of the actor of that id: what runs, since when, where; what waits."""
    running = _running(executor)
    host = executor.actor
    if host is not None and host.actor_id == name:
        text = "" if host._waiting is None else "its constructor has not returned; "
        waiting = len(executor.jobs) - len(running)
        shown = "; ".join(running.values()) or (
            "it runs nothing" if host._waiting is None else _constructor()
        )
        return f"{text}{shown}" + (f"; {waiting} calls wait" if waiting > 0 else "")
    if name in running:
        return running[name]
    if name not in executor.jobs:
        return "it is not known there: it is under way to it, or its answer from it"
    if host is not None and host._waiting is not None:
        return f"it waits there until the constructor has returned; {_constructor()}"
    queue = [job.call_id for job in executor.queue]
    place = f"behind {queue.index(name)} others" if name in queue else "for its turn"
    if any(name in (job.call_id for job in jobs) for jobs in executor._unknown.values()):
        place = "for the code of its function"
    now = "; ".join(running.values())
    return f"it waits there {place}" + (f", while {now}" if now else "")


def _running(executor: Executor) -> dict[bytes, str]:
    """What runs now, by call."""
    found: dict[bytes, str] = {}
    execute = type(executor).execute.__code__
    for top in sys._current_frames().values():
        frame = _find(top, execute)
        job = frame.f_locals.get("job") if frame is not None else None
        if frame is not None and job is not None:
            found[job.call_id] = _sentence(job.name, frame.f_locals.get("started"), _user_frame(top, execute))
    host = executor.actor
    for call_id, task in host.tasks() if host is not None else ():
        frame = getattr(task.get_coro(), "cr_frame", None)
        if frame is not None and "message" in frame.f_locals:  # it has its turn
            job = frame.f_locals["job"]
            found[call_id] = _sentence(job.name, frame.f_locals.get("started"), _awaiting(task))
    return found


def _constructor() -> str:
    construct = ActorHost.construct.__code__
    for top in sys._current_frames().values():
        if _find(top, construct) is not None:
            where = _user_frame(top, construct)
            return "the constructor runs" + (f" at {_line(where)}" if where is not None else "")
    return "the constructor waits for its arguments"


def _find(frame: FrameType | None, code: CodeType) -> FrameType | None:
    while frame is not None and frame.f_code is not code:
        frame = frame.f_back
    return frame


def _user_frame(frame: FrameType | None, end: CodeType) -> FrameType | None:
    """The innermost frame that is not this package's own, above `end`."""
    while frame is not None and frame.f_code is not end:
        if str(frame.f_globals.get("__name__", "")).partition(".")[0] != _PACKAGE:
            return frame
        frame = frame.f_back
    return None


def _awaiting(task: Any) -> FrameType | None:
    stack = task.get_stack()
    coroutine, frame = task.get_coro(), stack[-1] if stack else None
    while coroutine is not None and getattr(coroutine, "cr_frame", None) is not None:
        frame, coroutine = coroutine.cr_frame, coroutine.cr_await
    return frame


def _sentence(name: str, started: int | None, frame: FrameType | None) -> str:
    text = f"{name} runs"
    if started is not None:
        text += f" for {(time.perf_counter_ns() - started) / 1e9:.1f} s"
    return text + (f", now at {_line(frame)}" if frame is not None else "")


def _line(frame: FrameType) -> str:
    return f"{frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_name}"
