"""Remote functions and actor handles: what ``.remote()`` is called on.

Rules of this module: no protocol here.  A call is checked against the signature, then handed to the
engine of the process; between the user's line and the engine there is one Python frame.  Options were
parsed at decoration, so a call builds nothing that it does not send.

An actor handle is a `Core` (the actor's id, the reference that keeps it alive, its `ActorMeta`) and a
cache of method stubs.  Stubs hold the core and not the handle: no reference cycle, so dropping the
last handle ends the actor at once.
"""

from __future__ import annotations

from types import FunctionType, GenericAlias
from typing import TYPE_CHECKING, Any, NoReturn

from spoke import current
from spoke.actormeta import INVOCATION_DECORATOR, ActorMeta, meta_from_blob
from spoke.envs.resolving import resolver
from spoke.exporting import Exported
from spoke.options import MethodOptions, TaskOptions, check_name
from spoke.signature import is_coroutine, is_generator, signature_of

if TYPE_CHECKING:
    from spoke.client import Client
    from spoke.objectref import ObjectRef


# -- the engine of this process ---------------------------------------------------------------------


def engine() -> Client:
    """The engine; a program that never called `init` does it with its first remote call."""
    client = current.client
    if client is None:
        from spoke import lifecycle

        lifecycle.init_by_first_use()
        client = current.client
        assert client is not None
    return client


# -- remote functions -------------------------------------------------------------------------------


class RemoteFunction:
    """A function that runs in the cluster: ``f.remote(*args, **kwargs)`` gives an ObjectRef.

    Made by `remote`.  ``f.options(num_gpus=1)`` is the same function with other options.
    """

    def __new__(cls, function: FunctionType, given: dict[str, Any]) -> RemoteFunction:
        return object.__new__(_DecoratedFunction if hasattr(function, INVOCATION_DECORATOR) else cls)

    def __init__(self, function: FunctionType, given: dict[str, Any]) -> None:
        if is_coroutine(function):
            raise ValueError(
                "'async def' should not be used for remote tasks: wrap the coroutine in a plain function "
                "with asyncio.run(), or make it a method of an actor"
            )
        self._function = function
        self._default_options = dict(given)
        self._name = function.__name__
        self._options = TaskOptions(given, is_generator=is_generator(function), what=function.__name__)
        self._signature: Any = None
        self._shared = Exported(function)
        self._prepare()
        self.__doc__ = function.__doc__
        self.__module__ = function.__module__
        self.__name__ = function.__name__
        self.__qualname__ = function.__qualname__
        self.__wrapped__ = function

    def _prepare(self) -> None:
        """What every call needs of the options, computed once."""
        options = self._options
        travel: dict[str, Any] = {**options.pace}
        if options.name:
            travel["name"] = options.name
        self._travel = travel or None
        self._key: Any = None
        self._spec: dict[str, Any] = {}
        self._spec_env: Any = None
        self._spec_group: bytes | None = None

    def remote(self, *args: Any, **kwargs: Any) -> Any:
        """Start the function somewhere in the cluster.

        Returns an ObjectRef; a list of them for ``num_returns`` above 1, None for 0, an
        ObjectRefGenerator for a generator function.

        Raises:
            TypeError: the arguments do not fit the function, or cannot be serialized.
        """
        signature = self._signature
        if signature is None:
            signature = self._signature = signature_of(self._function)
        if kwargs or not signature.low <= len(args) <= signature.high:
            signature.check(args, kwargs)
        client = current.client or engine()
        options = self._options
        shared = self._shared
        if shared.blob is None:
            shared.export()
        submitter = client.submitter
        if shared.function_id not in submitter.functions:
            submitter.functions[shared.function_id] = shared.pickled()
        if self._spec_env is not client.job_env or self._spec_group != client.captured_group:
            self._schedule(client)
        try:
            return submitter.submit_task(
                shared.function_id,
                self._key,
                self._spec,
                args,
                kwargs,
                options.num_returns,
                options.name or self._name,
                options.max_retries,
                options.retry_on,
                self._travel,
            )
        except TypeError as error:
            raise restated(error, self._function) from error.__cause__

    def _schedule(self, client: Client) -> None:
        """The scheduling class of this function under this client's job environment and group."""
        spec = self._options.scheduling_spec(client.job_env, resolver(client))
        group = client.captured_group
        if group is not None and self._options.inherits_group:
            spec = {**spec, "strategy": {"kind": "group", "group_id": group, "index": -1, "capture": True}}
        self._spec = spec
        self._spec_env = client.job_env
        self._spec_group = group
        self._key = spec_key(spec)

    def options(self, **task_options: Any) -> RemoteFunction:
        """The same function with these options on top of its own.

        Raises:
            ValueError, TypeError: an unknown option, or a wrong value.
        """
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__)
        other._options = self._options.updated(task_options, self._function.__name__)
        other._prepare()
        return other

    def bind(self, *args: Any, **kwargs: Any) -> Any:
        """A node of a graph that stands for a call; see `spoke.dag`."""
        from spoke.dag.nodes import FunctionNode

        return FunctionNode.of(self, args, kwargs, self._options.given)

    def _remote(self, args: Any = (), kwargs: Any = None, **task_options: Any) -> Any:
        """`options` and `remote` in one call."""
        function = self.options(**task_options) if task_options else self
        return function.remote(*(args or ()), **(kwargs or {}))

    @property
    def function_id(self) -> bytes:
        """16 bytes that name the function's pickled form."""
        if self._shared.blob is None:
            self._shared.export()
        return self._shared.function_id

    def pickled(self) -> bytes:
        """The function as bytes for other processes; made at the first use."""
        return self._shared.pickled()

    def __call__(self, *args: Any, **kwargs: Any) -> NoReturn:
        name = f"{self._function.__module__}.{self._name}"
        raise TypeError(
            f"Remote functions cannot be called directly. Instead of running '{name}()', "
            f"try '{name}.remote()'."
        )

    def __repr__(self) -> str:
        return f"RemoteFunction({self._function.__module__}.{self._name})"

    def __reduce__(self) -> tuple[Any, ...]:
        return RemoteFunction, (self._function, self._options.given)


