"""Functions and classes as bytes for other processes, and what their size says."""

from __future__ import annotations

from typing import Any, Final

from spoke import config, notices
from spoke.limits import MIB

FUNCTION_ID_BYTES: Final = 16
_LARGE_BYTES: Final = 10_000_000
_ADVICE: Final = (
    "Check that its definition is not implicitly capturing a large array or other object in scope. "
    "Tip: use ray.put() to put large objects in the object store."
)


class Exported:
    """The pickled form of a function or class, shared by all its ``.options()`` variants."""

    __slots__ = ("blob", "function", "function_id")

    def __init__(self, function: Any) -> None:
        self.function = function
        self.function_id = b""
        self.blob: bytes | None = None

    def export(self) -> None:
        """Make it.

        Raises:
            TypeError: it cannot be pickled.
            ValueError: it has more bytes than a function may.
        """
        from hashlib import blake2b

        from spoke import codec

        try:
            blob = codec.dumps_function(self.function)
        except TypeError as error:
            kind, ends = ("actor class", ".__init__") if isinstance(self.function, type) else ("function", "")
            name = f"{self.function.__module__}.{self.function.__qualname__}{ends}"
            raise codec.restated(error, f"the {kind} {name}") from error
        if len(blob) > _LARGE_BYTES:
            _complain(self.function, len(blob))
        self.function_id = blake2b(blob, digest_size=FUNCTION_ID_BYTES).digest()
        self.blob = blob

    def pickled(self) -> bytes:
        """The bytes; made at the first use."""
        if self.blob is None:
            self.export()
        assert self.blob is not None
        return self.blob


def _complain(function: Any, size: int) -> None:
    kind = "actor" if isinstance(function, type) else "remote function"
    what = f"The {kind} {function.__module__}.{function.__qualname__}"
    most = config.get("function_bytes_max")
    if size >= most:
        limit = f"{size // MIB} MiB > FUNCTION_SIZE_ERROR_THRESHOLD={most // MIB} MiB"
        raise ValueError(f"{what} is too large ({limit}). {_ADVICE}")
    text = f"Warning: {what} is very large ({size // MIB} MiB). {_ADVICE}"
    notices.warn(notices.LARGE_PICKLE, text)
