"""Options of tasks, actors and methods, parsed once, at decoration or ``.options()``.

Rules of this module: a wrong option fails at the line that gives it.  An unknown name is a ValueError
(of a method a TypeError, as for any unknown keyword of a call) that offers the nearest known one, a wrong
type a TypeError, a wrong value a ValueError.  Where something may run (strategy, group, whole GPUs) is
checked when it is submitted, as Ray does: a program may define what it never runs.  What the hub needs of
them is one plain dict, built once (`scheduling_spec`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, NoReturn

from spoke import labels
from spoke import runtime_env as environments
from spoke.limits import MAX_NAME_CHARS, MAX_NUM_RETURNS
from spoke.quantities import check_quantity, check_whole_gpus

STREAMING: Final = -1  # num_returns of a call that gives an ObjectRefGenerator
DYNAMIC: Final = -2  # num_returns of a call that gives one ref to a generator of refs

_NONE = type(None)
_NUMBER = (float, int, _NONE)
_COUNT = (int, _NONE)
_TEXT = (str, _NONE)
_DICT = (dict, _NONE)
_STRATEGY = (str, _NONE)

COMMON: Final[dict[str, tuple[type, ...]]] = {
    "label_selector": _DICT,
    "fallback_strategy": (list, _NONE),
    "accelerator_type": _TEXT,
    "memory": _NUMBER,
    "name": _TEXT,
    "num_cpus": _NUMBER,
    "num_gpus": _NUMBER,
    "object_store_memory": _COUNT,
    "placement_group": _STRATEGY,
    "placement_group_bundle_index": (int,),
    "placement_group_capture_child_tasks": (bool, _NONE),
    "resources": _DICT,
    "runtime_env": _DICT,
    "scheduling_strategy": _STRATEGY,
    "enable_task_events": (bool,),
    "_labels": _DICT,
}
TASK: Final[dict[str, tuple[type, ...]]] = {
    **COMMON,
    "max_calls": _COUNT,
    "max_retries": _COUNT,
    "num_returns": (int, str, _NONE),
    "retry_exceptions": (bool, list, tuple),
    "_generator_backpressure_num_objects": _COUNT,
    "_num_objects_per_yield": _COUNT,
}
ACTOR: Final[dict[str, tuple[type, ...]]] = {
    **COMMON,
    "concurrency_groups": (list, dict, _NONE),
    "enable_tensor_transport": (bool, _NONE),
    "lifetime": _TEXT,
    "max_concurrency": _COUNT,
    "max_restarts": _COUNT,
    "max_task_retries": _COUNT,
    "max_pending_calls": _COUNT,
    "namespace": _TEXT,
    "get_if_exists": (bool,),
    "allow_out_of_order_execution": (bool, _NONE),
    "_actor_generator_backpressure_num_objects": _COUNT,
}
METHOD: Final[dict[str, tuple[type, ...]]] = {
    "num_returns": (int, str, _NONE),
    "concurrency_group": _TEXT,
    "max_task_retries": _COUNT,
    "retry_exceptions": (bool, list, tuple, _NONE),
    "_generator_backpressure_num_objects": _COUNT,
    "_num_objects_per_yield": _COUNT,
    "enable_task_events": (bool, _NONE),
    "tensor_transport": _TEXT,
}
CALL: Final[dict[str, tuple[type, ...]]] = {**METHOD, "name": _TEXT}

_TENSOR_TRANSPORTS = ("object_store", "nccl", "gloo", "nixl", "cuda_ipc")


def check_tensor_transport(name: Any) -> None:
    """ValueError unless it is the name of a tensor transport, in any case."""
    if not isinstance(name, str) or name.lower() not in _TENSOR_TRANSPORTS:
        raise ValueError(f"Invalid tensor transport: {str(name).upper()}")


# -- checks shared by all -------------------------------------------------------------------------


# Texts that programs look for are Ray's.


def reject_unknown(
    name: str, known: Mapping[str, Any], what: str, kind: type[Exception] = ValueError
) -> NoReturn:
    """Raise the error for an option that does not exist."""
    import difflib

    near = difflib.get_close_matches(name, known, 1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise kind(f"Invalid option keyword {name} for {what}.{hint} Valid ones are {list(known)}.")


def _check_types(given: Mapping[str, Any], table: Mapping[str, tuple[type, ...]], what: str) -> None:
    for name, value in given.items():
        types = table.get(name)
        if types is None:
            reject_unknown(name, table, what, TypeError if table is CALL else ValueError)
        if isinstance(value, types) or (types is _STRATEGY and hasattr(value, "_scheduling")):
            continue
        if name == "placement_group" and hasattr(value, "bundle_specs"):
            continue
        wanted = types[0] if len(types) == 1 else types
        raise TypeError(f"The type of keyword '{name}' must be {wanted}, but received type {type(value)}")


def _check_count(given: Mapping[str, Any], name: str, *, infinite: bool) -> None:
    value = given.get(name)
    if value is None or value >= (-1 if infinite else 0):
        return
    accepted = "None, 0 or a positive integer"
    if infinite:
        accepted = "None, 0, -1 or a positive integer, where -1 represents infinity"
    raise ValueError(f"The keyword '{name}' only accepts {accepted}.")


def _pace(given: Mapping[str, Any]) -> dict[str, int]:
    """What a call says of its generator: items ahead of the consumer, items per yield."""
    pace = {}
    ahead = given.get("_generator_backpressure_num_objects")
    if ahead == 0:
        raise ValueError(
            "_generator_backpressure_num_objects=0 is not allowed: a generator may be that many items "
            "ahead, at least 1; -1 is no limit."
        )
    if ahead:
        pace["backpressure"] = ahead
    together = given.get("_num_objects_per_yield")
    if together is not None and together <= 0:
        raise ValueError(f"_num_objects_per_yield must be a positive integer, not {together}.")
    if together and together > 1:
        pace["per_yield"] = together
    return pace


def _refuse_per_yield(decorator: str) -> NoReturn:
    """How many items a yield makes is written into the function, so no call may change it."""
    raise ValueError(f"_num_objects_per_yield cannot be overridden per call: give it at {decorator} instead.")


def parse_num_returns(value: int | str | None, is_generator: bool) -> int:
    """None, a count, "streaming" or "dynamic" as one number: >= 0, `STREAMING` or `DYNAMIC`.

    Raises:
        TypeError: an unknown word.
        ValueError: negative, or a word for a function that is no generator.
    """
    if value is None:
        return STREAMING if is_generator else 1
    if isinstance(value, str):
        if value not in ("streaming", "dynamic"):
            raise TypeError(f"num_returns must be a number, 'streaming' or 'dynamic', not {value!r}")
        if not is_generator:
            raise ValueError(f"num_returns={value!r} can only be used with generator functions")
        return STREAMING if value == "streaming" else DYNAMIC
    if not 0 <= value <= MAX_NUM_RETURNS:
        raise ValueError(
            "The keyword 'num_returns' only accepts None, a non-negative integer, 'streaming' (for "
            f"generators), or 'dynamic'; a number is at most {MAX_NUM_RETURNS}, but got {value}."
        )
    return int(value)


def _check_retry_exceptions(value: Any) -> None:
    if isinstance(value, (list, tuple)):
        for item in value:
            if not (isinstance(item, type) and issubclass(item, BaseException)):
                raise ValueError("retry_exceptions must be either a boolean or a list of exceptions")


class _RetryOn:
    """Is an error one to retry after?  `given` is the option: True, or a list of classes."""

    __slots__ = ("_classes", "given")

    def __init__(self, given: Any) -> None:
        self.given = given
        self._classes = BaseException if given is True else tuple(given)

    def __call__(self, error: BaseException) -> bool:
        return isinstance(getattr(error, "cause", None) or error, self._classes)


def _retry_on(value: Any) -> Callable[[BaseException], bool] | None:
    return _RetryOn(value) if value else None


def check_label_selector(selector: Mapping[str, Any] | None, what: str = "label_selector") -> None:
    """Check the form of a label selector: text keys and text conditions.

    Raises:
        TypeError: a key or value that is no text.
        ValueError: a key or condition that cannot be read.
    """
    for key, value in (selector or {}).items():
        if not isinstance(key, str) or not isinstance(value, str):
            raise TypeError(f"{what}: expected text to text, got {key!r}: {value!r}")
    problem = labels.selector_problem(selector)
    if problem:
        raise ValueError(problem)


def _check_fallback(strategies: list[Any] | None) -> None:
    for one in strategies or ():
        selector = one.get("label_selector") if isinstance(one, dict) else None
        if isinstance(selector, dict):
            check_label_selector(selector, "fallback_strategy")
    problem = labels.fallback_problem(strategies)
    if problem:
        raise ValueError(problem)


# -- resources and placement ------------------------------------------------------------------------


def _resources(given: Mapping[str, Any], default_cpus: float) -> dict[str, float]:
    custom = given.get("resources") or {}
    if "CPU" in custom or "GPU" in custom:
        raise ValueError(
            "Use the 'num_cpus' and 'num_gpus' keyword instead of 'CPU' and 'GPU' in 'resources' keyword"
        )
    found: dict[str, float] = {}
    for name, amount in custom.items():
        if not isinstance(name, str) or not name:
            raise TypeError(f"resources: {name!r} is not the name of a resource")
        found[name] = check_quantity(name, amount)
    cpus = given.get("num_cpus")
    found["CPU"] = default_cpus if cpus is None else check_quantity("num_cpus", cpus)
    for option, name in (("num_gpus", "GPU"), ("memory", "memory")):
        if given.get(option) is not None:
            found[name] = check_quantity(option, given[option])
    if given.get("accelerator_type"):
        found[f"accelerator_type:{given['accelerator_type']}"] = 0.001
    return {name: amount for name, amount in found.items() if amount > 0}


def _check_one_way(given: Mapping[str, Any]) -> None:
    group = given.get("placement_group", "default")
    if given.get("scheduling_strategy") is not None and group not in (None, "default"):
        raise ValueError(
            "Placement groups should be specified via the scheduling_strategy option, and not by "
            "placement_group too."
        )


def _strategy(given: Mapping[str, Any], resources: dict[str, float], what: str) -> Any:
    """None, "SPREAD" or the dict of a strategy object, checked against the group's bundles."""
    strategy = given.get("scheduling_strategy")
    group = given.get("placement_group", "default")
    index = given.get("placement_group_bundle_index", -1)
    if isinstance(strategy, str):
        if strategy not in ("DEFAULT", "SPREAD"):
            raise ValueError(
                f"Invalid scheduling_strategy value {strategy}. Valid values are 'DEFAULT', 'SPREAD', "
                "PlacementGroupSchedulingStrategy, NodeAffinitySchedulingStrategy, "
                "NodeLabelSchedulingStrategy"
            )
        return None if strategy == "DEFAULT" else strategy
    if strategy is not None:
        spec = strategy._scheduling()
        _check_fits(getattr(strategy, "placement_group", None), spec, resources, what)
        return spec
    if group is None or group == "default" or getattr(group, "is_empty", False):
        if index != -1:
            raise ValueError("If placement group is not set, the value of bundle index must be -1.")
        return None
    if isinstance(group, str):
        raise ValueError(f"placement_group must be a PlacementGroup, None or 'default', not {group!r}")
    spec = group._scheduling(index, given.get("placement_group_capture_child_tasks"))
    _check_fits(group, spec, resources, what)
    return spec


