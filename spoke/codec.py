"""Values to parts and back.

A *value* is a list of parts: the pickled body first, then its out-of-band buffers (pickle protocol
5).  A part is ``bytes`` (inline) or a buffer that lies in shared memory.  This module knows how to
cut an object into a body and buffers; where buffers are put is the store's affair.

The C pickler goes first and cloudpickle only where it must: when something is defined in
``__main__`` (which a worker cannot import), in a function, or is a lambda.  That keeps cloudpickle's
Python frames out of nearly all calls.
"""

from __future__ import annotations

import functools
import io
import pickle
import sys
import threading
from collections import ChainMap
from collections.abc import Callable, Iterable
from types import CodeType
from typing import Any, Final

_ATOMS: Final = frozenset({int, float, bool, type(None), str, bytes})

_register: dict[type, Callable[[Any], Any]] = {}
_foreign: tuple[Callable[[Any], bytes], dict[type, Any]] | None = None  # see `use_pickler`


class _Context(threading.local):
    """Refs met while pickling on this thread; None while nobody collects."""

    refs: list[Any] | None = None
    lease: Any = None  # while unpickling: what views of shared memory must be attached to
    source: Any = None  # while unpickling: what kept the refs inside the value alive so far
    transport: str | None = None  # while pickling: the tensor transport that was asked for


context: Final = _Context()


def keep(refs: list[Any]) -> None:
    """Have the objects of these refs live as long as this process; `spoke.objectref` puts its own here."""


def note_ref(ref: Any) -> None:
    """Called by the ``__reduce__`` of refs and handles: `ref` is contained in the value."""
    if context.refs is not None:
        context.refs.append(ref)


def register_reducer(cls: type, reducer: Callable[[Any], Any]) -> None:
    """Pickle instances of `cls` by `reducer` (as in `copyreg`) in every value of this process."""
    _register[cls] = reducer
    if _foreign is not None:
        _foreign[1][cls] = reducer


def deregister_reducer(cls: type) -> None:
    """Undo `register_reducer`; unknown classes are ignored."""
    _register.pop(cls, None)
    if _foreign is not None:
        _foreign[1].pop(cls, None)


def use_pickler(dumps: Callable[[Any], bytes], table: dict[type, Any]) -> None:
    """From now on functions are pickled by `dumps`, of an engine with a pickler of its own, whose dispatch
    table is told of reducers."""
    global _foreign
    _foreign = (dumps, table)
    table.update(_register)


def is_foreign() -> bool:
    """Whether an engine with a pickler of its own is in use."""
    return _foreign is not None


def use_own_pickler() -> None:
    """Undo `use_pickler`."""
    global _foreign
    if _foreign is not None:
        for cls in _register:
            _foreign[1].pop(cls, None)
        _foreign = None


def dumps(value: Any) -> tuple[bytes, list[Any], list[Any]]:
    """Cut `value` into ``(body, buffers, refs)``.

    buffers are `pickle.PickleBuffer`s; refs the ObjectRefs and handles met anywhere inside.

    Raises:
        TypeError: something inside cannot be pickled; the message names it and the path to it.
    """
    if type(value) in _ATOMS:
        return pickle.dumps(value, 5), [], []
    outer, context.refs = context.refs, []
    try:
        buffers: list[Any] = []
        body = _dump_fast(value, buffers)
        if body is None:
            context.refs.clear()
            buffers.clear()
            body = _dump_thorough(value, buffers)
        return body, buffers, context.refs
    finally:
        context.refs = outer


def _dump_fast(value: Any, buffers: list[Any]) -> bytes | None:
    """By the C pickler alone; None where only cloudpickle will do."""
    cloudpickle = sys.modules.get("cloudpickle")
    if cloudpickle is not None and cloudpickle.list_registry_pickle_by_value():
        return None
    if "torch" in sys.modules and not _torch_registered:
        _register_torch()
    try:
        if _register:
            stream = io.BytesIO()
            pickler = pickle.Pickler(stream, 5, buffer_callback=buffers.append)
            pickler.dispatch_table = _dispatch_table()
            pickler.dump(value)
            body = stream.getvalue()
        else:
            body = pickle.dumps(value, 5, buffer_callback=buffers.append)
    except Exception:
        return None
    return None if b"__main__" in body or b"__mp_main__" in body else body


