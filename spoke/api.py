"""The functions of the public surface: init, remote, get, wait, put, kill, cancel, ...

Rules of this module: arguments are checked here, the engine does the work.  Nothing heavy is imported
before it is used.
"""

from __future__ import annotations

from collections.abc import Callable
from types import FunctionType
from typing import TYPE_CHECKING, Any, TypeVar, overload

from spoke import current
from spoke.actorclass import ActorClass
from spoke.handles import ActorHandle, RemoteFunction, engine, find_actor
from spoke.lifecycle import init as init
from spoke.lifecycle import is_initialized as is_initialized
from spoke.lifecycle import shutdown as shutdown
from spoke.options import (
    ACTOR,
    METHOD,
    TASK,
    MethodOptions,
    check_name,
    check_namespace,
    check_tensor_transport,
)
from spoke.signature import is_generator

if TYPE_CHECKING:
    from spoke.objectref import ObjectRef

T = TypeVar("T")

# -- remote -----------------------------------------------------------------------------------------


@overload
def remote(function: FunctionType, /) -> RemoteFunction: ...
@overload
def remote(cls: type, /) -> ActorClass: ...
@overload
def remote(function_or_class: Callable[..., Any], /) -> Any: ...
@overload
def remote(**options: Any) -> Callable[[Any], Any]: ...
def remote(*args: Any, **options: Any) -> Any:
    """Make a function or a class remote: ``@remote`` or ``@remote(num_cpus=2)``.

    Options of functions: num_cpus (default 1), num_gpus, memory (bytes), resources, accelerator_type,
    num_returns, max_retries (default 3), retry_exceptions, max_calls, name, runtime_env,
    scheduling_strategy, label_selector.  Of classes also: max_concurrency, max_restarts (default 0),
    max_task_retries, max_pending_calls, lifetime, namespace, get_if_exists, concurrency_groups.

    Raises:
        TypeError: neither function nor class, or an option of the wrong type.
        ValueError: an unknown option or a wrong value.
        AssertionError: called with neither a function nor options.
    """
    if len(args) == 1 and not options and callable(args[0]):
        return _make_remote(args[0], {})
    if args or not options:
        raise AssertionError(
            "The remote decorator is used either without parentheses, '@remote', or with options, "
            f"'@remote(num_cpus=2)'. Known options: {sorted({*TASK, *ACTOR})}"
        )
    return lambda function_or_class: _make_remote(function_or_class, options)


def _make_remote(target: Any, options: dict[str, Any]) -> Any:
    if isinstance(target, FunctionType) or "cython_function" in type(target).__name__:
        return RemoteFunction(target, options)
    if isinstance(target, type):
        return ActorClass(target, options)
    raise TypeError("The remote decorator must be applied to either a function or a class.")


def method(*args: Any, **options: Any) -> Any:
    """Set options of an actor's method: ``@method(num_returns=2)``.

    Options: num_returns, concurrency_group, max_task_retries, retry_exceptions, enable_task_events,
    tensor_transport.

    Raises:
        AssertionError: an unknown option.
        ValueError, TypeError: a wrong value.
    """
    if len(args) == 1 and not options and callable(args[0]):
        return args[0]
    if args:
        raise AssertionError(f"The method decorator takes only keyword options: {list(METHOD)}")
    for name in options:
        if name not in METHOD:
            known = list(METHOD)
            raise AssertionError(f"Unexpected keyword argument to method: {name!r}. Known ones: {known}")

    def mark(function: T) -> T:
        from spoke.actormeta import METHOD_MARK

        setattr(function, METHOD_MARK, MethodOptions(options, is_generator=is_generator(function)))
        return function

    return mark


# -- objects ----------------------------------------------------------------------------------------

_check_refs: Any = None
_ref_type: Any = None  # ObjectRef, whose module `import spoke` leaves for later


def _load_ref_type() -> Any:
    global _ref_type, _check_refs
    from spoke._native import check_refs
    from spoke.objectref import ObjectRef

    _check_refs = check_refs
    _ref_type = ObjectRef
    return ObjectRef


def get(
    object_refs: Any, *, timeout: float | None = None, into: Any = None, _use_object_store: bool = False
) -> Any:
    """The value of a ref, or the list of values of a list of refs.

    Args:
        timeout: seconds to wait in all; 0 takes only what is there, None waits for ever.
        into: memory that the bytes of the value go to, without a copy in between where they come by
            RDMA: a torch tensor, numpy array or writable buffer, or a list or dict of them for a value of
            that structure; one per ref for a list of refs.  It is returned.  Undefined after an error.

    Raises:
        GetTimeoutError: not there in time.
        RayTaskError and the class of the user's exception: the task raised.
        RayActorError, WorkerCrashedError, ObjectLostError, ...: it cannot be computed.
        ValueError, TypeError: not a ref or a list of refs, or `into` does not fit.
    """
    client = current.client or engine()
    ref_type = _ref_type or _load_ref_type()
    if timeout is not None and timeout < 0:
        timeout = None
    if into is not None:
        from spoke.landing import get_into

        return get_into(client, object_refs, timeout, into)
    if current.targets:
        return _get_directed(client, object_refs, timeout)
    if type(object_refs) is ref_type:
        return client.get_one(object_refs, timeout)
    if isinstance(object_refs, list):
        for ref in object_refs:
            if type(ref) is not ref_type:
                return _get_unusual(object_refs, timeout)
        return client.get(object_refs, timeout)
    return _get_unusual(object_refs, timeout)