def _check_fits(group: Any, spec: Any, resources: dict[str, float], what: str) -> None:
    bundles = getattr(group, "bundle_cache", None)
    if not bundles:
        return
    index = spec["index"]
    if not -1 <= index < len(bundles):
        raise ValueError(
            f"placement group bundle index {index} is invalid. "
            f"Valid placement group indexes: 0-{len(bundles) - 1}"
        )
    wanted = {name: amount for name, amount in resources.items() if not name.startswith("accelerator_type:")}
    choice = bundles if index == -1 else [bundles[index]]
    if not any(all(bundle.get(name, 0) >= amount for name, amount in wanted.items()) for bundle in choice):
        raise ValueError(
            f"Cannot schedule {what} with the placement group because the resource request {wanted} "
            f"cannot fit into any bundles for the placement group, {bundles}."
        )


_NOTHING: Final[Mapping[str, float]] = {}


class _Placed:
    """What tasks and actors have in common: resources, strategy, environment."""

    __slots__ = ("_spec", "capture_child_tasks", "fallback_strategy", "given", "inherits_group",
                 "label_selector", "labels", "name", "placement_resources", "resources", "runtime_env",
                 "what")  # fmt: skip

    def __init__(
        self,
        given: Mapping[str, Any],
        what: str,
        default_cpus: float,
        placing: Mapping[str, float] = _NOTHING,
    ) -> None:
        self.given = dict(given)
        self.what = what
        self.name: str | None = given.get("name")
        self.label_selector: dict[str, str] = given.get("label_selector") or {}
        check_label_selector(self.label_selector)
        self.fallback_strategy: list[dict[str, Any]] = given.get("fallback_strategy") or []
        _check_fallback(self.fallback_strategy)
        self.labels: dict[str, str] = given.get("_labels") or {}
        self.runtime_env = environments.checked(given.get("runtime_env") or {})
        self.resources = _resources(given, default_cpus)
        self.placement_resources = {**self.resources, **placing}
        _check_one_way(given)
        # A task of a group member runs in that group too if it captures and nothing else is said.
        self.inherits_group = (
            given.get("scheduling_strategy") is None and given.get("placement_group", "default") == "default"
        )
        self.capture_child_tasks: bool | None = given.get("placement_group_capture_child_tasks")
        self._spec: tuple[Any, dict[str, Any]] | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.given,)

    def scheduling_spec(
        self,
        job_env: Mapping[str, Any] | None = None,
        resolve: Callable[[Mapping[str, Any]], Mapping[str, Any]] | None = None,
    ) -> dict[str, Any]:
        """What the hub must know, as plain values; `job_env` is the runtime environment of the job.

        `resolve` makes a runtime environment of one's own fit for other nodes.  The same dict is given for
        the same `job_env` object: do not change it.

        Raises:
            ValueError: what the options ask for could never be placed.
        """
        cached = self._spec
        if cached is not None and cached[0] is job_env:
            return cached[1]
        spec = self._build_spec()
        own = self.runtime_env
        environment = environments.merged(job_env, resolve(own) if resolve is not None and own else own)
        spec["env"] = environments.worker_variables(environment)
        if self.runtime_env:
            spec["runtime_env"] = environments.plain(environment)  # for the runtime context
        self._spec = (job_env, spec)
        return spec

    def _build_spec(self) -> dict[str, Any]:
        check_whole_gpus(self.resources.get("GPU", 0))
        strategy = _strategy(self.given, self.placement_resources, self.what)
        spec: dict[str, Any] = {"resources": self.resources, "strategy": strategy}
        if self.label_selector:
            spec["label_selector"] = self.label_selector
        if self.fallback_strategy:
            spec["fallback_strategy"] = self.fallback_strategy
        return spec