def _dispatch_table() -> dict[type, Callable[[Any], Any]]:
    import copyreg

    return {**copyreg.dispatch_table, **_register}


@functools.cache
def _picklers() -> tuple[Any, Any]:
    """Cloudpickle's pickler as Spoke needs it, without and with the registered reducers."""
    import cloudpickle

    reduce_code = cloudpickle.Pickler.dispatch_table[CodeType]

    def reduce_code_with_file(code: CodeType) -> Any:
        """With the name of the file, which cloudpickle leaves out since 3.1.3: tracebacks show the source."""
        make, args, *rest = reduce_code(code)
        named = (code.co_filename if type(arg) is str and arg == "<dynamic-code>" else arg for arg in args)
        return (make, tuple(named), *rest)

    class Plain(cloudpickle.Pickler):  # type: ignore[misc]
        dispatch_table = ChainMap({CodeType: reduce_code_with_file}, cloudpickle.Pickler.dispatch_table)

    class Registered(Plain):
        def reducer_override(self, obj: Any) -> Any:
            reducer = _register.get(type(obj))
            return super().reducer_override(obj) if reducer is None else reducer(obj)

    return Plain, Registered


def _dump_thorough(value: Any, buffers: list[Any] | None) -> bytes:
    stream = io.BytesIO()
    callback = None if buffers is None else buffers.append
    pickler = _picklers()[bool(_register)](stream, 5, buffer_callback=callback)
    try:
        pickler.dump(value)
    except (TypeError, AttributeError, RecursionError, pickle.PicklingError) as error:
        raise unpicklable(explain_unpicklable(value, error), value) from error
    return stream.getvalue()  # what else a `__reduce__` raises is the program's


def unpicklable(text: str, value: Any) -> TypeError:
    """The error for a value that does not pickle; `restated` says to the user what it was for."""
    error = TypeError(text)
    error.__dict__["unpicklable"] = _short(value)  # not itself: the error must pickle
    return error


def restated(error: TypeError, what: str) -> TypeError:
    """An error of `unpicklable` in the words that programs know; any other one stays as it is.

    what: what the value is, ``{}`` in it being the value itself.
    """
    if "unpicklable" not in error.__dict__:
        return error
    shown, line = error.__dict__["unpicklable"], "=" * 80
    return TypeError(f"Could not serialize {what.replace('{}', shown)}:\n{line}\n{error}\n{line}\n")


def dumps_function(function: Any) -> bytes:
    """Pickle a function or class for other processes, by value where they cannot import it.

    Raises:
        TypeError: it closes over something that cannot be pickled.
    """
    if _foreign is not None:
        return _foreign[0](function)
    body: bytes = keeping(_dump_thorough, function, None)
    return body


def keeping(pickle: Callable[..., Any], *args: Any) -> Any:
    """What ``pickle(*args)`` makes.  Refs inside are kept for good: nobody counts where the bytes go."""
    refs: list[Any] = []
    outer, context.refs = context.refs, refs
    try:
        made = pickle(*args)
    finally:
        context.refs = outer
    if refs:
        keep(refs)
    return made


def loads(body: Any, buffers: Iterable[Any] = ()) -> Any:
    """The object of a body and its buffers."""
    return pickle.loads(body, buffers=buffers)


def explain_unpicklable(value: Any, error: BaseException) -> str:
    """Message that names the innermost object which does not pickle and the path to it."""
    return _explanation(*_find_culprit(value, "value", 0), error)


def explain_result(args: tuple[Any, ...], kwargs: dict[str, Any]) -> str | None:
    """What is wrong where an argument is the result of a compiled graph."""
    for value in (*args, *kwargs.values()):
        if hasattr(value, "_compiled_get"):
            return f"{type(value).__name__} cannot be used as Ray task/actor argument."
    return None


def unpicklable_argument(args: tuple[Any, ...], kwargs: dict[str, Any], error: BaseException) -> TypeError:
    """As `unpicklable`, of an argument; the path begins with its position or its name."""
    named = [(f"argument {index}", value) for index, value in enumerate(args)]
    named += [(f"argument {name!r}", value) for name, value in kwargs.items()]
    for path, value in named:
        if not _pickles(value):
            return unpicklable(_explanation(*_find_culprit(value, path, 0), error), value)
    return unpicklable(explain_unpicklable((args, kwargs), error), (args, kwargs))


