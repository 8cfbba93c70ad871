"""A group of equal actors that are called together: ``group.method.remote()`` gives a list of refs."""

from __future__ import annotations

import os
import socket
import warnings
from dataclasses import dataclass, field
from typing import Any, Final

from spoke import absent, api
from spoke.handles import ActorHandle
from spoke.runtime_context import get_runtime_context
from spoke.util import get_node_ip_address
from spoke.util.annotations import RayDeprecationWarning

START_S = 60.0


@dataclass
class ActorMetadata:
    """Where an actor of a group runs."""

    node_id: str
    node_ip: str
    hostname: str
    gpu_ids: list[str] | None
    pid: int = 0


@dataclass
class ActorConfig:
    """What each actor of a group needs."""

    num_cpus: float
    num_gpus: float
    resources: dict[str, float] | None
    init_args: tuple[Any, ...] = ()
    init_kwargs: dict[str, Any] = field(default_factory=dict)


@dataclass
class ActorWrapper:
    """One actor of a group."""

    actor: ActorHandle
    metadata: Any  # an ActorMetadata, or what the class has a method for


_INSTEAD: Final = (
    "ActorGroup is deprecated. For stateless/task processing, use ray.util.multiprocessing; for actors, an "
    "ActorPool."
)


class ActorGroupMethod:
    """A method of all actors of a group."""

    def __init__(self, actor_group: ActorGroup, method_name: str) -> None:
        self.actor_group = actor_group
        self._method_name = method_name

    def __call__(self, *args: Any, **kwargs: Any) -> None:
        name = self._method_name
        raise TypeError(
            "ActorGroup methods cannot be called directly. Instead of running "
            f"'object.{name}()', try 'object.{name}.remote()'."
        )

    def remote(self, *args: Any, **kwargs: Any) -> list[Any]:
        """Call the method of every actor."""
        return [
            getattr(one.actor, self._method_name).remote(*args, **kwargs) for one in self.actor_group.actors
        ]


def _metadata_of(actor: ActorHandle) -> Any:
    """A ref of what the class's `get_actor_metadata` says, or of where the actor runs."""
    own = getattr(actor, "get_actor_metadata", None)
    return own.remote() if own is not None else actor.__ray_call__.remote(_where)


def _where(_actor: Any) -> ActorMetadata:
    context = get_runtime_context()
    return ActorMetadata(
        node_id=context.get_node_id(),
        node_ip=get_node_ip_address(),
        hostname=socket.gethostname(),
        gpu_ids=context.get_accelerator_ids()["GPU"],
        pid=os.getpid(),
    )


class ActorGroup:
    """`num_actors` actors of a plain class, started at once.

    Args:
        actor_cls: the class, not decorated.
        num_actors: how many, at least 1.
        num_cpus_per_actor, num_gpus_per_actor, resources_per_actor: what each needs.
        init_args, init_kwargs: of the constructor.

    Raises:
        ValueError: a number that is not positive, or a negative amount.
        TypeError: `actor_cls` is not a plain class.
    """

    def __init__(
        self,
        actor_cls: type,
        num_actors: int = 1,
        num_cpus_per_actor: float = 1,
        num_gpus_per_actor: float = 0,
        resources_per_actor: dict[str, float] | None = None,
        init_args: tuple[Any, ...] | None = None,
        init_kwargs: dict[str, Any] | None = None,
    ) -> None:
        warnings.warn(_INSTEAD, RayDeprecationWarning, stacklevel=2)
        if num_actors <= 0:
            raise ValueError(f"The provided `num_actors` must be greater than 0. Received {num_actors}.")
        if num_cpus_per_actor < 0 or num_gpus_per_actor < 0:
            raise ValueError("num_cpus_per_actor and num_gpus_per_actor must not be negative.")
        if not isinstance(actor_cls, type):
            raise TypeError(f"ActorGroup takes a plain class, without @remote, not {actor_cls!r}")
        self.actor_config = ActorConfig(
            num_cpus_per_actor, num_gpus_per_actor, resources_per_actor, init_args or (), init_kwargs or {}
        )
        self.num_actors = num_actors
        self.actors: list[ActorWrapper] = []
        self._remote_cls = api.remote(
            num_cpus=num_cpus_per_actor, num_gpus=num_gpus_per_actor, resources=resources_per_actor
        )(actor_cls)
        self._methods = {name for name in dir(actor_cls) if not name.startswith("__")}
        self.start()

    def __getattr__(self, name: str) -> ActorGroupMethod:
        if name in self.__dict__.get("_methods", ()):
            if not self.actors:
                raise RuntimeError("This ActorGroup has been shutdown. Please start it again.")
            return ActorGroupMethod(self, name)
        raise AttributeError(f"'ActorGroup' object has no attribute {name!r}")

    def __len__(self) -> int:
        return len(self.actors)

    def __getitem__(self, index: int) -> ActorWrapper:
        return self.actors[index]

    def start(self) -> None:
        """Start the actors, unless they run.

        Raises:
            RuntimeError: they run already.
        """
        if self.actors:
            raise RuntimeError("The actors have already been started; shut them down first.")
        self.add_actors(self.num_actors)

    def add_actors(self, num_actors: int) -> None:
        """Start more actors and wait for them."""
        config = self.actor_config
        made = [self._remote_cls.remote(*config.init_args, **config.init_kwargs) for _ in range(num_actors)]
        told = api.get([_metadata_of(actor) for actor in made])
        self.actors += [ActorWrapper(actor, where) for actor, where in zip(made, told, strict=True)]

    def remove_actors(self, actor_indexes: list[int]) -> None:
        """Drop the actors at these positions; they end with their last handle."""
        gone = set(actor_indexes)
        self.actors = [one for index, one in enumerate(self.actors) if index not in gone]

    def shutdown(self, patience_s: float = 5) -> None:
        """End the actors: after their present calls, or by force after `patience_s` seconds."""
        refs = [one.actor.__ray_terminate__.remote() for one in self.actors]
        _, late = api.wait(refs, num_returns=len(refs), timeout=max(patience_s, 0)) if refs else ([], [])
        for one, ref in zip(self.actors, refs, strict=True):
            if ref in late:
                api.kill(one.actor)
        self.actors = []

    @property
    def actor_metadata(self) -> list[Any]:
        """What each actor's class says of it, or where it runs."""
        return [one.metadata for one in self.actors]


__getattr__ = absent.getter(__name__)
