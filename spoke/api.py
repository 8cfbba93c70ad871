"""The functions of the public surface: init, remote, get, wait, put, kill, cancel, ...

Rules of this module: arguments are checked here, the engine does the work.  Nothing heavy is imported
before it is used.
"""

from __future__ import annotations

from collections.abc import Callable
from types import FunctionType
from typing import TYPE_CHECKING, Any, TypeVar, overload

from spoke import config, current
from spoke.handles import ActorClass, ActorHandle, RemoteFunction, engine, find_actor
from spoke.options import ACTOR, METHOD, TASK, MethodOptions, check_name, check_namespace, check_quantity
from spoke.signature import is_generator

if TYPE_CHECKING:
    from spoke.objectref import ObjectRef

T = TypeVar("T")

# Accepted by `init` for compatibility and without effect here: what they turn does not exist in Spoke.
_IGNORED = frozenset({
    "_cgroup_path", "_driver_object_store_memory", "_enable_object_reconstruction", "_memory",
    "_metrics_export_port", "_node_ip_address", "_node_name", "_object_spilling_directory",
    "_plasma_directory", "_redis_max_memory", "_redis_password", "_redis_username", "_skip_env_hook",
    "_system_config", "_temp_dir", "_tracing_startup_hook", "cgroup_path", "enable_resource_isolation",
    "proxy_server_url", "system_reserved_cpu", "system_reserved_memory",
})  # fmt: skip


class Context:
    """What `init` returns: readable facts about the connection; also a mapping and a context manager."""

    __slots__ = ("address_info",)

    def __init__(self, address_info: dict[str, Any]) -> None:
        self.address_info = address_info

    @property
    def dashboard_url(self) -> str:
        """Address of the dashboard, or an empty text."""
        return str(self.address_info.get("webui_url") or "")

    @property
    def python_version(self) -> str:
        """Version of the interpreter."""
        import sys

        return ".".join(str(part) for part in sys.version_info[:3])

    @property
    def ray_version(self) -> str:
        """The version of Ray whose interface this is."""
        from spoke import RAY_VERSION

        return RAY_VERSION

    def __getitem__(self, key: str) -> Any:
        return self.address_info[key]

    def __contains__(self, key: object) -> bool:
        return key in self.address_info

    def __len__(self) -> int:
        return len(self.address_info)

    def __iter__(self) -> Any:
        return iter(self.address_info)

    def __enter__(self) -> Context:
        return self

    def __exit__(self, *exc: object) -> None:
        shutdown()

    def disconnect(self) -> None:
        """Leave the cluster."""
        shutdown()

    def __repr__(self) -> str:
        info = self.address_info
        return f"Context(address={info.get('address')!r}, node_id={info.get('node_id')!r})"


def init(
    address: str | None = None,
    *,
    num_cpus: float | None = None,
    num_gpus: float | None = None,
    resources: dict[str, float] | None = None,
    labels: dict[str, str] | None = None,
    object_store_memory: int | None = None,
    local_mode: bool = False,
    ignore_reinit_error: bool = False,
    include_dashboard: bool | None = None,
    dashboard_host: str = "127.0.0.1",
    dashboard_port: int | None = None,
    job_config: Any = None,
    configure_logging: bool = True,
    logging_level: Any = "info",
    logging_format: str | None = None,
    logging_config: Any = None,
    log_to_driver: bool | None = None,
    namespace: str | None = None,
    runtime_env: dict[str, Any] | None = None,
    **kwargs: Any,
) -> Context:
    """Start a cluster in this process's care, or join one.

    Args:
        address: None joins the cluster of SPOKE_ADDRESS (or RAY_ADDRESS) if set and starts one otherwise;
            "local" always starts one; "auto" joins the one that runs on this machine; "host:port" joins.
        num_cpus, num_gpus, resources, labels, object_store_memory: of the node of a new cluster; by default
            the CPUs this process may use, the GPUs found, and 30 % of memory in bytes.
        ignore_reinit_error: a second `init` returns the first one's context instead of raising.
        namespace: for named actors; default a namespace of this job's own.
        runtime_env: for all workers of this job.

    Raises:
        RuntimeError: called twice, or an unknown argument.
        ConnectionError: there is no cluster at the address.
        ValueError, TypeError: a wrong argument.
    """
    _check_unknown(kwargs)
    if current.client is not None:
        if ignore_reinit_error:
            return _context()
        raise RuntimeError(
            "Maybe you called init twice by accident? Give 'ignore_reinit_error=True' or call 'shutdown()'."
        )
    from spoke import driver
    from spoke import runtime_env as environments

    if namespace is not None:
        check_namespace(namespace)
    if runtime_env is not None and not isinstance(runtime_env, dict):
        raise TypeError(f"runtime_env must be a dict or RuntimeEnv, got {type(runtime_env)}")
    job_env = dict(getattr(job_config, "runtime_env", None) or {}) or dict(runtime_env or {})
    options: dict[str, Any] = {
        "namespace": namespace or getattr(job_config, "ray_namespace", None) or config.get("namespace"),
        "runtime_env": environments.checked(environments.merged(_env_of_job(), job_env)),
        "log_to_driver": config.get("log_to_driver") if log_to_driver is None else bool(log_to_driver),
        "log_level": logging_level if isinstance(logging_level, str) else config.get("log_level"),
        "temp_dir": kwargs.get("_temp_dir"),
    }
    node = {
        "num_cpus": num_cpus,
        "num_gpus": num_gpus,
        "resources": resources,
        "labels": labels,
        "object_store_memory": object_store_memory,
    }
    target = config.get("address") if address is None else address
    if target is None or target == "local":
        options.update(_node_options(node))
        driver.start_embedded(options)
    else:
        given = [name for name in ("num_cpus", "num_gpus", "resources", "labels", "object_store_memory")
                 if node[name] is not None]  # fmt: skip
        if given and address is not None:
            raise ValueError(
                f"When connecting to an existing cluster, {' and '.join(given)} must not be provided."
            )
        driver.join(_plain_address(target), options)
    return _context()


