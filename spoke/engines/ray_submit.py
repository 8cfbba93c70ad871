"""Calls of the user as calls of Ray: options in plain form become Ray's options.

Rules of this module: options were checked by `spoke.options`; here they are only renamed.  Ray's remote
functions and actor classes are made once per function, class and options.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from spoke import runtime_env
from spoke.engines.ray_errors import unsupported
from spoke.engines.ray_refs import Held, RayRefGenerator, real

if TYPE_CHECKING:
    from spoke.engines.ray_client import RayClient

KEPT_MAX: Final = 4096
_COUNTS: Final = {-1: "streaming", -2: "dynamic"}
_ACCELERATOR: Final = "accelerator_type:"
_TRAVEL: Final = {
    "backpressure": "_generator_backpressure_num_objects", "concurrency_group": "concurrency_group",
    "name": "name",
}  # fmt: skip


class Carriers(NamedTuple):
    """What is pickled for workers in the place of the user's things, see `ray_process`."""

    task: Callable[[bytes, str, bool], Any]
    actor_class: Callable[[type, bytes], type]
    rebuild: Callable[[bytes, Any], Any]


class RaySubmitter:
    """Submits for one `RayClient`; see `spoke.engines.Submits`."""

    def __init__(self, client: RayClient, carriers: Carriers) -> None:
        self._client = client
        self._carriers = carriers
        self.functions: dict[bytes, bytes] = {}
        self._tasks: dict[bytes, Any] = {}
        self._prepared: dict[Any, Any] = {}
        self._classes: dict[Any, Any] = {}

    # -- tasks

    def submit_task(
        self, function_id: bytes, spec_key: Any, spec: dict[str, Any], args: tuple[Any, ...],
        kwargs: dict[str, Any], num_returns: int, name: str, max_retries: int,
        retry_on: Any = None, options: dict[str, Any] | None = None,
    ) -> Any:  # fmt: skip
        """See `spoke.engines.Submits`."""
        key = (function_id, spec_key, num_returns, name, max_retries, retry_on, repr(options))
        with self._client.translating():
            prepared = self._prepared.get(key)
            if prepared is None:
                given = self._placement(spec)
                given.update(
                    num_returns=_COUNTS.get(num_returns, num_returns),
                    max_retries=max_retries,
                    retry_exceptions=False if retry_on is None else retry_on.given,
                )
                if spec.get("max_calls"):
                    given["max_calls"] = spec["max_calls"]
                given.update(_travelling(options))
                prepared = self._task(function_id, name).options(**given)
                self._keep(self._prepared, key, prepared)
            made = prepared.remote(*map(real, args), **{key: real(value) for key, value in kwargs.items()})
        return self._results(made, num_returns)

    def _task(self, function_id: bytes, name: str) -> Any:
        """Ray's remote function."""
        found = self._tasks.get(function_id)
        if found is None:
            blob = self.functions[function_id]
            function = self._client.ray.cloudpickle.loads(blob)
            made = self._carriers.task(
                blob, getattr(function, "__name__", name), inspect.isgeneratorfunction(function)
            )
            made.__module__ = function.__module__
            found = self._client.ray.remote(made)
            self._keep(self._tasks, function_id, found)
        return found

    def _keep(self, table: dict[Any, Any], key: Any, value: Any) -> None:
        if len(table) >= KEPT_MAX:
            table.clear()
        table[key] = value

    def _results(self, made: Any, num_returns: int) -> Any:
        if num_returns == -1:
            return RayRefGenerator(self._client, made)
        if isinstance(made, list):
            return [self._client.objects.ref(one) for one in made]
        return None if made is None else self._client.objects.ref(made)

    # -- actors

    def create_actor(
        self, actor_id: bytes, spec: dict[str, Any], blob: bytes, args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Held:  # fmt: skip
        """See `spoke.engines.Submits`; Ray chooses the id."""
        client = self._client
        given = self._placement(spec)
        for name in ("max_restarts", "max_task_retries", "max_pending_calls", "max_concurrency"):
            given[name] = spec[name]
        natural = spec["is_async"] or spec["max_concurrency"] > 1 or bool(spec.get("concurrency_groups"))
        if spec["out_of_order"] != natural:
            given["allow_out_of_order_execution"] = spec["out_of_order"]
        if spec.get("name"):
            given.update(name=spec["name"], namespace=spec["namespace"] or None)
        if spec.get("detached"):
            given["lifetime"] = "detached"
        strategy = spec.get("strategy")
        rank = strategy if isinstance(strategy, dict) and "rank" in strategy else None
        if rank is not None:
            variables = client.hub.variables(rank["group_id"], rank["rank"])
            given["runtime_env"] = runtime_env.merged(given.get("runtime_env"), {"env_vars": variables})
        with client.translating():
            made = self._class(spec, blob).options(**given)
            handle = made.remote(*map(real, args), **{key: real(value) for key, value in kwargs.items()})
        entry = client.objects.life(handle)
        entry.wanted = spec["placement_resources"]
        if spec.get("name"):
            client.describe_actor(entry.id[:16], spec["meta"])
        if rank is not None:
            client.hub.launched(rank, handle)
        return entry

    def _class(self, spec: dict[str, Any], blob: bytes) -> Any:
        """Ray's actor class."""
        groups = spec.get("concurrency_groups") or {}
        key = (blob, spec["meta"], repr(sorted(groups.items())))
        found = self._classes.get(key)
        if found is None:
            cls = self._carriers.actor_class(self._client.ray.cloudpickle.loads(blob), spec["meta"])
            remote = self._client.ray.remote
            found = remote(concurrency_groups=groups)(cls) if groups else remote(cls)
            self._keep(self._classes, key, found)
        return found

    def call_actor(
        self, actor_id: bytes, handle: Held, method: str, args: tuple[Any, ...], kwargs: dict[str, Any],
        num_returns: int = 1, max_retries: int = 0, retry_on: Any = None, max_pending: int = -1,
        options: dict[str, Any] | None = None,
    ) -> Any:  # fmt: skip
        """See `spoke.engines.Submits`."""
        given: dict[str, Any] = _travelling(options)
        if num_returns != 1 or not method.startswith("__ray_"):
            given["num_returns"] = _COUNTS.get(num_returns, num_returns)
        if max_retries:
            given["max_task_retries"] = max_retries
        if retry_on is not None:
            given["retry_exceptions"] = retry_on.given
        with self._client.translating():
            found = getattr(handle.real, method)
            if given:
                found = found.options(**given)
            made = found.remote(*map(real, args), **{key: real(value) for key, value in kwargs.items()})
        return self._results(made, num_returns)

    # -- where it runs

    def _placement(self, spec: dict[str, Any]) -> dict[str, Any]:
        """Resources, strategy and environment."""
        found: dict[str, Any] = {}
        amounts = {name: _plain(amount) for name, amount in spec["resources"].items()}
        placed = spec.get("placement_resources")
        if "CPU" in amounts or placed is None or "CPU" not in placed:  # else Ray's default, as in Spoke
            found["num_cpus"] = amounts.pop("CPU", 0)
        if "GPU" in amounts:
            found["num_gpus"] = amounts.pop("GPU")
        if "memory" in amounts:
            found["memory"] = int(amounts.pop("memory"))
        for name in [name for name in amounts if name.startswith(_ACCELERATOR)]:
            found["accelerator_type"] = name.removeprefix(_ACCELERATOR)
            del amounts[name]
        if amounts:
            found["resources"] = amounts
        for name in ("label_selector", "fallback_strategy", "runtime_env"):
            if spec.get(name):
                found[name] = spec[name]
        found["scheduling_strategy"] = self._strategy(spec.get("strategy"))
        return found

    def _strategy(self, spec: Any) -> Any:
        if spec is None or isinstance(spec, str):
            return spec or "DEFAULT"  # said, or Ray would take the group of the running task
        from ray.util import scheduling_strategies as strategies

        if spec["kind"] == "node":
            return strategies.NodeAffinitySchedulingStrategy(spec["node_id"].hex(), spec["soft"])
        if spec["kind"] == "labels":
            words = {"in": strategies.In, "not_in": strategies.NotIn}
            bare = {"exists": strategies.Exists, "does_not_exist": strategies.DoesNotExist}
            hard, soft = (
                {
                    key: words[one["op"]](*one["values"]) if one["op"] in words else bare[one["op"]]()
                    for key, one in spec[part].items()
                }
                for part in ("hard", "soft")
            )
            return strategies.NodeLabelSchedulingStrategy(hard, soft=soft)
        group, index = self._client.hub.bundle(spec["group_id"], spec["index"])
        return strategies.PlacementGroupSchedulingStrategy(group, index, spec["capture"])


def _plain(amount: float) -> float:
    return int(amount) if amount == int(amount) else amount


def _travelling(options: dict[str, Any] | None) -> dict[str, Any]:
    """What a call tells about itself, under Ray's names."""
    if (options or {}).get("per_yield"):
        raise unsupported("_num_objects_per_yield", "yield the items one by one")
    transport = (options or {}).get("tensor_transport")
    if transport and transport.lower() != "object_store":
        raise unsupported(f"tensor_transport={transport!r}", "pass values through the object store")
    return {_TRAVEL[name]: value for name, value in (options or {}).items() if name in _TRAVEL}