class TaskOptions(_Placed):
    """Options of a remote function; `num_returns` is >= 0, `STREAMING` or `DYNAMIC`."""

    __slots__ = ("is_generator", "max_calls", "max_retries", "num_returns", "pace",
                 "retry_exceptions", "retry_on")  # fmt: skip

    def __init__(
        self, given: Mapping[str, Any], *, is_generator: bool = False, what: str = "the task"
    ) -> None:
        _check_types(given, TASK, "remote functions")
        if given.get("object_store_memory") is not None:
            raise ValueError("Setting 'object_store_memory' is not implemented for tasks")
        _check_count(given, "max_retries", infinite=True)
        _check_count(given, "max_calls", infinite=False)
        self.is_generator = is_generator
        self.num_returns = parse_num_returns(given.get("num_returns"), is_generator)
        self.max_calls: int = given.get("max_calls") or 0
        retries = given.get("max_retries", 3)
        self.max_retries: int = 3 if retries is None else retries
        self.retry_exceptions: Any = given.get("retry_exceptions", False)
        _check_retry_exceptions(self.retry_exceptions)
        self.retry_on = _retry_on(self.retry_exceptions)
        self.pace = _pace(given)
        super().__init__(given, what, 1.0)

    def updated(self, more: Mapping[str, Any], what: str = "the task") -> TaskOptions:
        """These options with others on top.

        Raises:
            ValueError, TypeError: an unknown option, a wrong value, or one that only the decorator takes.
        """
        if "max_calls" in more:
            raise ValueError("Setting 'max_calls' is not supported in '.options()'.")
        together = more.get("_num_objects_per_yield") or 1
        if "_num_objects_per_yield" in more and together != self.pace.get("per_yield", 1):
            _refuse_per_yield("@ray.remote")
        return TaskOptions({**self.given, **more}, is_generator=self.is_generator, what=what)

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild_task_options, (self.given, self.is_generator)

    def _build_spec(self) -> dict[str, Any]:
        spec = super()._build_spec()
        if self.max_calls:
            spec["max_calls"] = self.max_calls
        return spec


