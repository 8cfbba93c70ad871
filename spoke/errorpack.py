"""Exceptions of the user's code as text and as bytes, for a place that must not lose them."""

from __future__ import annotations

import os
import pickle
import traceback
from types import TracebackType
from typing import Any, Final

from spoke import codec
from spoke.core.refs import CANCELLED, SYSTEM
from spoke.errors import ActorDiedError, RayError, RayTaskError, TaskCancelledError, named

_OURS: Final = os.path.dirname(os.path.abspath(__file__)) + os.sep
NESTED_MAX: Final = 20  # calls that one error tells of, each with the error of its argument
_ARGUMENT: Final = "  At least one of the input arguments for this task could not be computed:\n"


def text_of(error: BaseException) -> str:
    """The traceback as the user's code sees it.

    Without the frames of ours that called that code; an error of ours, such as one that `get` raised, also
    without those that raised it.  Where no code of the user's was reached, an argument was that error.
    """
    if isinstance(error, RayError) and _all_ours(error.__traceback__):
        return _argument_text(error)
    told = traceback.TracebackException(type(error), error, error.__traceback__, compact=True)
    _drop_ours(told, error)
    return "".join(told.format())


def _all_ours(frames: TracebackType | None) -> bool:
    while frames is not None and frames.tb_frame.f_code.co_filename.startswith(_OURS):
        frames = frames.tb_next
    return frames is None


def _argument_text(error: BaseException) -> str:
    name = f"{RayError.__module__}.{type(error).__name__}"
    return f"Traceback (most recent call last):\n{_ARGUMENT}{name}: {error}"


def _drop_ours(told: traceback.TracebackException, error: BaseException) -> None:
    frames = list(told.stack)
    if isinstance(error, RayError):
        shown = [frame for frame in frames if not frame.filename.startswith(_OURS)]
    else:
        first = (index for index, frame in enumerate(frames) if not frame.filename.startswith(_OURS))
        shown = frames[next(first, len(frames)) :]
    told.stack = traceback.StackSummary.from_list(shown or frames[-1:])
    for further, its_error in ((told.__cause__, error.__cause__), (told.__context__, error.__context__)):
        if further is not None and its_error is not None:
            _drop_ours(further, its_error)
    told_inside, inside = getattr(told, "exceptions", None) or (), getattr(error, "exceptions", ())
    for further, its_error in zip(told_inside, inside, strict=False):  # of a group
        _drop_ours(further, its_error)


class OfArgument:
    """The error of a call whose argument is one: a RayTaskError of its own, once unpickled.

    Args:
        name: of the function, ``f`` or ``Class.method``.
        ip: address of this node.
        status, body: of the argument: what of its value says what is wrong.
    """

    def __init__(self, name: str, ip: str, status: int, body: bytes) -> None:
        self._facts = (name, os.getpid(), ip, status, body)

    def __reduce__(self) -> Any:
        return _of_argument, self._facts

    def packed(self) -> bytes:
        """Its bytes; no code of the user's runs for them."""
        return pickle.dumps(self)


class OfCreation(OfArgument):
    """As `OfArgument`, of an actor's constructor: an ActorDiedError."""

    def __reduce__(self) -> Any:
        return _of_creation, self._facts


def _of_creation(*facts: Any) -> ActorDiedError:
    return ActorDiedError.from_task_error(_of_argument(*facts))


def _of_argument(name: str, pid: int, ip: str, status: int, body: bytes) -> RayTaskError:
    error: Any = TaskCancelledError() if status == CANCELLED else codec.loads(body)
    if status == SYSTEM and not isinstance(error, BaseException):
        error = named(*error)
    return RayTaskError(name, _argument_text(error), error, None, pid, ip)


def pack(name: str, error: BaseException) -> bytes:
    """A pickled RayTaskError of `error`, raised by function `name`; one that does not travel goes as text."""
    text = text_of(error)
    try:
        body, buffers, refs = codec.dumps(RayTaskError(name, text, error))
        if not buffers and not refs:
            codec.loads(body)
            return body
    except Exception:
        pass  # it does not pickle, or does not unpickle: its text does
    return codec.dumps(RayTaskError(name, text, RuntimeError(f"{type(error).__name__}: {error}")))[0]


def unpack(body: bytes) -> Any:
    """What `pack` packed: a RayTaskError that is also an instance of the user's class."""
    return codec.loads(body).as_instanceof_cause()
