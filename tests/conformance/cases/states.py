"""`ray.util.state` and `ray.timeline`: what is listed of actors, tasks, objects, nodes, groups, jobs.

Ray's lists follow what happens by up to some seconds, so every case waits until its rows are there.  They
come from its dashboard, which needs its packages to be installed beside it.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import tempfile
import threading
from collections.abc import Callable
from typing import Any

from tests.conformance.kit import Flag, caught, eventually, sub

INIT: dict[str, Any] = {"num_cpus": 4, "num_gpus": 0, "include_dashboard": True}


def _state(ray: Any) -> Any:
    if ray.__name__ == "ray":  # its lists look for a cluster of this machine, and there may be others
        os.environ["RAY_ADDRESS"] = ray.get_runtime_context().gcs_address
    return sub(ray, "util.state")


class _Speaker:
    def say(self, word: str) -> str:
        print("heard", word, flush=True)
        return word

    def fail(self) -> None:
        raise ValueError("no")

    def hold(self, flag: Flag) -> bool:
        return flag.wait()


def _speaker(ray: Any, **options: Any) -> tuple[Any, str]:
    """An actor that has answered, and its id."""
    actor = ray.remote(_Speaker).options(**options).remote()
    ray.get(actor.say.remote("hello"))
    return actor, actor._actor_id.hex()


def _until(rows: Callable[[], Any], good: Callable[[Any], bool] = bool) -> Any:
    """The first answer that is good; the last one where none is."""
    seen: list[Any] = [None]

    def look() -> bool:
        seen[0] = rows()
        return good(seen[0])

    eventually(look)
    return seen[0]


def _shape(row: Any) -> dict[str, str]:
    """Which fields without details there are, with the kinds of their values."""
    return {name: type(row[name]).__name__ for name in sorted(type(row).base_columns())}


def _hex(text: Any, length: int) -> bool:
    return bool(re.fullmatch(rf"[0-9a-f]{{{length}}}", str(text)))


# -- actors


def actor_row(ray: Any) -> Any:
    _actor, actor_id = _speaker(ray, name="row")
    (row,) = _until(lambda: _state(ray).list_actors(filters=[("actor_id", "=", actor_id)]))
    return [_shape(row), row.state, row.class_name, row.name, _hex(row.node_id, 56), _hex(row.job_id, 8)]


def actor_get(ray: Any) -> Any:
    _actor, actor_id = _speaker(ray, name="got", num_cpus=1)
    row = _until(lambda: _state(ray).get_actor(actor_id), lambda row: row and row.state == "ALIVE")
    return [row.actor_id == actor_id, row.is_detached, row.placement_group_id, row.num_restarts,
            row.required_resources, row.death_cause, row.serialized_runtime_env]  # fmt: skip


def actor_details_are_filled_on_request(ray: Any) -> Any:
    _actor, actor_id = _speaker(ray)
    state, filters = _state(ray), [("actor_id", "=", actor_id)]
    (plain,) = _until(lambda: state.list_actors(filters=filters))
    (full,) = _until(lambda: state.list_actors(filters=filters, detail=True))
    names = ("is_detached", "num_restarts", "required_resources")
    return [[plain[name] for name in names], [full[name] for name in names]]


def actor_dead(ray: Any) -> Any:
    actor, actor_id = _speaker(ray)
    ray.kill(actor)
    row = _until(lambda: _state(ray).get_actor(actor_id), lambda row: row is not None and row.state == "DEAD")
    return [row.state, row.death_cause is not None, row.class_name]


def actor_filters(ray: Any) -> Any:
    state = _state(ray)
    kept = [_speaker(ray, name=f"filter-{index}") for index in range(3)]
    ids = {actor_id for _, actor_id in kept}
    _until(lambda: state.list_actors(limit=1000), lambda rows: ids <= {row.actor_id for row in rows})

    def names(*filters: tuple[str, str, str]) -> list[str]:
        rows = state.list_actors(filters=list(filters), limit=1000)
        return sorted(row.name for row in rows if row.actor_id in ids)

    return [
        names(("state", "=", "ALIVE")),
        names(("state", "=", "alive")),  # without regard to case
        names(("name", "=", "filter-1")),
        names(("name", "!=", "filter-1")),
        names(("name", "!=", "filter-1"), ("name", "!=", "filter-2")),
        names(("class_name", "=", "Nothing")),
    ]


def actor_pending(ray: Any) -> Any:
    actor = ray.remote(_Speaker).options(resources={"nowhere": 1}).remote()
    row = _until(lambda: _state(ray).get_actor(actor._actor_id.hex()))
    return [row.state, row.pid in (0, None), row.node_id]


def actor_detached_and_named(ray: Any) -> Any:
    actor, actor_id = _speaker(ray, name="stays", namespace="elsewhere", lifetime="detached")
    row = _until(lambda: _state(ray).get_actor(actor_id))
    ray.kill(actor)
    return [row.name, row.ray_namespace, row.is_detached]


def actor_in_a_group(ray: Any) -> Any:
    util = sub(ray, "util")
    group = util.placement_group([{"CPU": 1}])
    ray.get(group.ready())
    strategy = sub(ray, "util.scheduling_strategies").PlacementGroupSchedulingStrategy(group)
    _actor, actor_id = _speaker(ray, num_cpus=1, scheduling_strategy=strategy)
    row = _until(lambda: _state(ray).get_actor(actor_id))
    util.remove_placement_group(group)
    return row.placement_group_id == group.id.hex()


def actor_restarts(ray: Any) -> Any:
    @ray.remote(max_restarts=1)
    class Ends:
        def end(self) -> None:
            os._exit(1)

    actor = Ends.remote()
    caught(lambda: ray.get(actor.end.remote()))
    row = _until(
        lambda: _state(ray).get_actor(actor._actor_id.hex()),
        lambda row: row is not None and row.num_restarts == 1 and row.state == "ALIVE",
    )
    return [row.state, row.num_restarts]


def actor_unknown(ray: Any) -> Any:
    return _state(ray).get_actor("00" * 16)


# -- wrong questions


def wrong_filters(ray: Any) -> Any:
    state = _state(ray)
    exception = sub(ray, "util.state.exception").RayStateApiException
    _speaker(ray)

    def refused(kind: type, *one: str) -> Any:
        return caught(lambda: state.list_actors(filters=[one]), kinds=(kind,)).get("is")

    return [
        refused(exception, "nothing", "=", "1"),
        refused(ValueError, "state", "<", "1"),
        refused(exception, "pid", "=", "many"),
        refused(ValueError, "state"),
    ]


def limits(ray: Any) -> Any:
    state = _state(ray)
    exception = sub(ray, "util.state.exception").RayStateApiException
    for _ in range(3):
        _speaker(ray)
    _until(lambda: state.list_actors(), lambda rows: len(rows) >= 3)
    return [
        len(state.list_actors(limit=2)),
        len(state.list_actors(limit=0)),
        caught(lambda: state.list_actors(limit=-1), kinds=(exception,)).get("is"),
        caught(lambda: state.list_actors(limit=100_000), kinds=(exception,)).get("is"),
    ]


# -- tasks


def _task(ray: Any, name: str, good: Callable[[Any], bool] = bool) -> Any:
    """The one task of a name."""
    rows = _until(
        lambda: _state(ray).list_tasks(filters=[("name", "=", name)], detail=True, limit=1000),
        lambda rows: len(rows) == 1 and good(rows[0]),
    )
    return rows[0] if rows else None


def task_row(ray: Any) -> Any:
    @ray.remote
    def task_row_function() -> int:
        return 1

    ray.get(task_row_function.remote())
    (row,) = _until(
        lambda: _state(ray).list_tasks(filters=[("name", "=", "task_row_function")]),
        lambda rows: len(rows) == 1 and rows[0].state == "FINISHED" and rows[0].worker_pid,
    )
    return [_shape(row), row.type, row.func_or_class_name, row.attempt_number, _hex(row.task_id, 48),
            _hex(row.parent_task_id, 48), _hex(row.worker_id, 56)]  # fmt: skip


def task_finished(ray: Any) -> Any:
    @ray.remote
    def finishes() -> int:
        return os.getpid()

    pid = ray.get(finishes.remote())
    row = _task(ray, "finishes", lambda row: row.start_time_ms and row.end_time_ms and row.worker_pid)
    in_order = row.start_time_ms <= row.end_time_ms
    return [row.state, row.worker_pid == pid, row.error_type, in_order, row.language]


def task_failed(ray: Any) -> Any:
    @ray.remote
    def fails() -> None:
        raise ValueError("no")

    caught(lambda: ray.get(fails.remote()))
    row = _task(ray, "fails", lambda row: row.state == "FAILED")
    return [row.state, row.error_type, row.attempt_number]


def task_whose_worker_dies(ray: Any) -> Any:
    @ray.remote(max_retries=0)
    def dies() -> None:
        os._exit(1)

    caught(lambda: ray.get(dies.remote()))
    row = _task(ray, "dies", lambda row: row.state == "FAILED")
    return [row.state, row.error_type]


def task_running(ray: Any) -> Any:
    flag = Flag()

    @ray.remote
    def runs() -> bool:
        return flag.wait()

    ref = runs.remote()
    row = _task(ray, "runs", lambda row: row.state == "RUNNING")
    flag.set()
    ray.get(ref)
    return [row.state, row.worker_pid is not None, row.task_id == ref.task_id().hex()]


def task_that_waits_for_arguments(ray: Any) -> Any:
    flag = Flag()

    @ray.remote
    def comes_first() -> bool:
        return flag.wait()

    @ray.remote
    def comes_second(value: Any) -> Any:
        return value

    ref = comes_second.remote(comes_first.remote())
    row = _task(ray, "comes_second", lambda row: row.state == "PENDING_ARGS_AVAIL")
    flag.set()
    ray.get(ref)
    return [row.state, row.worker_pid]


def task_that_waits_for_resources(ray: Any) -> Any:
    @ray.remote(resources={"nowhere": 1})
    def fits_nowhere() -> None:
        pass

    ref = fits_nowhere.remote()
    row = _task(ray, "fits_nowhere", lambda row: row.state == "PENDING_NODE_ASSIGNMENT")
    ray.cancel(ref)
    return row.state


def task_cancelled(ray: Any) -> Any:
    @ray.remote(resources={"nowhere": 1})
    def is_cancelled() -> None:
        pass

    ref = is_cancelled.remote()
    ray.cancel(ref)
    caught(lambda: ray.get(ref, timeout=20))
    row = _task(ray, "is_cancelled", lambda row: row.state == "FAILED")
    return [row.state, row.error_type]


def task_with_a_name(ray: Any) -> Any:
    @ray.remote
    def has_a_function_name() -> None:
        pass

    ray.get(has_a_function_name.options(name="a name of its own").remote())
    row = _task(ray, "a name of its own")
    return [row.name, row.func_or_class_name]


def task_of_an_actor(ray: Any) -> Any:
    actor, actor_id = _speaker(ray)
    caught(lambda: ray.get(actor.fail.remote()))
    rows = _until(
        lambda: _state(ray).list_tasks(filters=[("actor_id", "=", actor_id)]),
        lambda rows: len(rows) == 3 and all(row.state in ("FINISHED", "FAILED") for row in rows),
    )
    names = ("name", "func_or_class_name", "type", "state", "error_type")
    return sorted([str(row[name]) for name in names] for row in rows)


def task_of_a_named_actor(ray: Any) -> Any:
    _actor, actor_id = _speaker(ray, name="task-name")
    filters = [("actor_id", "=", actor_id), ("type", "=", "ACTOR_CREATION_TASK")]
    (row,) = _until(lambda: _state(ray).list_tasks(filters=filters))
    return [row.name, row.func_or_class_name, row.task_id == "ff" * 8 + actor_id]


def task_by_its_ref(ray: Any) -> Any:
    @ray.remote
    def behind_a_ref() -> None:
        pass

    ref = behind_a_ref.remote()
    ray.get(ref)
    state = _state(ray)
    row = _until(lambda: state.get_task(ref), lambda row: row is not None and row.state == "FINISHED")
    again = state.get_task(ref.task_id().hex())
    return [row.name, again.task_id == row.task_id, state.get_task("00" * 24)]


# -- objects, nodes, workers, groups, jobs


def object_row(ray: Any) -> Any:
    ref = ray.put(b"x" * 1_000_000)
    (row,) = _until(lambda: _state(ray).get_objects(ref.hex()))
    return [_shape(row), row.object_id == ref.hex(), row.object_size > 1_000_000, row.type,
            row.reference_type, row.task_status, row.pid == os.getpid()]  # fmt: skip


def object_of_a_task(ray: Any) -> Any:
    flag = Flag()

    @ray.remote
    def makes(flag: Flag) -> bool:
        return flag.wait()

    ref = makes.remote(flag)
    state = _state(ray)

    def when(status: str) -> Any:
        found = _until(
            lambda: state.get_objects(ref.hex()), lambda rows: rows and rows[0].task_status == status
        )
        return found[0]

    early = when("SUBMITTED_TO_WORKER")
    flag.set()
    ray.get(ref)
    late = when("FINISHED")
    return [early.object_size, early.task_status, late.object_size > 0, late.task_status, late.reference_type]


def object_of_an_actor(ray: Any) -> Any:
    _actor, actor_id = _speaker(ray)
    rows = _until(
        lambda: [row for row in _state(ray).list_objects(limit=1000) if actor_id in row.object_id],
        lambda rows: [row for row in rows if row.reference_type == "ACTOR_HANDLE"],
    )
    (row,) = [row for row in rows if row.reference_type == "ACTOR_HANDLE"]
    return [row.task_status, row.type]


def node_row(ray: Any) -> Any:
    (row,) = _state(ray).list_nodes()
    found = _state(ray).get_node(row.node_id)
    return [sorted(_shape(row)), row.state, row.is_head_node, row.resources_total["CPU"],
            found.node_id == row.node_id, row.labels["ray.io/node-id"] == row.node_id]  # fmt: skip


def worker_rows(ray: Any) -> Any:
    actor, actor_id = _speaker(ray)
    state = _state(ray)
    pid = _until(lambda: state.get_actor(actor_id)).pid
    rows = _until(lambda: state.list_workers(limit=1000), lambda rows: pid in [row.pid for row in rows])
    (mine,) = [row for row in rows if row.pid == pid]
    drivers = [row for row in rows if row.worker_type == "DRIVER"]
    again = state.get_worker(mine.worker_id)
    del actor
    return [sorted(_shape(mine)), mine.worker_type, mine.is_alive, mine.exit_type, _hex(mine.worker_id, 56),
            [row.pid == os.getpid() for row in drivers], again.pid == pid]  # fmt: skip


def group_rows(ray: Any) -> Any:
    util, state = sub(ray, "util"), _state(ray)
    group = util.placement_group([{"CPU": 1}, {"CPU": 1}], name="listed")
    ray.get(group.ready())
    (row,) = _until(lambda: state.list_placement_groups(filters=[("name", "=", "listed")]))
    full = state.get_placement_group(group.id.hex())
    util.remove_placement_group(group)
    gone = _until(
        lambda: state.get_placement_group(group.id.hex()), lambda row: row and row.state == "REMOVED"
    )
    return [_shape(row), row.state, row.bundles, [one["unit_resources"] for one in full.bundles],
            full.is_detached, gone.state]  # fmt: skip


def job_rows(ray: Any) -> Any:
    (row,) = [row for row in _state(ray).list_jobs() if row.job_id == ray.get_runtime_context().get_job_id()]
    return [str(row.type).rpartition(".")[2], str(row.status).rpartition(".")[2], row.submission_id,
            row.driver_info is not None]  # fmt: skip


def nothing_to_list(ray: Any) -> Any:
    return [_state(ray).list_runtime_envs(), _state(ray).get_placement_group("00" * 18),
            _state(ray).get_objects("00" * 28), _state(ray).get_node("00" * 28)]  # fmt: skip


# -- summaries


def summary_of_actors(ray: Any) -> Any:
    kept = [_speaker(ray) for _ in range(2)]
    found = _until(
        lambda: _state(ray).summarize_actors()["cluster"],
        lambda found: found["summary"].get("_Speaker", {}).get("state_counts", {}).get("ALIVE", 0) >= 2,
    )
    del kept
    row = found["summary"]["_Speaker"]
    return [sorted(found), found["summary_by"], sorted(row), row["class_name"]]


def summary_of_tasks(ray: Any) -> Any:
    @ray.remote
    def is_summed(x: int) -> int:
        return 1 // x

    for x in (1, 1, 0):
        caught(lambda x=x: ray.get(is_summed.remote(x)))  # type: ignore[misc]
    counts = {"FINISHED": 2, "FAILED": 1}
    found = _until(
        lambda: _state(ray).summarize_tasks()["cluster"],
        lambda found: found["summary"].get("is_summed", {}).get("state_counts") == counts,
    )
    return [sorted(found), found["summary_by"], found["summary"]["is_summed"]]


def summary_of_objects(ray: Any) -> Any:
    ref = ray.put(b"x" * 3_000_000)
    summarize = _state(ray).summarize_objects
    found = _until(lambda: summarize()["cluster"], lambda found: found["total_size_mb"] > 2.8)
    del ref
    ((site, row),) = found["summary"].items()
    return [sorted(found), found["summary_by"], found["callsite_enabled"], site, sorted(row)]


# -- logs


def log_of_an_actor(ray: Any) -> Any:
    _actor, actor_id = _speaker(ray)

    def text() -> str:
        return "".join(_state(ray).get_log(actor_id=actor_id))

    return "heard hello\n" in _until(text, lambda text: "hello" in text)


def log_of_a_task(ray: Any) -> Any:
    @ray.remote
    def prints() -> None:
        print("line one", flush=True)
        print("line two", flush=True)

    ref = prints.remote()
    ray.get(ref)
    state = _state(ray)

    def text() -> str:
        try:
            return "".join(state.get_log(task_id=ref.task_id().hex()))
        except Exception:  # it is not known yet where the task has written
            return ""

    return _until(text)


def log_of_nothing(ray: Any) -> Any:
    return caught(lambda: list(_state(ray).get_log()), kinds=(ValueError,))["is"]


def log_names(ray: Any) -> Any:
    _speaker(ray)
    node_id = ray.get_runtime_context().get_node_id()
    found = _until(lambda: _state(ray).list_logs(node_id=node_id), lambda found: found.get("worker_out"))
    named = all(name.startswith("worker-") for name in found["worker_out"])
    return ["worker_out" in found, "worker_err" in found, named]


# -- the timeline


def _events(ray: Any, name: str, count: int = 1) -> list[dict[str, Any]]:
    def mine() -> list[dict[str, Any]]:
        return [event for event in ray.timeline() if event["cat"] == f"task::{name}"]

    return list(_until(mine, lambda found: len(found) == count))


def timeline_event(ray: Any) -> Any:
    @ray.remote
    def on_the_line() -> None:
        pass

    ref = on_the_line.remote()
    ray.get(ref)
    (event,) = _events(ray, "on_the_line")
    return [sorted(event), event["ph"], event["name"].rpartition(".")[2], event["tid"].partition(":")[0],
            event["args"]["task_id"] == ref.task_id().hex(), event["dur"] > 0]  # fmt: skip


def timeline_shows_how_long(ray: Any) -> Any:
    @ray.remote
    def takes_long() -> None:
        threading.Event().wait(0.5)

    ray.get([takes_long.remote() for _ in range(2)])
    found = _events(ray, "takes_long", 2)
    return [450_000 < event["dur"] < 20_000_000 for event in found]


def timeline_of_an_actor(ray: Any) -> Any:
    @ray.remote
    class Travels:
        def say(self, word: str) -> str:
            return word

    actor = Travels.remote()
    ray.get([actor.say.remote(str(index)) for index in range(3)])
    found = sorted(_events(ray, "Travels.say", 3), key=lambda event: float(event["ts"]))
    one_worker = len({event["tid"] for event in found}) == 1
    in_turn = all(a["ts"] + a["dur"] <= b["ts"] + 1000 for a, b in itertools.pairwise(found))
    return [one_worker, in_turn, {event["name"] for event in found}]


def timeline_of_a_failure(ray: Any) -> Any:
    @ray.remote
    def fails_on_the_line() -> None:
        raise ValueError("no")

    caught(lambda: ray.get(fails_on_the_line.remote()))
    (event,) = _events(ray, "fails_on_the_line")
    return [event["ph"], event["dur"] > 0]


def timeline_of_a_named_task(ray: Any) -> Any:
    @ray.remote
    def has_two_names() -> None:
        pass

    ray.get(has_two_names.options(name="shown").remote())
    (event,) = _events(ray, "shown")
    return event["name"].rpartition(".")[2]


def timeline_file(ray: Any) -> Any:
    ray.get(ray.remote(_Speaker).remote().say.remote("x"))
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "trace.json")
        returned = ray.timeline(path)
        with open(path, encoding="utf-8") as file:
            found = json.load(file)
    return [returned, type(found).__name__, all(event["ph"] == "X" for event in found)]


def timeline_into_no_folder(ray: Any) -> Any:
    return caught(lambda: ray.timeline("/nowhere/at/all/trace.json"), kinds=(OSError,))["is"]