def _get_directed(client: Any, given: Any, timeout: float | None) -> Any:
    """`get` while some refs have targets."""
    from spoke.experimental.direct import get_one

    if isinstance(given, list):
        waited = [item for item in given if type(item) is _ref_type]
        if waited:
            client.waiting.wait_all(waited, timeout)
        return [get_one(client, item) for item in given]
    if type(given) is _ref_type:
        client.waiting.wait_all([given], timeout)
        return get_one(client, given)
    return _get_unusual(given, timeout)


def _get_unusual(given: Any, timeout: float | None) -> Any:
    """Results of compiled graphs (which bring their own ``_get``), generators, and what is wrong."""
    from spoke.streams import ObjectRefGenerator

    if isinstance(given, ObjectRefGenerator):
        return given
    if hasattr(given, "_compiled_get"):
        return given._compiled_get(timeout)
    if isinstance(given, list):
        compiled = [hasattr(item, "_compiled_get") for item in given]
        if all(compiled):
            return [item._compiled_get(timeout) for item in given]
        if any(compiled):
            raise ValueError(
                "Invalid type of object refs. 'object_refs' must be a list of CompiledDAGRefs if there is "
                "any CompiledDAGRef within it."
            )
        wrong = next(item for item in given if type(item) is not _ref_type)
        raise TypeError(f"Attempting to call `get` on the value {wrong!r}, which is not an ObjectRef.")
    raise ValueError(
        f"Invalid type of object refs, {type(given)}, is given. "
        "'object_refs' must either be an ObjectRef or a list of ObjectRefs."
    )


def put(value: T, *, _owner: Any = None, _tensor_transport: str | None = None) -> ObjectRef[T]:
    """Store a value in the cluster; the object lives as long as refs to it.

    Args:
        _tensor_transport: "object_store", "gloo", "nccl", "nixl" or "cuda_ipc"; with the last three a CUDA
            tensor stays where it is, and its readers share it or copy from it.

    Raises:
        TypeError: `value` is an ObjectRef, or cannot be serialized.
        ValueError: an unknown tensor transport, or an `_owner`, which Ray had once.
        ObjectStoreFullError: there is no room for it.
    """
    client = current.client or engine()
    if _owner is not None:
        raise ValueError(
            "The experimental `_owner` argument to `ray.put` has been removed in Ray 2.56: the process that "
            "puts a value owns it; call put() in a method of the actor that is to be the owner."
        )
    if type(value) is (_ref_type or _load_ref_type()):
        raise TypeError(
            "Calling 'put' on an ObjectRef is not allowed. If you really want to do this, wrap it in a list."
        )
    try:
        if _tensor_transport is None:
            return client.put(value)
        ref: ObjectRef[T] = _put_by(client, value, _tensor_transport)
        return ref
    except TypeError as error:
        from spoke import codec

        raise codec.restated(error, "the put value {}") from error


def _put_by(client: Any, value: Any, transport: Any) -> Any:
    from spoke import codec

    check_tensor_transport(transport)
    before, codec.context.transport = codec.context.transport, transport
    try:
        return client.put(value)
    finally:
        codec.context.transport = before


def wait(
    ray_waitables: list[Any],
    *,
    num_returns: int = 1,
    timeout: float | None = None,
    fetch_local: bool = True,
) -> tuple[list[Any], list[Any]]:
    """Split refs into those that are resolved and the others, as soon as `num_returns` are.

    Both lists keep the order given; the first has at most `num_returns` entries.  A generator counts as
    resolved when its next item is there.

    Args:
        timeout: seconds to wait at most; None waits for ever.
        fetch_local: accepted for compatibility; values are fetched when they are read.

    Raises:
        TypeError: not a list of refs and generators.
        ValueError: duplicates, or `num_returns` below 1 or above the number of refs.
    """
    client = current.client or engine()
    if not isinstance(ray_waitables, list):
        single = type(ray_waitables) is (_ref_type or _load_ref_type())
        what = "a single ObjectRef" if single else str(type(ray_waitables))
        raise TypeError(f"wait() expected a list of ray.ObjectRef or ray.ObjectRefGenerator, got {what}")
    ref_type = _ref_type or _load_ref_type()
    fault = _check_refs(ray_waitables, ref_type, ref_type._entry)
    waitables = ray_waitables if fault == 0 else _waitables(ray_waitables)
    if timeout is not None and timeout < 0:
        raise ValueError(f"The 'timeout' argument must be nonnegative. Received {timeout}")
    if not ray_waitables:
        return [], []
    if fault and len(set(ray_waitables)) != len(ray_waitables):
        raise ValueError("wait() requires a list of unique refs.")
    if num_returns <= 0:
        raise ValueError(f"Invalid number of objects to return {num_returns}.")
    if num_returns > len(ray_waitables):
        raise ValueError("num_returns cannot be greater than the number of refs given to wait().")
    ready, rest = client.wait(waitables, num_returns, timeout)
    if waitables is ray_waitables:
        return ready, rest
    return [_given(item) for item in ready], [_given(item) for item in rest]