def _check_unknown(kwargs: dict[str, Any]) -> None:
    unknown = [name for name in kwargs if name not in _IGNORED]
    if unknown:
        raise RuntimeError(f"Unknown keyword argument(s): {', '.join(unknown)}")


def _env_of_job() -> dict[str, Any]:
    """The runtime environment that a submitted job's driver was started with."""
    text = config.get("runtime_env")
    if not text:
        return {}
    import json

    found = json.loads(text)
    return found if isinstance(found, dict) else {}


def _node_options(node: dict[str, Any]) -> dict[str, Any]:
    options: dict[str, Any] = {}
    for name in ("num_cpus", "num_gpus"):
        value = node[name] if node[name] is not None else config.get(name)
        options[name] = None if value is None else check_quantity(name, value)
    custom = node["resources"] or {}
    if not isinstance(custom, dict):
        raise TypeError(f"resources must be a dict, got {type(custom)}")
    if "CPU" in custom or "GPU" in custom:
        raise ValueError("Use 'num_cpus' and 'num_gpus' instead of 'CPU' and 'GPU' in 'resources'")
    options["resources"] = {str(name): check_quantity(str(name), amount) for name, amount in custom.items()}
    options["labels"] = {str(name): str(value) for name, value in (node["labels"] or {}).items()}
    memory = node["object_store_memory"]
    if memory is not None and (not isinstance(memory, int) or memory <= 0):
        raise ValueError(f"object_store_memory must be a positive number of bytes, not {memory!r}")
    options["object_store_memory"] = config.get("object_store_memory") if memory is None else memory
    return options


def _plain_address(address: str) -> str:
    """``host:port`` or "auto"; the schemes of Ray and Spoke addresses are dropped."""
    if not isinstance(address, str) or not address:
        raise ValueError(f"address must be a text such as 'auto' or 'host:port', not {address!r}")
    plain = address.partition("://")[2] if "://" in address else address
    if plain == "auto":
        return plain
    host, separator, port = plain.rpartition(":")
    if not separator or not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise ValueError(f"Malformed address: {address!r}. Expected '<host>:<port>', 'auto' or 'local'.")
    return plain


def _context() -> Context:
    client = engine()
    facts = client.runtime_context
    address = facts.get("address") or ""
    return Context({
        "address": address,
        "gcs_address": address,
        "node_id": bytes(facts["node_id"]).hex(),
        "node_ip_address": address.rpartition(":")[0] or "127.0.0.1",
        "session_dir": facts.get("temp_dir") or facts.get("log_dir") or "",
        "namespace": facts.get("namespace"),
        "webui_url": facts.get("dashboard") or "",
    })  # fmt: skip


def shutdown(*, wait_for_processes: bool = False, _exiting_interpreter: bool = False) -> None:
    """Leave the cluster; one that `init` started ends with all its processes.  May be called twice."""
    client = current.client
    if client is not None:
        try:
            client.close()
        finally:
            current.client = None


