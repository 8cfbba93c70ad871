"""Helpers of `spoke.util` whose answers real Ray does not give without its dashboard, or words otherwise."""

from __future__ import annotations

import io
import pickle
import threading
from pathlib import Path
from typing import Any

import pytest

from spoke.inspecting import TASK_FIELDS
from spoke.util import metrics, state
from spoke.util.check_serialize import inspect_serializability
from spoke.util.serialization import StandaloneSerializationContext
from spoke.util.state import rows


class Actor:
    """Counts."""

    def one(self) -> int:
        print("written by the actor")
        return 1

    def held(self, seconds: float) -> None:
        threading.Event().wait(seconds)


# -- state ----------------------------------------------------------------------------------------


def test_state_of_a_cluster(spoke_cluster: Any) -> None:
    spoke = spoke_cluster
    actor = spoke.remote(Actor).options(name="counter").remote()
    assert spoke.get(actor.one.remote()) == 1
    waiting = actor.held.remote(60)
    group = spoke.util.placement_group([{"CPU": 1}], name="pair")
    assert group.wait(10)
    actor_id = actor._actor_id.hex()

    row = state.get_actor(actor_id)
    assert (row.class_name, row.state, row["name"], row.get("nothing", 5)) == ("Actor", "ALIVE", "counter", 5)
    assert [one.actor_id for one in state.list_actors(filters=[("state", "=", "alive")])] == [actor_id]
    assert state.list_actors(filters=[("class_name", "!=", "Actor")]) == []
    assert state.list_nodes()[0].state == "ALIVE" and state.list_jobs()[0].status == "RUNNING"
    assert actor_id and row.pid in [worker.pid for worker in state.list_workers()]
    assert state.get_placement_group(group.id.hex()).state == "CREATED"
    assert state.get_task(waiting).func_or_class_name == "Actor.held"
    held = spoke.put(b"x" * 300_000)
    assert state.get_objects(held.hex())[0].object_size > 300_000
    assert state.summarize_actors()["cluster"]["summary"]["Actor"]["state_counts"] == {"ALIVE": 1}
    assert state.summarize_tasks()["cluster"]["total_actor_tasks"] == 2
    assert state.summarize_objects()["cluster"]["total_objects"] >= 1
    assert list(state.get_log(actor_id=actor_id)) == ["written by the actor\n"]
    assert any(name.endswith(".out") for name in state.list_logs()["worker_out"])

    spoke.kill(actor)
    with pytest.raises(spoke.exceptions.RayActorError):
        spoke.get(waiting, timeout=30)
    assert [event.event_id for event in state.list_cluster_events()] == [actor_id]
    spoke.util.remove_placement_group(group)


def test_wrong_questions(spoke_cluster: Any) -> None:
    for wrong, words in (
        ({"filters": [("nothing", "=", "1")]}, "Invalid filter key nothing"),
        ({"filters": [("state", "<", "1")]}, "Unsupported filter predicate <"),
        ({"limit": -1}, "0 or more"),
        ({"limit": 10**6}, "exceeds the supported limit"),
    ):
        with pytest.raises(ValueError, match=words):
            state.list_actors(**wrong)
    assert state.get_actor("00" * 16) is None
    with pytest.raises(ValueError, match="which log"):
        list(state.get_log())


def test_state_needs_a_cluster(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import spoke

    spoke.shutdown()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))  # where a cluster of this machine would be found
    with pytest.raises(state.api.ServerUnavailable, match=r"init\(\)"):
        state.list_nodes()


class Looks:
    """A source whose processes have said what they have."""

    def __init__(self, *looks: tuple[bytes, list[dict[str, Any]]]) -> None:
        place = {"node_id": b"n", "pid": 1, "ip": "127.0.0.1", "job_id": b"\1\0\0\0"}
        self._looks = [
            ({**place, "process_id": process}, [[row.get(name) for name in TASK_FIELDS] for row in found])
            for process, found in looks
        ]

    def inspect(self, topic: str) -> Any:
        return self._looks

    def ask(self, what: str) -> Any:
        return []


