"""Marks that say how stable a name is; they change nothing but the docstring."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from enum import Enum
from typing import Any, TypeVar

from spoke import absent

T = TypeVar("T")


class AnnotationType(Enum):
    """How stable a name is."""

    PUBLIC_API = "PublicAPI"
    DEVELOPER_API = "DeveloperAPI"
    DEPRECATED = "Deprecated"
    UNKNOWN = "Unknown"


class RayDeprecationWarning(DeprecationWarning):
    """A name that will go away is used; shown once per place."""


def _mark(target: Any, kind: AnnotationType, note: str) -> Any:
    if note:
        target.__doc__ = f"{target.__doc__ or ''}\n\n{note}".strip()
    try:
        target._annotated = target.__name__
        target._annotated_type = kind
    except AttributeError:
        pass  # a built-in: nothing can be set on it
    return target


def PublicAPI(*args: Any, **kwargs: Any) -> Any:
    """Mark a stable name; ``stability`` ("stable", "beta", "alpha") and ``api_group`` may be given.

    Raises:
        ValueError: another word for ``stability``.
    """
    if len(args) == 1 and not kwargs and callable(args[0]):
        return PublicAPI(stability="stable")(args[0])
    stability = kwargs.get("stability", "stable")
    if stability not in ("stable", "beta", "alpha"):
        raise ValueError(f"stability must be 'stable', 'beta' or 'alpha', not {stability!r}")
    note = "" if stability == "stable" else f"PublicAPI ({stability}): this may change before it is stable."
    return lambda target: _mark(target, AnnotationType.PUBLIC_API, note)


def DeveloperAPI(*args: Any, **kwargs: Any) -> Any:
    """Mark a name for developers of libraries, which may change between versions."""
    if len(args) == 1 and not kwargs and callable(args[0]):
        return DeveloperAPI()(args[0])
    note = "DeveloperAPI: this may change between versions."
    return lambda target: _mark(target, AnnotationType.DEVELOPER_API, note)


def Deprecated(*args: Any, **kwargs: Any) -> Any:
    """Mark a name that will go away: ``message`` says what to use, ``warning=True`` warns at its use.

    Raises:
        ValueError: another argument.
    """
    if len(args) == 1 and not kwargs and callable(args[0]):
        return Deprecated()(args[0])
    for name in kwargs:
        if name not in ("message", "warning"):
            raise ValueError(f"Unknown kwargs: {[name]}; Deprecated takes message and warning")
    message = str(kwargs.get("message", ""))
    warn = bool(kwargs.get("warning", False))

    def mark(target: Any) -> Any:
        note = f"DEPRECATED: this will be removed. {message}".strip()
        return _mark(_warning(target, note) if warn else target, AnnotationType.DEPRECATED, note)

    return mark


def _warning(target: Any, note: str) -> Any:
    """The same class or function, warning when it is made or called."""
    import functools

    text = f"{target.__name__} is deprecated. {note}"
    if isinstance(target, type):
        original: Callable[..., None] = target.__init__  # type: ignore[misc]

        @functools.wraps(original)
        def begin(self: Any, *args: Any, **kwargs: Any) -> None:
            warnings.warn(text, RayDeprecationWarning, stacklevel=2)
            original(self, *args, **kwargs)

        target.__init__ = begin  # type: ignore[misc]
        return target

    @functools.wraps(target)
    def call(*args: Any, **kwargs: Any) -> Any:
        warnings.warn(text, RayDeprecationWarning, stacklevel=2)
        return target(*args, **kwargs)

    return call


__getattr__ = absent.getter(__name__)
