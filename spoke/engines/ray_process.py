"""How a process gets the Ray engine: a driver by `start`, a worker of the cluster by what reaches it.

Rules of this module: what is pickled for workers refers to this module by name, so Spoke must be importable
there.  Every way in (a function, an actor's class, a ref) enters the engine before the user's code runs.
"""

from __future__ import annotations

import atexit
from typing import Any

from spoke import config, current
from spoke.engines import realray
from spoke.engines.ray_client import RayClient
from spoke.engines.ray_errors import unsupported
from spoke.engines.ray_refs import LIFE_SUFFIX
from spoke.engines.ray_submit import Carriers
from spoke.objectref import ObjectRef


def start(address: str | None, options: dict[str, Any], given: dict[str, Any]) -> RayClient:
    """Start a Ray cluster, or join the one at the address.

    A program that has called real ``ray.init`` itself is connected by that, and not ended by `close`.

    Args:
        address: None leaves it to Ray, which reads RAY_ADDRESS.
        options: namespace, runtime_env, log_to_driver.
        given: more arguments of ``ray.init``; None leaves them at Ray's defaults.

    Raises:
        EngineUnsupported: an argument that this engine cannot carry.
        RuntimeError: ``import ray`` is Spoke here; or what real Ray raises.
        ImportError: there is no Ray.
        ConnectionError: no cluster is at the address.
    """
    ray = realray.load()
    if ray.is_initialized():
        return attach(ray)
    if given.get("local_mode"):
        raise unsupported("local_mode", "leave the engine out: Spoke runs calls inline by itself")
    told = {**given, **{name: options[name] or None for name in ("namespace", "runtime_env")}}
    told["log_to_driver"] = options["log_to_driver"]
    address = config.get("address") if address is None else address
    ray.init(address, **{name: value for name, value in told.items() if value is not None})
    atexit.register(_at_exit)
    return _connect(RayClient(ray, CARRIERS, True))


def attach(ray: Any = None) -> RayClient:
    """Connect Spoke with the Ray that this process is connected to."""
    return _connect(RayClient(ray or realray.load(), CARRIERS, False))


def _connect(made: RayClient) -> RayClient:
    client: Any = made
    current.client = client
    return made


def _at_exit() -> None:
    client: Any = current.client
    if isinstance(client, RayClient):
        current.client = None
        client.close()


def enter() -> RayClient:
    """The engine of this process; a Ray worker gets one at its first need."""
    client: Any = current.client
    return attach() if client is None else client


def rebuild(object_id: bytes, owner: tuple[bytes, Any]) -> ObjectRef[Any]:
    """The ref, or the life of an actor, that was pickled."""
    refs = enter().objects
    if object_id.endswith(LIFE_SUFFIX):
        life: Any = refs.life(owner[1])
        return ObjectRef(life)
    return refs.ref(owner[1])


def task(blob: bytes, name: str, is_generator: bool) -> Any:
    """The function that Ray runs for a remote function: same name, same kind."""
    function: Any = None

    def load() -> Any:
        nonlocal function
        if function is None:
            import ray.cloudpickle

            enter()
            function = ray.cloudpickle.loads(blob)
        return function

    def run(*args: Any, **kwargs: Any) -> Any:
        return load()(*args, **kwargs)

    def stream(*args: Any, **kwargs: Any) -> Any:
        # Not `yield from`: Ray sends, which the plain iterators that a user delegates to do not take.
        for item in load()(*args, **kwargs):  # noqa: UP028
            yield item

    made = stream if is_generator else run
    made.__name__ = made.__qualname__ = name
    return made


class Arrival:
    """An attribute of an actor's class, which enters the engine where the class is unpickled."""

    def __init__(self, meta: bytes) -> None:
        self.meta = meta

    def __reduce__(self) -> tuple[Any, ...]:
        return _arrive, (self.meta,)


def _arrive(meta: bytes) -> Arrival:
    enter().actor_meta = meta
    return Arrival(meta)


def actor_class(cls: type, meta: bytes) -> type:
    """The class that Ray makes an actor of: the user's, with an `Arrival`."""
    body = {
        "__spoke_engine__": Arrival(meta),
        "__module__": cls.__module__,
        "__qualname__": cls.__qualname__,
        "__doc__": cls.__doc__,
    }
    return type(cls.__name__, (cls,), body)


CARRIERS = Carriers(task, actor_class, rebuild)
