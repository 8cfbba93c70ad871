"""What callers know of an actor class: its methods, their options and signatures, as data.

Rules of this module: a `ActorMeta` is made once per class and options, travels as one short blob with
every handle and with the actor's record at the hub, and is read back once per blob and process.
"""

from __future__ import annotations

from types import BuiltinFunctionType, FunctionType
from typing import Any

from spoke.options import ActorOptions, MethodOptions
from spoke.signature import ANYTHING, Signature, is_async, is_generator, signature_of, signature_of_class

ASYNC_CONCURRENCY = 1000  # calls at a time of an async actor that does not say
METHOD_MARK = "__spoke_method__"  # where `method` leaves its options
INVOCATION_DECORATOR = "__ray_invocation_decorator__"  # of a function or method: wraps what `remote` does

# Methods that every actor has: answered by the worker, not by the class.
BUILT_IN = {
    "__ray_ready__": Signature((), 0, 0, False, (), (), False),
    "__ray_call__": Signature(("function",), 1, 1, True, (), (), True),
    "__ray_terminate__": Signature((), 0, 0, False, (), (), False),
}

_KNOWN_MAX = 1024
_known: dict[bytes, ActorMeta] = {}


class ActorMeta:
    """Methods of an actor class by name, and what its options say to callers."""

    __slots__ = ("_blob", "class_name", "constructor", "is_async", "max_concurrency", "max_pending_calls",
                 "max_task_retries", "methods", "out_of_order")  # fmt: skip

    def __init__(
        self,
        class_name: str,
        is_async: bool,
        max_task_retries: int,
        max_pending_calls: int,
        max_concurrency: int,
        out_of_order: bool,
        methods: dict[str, tuple[MethodOptions, Signature]],
    ) -> None:
        self.class_name = class_name
        self.is_async = is_async
        self.max_task_retries = max_task_retries
        self.max_pending_calls = max_pending_calls
        self.max_concurrency = max_concurrency
        self.out_of_order = out_of_order
        self.methods = methods
        self.constructor = ANYTHING  # known where the class is
        self._blob: bytes | None = None

    @property
    def blob(self) -> bytes:
        """This meta as bytes, for `meta_from_blob` in another process."""
        if self._blob is None:
            self._blob = self._dump()
        return self._blob

    def _dump(self) -> bytes:
        methods = [
            (name, options.given, options.is_generator, options.decorator, signature.plain())
            for name, (options, signature) in self.methods.items()
            if name not in BUILT_IN
        ]
        plain = (
            self.class_name,
            self.is_async,
            self.max_task_retries,
            self.max_pending_calls,
            self.max_concurrency,
            self.out_of_order,
            methods,
        )
        if any(
            decorator is not None or isinstance(given.get("retry_exceptions"), (list, tuple))
            for _, given, _, decorator, _ in methods
        ):
            from spoke import codec

            return codec.dumps_function(plain)  # it holds classes or functions, perhaps of __main__
        import pickle

        return pickle.dumps(plain, 5)

    def check_groups(self, groups: dict[str, int]) -> None:
        """Check that every method's concurrency group exists.

        Raises:
            ValueError: one does not.
        """
        for name, (options, _) in self.methods.items():
            if options.concurrency_group and options.concurrency_group not in groups:
                raise ValueError(
                    f"method {name!r} is in the concurrency group {options.concurrency_group!r}, "
                    f"which {self.class_name} does not define; it has {sorted(groups)}"
                )

    def check_order(self) -> None:
        """Check that the calls can run in order, as they are wanted to.

        Raises:
            ValueError: several run at a time.
        """
        if self.is_async or self.max_concurrency > 1:
            kind = "async" if self.is_async else "multi-threaded"
            raise ValueError(
                f"If you're using {kind} actors, calls can't be executed in order. "
                "Set `allow_out_of_order_execution=True` to allow out-of-order execution."
            )


def meta_of_class(cls: type, options: ActorOptions) -> ActorMeta:
    """The meta of a class with these options."""
    methods: dict[str, tuple[MethodOptions, Signature]] = {}
    asynchronous = False
    for name in dir(cls):
        found = _method(cls, name)
        if found is None:
            continue
        function, skip_first = found
        marked: MethodOptions | None = getattr(function, METHOD_MARK, None)
        generator = is_generator(function)
        asynchronous = asynchronous or is_async(function)
        method_options = MethodOptions(
            marked.given if marked else {},
            is_generator=generator,
            decorator=getattr(function, INVOCATION_DECORATOR, None),
        )
        methods[name] = (method_options, signature_of(function, skip_first=skip_first))
    methods.update({name: (MethodOptions({}), signature) for name, signature in BUILT_IN.items()})
    concurrency = options.max_concurrency or (ASYNC_CONCURRENCY if asynchronous else 1)
    out_of_order = options.allow_out_of_order_execution
    if out_of_order is None:
        out_of_order = asynchronous or concurrency > 1 or bool(options.concurrency_groups)
    meta = ActorMeta(
        cls.__name__,
        asynchronous,
        options.max_task_retries,
        options.max_pending_calls,
        concurrency,
        out_of_order,
        methods,
    )
    meta.constructor = signature_of_class(cls)
    return meta


def _method(cls: type, name: str) -> tuple[Any, bool] | None:
    """The function behind an attribute and whether its first argument is bound; None for no method."""
    for base in cls.__mro__:
        if base is object:
            break
        if name in base.__dict__:
            attribute = base.__dict__[name]
            if isinstance(attribute, staticmethod):
                return attribute.__func__, False
            if isinstance(attribute, classmethod):
                return attribute.__func__, True
            if isinstance(attribute, FunctionType):
                return attribute, True
            if isinstance(attribute, BuiltinFunctionType) or "cython_function" in type(attribute).__name__:
                return attribute, True
            return None
    return None


def meta_from_blob(blob: bytes) -> ActorMeta:
    """The meta of a blob; the same object for the same bytes."""
    known = _known.get(blob)
    if known is not None:
        return known
    import pickle

    name_, is_async_, retries, pending, concurrency, out_of_order, listed = pickle.loads(blob)
    methods = {
        name: (MethodOptions(given, is_generator=generator, decorator=decorator), Signature(*plain))
        for name, given, generator, decorator, plain in listed
    }
    methods.update({name: (MethodOptions({}), signature) for name, signature in BUILT_IN.items()})
    meta = ActorMeta(name_, is_async_, retries, pending, concurrency, out_of_order, methods)
    meta._blob = blob
    if len(_known) >= _KNOWN_MAX:
        _known.clear()
    _known[blob] = meta
    return meta