def _rebuild_task_options(given: dict[str, Any], is_generator: bool) -> TaskOptions:
    return TaskOptions(given, is_generator=is_generator)


class ActorOptions(_Placed):
    """Options of an actor class.

    `resources` are held for the actor's life, `placement_resources` are needed to place it: an actor
    that asks for nothing needs one CPU to be placed and holds none.
    """

    __slots__ = ("allow_out_of_order_execution", "concurrency_groups",
                 "enable_tensor_transport", "get_if_exists", "lifetime", "max_concurrency",
                 "max_pending_calls", "max_restarts", "max_task_retries", "namespace")  # fmt: skip

    def __init__(self, given: Mapping[str, Any], *, what: str = "the actor") -> None:
        _check_types(given, ACTOR, "actors")
        for name in ("max_restarts", "max_task_retries", "max_pending_calls"):
            _check_count(given, name, infinite=True)
        _check_count(given, "max_concurrency", infinite=False)
        lifetime = given.get("lifetime")
        if lifetime not in (None, "detached", "non_detached"):
            raise ValueError(
                "actor `lifetime` argument must be one of 'detached', 'non_detached' and 'None', "
                f"not {lifetime!r}."
            )
        self.lifetime: str | None = lifetime
        self.get_if_exists: bool = given.get("get_if_exists", False)
        if self.get_if_exists and not given.get("name"):
            raise ValueError("The actor name must be specified to use `get_if_exists`.")
        self.namespace: str | None = given.get("namespace")
        self.max_restarts: int = given.get("max_restarts") or 0
        self.max_task_retries: int = given.get("max_task_retries") or 0
        self.max_concurrency: int | None = given.get("max_concurrency") or None
        pending = given.get("max_pending_calls")
        self.max_pending_calls: int = -1 if pending is None else pending
        ahead = given.get("_actor_generator_backpressure_num_objects")
        if ahead is not None and ahead <= 0 and ahead != -1:
            raise ValueError(
                "_actor_generator_backpressure_num_objects must be > 0 to cap the items of an actor's "
                f"generators that nobody took yet, or -1 for no limit. Got {ahead}."
            )
        self.concurrency_groups = _concurrency_groups(given.get("concurrency_groups"))
        self.allow_out_of_order_execution: bool | None = given.get("allow_out_of_order_execution")
        self.enable_tensor_transport: bool = bool(given.get("enable_tensor_transport"))
        asks = given.get("num_cpus") is not None or given.get("num_gpus") is not None
        asks = asks or bool(given.get("resources"))
        placing = {} if asks else {"CPU": 1.0}
        super().__init__(given, what, 1.0 if asks else 0.0, placing)

    def updated(self, more: Mapping[str, Any], what: str = "the actor") -> ActorOptions:
        """These options with others on top.

        Raises:
            ValueError: `more` holds concurrency groups, which belong to the class.
        """
        if "concurrency_groups" in more:
            raise ValueError("Setting 'concurrency_groups' is not supported in '.options()'.")
        return ActorOptions({**self.given, **more}, what=what)

    def check_names(self) -> None:
        """Check name and namespace, when an actor is made of these options.

        Raises:
            ValueError: empty, too long, or with a NUL character.
        """
        if self.name is not None:
            check_name(self.name, "Actor name")
        if self.namespace is not None:
            check_namespace(self.namespace)

    def _build_spec(self) -> dict[str, Any]:
        spec = super()._build_spec()
        spec.update(
            placement_resources=self.placement_resources,
            name=self.name,
            namespace=self.namespace,
            max_restarts=self.max_restarts,
            max_task_retries=self.max_task_retries,
            max_pending_calls=self.max_pending_calls,
            max_concurrency=self.max_concurrency,
            concurrency_groups=self.concurrency_groups,
        )
        return spec