def _explanation(path: str, culprit: Any, error: BaseException) -> str:
    return (
        f"Could not serialize {_short(culprit)} of type {type(culprit).__module__}."
        f"{type(culprit).__qualname__} at {path}: {error}"
    )


def _short(value: Any) -> str:
    try:
        text = repr(value)
    except Exception:
        text = f"<{type(value).__name__}>"
    return text if len(text) <= 120 else text[:117] + "..."


def _pickles(value: Any) -> bool:
    import cloudpickle

    try:
        cloudpickle.dumps(value)
    except Exception:
        return False
    return True


def _find_culprit(value: Any, path: str, depth: int) -> tuple[str, Any]:
    if depth < 8:
        for step, inner in _children(value):
            if not _pickles(inner):
                return _find_culprit(inner, path + step, depth + 1)
    return path, value


def _children(value: Any) -> list[tuple[str, Any]]:
    if isinstance(value, dict):
        return [(f"[{_short(key)}]", item) for key, item in value.items()]
    if isinstance(value, (list, tuple)):
        return [(f"[{index}]", item) for index, item in enumerate(value)]
    if isinstance(value, (set, frozenset)):
        return [("{}", item) for item in value]
    code = getattr(value, "__code__", None)
    if code is not None:
        cells = zip(code.co_freevars, value.__closure__ or (), strict=False)
        known = value.__globals__
        return [
            *((f".<closure {name}>", cell.cell_contents) for name, cell in cells),
            *((f".<global {name}>", known[name]) for name in code.co_names if name in known),
        ]
    state = getattr(value, "__dict__", None)
    if isinstance(state, dict) and not isinstance(value, type):
        return [(f".{name}", item) for name, item in state.items()]
    return []


# -- torch: its own reducer copies storages through a zip file; a buffer view copies nothing

_torch_registered = False


def _register_torch() -> None:
    global _torch_registered
    torch = sys.modules["torch"]
    if not hasattr(torch, "Tensor") or not hasattr(torch, "frombuffer"):
        return  # still being imported by another thread
    _torch_registered = True
    _register.setdefault(torch.Tensor, _reduce_tensor)
    parameter = getattr(getattr(torch, "nn", None), "Parameter", None)
    if parameter is not None:
        _register.setdefault(parameter, _reduce_parameter)


def _on_device(tensor: Any) -> Any:
    return tensor.__reduce_ex__(5)


on_device: Callable[[Any], Any] = _on_device  # how a CUDA tensor is pickled; `values` knows better


def _reduce_tensor(tensor: Any) -> Any:
    if tensor.device.type == "cuda" and tensor.layout is sys.modules["torch"].strided:
        return on_device(tensor)
    if (
        tensor.device.type != "cpu"
        or tensor.layout is not sys.modules["torch"].strided
        or tensor.is_quantized
        or tensor.is_conj()
        or tensor.is_neg()
        or (tensor.requires_grad and not tensor.is_leaf)
    ):
        return tensor.__reduce_ex__(5)
    flat = tensor.detach().contiguous().flatten().view(sys.modules["torch"].uint8)
    dtype = str(tensor.dtype).removeprefix("torch.")
    buffer = pickle.PickleBuffer(flat.numpy())
    return rebuild_tensor, (buffer, dtype, tuple(tensor.shape), tensor.requires_grad)


def _reduce_parameter(parameter: Any) -> Any:
    return _rebuild_parameter, (parameter.data, parameter.requires_grad)


def _rebuild_parameter(data: Any, requires_grad: bool) -> Any:
    import torch

    return torch.nn.Parameter(data, requires_grad)


def rebuild_tensor(buffer: Any, dtype: str, shape: tuple[int, ...], requires_grad: bool) -> Any:
    """A tensor over `buffer`.

    torch has no read-only tensors, so a buffer in shared memory is mapped copy-on-write: reading
    copies nothing, and a write in place stays in this process (MEM-2).
    """
    import torch

    kind = getattr(torch, dtype)
    private = getattr(buffer, "private", None)
    if private is not None:
        buffer = private()
        if context.lease is not None:
            context.lease.attach(buffer)
    elif memoryview(buffer).readonly:
        buffer = bytearray(buffer)
    if len(memoryview(buffer)) == 0:
        tensor = torch.empty(shape, dtype=kind)
    else:
        tensor = torch.frombuffer(buffer, dtype=kind).view(shape)
    return tensor.requires_grad_() if requires_grad else tensor
