"""Runtime environments at the hub: who waits, who hears, what is kept, what is dropped."""

from __future__ import annotations

import pytest

from spoke import wire
from spoke.core import Journal
from spoke.core.hub import HubConfig, HubCore
from tests.hub_harness import Harness, name, one_node

ENV = {"env": {"SPOKE_RUNTIME_ENV": '{"pip": {"packages": ["x"]}}'}}


def waiting(count: int = 1) -> tuple[Harness, bytes, bytes, list[bytes]]:
    """A hub whose node makes the environment of `count` tasks."""
    hub, node, driver = one_node(8.0)
    hub.auto_start = False
    hub.want(driver, 1, count, ENV, CPU=1.0)
    workers = list(hub.worker_node)
    for worker_id in workers:
        hub.say(node, wire.ENV_STATE, worker_id, "preparing", 7, ["one line"])
    return hub, node, driver, workers


def test_a_worker_that_is_prepared_is_neither_late_nor_counted() -> None:
    hub, node, driver, (worker,) = waiting()
    assert hub.hub.state.nodes[node].starting_count == 0
    hub.pass_time(600.0, node)
    assert not hub.take(node, wire.STOP_WORKER)
    hub.say(node, wire.ENV_STATE, worker, "ready", 0, [])
    assert hub.hub.state.nodes[node].starting_count == 1
    hub.step(hub.worker_up(worker))
    assert len(hub.grants(driver)) == 1


def test_once_prepared_it_must_connect_in_time() -> None:
    hub, node, _, (worker,) = waiting()
    hub.say(node, wire.ENV_STATE, worker, "ready", 0, [])
    hub.pass_time(hub.hub.state.config.start_timeout_s + 1, node)
    assert hub.take(node, wire.STOP_WORKER)[0][1] == worker


def test_other_work_starts_while_environments_are_made() -> None:
    hub, _node, driver, workers = waiting(4)
    assert len(workers) == 4
    before = len(hub.worker_node)
    hub.want(driver, 2, 2, CPU=1.0)
    for worker_id in list(hub.worker_node)[before:]:
        hub.step(hub.worker_up(worker_id))
    assert len(hub.grants(driver)) == 2


def test_the_driver_that_waits_hears_what_is_printed() -> None:
    hub, node, driver, _ = waiting()
    assert hub.take(driver, wire.LOG_LINES) == [
        [wire.LOG_LINES, node, 7, "runtime_env", "stderr", ["one line"]]
    ]
    other = hub.driver("other", node)
    assert not hub.take(other, wire.LOG_LINES)


def test_a_failure_ends_all_that_wait_at_once_by_name() -> None:
    hub, node, driver, (worker,) = waiting()
    actor = hub.actor(driver, "a", ENV, CPU=1.0)
    hub.say(node, wire.ENV_STATE, worker, "failed", 0, ["no such package"])
    hub.step(hub.exit_of(worker, pid=0))  # none was started
    (reason,) = hub.take(driver, wire.PENDING_REASON)
    assert reason[1:3] == ["environment", 1] and reason[4] is True
    assert "no such package" in reason[3]
    dead = hub.take(driver, wire.ACTOR_STATE)[-1]
    assert (dead[1], dead[2], dead[5]["kind"]) == (actor, "DEAD", "runtime_env")
    assert "no such package" in dead[5]["cause"]
    hub.pass_time(10.0, node)
    assert hub.free(node) == 8.0


def test_a_setup_hook_that_fails_ends_an_actor_as_its_constructor_does() -> None:
    hub, node, driver, (worker,) = waiting()
    actor = hub.actor(driver, "a", ENV, CPU=1.0)
    hub.say(node, wire.ENV_STATE, worker, "failed", 5, ["the hook raised"])
    hub.step(hub.exit_of(worker, 76))
    dead = hub.take(driver, wire.ACTOR_STATE)[-1]
    assert (dead[1], dead[2], dead[5]["kind"]) == (actor, "DEAD", "start_failed")
    assert "the hook raised" in dead[5]["cause"]


def test_what_an_interpreter_of_ones_own_fails_with_is_the_environments_failure() -> None:
    hub, node, driver = one_node()
    hub.auto_start = False
    hub.want(driver, 1, 1, ENV, CPU=1.0)
    for _ in range(100):
        for worker_id in list(hub.hub.state.workers):
            hub.step(hub.exit_of(worker_id, 127, tail="sh: not found"))
        hub.pass_time(6.0, node)
        reasons = hub.take(driver, wire.PENDING_REASON)
        if reasons:
            break
    assert reasons[0][1] == "environment" and "sh: not found" in reasons[0][3]


