"""`ray.util.state` as Ray's own test programs read it: which fields rows have, and what they tell."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

from tests.conformance.kit import eventually, sub

INIT: dict[str, Any] = {"num_cpus": 4, "num_gpus": 0, "include_dashboard": True}


def _state(ray: Any) -> Any:
    if ray.__name__ == "ray":  # its lists look for a cluster of this machine, and there may be others
        os.environ["RAY_ADDRESS"] = ray.get_runtime_context().gcs_address
    return sub(ray, "util.state")


def _until(look: Callable[[], bool]) -> bool:
    """Whether it comes true; a look that finds no row yet is no answer."""

    def safe() -> bool:
        try:
            return bool(look())
        except (AttributeError, IndexError, KeyError, TypeError, ValueError):
            return False

    return eventually(safe)


class _Named:
    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return self.name

    def say(self) -> int:
        return os.getpid()


class _Plain:
    def say(self) -> int:
        return os.getpid()


def fields_of_rows(ray: Any) -> Any:
    common = sub(ray, "util.state.common")
    kinds = ("ActorState", "NodeState", "WorkerState", "PlacementGroupState", "JobState", "TaskState")
    seen: dict[str, Any] = {}
    for kind in kinds:
        schema = getattr(common, kind)
        seen[kind] = [
            sorted(schema.columns()),
            sorted(schema.base_columns()),
            type(schema.columns()).__name__,
        ]
    return seen


def an_actor_that_names_itself(ray: Any) -> Any:
    state = _state(ray)
    named = ray.remote(_Named).remote("my own name")
    plain = ray.remote(_Plain).remote()
    ray.get([named.say.remote(), plain.say.remote()])
    own, other = named._actor_id.hex(), plain._actor_id.hex()
    return [
        _until(lambda: state.get_actor(own).repr_name == "my own name"),
        _until(lambda: state.get_actor(other).repr_name == ""),
    ]


def calls_of_an_actor_that_names_itself(ray: Any) -> Any:
    state = _state(ray)
    actor = ray.remote(_Named).remote("caller")
    ray.get([actor.say.remote(), actor.say.options(name="by option").remote()])
    filters = [("actor_id", "=", actor._actor_id.hex()), ("type", "=", "ACTOR_TASK")]

    def rows() -> list[list[str]]:
        return sorted([row.name, row.func_or_class_name] for row in state.list_tasks(filters=filters))

    wanted = [["by option", "_Named.say"], ["caller.say", "_Named.say"]]
    return _until(lambda: rows() == wanted)


def a_dead_actor_keeps_its_process(ray: Any) -> Any:
    state = _state(ray)
    actor = ray.remote(_Plain).remote()
    pid, name = ray.get(actor.say.remote()), actor._actor_id.hex()
    ray.kill(actor)
    dead = _until(lambda: state.get_actor(name).state == "DEAD")
    row = state.get_actor(name)
    return [dead, row.pid == pid, row.node_id == ray.get_runtime_context().get_node_id()]


def where_a_call_was_made_from(ray: Any) -> Any:
    state = _state(ray)

    @ray.remote
    def inner_of_two() -> str:
        return str(ray.get_runtime_context().get_task_id())

    @ray.remote
    def outer_of_two() -> list[str]:
        return [str(ray.get_runtime_context().get_task_id()), ray.get(inner_of_two.remote())]

    outer, inner = ray.get(outer_of_two.remote())

    def parent(task_id: str) -> str:
        (row,) = state.list_tasks(filters=[("task_id", "=", task_id)], detail=True)
        return str(row.parent_task_id)

    return [_until(lambda: parent(inner) == outer), _until(lambda: parent(outer) not in (inner, outer, ""))]


def the_error_of_a_task(ray: Any) -> Any:
    state = _state(ray)

    @ray.remote(max_retries=0)
    def fails_with_words() -> None:
        raise ValueError("the words of it")

    ref = fails_with_words.remote()
    ray.wait([ref])
    filters = [("name", "=", "fails_with_words"), ("state", "=", "FAILED")]
    found = _until(lambda: len(state.list_tasks(filters=filters, detail=True)) == 1)
    (row,) = state.list_tasks(filters=filters, detail=True)
    return [found, row.error_type, "ValueError: the words of it" in row.error_message]


def times_of_nodes_and_processes(ray: Any) -> Any:
    state = _state(ray)
    now = 1000 * time.time()
    (node,) = state.list_nodes(detail=True)
    ray.get(ray.remote(lambda: 1).remote())
    _until(lambda: any(row.worker_type == "WORKER" for row in state.list_workers(detail=True)))
    workers = [row for row in state.list_workers(detail=True) if row.is_alive]
    recent = 3_600_000.0
    return [
        0 < now - node.start_time_ms < recent,
        node.end_time_ms,
        all(abs(now - row.start_time_ms) < recent for row in workers),
        {row.end_time_ms for row in workers},
        state.get_node(node.node_id) == node,
        all(state.get_worker(row.worker_id) == row for row in workers),
    ]


def bundles_of_a_group(ray: Any) -> Any:
    state = _state(ray)
    pg = ray.util.placement_group([{"CPU": 1}, {"CPU": 2}])
    ray.get(pg.ready())
    _until(lambda: state.get_placement_group(pg.id.hex()).state == "CREATED")
    row = state.get_placement_group(pg.id.hex())
    seen = [[bundle["bundle_id"]["bundle_index"], bundle["unit_resources"]] for bundle in row.bundles]
    same = all(bundle["bundle_id"]["placement_group_id"] == pg.id.hex() for bundle in row.bundles)
    ray.util.remove_placement_group(pg)
    return [seen, same, row.stats["scheduling_state"]]