def is_initialized() -> bool:
    """Is this process connected to a cluster?"""
    return current.client is not None


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

_ref_type: Any = None  # ObjectRef, whose module `import spoke` leaves for later


def _load_ref_type() -> Any:
    global _ref_type
    from spoke.objectref import ObjectRef

    _ref_type = ObjectRef
    return ObjectRef


def get(object_refs: Any, *, timeout: float | None = None, _use_object_store: bool = False) -> Any:
    """The value of a ref, or the list of values of a list of refs.

    Args:
        timeout: seconds to wait in all; 0 takes only what is there, None waits for ever.

    Raises:
        GetTimeoutError: not there in time.
        RayTaskError and the class of the user's exception: the task raised.
        RayActorError, WorkerCrashedError, ObjectLostError, ...: it cannot be computed.
        ValueError, TypeError: not a ref or a list of refs.
    """
    client = current.client or engine()
    ref_type = _ref_type or _load_ref_type()
    if timeout is not None and timeout < 0:
        timeout = None
    if type(object_refs) is ref_type:
        return client.get([object_refs], timeout)[0]
    if isinstance(object_refs, list):
        for ref in object_refs:
            if type(ref) is not ref_type:
                return _get_unusual(object_refs, timeout)
        return client.get(object_refs, timeout)
    return _get_unusual(object_refs, timeout)


def _get_unusual(given: Any, timeout: float | None) -> Any:
    """Results of compiled graphs (which bring their own ``_get``), generators, and what is wrong."""
    from spoke.streams import ObjectRefGenerator

    if isinstance(given, ObjectRefGenerator):
        return given
    if hasattr(given, "_compiled_get"):
        return given._compiled_get(timeout)
    if isinstance(given, list):
        if all(hasattr(item, "_compiled_get") for item in given):
            return [item._compiled_get(timeout) for item in given]
        wrong = next(item for item in given if type(item) is not _ref_type)
        raise TypeError(f"Attempting to call `get` on the value {wrong!r}, which is not an ObjectRef.")
    raise ValueError(
        f"Invalid type of object refs, {type(given)}, is given. "
        "'object_refs' must either be an ObjectRef or a list of ObjectRefs."
    )


def put(value: T, *, _owner: Any = None, _tensor_transport: str | None = None) -> ObjectRef[T]:
    """Store a value in the cluster; the object lives as long as refs to it.

    Raises:
        TypeError: `value` is an ObjectRef, or cannot be serialized.
        ObjectStoreFullError: there is no room for it.
    """
    client = current.client or engine()
    if type(value) is (_ref_type or _load_ref_type()):
        raise TypeError(
            "Calling 'put' on an ObjectRef is not allowed. If you really want to do this, wrap it in a list."
        )
    return client.put(value)


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
        raise TypeError(f"wait() expected a list of ObjectRef or ObjectRefGenerator, got {what}")
    waitables = _waitables(ray_waitables)
    if timeout is not None and timeout < 0:
        raise ValueError(f"The 'timeout' argument must be nonnegative. Received {timeout}")
    if not ray_waitables:
        return [], []
    if len(set(ray_waitables)) != len(ray_waitables):
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
                f"wait() expected a list of ObjectRef or ObjectRefGenerator, got list containing {type(item)}"
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


def nodes() -> list[dict[str, Any]]:
    """One dict per node, dead ones included: NodeID, Alive, NodeManagerAddress, Resources, Labels, ..."""
    return list(engine().request("nodes"))


def cluster_resources() -> dict[str, float]:
    """Resources of all living nodes by name."""
    return dict(engine().request("cluster_resources"))


def available_resources() -> dict[str, float]:
    """Resources that nobody holds now, by name; exhausted ones are absent or 0."""
    return dict(engine().request("available_resources"))


def get_gpu_ids() -> list[Any]:
    """The GPUs assigned to the running task or actor, as numbers (UUID texts where so started)."""
    from spoke.runtime_context import assigned_gpu_ids

    return assigned_gpu_ids()


def timeline(filename: str | None = None) -> list[dict[str, Any]] | None:
    """The recorded calls as Chrome trace events: returned, or written to a JSON file."""
    events = list(engine().request("timeline"))
    if filename is None:
        return events
    import json

    with open(filename, "w", encoding="utf-8") as file:
        json.dump(events, file)
    return None
