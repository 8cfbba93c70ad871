"""Actor classes: what ``A.remote()`` is called on.

Rules of this module: as in `handles`.  Options were parsed at decoration; what callers know of the class
(`ActorMeta`) is made at the first actor of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NoReturn

from spoke import current
from spoke.actormeta import ActorMeta, meta_of_class
from spoke.envs.resolving import resolver
from spoke.exporting import Exported
from spoke.handles import ActorHandle, Core, engine, find_actor, restated
from spoke.options import ActorOptions

if TYPE_CHECKING:
    from spoke.client import Client

_RACES: Final = 20  # attempts at a name that others take and give up meanwhile


class ActorClassInheritanceException(TypeError):
    """A class inherits from an actor class."""


class ActorClass:
    """A class whose instances are actors: ``A.remote(*args)`` makes one and gives its handle.

    Made by `remote`.  ``A.options(name="a")`` is the same class with other options.  Its type is named
    ``ActorClass(A)``, by which some programs name their actors.
    """

    def __new__(cls, target: type, given: dict[str, Any]) -> ActorClass:
        named = type(f"ActorClass({target.__name__})", (ActorClass,), {"__module__": __name__})
        return object.__new__(named)

    def __init__(self, cls: type, given: dict[str, Any]) -> None:
        self._cls = cls
        self._options = ActorOptions(given, what=cls.__name__)
        self._shared = Exported(cls)
        self._meta: ActorMeta | None = None
        self.__doc__ = cls.__doc__
        self.__module__ = cls.__module__
        self.__name__ = cls.__name__
        self.__qualname__ = cls.__qualname__

    @property
    def __ray_actor_class__(self) -> type:
        """The class that was decorated."""
        return self._cls

    @property
    def __ray_metadata__(self) -> Any:
        return _ClassMetadata(self._cls)

    def _described(self) -> ActorMeta:
        """The class as callers see it, with these options."""
        if self._meta is None:
            self._meta = meta_of_class(self._cls, self._options)
        return self._meta

    def remote(self, *args: Any, **kwargs: Any) -> ActorHandle:
        """Make an actor; returns at once, the constructor runs in the actor's process.

        Raises:
            TypeError: the arguments do not fit the constructor, or cannot be serialized.
            ActorAlreadyExistsError: the name is taken (it is a ValueError too).
        """
        meta = self._described()
        signature = meta.constructor
        if kwargs or not signature.low <= len(args) <= signature.high:
            signature.check(args, kwargs)
        options = self._options
        options.check_names()
        meta.check_groups(options.concurrency_groups)
        if options.allow_out_of_order_execution is False:
            meta.check_order()
        client = current.client or engine()
        if options.get_if_exists and options.name is not None:
            from spoke.errors import ActorAlreadyExistsError

            for _ in range(_RACES):  # others may make it, and end it, between two questions
                try:
                    return find_actor(options.name, options.namespace)
                except ValueError:
                    pass
                try:
                    return self._create(client, meta, args, kwargs)
                except ActorAlreadyExistsError:
                    pass
        return self._create(client, meta, args, kwargs)

    def _create(
        self, client: Client, meta: ActorMeta, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> ActorHandle:
        from spoke.ids import ACTOR_BYTES, JOB_BYTES, random_bytes
        from spoke.objectref import ObjectRef

        options = self._options
        spec = dict(options.scheduling_spec(client.job_env, resolver(client)))
        if client.captured_group is not None and options.inherits_group:
            group = client.captured_group
            spec["strategy"] = {"kind": "group", "group_id": group, "index": -1, "capture": True}
        detached = options.lifetime == "detached" or (options.lifetime is None and client.detached_actors)
        spec["detached"] = detached
        spec["get_if_exists"] = False  # a name that is taken is to be told, not passed over: see `remote`
        spec["class_name"] = meta.class_name
        spec["namespace"] = options.namespace or client.namespace
        spec["max_concurrency"] = meta.max_concurrency
        spec["is_async"] = meta.is_async
        spec["out_of_order"] = meta.out_of_order
        spec["meta"] = meta.blob
        actor_id = random_bytes(ACTOR_BYTES - JOB_BYTES) + client.runtime_context["job_id"]
        blob = self._shared.pickled()
        try:
            entry = client.submitter.create_actor(actor_id, spec, blob, args, kwargs)
        except TypeError as error:
            raise restated(error, self._cls, "__init__") from error.__cause__
        if detached:
            with client.lock:
                entry.local += 1  # no handle keeps a detached actor alive, so none may end it
        return ActorHandle(Core(entry.id[:ACTOR_BYTES], ObjectRef(entry), meta))

    def options(self, **actor_options: Any) -> ActorClass:
        """The same class with these options on top of its own.

        Raises:
            ValueError, TypeError: an unknown option, or a wrong value.
        """
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__)
        other._options = self._options.updated(actor_options, self._cls.__name__)
        other._meta = None
        return other

    def bind(self, *args: Any, **kwargs: Any) -> Any:
        """A node of a graph that stands for a new actor; see `spoke.dag`."""
        from spoke.dag.nodes import ClassNode

        return ClassNode.of(self, args, kwargs, self._options.given)

    def _remote(self, args: Any = (), kwargs: Any = None, **actor_options: Any) -> ActorHandle:
        """`options` and `remote` in one call."""
        cls = self.options(**actor_options) if actor_options else self
        return cls.remote(*(args or ()), **(kwargs or {}))

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("__") and "_cls" in self.__dict__:
            found = getattr(self._cls, name, self)
            if found is not self:
                return found
        shown = self.__dict__.get("__name__", "")
        raise AttributeError(f"'ActorClass({shown})' object has no attribute '{name}'")

    def __dir__(self) -> list[str]:
        return sorted({*object.__dir__(self), *dir(self._cls)})

    def __call__(self, *args: Any, **kwargs: Any) -> NoReturn:
        name = self.__name__
        raise TypeError(
            f"Actors cannot be instantiated directly. Instead of '{name}()', use '{name}.remote()'."
        )

    def __mro_entries__(self, bases: tuple[Any, ...]) -> NoReturn:
        raise ActorClassInheritanceException(
            f"A class inherits from the actor class {self.__name__}. Inheriting from actor classes is not "
            "currently supported. You can inherit from a plain class, and make both remote with @ray.remote."
        )

    def __repr__(self) -> str:
        return f"ActorClass({self.__name__})"

    def __reduce__(self) -> tuple[Any, ...]:
        return ActorClass, (self._cls, self._options.given)


class _ClassMetadata:
    """What some programs look up of an actor class."""

    __slots__ = ("class_name", "modified_class")

    def __init__(self, cls: type) -> None:
        self.modified_class = cls
        self.class_name = cls.__name__
