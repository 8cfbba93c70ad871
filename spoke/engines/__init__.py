"""Engines: what carries the calls of a program.  There are two, Spoke's own cluster and real Ray.

Rules of this package: the face (handles, `api`, gangs, `spoke.util`) asks `current.client` for what `Engine`
and `Groups` name, and does not know which engine that is.  `spoke.client.Client` is one, `RayClient` of this
package the other; real Ray is imported by `realray` alone, when it is asked for.  What an engine cannot carry
raises `EngineUnsupported` at the call that needs it and names what to use instead.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Protocol

from spoke import config

if TYPE_CHECKING:
    from spoke.objectref import ObjectRef

NAMES: Final = ("spoke", "ray")
RAY_SCHEME: Final = "ray://"


class Groups(Protocol):
    """Placement groups and gangs, as ``client.hub`` offers them."""

    group_states: dict[bytes, tuple[str, dict[str, Any]]]  # of groups watched: state and description

    def create_group(self, spec: dict[str, Any], named: bool) -> bytes:
        """Reserve bundles; the id of the group.  With `named` a name that is taken raises RaySystemError."""

    def wait_group(self, group_id: bytes, timeout: float | None) -> bool:
        """Whether the group is placed within `timeout` seconds."""

    def group_ready(self, group_id: bytes, value: Any) -> ObjectRef[Any]:
        """A ref to `value` that resolves when the group is placed."""

    def on_group(self, group_id: bytes, callback: Any) -> None:
        """Call ``callback.resolved(None)`` at the next change of a gang; ``client.lock`` held."""

    def remove_group(self, group_id: bytes) -> None:
        """Give the bundles back; what runs in them is killed.  May be repeated."""


class Submits(Protocol):
    """Calls, as ``client.submitter`` takes them; options are those of `spoke.options`, in plain form."""

    functions: dict[bytes, bytes]  # pickled functions by id, set before they are submitted

    def submit_task(
        self, function_id: bytes, spec_key: Any, spec: dict[str, Any], args: tuple[Any, ...],
        kwargs: dict[str, Any], num_returns: int, name: str, max_retries: int,
        retry_on: Any = None, options: dict[str, Any] | None = None,
    ) -> Any:  # fmt: skip
        """A ref, a list of refs, a generator, or None for ``num_returns=0``."""

    def create_actor(
        self, actor_id: bytes, spec: dict[str, Any], blob: bytes, args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:  # fmt: skip
        """The entry that counts the actor's handles; its id begins with the actor's, of whoever made it."""

    def call_actor(
        self, actor_id: bytes, handle: Any, method: str, args: tuple[Any, ...], kwargs: dict[str, Any],
        num_returns: int = 1, max_retries: int = 0, retry_on: Any = None, max_pending: int = -1,
        options: dict[str, Any] | None = None,
    ) -> Any:  # fmt: skip
        """As `submit_task`; `handle` is the entry of `create_actor`."""


class Engine(Protocol):
    """What the face asks of the engine of its process."""

    namespace: str
    job_env: dict[str, Any]  # runtime environment that new calls inherit, where the engine does not merge
    is_worker: bool
    closed: str | None  # why nothing can be called any more
    lock: Any  # held while callbacks of groups are set and called
    address: Any  # [process id, node id, host, port] of this process

    @property
    def detached_actors(self) -> bool:
        """Are actors that do not say detached?"""

    @property
    def captured_group(self) -> bytes | None:
        """The group that new calls of the running code go to."""

    @property
    def submitter(self) -> Submits:
        """Takes calls."""

    @property
    def hub(self) -> Groups:
        """Reserves groups."""

    @property
    def runtime_context(self) -> dict[str, Any]:
        """Facts by the names that `spoke.runtime_context` uses."""

    def get_one(self, ref: ObjectRef[Any], timeout: float | None) -> Any:
        """The value of a ref, or its error raised."""

    def get(self, refs: list[ObjectRef[Any]], timeout: float | None) -> list[Any]:
        """Values in order; the first error is raised."""

    def put(self, value: Any) -> ObjectRef[Any]:
        """Store a value."""

    def wait(self, refs: list[Any], num_returns: int, timeout: float | None) -> tuple[list[Any], list[Any]]:
        """Those that are resolved, at most `num_returns`, and the others."""

    def when_resolved(self, ref: ObjectRef[Any], waiter: Any) -> None:
        """Call ``waiter.resolved(entry)`` from any thread once the object is known."""

    def kill(self, actor_id: bytes, no_restart: bool) -> None:
        """End an actor."""

    def actor_state(self, actor_id: bytes) -> str:
        """The state of an actor as this process knows it, "DEAD" once it is dead for good."""

    def cancel(self, ref: ObjectRef[Any], force: bool, recursive: bool) -> None:
        """Cancel a call."""

    def own_actor(self) -> dict[str, Any]:
        """What the question `get_actor` answers, for the actor that runs here."""

    def request(self, what: str, timeout: float | None = None, **args: Any) -> Any:
        """A question about the cluster, by name."""

    def close(self) -> None:
        """Leave the cluster."""


def chosen(engine: str | None, address: str | None) -> str:
    """The engine that a program means: by argument, by address, or by SPOKE_ENGINE.

    Raises:
        ValueError: there is no such engine.
    """
    from spoke.engines import realray

    given = engine if engine is not None else config.get("engine")
    if given is None and address is not None and address.startswith(RAY_SCHEME) and not realray.is_switched():
        return "ray"
    if given is None and realray.in_worker():
        return "ray"  # `init` in a task of a program that runs on Ray
    if given not in (None, *NAMES):
        raise ValueError(f"engine must be 'spoke' or 'ray', not {given!r}")
    return str(given or "spoke")
