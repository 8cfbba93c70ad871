"""Errors of two classes: a task error that is also what the user's code raised.

Rules of this module: pure; no other module of Spoke is imported.
"""

from __future__ import annotations

import builtins
from types import MemberDescriptorType
from typing import Any

_EXCEPTION_GROUP: Any = getattr(builtins, "BaseExceptionGroup", ())  # came with Python 3.11
_DUALS: dict[tuple[type, type], type] = {}


def _dual_class(error_class: type, cause_class: type) -> type:
    made = _DUALS.get((error_class, cause_class))
    if made is not None:
        return made
    name = f"{error_class.__name__}({cause_class.__name__})"
    body: dict[str, Any] = {
        "__init__": _dual_init,
        "__getattr__": _dual_getattr,
        "__str__": _dual_str,
        "__repr__": lambda self: f"{name}({self.cause!r})",
        "__reduce__": _dual_reduce,
        "__module__": error_class.__module__,
        "__qualname__": name,
        "as_instanceof_cause": lambda self: self,
    }
    made = _DUALS[error_class, cause_class] = type(name, (error_class, cause_class), body)
    return made


def dual(error: Any, cause: BaseException) -> Any:
    """The task error `error` as an instance of the class of its cause, too.

    Raises:
        Exception: of any kind, where that class refuses to be subclassed or made without its arguments.
    """
    made: Any = _dual_class(type(error), type(cause))
    group: Any = cause
    given = (group.message, group.exceptions) if isinstance(group, _EXCEPTION_GROUP) else ()
    try:
        instance = made.__new__(made, *given)
    except TypeError:  # one that wants arguments, or MemoryError's, which refuses other classes
        instance = BaseException.__new__(made)
    instance.__init__(error, cause)  # apart, since __new__ may take other arguments
    return instance


def _dual_init(self: Any, error: Any, cause: BaseException) -> None:
    self.__dict__.update(error.__dict__)
    self.__dict__.update(cause.__dict__)
    self.__dict__.update(_task_error=error, cause=cause)
    self.args = (cause,)
    _copy_slots(self, cause)


def _copy_slots(target: Any, cause: BaseException) -> None:
    """Fields that built-in exceptions keep outside ``__dict__``: errno, code, start, ..."""
    for cls in type(cause).__mro__:
        for name, member in vars(cls).items():
            if isinstance(member, MemberDescriptorType):
                try:
                    setattr(target, name, getattr(cause, name))
                except (AttributeError, TypeError):
                    pass  # read-only, or not set on the cause either


def _dual_getattr(self: Any, name: str) -> Any:
    if name.startswith("__") or "cause" not in self.__dict__:
        raise AttributeError(name)
    return getattr(self.__dict__["cause"], name)


def _dual_str(self: Any) -> str:
    return str(self.__dict__["_task_error"])


def _dual_reduce(self: Any) -> tuple[Any, ...]:
    return _rebuild_dual, (self.__dict__["_task_error"],)


def _rebuild_dual(error: Any) -> Any:
    return error.as_instanceof_cause()