def _given(item: Any) -> Any:
    return item.generator if type(item) is _NextItem else item


def _waitables(given: list[Any]) -> list[Any]:
    """The list itself, or with generators as things that resolve with their next item."""
    ref_type = _ref_type or _load_ref_type()
    for item in given:
        if type(item) is not ref_type:
            break
    else:
        return given
    from spoke.streams import ObjectRefGenerator

    waitables: list[Any] = []
    for item in given:
        if isinstance(item, ObjectRefGenerator):
            waitables.append(_NextItem(item))
        elif type(item) is ref_type:
            waitables.append(item)
        else:
            raise TypeError(
                "wait() expected a list of ray.ObjectRef or ray.ObjectRefGenerator, got list containing "
                f"{type(item)}"
            )
    return waitables


class _NextItem:
    """A generator as `wait` sees it: pending until its next item, or its end, is there.

    It looks like a ref and its entry at once.
    """

    __slots__ = ("call", "generator", "id", "owner", "stream")

    def __init__(self, generator: Any) -> None:
        self.generator = generator
        self.stream = generator._stream
        self.id = generator._completed.binary()
        self.owner = None
        self.call = None

    @property
    def _entry(self) -> _NextItem:
        return self

    @property
    def status(self) -> int:
        from spoke.core.refs import PENDING, VALUE

        return VALUE if self.stream.items or self.stream.ended else PENDING

    @property
    def waiters(self) -> list[Any]:
        found: list[Any] = self.stream.waiters
        return found


# -- actors, tasks ----------------------------------------------------------------------------------


def kill(actor: ActorHandle, *, no_restart: bool = True) -> None:
    """End an actor at once, whatever it does; its unfinished calls fail with ActorDiedError.

    Args:
        no_restart: False lets an actor with `max_restarts` start again.

    Raises:
        ValueError: not an actor handle.
    """
    if not isinstance(actor, ActorHandle):
        raise ValueError(f"kill() only supported for actors. For tasks, try cancel(). Got: {type(actor)}.")
    client = current.client or engine()
    client.kill(actor._core.actor_id, no_restart)


def cancel(ray_waitable: Any, *, force: bool = False, recursive: bool = True) -> None:
    """Cancel the task that would resolve a ref; nothing happens if it is done.

    Args:
        force: kill the worker instead of raising KeyboardInterrupt in it; not for actor calls.
        recursive: cancel what the task has started, too.

    Raises:
        TypeError: not a ref or generator.
        ValueError: `force` for a call of an actor.
    """
    from spoke.streams import ObjectRefGenerator

    ref = ray_waitable._completed if isinstance(ray_waitable, ObjectRefGenerator) else ray_waitable
    if type(ref) is not (_ref_type or _load_ref_type()):
        raise TypeError(
            f"cancel() only supported for object refs. For actors, try kill(). Got: {type(ray_waitable)}."
        )
    client = current.client or engine()
    client.cancel(ref, force, recursive)


def get_actor(name: str, namespace: str | None = None) -> ActorHandle:
    """The handle of a named actor.

    Raises:
        ValueError: no living actor has this name in the namespace (default: this job's).
    """
    if not name:
        raise ValueError("Please supply a non-empty value to get_actor")
    check_name(name, "The name of an actor")
    if namespace is not None:
        check_namespace(namespace)
    return find_actor(name, namespace)


# -- the cluster ------------------------------------------------------------------------------------


def _connected() -> Any:
    """The engine; facts about the cluster do not start one.

    Raises:
        RaySystemError: `init` was not called.
    """
    if current.client is None:
        from spoke.lifecycle import not_started

        raise not_started()
    return current.client


def nodes() -> list[dict[str, Any]]:
    """One dict per node, dead ones included: NodeID, Alive, NodeManagerAddress, Resources, Labels, ..."""
    return list(_connected().request("nodes"))


def cluster_resources() -> dict[str, float]:
    """Resources of all living nodes by name."""
    return dict(_connected().request("cluster_resources"))


def available_resources() -> dict[str, float]:
    """Resources that nobody holds now, by name; exhausted ones are absent or 0."""
    return dict(_connected().request("available_resources"))


def get_gpu_ids() -> list[Any]:
    """The GPUs assigned to the running task or actor.

    Numbers; where the node was started with CUDA_VISIBLE_DEVICES, the texts that it names them by.
    """
    from spoke.runtime_context import assigned_gpu_ids

    return assigned_gpu_ids()


def timeline(filename: str | None = None) -> list[dict[str, Any]] | None:
    """The calls that the cluster's workers remember, as Chrome trace events: returned, or written to a file.

    Raises:
        RaySystemError: this process is in no cluster; OSError: the file cannot be written.
    """
    _connected()
    from spoke.util.state.timeline import events, write

    found = events()
    if filename is None:
        return found
    write(filename, found)
    return None
