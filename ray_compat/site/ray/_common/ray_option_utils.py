"""Names of `ray._common.ray_option_utils`: the options of tasks and actors, with their types and defaults."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from spoke import options

_DEFAULTS: Final[dict[str, Any]] = {
    "placement_group": "default",
    "placement_group_bundle_index": -1,
    "enable_task_events": True,
}
_TASK_DEFAULTS: Final[dict[str, Any]] = {
    "num_cpus": 1,
    "max_calls": 0,
    "max_retries": 3,
    "retry_exceptions": False,
    "_num_objects_per_yield": 1,
}
_ACTOR_DEFAULTS: Final[dict[str, Any]] = {
    "max_restarts": 0,
    "max_task_retries": 0,
    "max_pending_calls": -1,
    "get_if_exists": False,
}


@dataclass
class Option:
    """One option: the types that it takes, and what it is by default."""

    type_constraint: tuple[type, ...]
    default_value: Any = None


def _table(types: dict[str, tuple[type, ...]], defaults: dict[str, Any]) -> dict[str, Option]:
    return {name: Option(kinds, defaults.get(name)) for name, kinds in types.items()}


task_options: Final = _table(options.TASK, {**_DEFAULTS, **_TASK_DEFAULTS})
actor_options: Final = _table(options.ACTOR, {**_DEFAULTS, **_ACTOR_DEFAULTS})
valid_options: Final = {**task_options, **actor_options}


def validate_task_options(given: dict[str, Any], in_options: bool) -> None:
    """Check the options of a task, as its definition does, or its `.options()`."""
    if in_options and "max_calls" in given:
        raise ValueError("Setting 'max_calls' is not supported in '.options()'.")
    options.TaskOptions(given)


def validate_actor_options(given: dict[str, Any], in_options: bool) -> None:
    """Check the options of an actor, as its definition does, or its `.options()`."""
    if in_options and "concurrency_groups" in given:
        raise ValueError("Setting 'concurrency_groups' is not supported in '.options()'.")
    options.ActorOptions(given)


def update_options(original_options: dict[str, Any], new_options: dict[str, Any]) -> dict[str, Any]:
    """The first options, with the second ones on top."""
    return {**original_options, **new_options}
