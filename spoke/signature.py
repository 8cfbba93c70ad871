"""What a function accepts, so that a wrong call fails at the caller, before anything is sent.

Rules of this module: plain functions are read from their code object (importing `inspect` costs more
than a cold start can spare); anything else goes through `inspect`, imported at that moment.  Messages
are those of ``inspect.Signature.bind``.  A `Signature` has a plain form that travels with handles.
"""

from __future__ import annotations

from collections.abc import Callable
from types import FunctionType
from typing import Any

CO_VARARGS = 0x04
CO_VARKEYWORDS = 0x08
CO_GENERATOR = 0x20
CO_COROUTINE = 0x80
CO_ASYNC_GENERATOR = 0x200

UNBOUNDED = 1 << 30

PlainSignature = tuple[tuple[str, ...], int, int, bool, tuple[str, ...], tuple[str, ...], bool]


class Signature:
    """Positional names, how many of them are positional-only and required, keyword-only names.

    A call without keyword arguments and with `low` to `high` positional ones is right: callers test
    that inline and ask `check` only otherwise.
    """

    __slots__ = ("high", "keyword_only", "keyword_required", "low", "names", "positional_only", "required",
                 "var_keyword", "var_positional")  # fmt: skip

    def __init__(
        self,
        names: tuple[str, ...],
        positional_only: int,
        required: int,
        var_positional: bool,
        keyword_only: tuple[str, ...],
        keyword_required: tuple[str, ...],
        var_keyword: bool,
    ) -> None:
        self.names = names
        self.positional_only = positional_only
        self.required = required
        self.var_positional = var_positional
        self.keyword_only = keyword_only
        self.keyword_required = keyword_required
        self.var_keyword = var_keyword
        self.low = UNBOUNDED if keyword_required else required
        self.high = UNBOUNDED if var_positional else len(names)

    def plain(self) -> PlainSignature:
        """The constructor's arguments."""
        return (
            self.names,
            self.positional_only,
            self.required,
            self.var_positional,
            self.keyword_only,
            self.keyword_required,
            self.var_keyword,
        )

    def check(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Would a call with these arguments bind?

        Raises:
            TypeError: it would not; the message says why.
        """
        names = self.names
        given = len(args)
        positional = set(names[: self.positional_only])
        for index, name in enumerate(names):
            if index < given:
                if name in kwargs and not (self.var_keyword and index < self.positional_only):
                    raise TypeError(f"multiple values for argument {name!r}")
            elif index < self.positional_only and name in kwargs and not self.var_keyword:
                raise TypeError(f"{name!r} parameter is positional only, but was passed as a keyword")
            elif index < self.required and (name not in kwargs or index < self.positional_only):
                raise TypeError(f"missing a required argument: {name!r}")
        if given > len(names) and not self.var_positional:
            raise TypeError("too many positional arguments")
        for name in self.keyword_required:
            if name not in kwargs:
                raise TypeError(f"missing a required argument: {name!r}")
        if self.var_keyword:
            return
        for name in kwargs:
            if name not in self.keyword_only and (name not in names or name in positional):
                raise TypeError(f"got an unexpected keyword argument {name!r}")


ANYTHING = Signature((), 0, 0, True, (), (), True)
NOTHING = Signature((), 0, 0, False, (), (), False)


def signature_of(function: Callable[..., Any], *, skip_first: bool = False) -> Signature:
    """The signature of a callable; `skip_first` leaves out ``self`` or ``cls``."""
    plain = type(function) is FunctionType and not hasattr(function, "__signature__")
    if not plain or hasattr(function, "__wrapped__"):
        return _inspected(function, skip_first)
    code = function.__code__
    start = 1 if skip_first and code.co_argcount else 0
    names = code.co_varnames[start : code.co_argcount]
    keyword_only = code.co_varnames[code.co_argcount : code.co_argcount + code.co_kwonlyargcount]
    keyword_defaults = function.__kwdefaults__ or {}
    return Signature(
        names,
        max(0, code.co_posonlyargcount - start),
        max(0, len(names) - len(function.__defaults__ or ())),
        bool(code.co_flags & CO_VARARGS),
        keyword_only,
        tuple(name for name in keyword_only if name not in keyword_defaults),
        bool(code.co_flags & CO_VARKEYWORDS),
    )


def _inspected(function: Callable[..., Any], skip_first: bool) -> Signature:
    import inspect

    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        return ANYTHING  # built-in code that does not tell
    kinds = inspect.Parameter
    if skip_first and parameters and parameters[0].kind in (
        kinds.POSITIONAL_ONLY,
        kinds.POSITIONAL_OR_KEYWORD,
    ):  # fmt: skip
        del parameters[0]
    positional = [p for p in parameters if p.kind in (kinds.POSITIONAL_ONLY, kinds.POSITIONAL_OR_KEYWORD)]
    keyword_only = [p for p in parameters if p.kind is kinds.KEYWORD_ONLY]
    return Signature(
        tuple(p.name for p in positional),
        sum(p.kind is kinds.POSITIONAL_ONLY for p in positional),
        sum(p.default is kinds.empty for p in positional),
        any(p.kind is kinds.VAR_POSITIONAL for p in parameters),
        tuple(p.name for p in keyword_only),
        tuple(p.name for p in keyword_only if p.default is kinds.empty),
        any(p.kind is kinds.VAR_KEYWORD for p in parameters),
    )


def signature_of_class(cls: type) -> Signature:
    """What the constructor of a class accepts."""
    init: Any = cls.__init__  # type: ignore[misc]  # looked at, not called
    if type(init) is FunctionType:
        return signature_of(init, skip_first=True)
    new: Any = cls.__new__
    if type(new) is FunctionType:
        return signature_of(new, skip_first=True)
    if init is object.__init__ and new is object.__new__:
        return NOTHING
    return ANYTHING


def _flags(function: Any) -> int:
    code = getattr(function, "__code__", None)
    return code.co_flags if code is not None else 0


def is_generator(function: Any) -> bool:
    """Does a call give a generator, plain or async?"""
    return bool(_flags(function) & (CO_GENERATOR | CO_ASYNC_GENERATOR))


def is_async(function: Any) -> bool:
    """Is it ``async def``, with or without ``yield``?"""
    return bool(_flags(function) & (CO_COROUTINE | CO_ASYNC_GENERATOR))


def is_coroutine(function: Any) -> bool:
    """Is it ``async def`` without ``yield``?"""
    return bool(_flags(function) & CO_COROUTINE)
