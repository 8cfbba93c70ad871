"""An exception of the user's code as bytes, for a place that must not lose it."""

from __future__ import annotations

import traceback
from typing import Any

from spoke import codec
from spoke.errors import RayTaskError


def pack(name: str, error: BaseException, frames_up: int = 1) -> bytes:
    """A pickled RayTaskError of `error`; one that does not travel goes as its text.

    Args:
        name: of the function that raised.
        frames_up: how many of the outermost frames are ours and not shown.
    """
    frames = error.__traceback__
    while frames_up and frames is not None and frames.tb_next is not None:
        frames = frames.tb_next
        frames_up -= 1
    text = "".join(traceback.format_exception(type(error), error, frames))
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
