"""Values to frames of links and back.

A frame's body is a pickle of the value, of what was raised, or of a ref to the value: values above a
size, and those with buffers, travel as objects.  On an engine with a pickler of its own they do not: its refs
are whole in its own pickles only, and what it finds in one of those is kept for ever.
"""

from __future__ import annotations

import pickle
from collections import deque
from typing import Any, Final

from spoke import api, codec

VALUE: Final = 0  # a pickle
ERROR: Final = 1  # a pickle of what was raised
STORED: Final = 2  # a pickle of a ref to the value


class Failed(Exception):
    """An argument is an error: `body` is its pickle, passed on instead of a result."""

    def __init__(self, body: bytes) -> None:
        super().__init__()
        self.body = body


def encode(value: Any, stored_above: int) -> tuple[int, bytes, Any]:
    """Kind, body, and what must be kept until the frame was used; TypeError for what cannot be pickled."""
    body, buffers, refs = codec.dumps(value)
    if codec.is_foreign() and (buffers or refs):
        return VALUE, codec.dumps_function(value), None
    if codec.is_foreign() or (not buffers and len(body) <= stored_above):
        return VALUE, body, refs
    ref = api.put([value])
    return STORED, pickle.dumps(ref), ref


class Codec:
    """Values to frames and back; what a frame refers to is kept until it was used everywhere."""

    def __init__(self, inflight: int, stored_above: int) -> None:
        self._stored_above = stored_above
        # The driver starts an execution `inflight` later only when this one's results are taken.
        self._kept: deque[list[Any]] = deque(maxlen=inflight + 2)

    def begin(self) -> None:
        """The next execution."""
        self._kept.append([])

    def encode(self, value: Any) -> tuple[int, bytes]:
        """Kind and body; TypeError for what cannot be pickled."""
        kind, body, kept = encode(value, self._stored_above)
        if kept:
            self._kept[-1].append(kept)
        return kind, body

    @staticmethod
    def decode(kind: int, body: bytes, source: Any = None) -> Any:
        """The value; Failed for an error.

        `source`: an object with ``pin(object_id) -> release function`` for the refs in the frame; None where
        the sender keeps them long enough.
        """
        if kind == ERROR:
            raise Failed(body)
        before, codec.context.source = codec.context.source, source
        try:
            value = pickle.loads(body)
        finally:
            codec.context.source = before
        return value if kind == VALUE else api.get(value)[0]