def check_name(name: Any, what: str) -> None:
    """Check a name that others look up.

    Raises:
        TypeError: not text.
        ValueError: empty, longer than 255 characters, or with a NUL character.
    """
    if not isinstance(name, str):
        raise TypeError(f"{what} must be a string, got {type(name)}")
    if not name:
        raise ValueError(f"{what} cannot be an empty string.")
    if len(name) > MAX_NAME_CHARS or "\0" in name:
        raise ValueError(f"{what} must have at most {MAX_NAME_CHARS} characters and no NUL")


def check_namespace(namespace: Any) -> None:
    """Check a namespace.

    Raises:
        TypeError: not text.
        ValueError: empty.
    """
    if not isinstance(namespace, str):
        raise TypeError(f"namespace must be None or a string, got {type(namespace)}")
    if not namespace:
        raise ValueError('"" is not a valid namespace. Pass None to not specify a namespace.')
    check_name(namespace, "namespace")


def _concurrency_groups(groups: Any) -> dict[str, int]:
    if isinstance(groups, list):
        groups = {group["name"]: group["max_concurrency"] for group in groups}
    for name, size in (groups or {}).items():
        if not isinstance(name, str) or not isinstance(size, int) or size < 1:
            raise ValueError(f"concurrency_groups: {name!r}: {size!r} is not a name and a positive number")
    return dict(groups or {})