class _DecoratedFunction(RemoteFunction):
    """One whose function says what is done around a submission, in its `__ray_invocation_decorator__`."""

    def remote(self, *args: Any, **kwargs: Any) -> Any:
        """What the decorated submission returns."""
        submit = super().remote
        decorator = getattr(self._function, INVOCATION_DECORATOR)
        return decorator(lambda args, kwargs: submit(*args, **kwargs))(args, kwargs)


def restated(error: TypeError, owner: Any, method: str = "") -> TypeError:
    """What the user reads where an argument does not pickle."""
    from spoke import codec

    name = f"{owner.__module__}.{owner.__qualname__}" if owner is not None else ""
    whole = ".".join(part for part in (name, method) if part)
    return codec.restated(error, f"the argument {{}} for a task or actor {whole}")


def spec_key(spec: dict[str, Any]) -> str:
    """Equal texts for specs that mean the same."""
    parts = []
    for name in sorted(spec):
        value = spec[name]
        parts.append((name, sorted(value.items()) if type(value) is dict else value))
    return repr(parts)


# -- actor handles ----------------------------------------------------------------------------------


_STATES = {"PENDING": 1, "STARTING": 1, "PENDING_CREATION": 1, "ALIVE": 2, "RESTARTING": 3, "DEAD": 4}


class Core:
    """An actor as calls need it: its id, what keeps it alive, and its class's methods.

    `life` is counted like any object, and the actor ends with its last reference; a `weak` core was
    looked up by name, or by the actor itself, and has some other object in its place.
    """

    __slots__ = ("actor_id", "life", "meta", "weak")

    def __init__(self, actor_id: bytes, life: ObjectRef[Any], meta: ActorMeta, weak: bool = False) -> None:
        self.actor_id = actor_id
        self.life = life
        self.meta = meta
        self.weak = weak