@pytest.mark.parametrize(
    ("at_caller", "shown"),
    [(None, ["FAILED"]), (0, ["FAILED"]), (1, ["FAILED", "RUNNING"])],
    ids=["answered", "not heard of the answer yet", "tried again"],
)
def test_a_call_that_was_just_answered_is_shown_once(at_caller: int | None, shown: list[str]) -> None:
    call = {
        "task_id": b"t" * 24,
        "name": "f",
        "function": "f",
        "start_us": 5,
        "micros": 1,
        "attempt": 0,
        "parent": b"",
    }
    ran = [
        {**call, "ran_here": True, "state": "FAILED"},
        {**call, "ran_here": True, "state": "RUNNING", "start_us": 0},
    ]
    waiting = [] if at_caller is None else [{**call, "state": "SUBMITTED_TO_WORKER", "attempt": at_caller}]
    found = rows.tasks(Looks((b"caller", waiting), (b"worker", ran)))  # type: ignore[arg-type]
    assert [(row.attempt_number, row.state) for row in sorted(found, key=lambda row: row.attempt_number)] == [
        *enumerate(shown)
    ]


@pytest.mark.parametrize(("options", "calls"), [({}, 2), ({"maxtasksperchild": 9}, 5)])
def test_a_map_costs_one_call_a_process(spoke_cluster: Any, options: Any, calls: int) -> None:
    with spoke_cluster.util.multiprocessing.Pool(2, **options) as pool:
        assert pool.map(abs, range(-9, 0), chunksize=2) == list(range(9, 0, -1))
        ids = {actor._actor_id.hex() for actor in pool._actors}
        rows = state.list_tasks(filters=[("name", "=", "PoolActor.run")], detail=True)
        assert len([row for row in rows if row.actor_id in ids]) == calls


def test_the_job_of_a_ref(spoke_cluster: Any) -> None:
    assert spoke_cluster.put(1).job_id().hex() == spoke_cluster.get_runtime_context().get_job_id()


# -- metrics --------------------------------------------------------------------------------------


def test_metrics_as_text() -> None:
    counter = metrics.Counter("served_total", "requests served", tag_keys=("route",))
    counter.inc(2, {"route": 'a"b'})
    pickle.loads(pickle.dumps(counter)).inc(tags={"route": 'a"b'})  # the same metric
    metrics.Gauge("depth").set(4)
    histogram = metrics.Histogram("seconds", boundaries=[0.1, 1.0])
    for value in (0.05, 0.1, 0.5, 7):
        histogram.observe(value)
    text = metrics.exposition()
    for line in (
        "# TYPE served_total counter",
        'served_total{route="a\\"b"} 3.0',
        "depth 4.0",
        'seconds_bucket{le="0.1"} 2',
        'seconds_bucket{le="1.0"} 3',
        'seconds_bucket{le="+Inf"} 4',
        "seconds_count 4",
    ):
        assert line in text.splitlines()


# -- serialization --------------------------------------------------------------------------------

LOCK = threading.Lock()


def test_what_cannot_be_serialized_is_found() -> None:
    lock = threading.Lock()

    def closure() -> Any:
        return lock

    class Holder:
        def __init__(self) -> None:
            self.parts = {"inner": [1, lock]}

    out = io.StringIO()
    good, failures = inspect_serializability(closure, print_file=out)
    assert not good and [failure.path for failure in failures] == [("closure", "lock")]
    assert "lock" in out.getvalue()
    good, failures = inspect_serializability(Holder(), name="holder", print_file=io.StringIO())
    assert [failure.path for failure in failures] == [("holder", "parts", "inner", "1")]
    assert next(iter(failures)).obj is lock
    assert inspect_serializability([1, "a"], print_file=io.StringIO()) == (True, set())


def test_values_as_bytes_without_a_cluster() -> None:
    numpy = pytest.importorskip("numpy")
    context = StandaloneSerializationContext()
    data = context.serialize_and_pack({"a": numpy.arange(3), "b": [1]})
    value = context.deserialize(data)
    assert value["a"].tolist() == [0, 1, 2] and value["b"] == [1]