class MethodOptions:
    """Options of an actor method; None means as the actor's own option says."""

    __slots__ = ("concurrency_group", "decorator", "given", "is_generator",
                 "max_task_retries", "name", "num_returns", "pace", "retry_exceptions", "retry_on",
                 "tensor_transport")  # fmt: skip

    def __init__(
        self, given: Mapping[str, Any], *, is_generator: bool = False, decorator: Any = None
    ) -> None:
        _check_types(given, CALL, "actor methods")
        self.decorator = decorator  # the method's `__ray_invocation_decorator__`
        _check_count(given, "max_task_retries", infinite=True)
        self.given = dict(given)
        self.is_generator = is_generator
        self.num_returns = parse_num_returns(given.get("num_returns"), is_generator)
        self.concurrency_group: str | None = given.get("concurrency_group")
        self.max_task_retries: int | None = given.get("max_task_retries")
        self.retry_exceptions: Any = given.get("retry_exceptions")
        _check_retry_exceptions(self.retry_exceptions)
        self.retry_on = _retry_on(self.retry_exceptions)
        self.pace = _pace(given)
        self.name: str | None = given.get("name")
        self.tensor_transport: str | None = given.get("tensor_transport")
        if self.tensor_transport:
            check_tensor_transport(self.tensor_transport)

    def updated(self, more: Mapping[str, Any]) -> MethodOptions:
        """These options with others on top.

        Raises:
            ValueError, TypeError: an unknown option, a wrong value, or one that only the decorator takes.
        """
        if "_num_objects_per_yield" in more:
            _refuse_per_yield("@ray.method")
        return _rebuild_method_options({**self.given, **more}, self.is_generator, self.decorator)

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild_method_options, (self.given, self.is_generator, self.decorator)


def _rebuild_method_options(given: dict[str, Any], is_generator: bool, decorator: Any) -> MethodOptions:
    return MethodOptions(given, is_generator=is_generator, decorator=decorator)