class ActorMethod:
    """A method of an actor: ``handle.method.remote(*args, **kwargs)`` gives an ObjectRef."""

    __slots__ = ("_actor_id", "_core", "_entry", "_high", "_low", "_name", "_num_returns", "_options",
                 "_pending", "_retries", "_retry_on", "_signature", "_travel")  # fmt: skip

    def __init__(self, core: Core, name: str, options: MethodOptions, signature: Any) -> None:
        self._core = core
        self._actor_id = core.actor_id
        self._entry = core.life._entry
        self._name = name
        self._options = options
        self._signature = signature
        self._low = signature.low
        self._high = signature.high
        self._num_returns = options.num_returns
        meta = core.meta
        retries = options.max_task_retries
        self._retries = meta.max_task_retries if retries is None else retries
        self._retry_on = options.retry_on
        self._pending = meta.max_pending_calls
        travel: dict[str, Any] = {**options.pace}
        if options.concurrency_group:
            travel["concurrency_group"] = options.concurrency_group
        if options.tensor_transport:
            travel["tensor_transport"] = options.tensor_transport
        if options.name:
            travel["name"] = options.name
        self._travel = travel or None

    def remote(self, *args: Any, **kwargs: Any) -> Any:
        """Call the method; returns as a remote function does.

        Raises:
            TypeError: the arguments do not fit the method, or cannot be serialized.
            PendingCallsLimitExceeded: the actor's `max_pending_calls` are waiting.
        """
        if kwargs or not self._low <= len(args) <= self._high:
            self._signature.check(args, kwargs)
        client = current.client or engine()
        try:
            return client.submitter.call_actor(
                self._actor_id,
                self._entry,
                self._name,
                args,
                kwargs,
                self._num_returns,
                self._retries,
                self._retry_on,
                self._pending,
                self._travel,
            )
        except TypeError as error:
            raise restated(error, None, self._name) from error.__cause__

    def options(self, **options: Any) -> ActorMethod:
        """The same method with these options on top of its own.

        Raises:
            ValueError, TypeError: an unknown option, or a wrong value.
        """
        return type(self)(self._core, self._name, self._options.updated(options), self._signature)

    def bind(self, *args: Any, **kwargs: Any) -> Any:
        """A node of a graph that stands for a call, one per return; see `spoke.dag`.

        Raises:
            TypeError: the arguments do not fit the method.
        """
        from spoke.dag.nodes import bind_method

        self._signature.check(args, kwargs)
        return bind_method(ActorHandle(self._core), self, args, kwargs)

    def _remote(self, args: Any = (), kwargs: Any = None, **options: Any) -> Any:
        """`options` and `remote` in one call."""
        method = self.options(**options) if options else self
        return method.remote(*(args or ()), **(kwargs or {}))

    def __call__(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise TypeError(
            f"Actor methods cannot be called directly. Instead of running 'object.{self._name}()', "
            f"try 'object.{self._name}.remote()'."
        )

    def __repr__(self) -> str:
        return f"ActorMethod({self._core.meta.class_name}.{self._name})"

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild_method, (ActorHandle(self._core), self._name, self._options)


class _DecoratedMethod(ActorMethod):
    """As `_DecoratedFunction`."""

    __slots__ = ()

    def remote(self, *args: Any, **kwargs: Any) -> Any:
        """What the decorated call returns."""
        submit = super().remote
        return self._options.decorator(lambda args, kwargs: submit(*args, **kwargs))(args, kwargs)


def _rebuild_method(handle: ActorHandle, name: str, options: MethodOptions) -> ActorMethod:
    method: ActorMethod = getattr(handle, name)
    return type(method)(method._core, name, options, method._signature)


class ActorHandle:
    """A reference to an actor; methods are its attributes.

    Handles are equal when they name the same actor, may be dict keys, and may be passed to tasks and
    other actors.  An actor that is not detached ends when its last handle is gone.
    """

    _core: Core
    _ray_is_cross_language = False
    _ray_enable_tensor_transport: bool | None = None  # clients set it; nothing here depends on it
    __class_getitem__: Any = classmethod(GenericAlias)  # ActorHandle[C], in annotations

    def __init__(self, core: Core) -> None:
        self.__dict__["_core"] = core

    def __getattr__(self, name: str) -> ActorMethod:
        # Called at the first use of a method only: the stub stays in the instance's __dict__.
        core = self.__dict__.get("_core")
        found = core.meta.methods.get(name) if core is not None else None
        if found is None or core is None:
            raise AttributeError(f"'ActorHandle' object has no attribute '{name}'")
        kind = ActorMethod if found[0].decorator is None else _DecoratedMethod
        stub = self.__dict__[name] = kind(core, name, *found)
        return stub

    @property
    def _actor_id(self) -> Any:
        from spoke.ids import ActorID

        return ActorID(self._core.actor_id)

    _ray_actor_id = _actor_id

    def init_rdma(self, timeout: float = 5.0) -> bool:
        """Let the calls of this process to the actor, and their answers, go over RDMA.

        Args:
            timeout: limit in seconds, the actor's start included.

        Returns:
            True once they do; False where that cannot be: no device on one side, an actor of this node, a
            dead one, or not in time.  Calls then go on over the socket; `_transport` says why.
        """
        client = current.client or engine()
        return client.rdma.pipes.init(self._core.actor_id, timeout)

    @property
    def _transport(self) -> tuple[str, str]:
        """("rdma", "") or ("socket", why not RDMA): how calls to the actor travel."""
        client = current.client or engine()
        return client.rdma.pipes.path(self._core.actor_id)

    def _get_local_state(self) -> int | None:
        """The state that this process has heard of, as a number of Ray's ``ActorState``; None for none."""
        return _STATES.get(engine().actor_state(self._core.actor_id))

    def __dir__(self) -> list[str]:
        return sorted({"__init__", *self._core.meta.methods})

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ActorHandle) and self._core.actor_id == other._core.actor_id

    def __hash__(self) -> int:
        return hash(self._core.actor_id)

    def __repr__(self) -> str:
        core = self.__dict__.get("_core")
        return f"Actor({core.meta.class_name}, {core.actor_id.hex()})" if core else "Actor()"

    def __reduce__(self) -> tuple[Any, ...]:
        core = self._core
        if core.weak:
            return rebuild_weak_handle, (core.actor_id, core.meta.blob)
        return rebuild_handle, (core.life, core.meta.blob)

    def __copy__(self) -> ActorHandle:
        return ActorHandle(self._core)

    def __deepcopy__(self, memo: Any) -> ActorHandle:
        return ActorHandle(self._core)


def rebuild_handle(life: ObjectRef[Any], blob: bytes) -> ActorHandle:
    """The handle that was pickled, or that the hub described, in this process."""
    return ActorHandle(Core(life.binary()[:16], life, meta_from_blob(blob)))


def rebuild_weak_handle(actor_id: bytes, blob: bytes) -> ActorHandle:
    """A handle that does not keep its actor alive."""
    client = current.client or engine()
    return ActorHandle(Core(actor_id, client.put(None), meta_from_blob(blob), weak=True))


# -- looking actors up -------------------------------------------------------------------------------


def find_actor(name: str, namespace: str | None = None) -> ActorHandle:
    """The handle of a named actor, which does not keep it alive; see `spoke.get_actor`."""
    check_name(name, "The name of an actor")
    client = engine()
    return _found(client.request("get_actor", name=name, namespace=namespace or client.namespace))


def _found(found: dict[str, Any]) -> ActorHandle:
    if "life" in found:  # of an engine that counts handles itself
        return rebuild_handle(found["life"], found["meta"])
    return rebuild_weak_handle(found["actor_id"], found["meta"])


def own_handle() -> ActorHandle:
    """The handle of the actor that runs in this process, which never keeps it alive."""
    return _found(engine().own_actor())