def test_so_it_is_for_an_actor() -> None:
    hub, node, driver = one_node()
    hub.auto_start = False
    actor = hub.actor(driver, "a", ENV, CPU=1.0)
    dead = None
    for _ in range(100):
        for worker_id in list(hub.hub.state.workers):
            hub.step(hub.exit_of(worker_id, 127, tail="sh: not found"))
        hub.pass_time(6.0, node)
        dead = next((one for one in hub.take(driver, wire.ACTOR_STATE) if one[2] == "DEAD"), None)
        if dead is not None:
            break
    assert dead is not None and (dead[1], dead[5]["kind"]) == (actor, "runtime_env")


def test_a_stale_word_about_a_worker_is_ignored() -> None:
    hub, node, _driver, (worker,) = waiting()
    other = hub.node("n2", CPU=1.0)
    hub.say(other, wire.ENV_STATE, worker, "failed", 0, ["not mine"])
    hub.say(node, wire.ENV_STATE, name("nobody"), "failed", 0, ["unknown"])
    assert not hub.hub.state.workers[worker].env_error


def test_an_environment_ahead_of_need_goes_to_every_node() -> None:
    hub, node, driver = one_node()
    other = hub.node("n2", CPU=1.0)
    hub.ask(driver, "env_eager", env=ENV["env"])
    for one in (node, other):
        assert hub.take(one, wire.PREPARE_ENV) == [[wire.PREPARE_ENV, ENV["env"]]]


# -- packages

URI = "gcs://_ray_pkg_ab.zip"


def test_a_package_is_given_out_when_it_is_whole() -> None:
    hub, _, driver = one_node()
    hub.ask(driver, "package_put", uri=URI, index=0, count=2, data=b"one")
    assert hub.ask(driver, "package_hold", uri=URI) is False
    with pytest.raises(LookupError, match="is not in this cluster"):
        hub.ask(driver, "package_get", uri=URI, index=0)
    hub.ask(driver, "package_put", uri=URI, index=1, count=2, data=b"two")
    assert hub.ask(driver, "package_hold", uri=URI) is True
    assert hub.ask(driver, "package_get", uri=URI, index=1) == {"count": 2, "data": b"two"}


def test_a_package_goes_with_the_last_job_that_named_it() -> None:
    hub, node, first = one_node()
    second = hub.driver("second", node)
    hub.ask(first, "package_put", uri=URI, index=0, count=1, data=b"x")
    assert hub.ask(second, "package_hold", uri=URI) is True
    hub.lose(first)
    assert hub.ask(second, "package_get", uri=URI, index=0)["data"] == b"x"
    hub.lose(second)
    third = hub.driver("third", node)
    assert hub.ask(third, "package_hold", uri=URI) is False
    assert not hub.hub.packages.table


def test_bounds_and_nonsense_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    hub, _, driver = one_node()
    for index, count in ((1, 1), (-1, 1), (0, 0), (0, 10**9)):
        with pytest.raises(LookupError, match="cannot be"):
            hub.ask(driver, "package_put", uri=URI, index=index, count=count, data=b"")
    with pytest.raises(LookupError, match="bounded number"):
        hub.ask(driver, "package_put", uri=URI, index=0, count=1, data="text")
    monkeypatch.setattr("spoke.core.packages.MAX_PACKAGES_BYTES", 10)
    hub.ask(driver, "package_put", uri=URI, index=0, count=1, data=b"123456")
    with pytest.raises(LookupError, match="10 at most"):
        hub.ask(driver, "package_put", uri="gcs://_ray_pkg_cd.zip", index=0, count=1, data=b"123456")
    assert hub.ask(driver, "package_hold", uri=URI) is True  # what is in use stays


def test_packages_come_back_with_the_journal() -> None:
    hub, _, driver = one_node()
    commands = []
    step = hub.hub.step

    def noted(now: float, event: object) -> list[object]:
        found = step(now, event)  # type: ignore[arg-type]
        commands.extend(one for one in found if isinstance(one, Journal))
        return [one for one in found if not isinstance(one, Journal)]

    hub.hub.state.config.durable = True
    hub.hub.step = noted  # type: ignore[assignment,method-assign]
    hub.ask(driver, "package_put", uri=URI, index=0, count=1, data=b"kept")
    records = [(one.table, one.key, one.record) for one in commands if one.table == "package"]
    assert [record[2][3] for record in records] == [b"kept"]
    again = HubCore(HubConfig(seed=b"test", durable=True, prestart=0))
    again.packages.restore(records[0][2], [b"\1\0\0\0"])
    assert again.packages.table[URI].whole and list(again.packages.table[URI].users) == [b"\1\0\0\0"]
