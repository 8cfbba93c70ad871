"""``init(local_mode=True)``: tasks and actors run inline, in the program itself, for debugging and tests.

Rules of this module: a call runs when it is made, to its end, on the caller's thread; what it gives is an
ordinary object of this process, so `get`, `wait` and refs as arguments are those of any cluster.  Arguments
and results are copied as for another process, and errors have the same types and texts.

What runs beside its caller, or is found from elsewhere, cannot run inline without changing what it gives, and
goes to a worker as always: generators (they may never end), asynchronous and concurrent actors (their calls
wait for each other), named actors (other programs find them).  A worker that calls an inline actor gets
ActorDiedError: give it a name, and it is in a worker too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from spoke import codec, errorpack
from spoke.core.refs import EXCEPTION, PUT_SUFFIX, SYSTEM, VALUE
from spoke.errors import ActorDiedError, RayError
from spoke.objectref import ObjectRef
from spoke.submit import Submitter

if TYPE_CHECKING:
    from spoke.client import Client
    from spoke.core.refs import Entry


class _Inline:
    """An actor of this process."""

    def __init__(self, instance: Any, failure: bytes | None) -> None:
        self.instance = instance
        self.failure = failure  # what every call gets: pickled, once it is dead


class LocalSubmitter(Submitter):
    """Runs what the other sends."""

    def __init__(self, client: Client) -> None:
        super().__init__(client)
        self._actors: dict[bytes, _Inline] = {}
        self._remote_kill = client.kill

    def submit_task(
        self, function_id: bytes, spec_key: Any, spec: dict[str, Any], args: tuple[Any, ...],
        kwargs: dict[str, Any], num_returns: int, name: str, max_retries: int,
        retry_on: Any = None, options: dict[str, Any] | None = None,
    ) -> Any:  # fmt: skip
        """Run a task; see `Submitter.submit_task`."""
        if num_returns < 0:
            return super().submit_task(
                function_id, spec_key, spec, args, kwargs, num_returns, name, max_retries, retry_on, options
            )
        return self._run(codec.loads(self.functions[function_id]), name, args, kwargs, num_returns)

    def create_actor(
        self,
        actor_id: bytes,
        spec: dict[str, Any],
        blob: bytes,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Entry:
        """Make an actor; see `Submitter.create_actor`."""
        concurrent = spec.get("is_async") or (spec.get("max_concurrency") or 1) > 1
        if spec.get("name") or concurrent:
            return super().create_actor(actor_id, spec, blob, args, kwargs)
        name = spec["class_name"]
        try:
            given, named = self._arguments(args, kwargs)
            made = _Inline(codec.loads(blob)(*given, **named), None)
        except RayError as error:
            made = _Inline(None, codec.dumps(error)[0])
        except Exception as error:
            cause = codec.loads(errorpack.pack(f"{name}.__init__", error))
            made = _Inline(None, codec.dumps(ActorDiedError.from_task_error(cause))[0])
        self._actors[actor_id] = made
        client = self._client
        with client.lock:
            entry = client.refs.own(actor_id + b"\xff" * 12)
            entry.status, entry.value = VALUE, []
            entry.local += 1
        return entry

    def call_actor(
        self, actor_id: bytes, handle: Entry, method: str, args: tuple[Any, ...], kwargs: dict[str, Any],
        num_returns: int = 1, max_retries: int = 0, retry_on: Any = None, max_pending: int = -1,
        options: dict[str, Any] | None = None,
    ) -> Any:  # fmt: skip
        """Call a method; see `Submitter.call_actor`."""
        made = self._actors.get(actor_id)
        if made is None:
            return super().call_actor(
                actor_id,
                handle,
                method,
                args,
                kwargs,
                num_returns,
                max_retries,
                retry_on,
                max_pending,
                options,
            )
        if made.failure is not None:
            return self._several(
                [self._failed(SYSTEM, made.failure) for _ in range(abs(num_returns))], num_returns
            )
        if method == "__ray_ready__":
            return self._client.put(True)
        if method == "__ray_terminate__":
            self.kill(actor_id, True)
            return self._client.put(None)
        return self._run(getattr(made.instance, method), method, args, kwargs, num_returns)

    def kill(self, actor_id: bytes, no_restart: bool) -> None:
        """End an actor; see `Client.kill`."""
        made = self._actors.get(actor_id)
        if made is None:
            self._remote_kill(actor_id, no_restart)
            return
        made.instance = None
        made.failure = codec.dumps(ActorDiedError.from_message("The actor was killed by `ray.kill`."))[0]

    # -- running

    def _arguments(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[list[Any], dict[str, Any]]:
        """Copies as another process would get them, top-level refs as their values.

        Raises:
            the error of a ref, TypeError for what does not pickle.
        """
        return [self._copy(value) for value in args], {name: self._copy(one) for name, one in kwargs.items()}

    def _copy(self, value: Any) -> Any:
        client = self._client
        ref = value if isinstance(value, ObjectRef) else client.put(value)
        return client.get([ref], None)[0]

    def _run(self, function: Any, name: str, args: Any, kwargs: Any, num_returns: int) -> Any:
        for value in (*args, *kwargs.values()):
            if not isinstance(value, ObjectRef):
                self._client.put(value)  # what does not pickle is the caller's error, as always
        try:
            given, named = self._arguments(args, kwargs)
        except RayError as error:  # of a ref that it depends on: it does not run
            body = codec.dumps(error)[0]
            return self._several([self._failed(EXCEPTION, body) for _ in range(num_returns)], num_returns)
        try:
            result = function(*given, **named)
            if num_returns == 1:
                return self._client.put(result)
            values = list(result) if num_returns else []
            if len(values) != num_returns:
                text = f"The task returned {len(values)} values, but num_returns={num_returns}"
                raise ValueError(text)
            return self._several([self._client.put(value) for value in values], num_returns)
        except Exception as error:
            body = errorpack.pack(name, error)
            return self._several([self._failed(EXCEPTION, body) for _ in range(num_returns)], num_returns)

    def _several(self, refs: list[Any], num_returns: int) -> Any:
        if num_returns == 0:
            return None
        return refs[0] if len(refs) == 1 else refs

    def _failed(self, status: int, body: bytes) -> Any:
        """A ref that raises."""
        client = self._client
        object_id = client.new_call_id() + PUT_SUFFIX
        with client.lock:
            entry = client.refs.own(object_id)
            client.refs.resolve(entry, status, [body])
            return client.make_ref(entry)


def _has_generators(cls: type) -> bool:
    from spoke.signature import is_generator

    return any(is_generator(getattr(cls, name, None)) for name in dir(cls) if not name.startswith("__"))


def install(client: Client) -> None:
    """From now on this program runs its calls itself."""
    submitter, before = LocalSubmitter(client), client.submitter
    submitter.functions = before.functions  # of calls that go to a worker: one set of tables
    submitter._classes, submitter._creations = before._classes, before._creations
    client.submitter = submitter
    client.kill = submitter.kill  # type: ignore[method-assign]
