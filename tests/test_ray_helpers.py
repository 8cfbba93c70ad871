"""What test programs written for Ray, and their fixtures, import besides `ray`.

One such program, under pytest and the switch, with fixtures like those that Ray's programs have.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

PROGRAM = """
import asyncio, os, signal, subprocess, sys, time
import pytest
import ray
import ray.cluster_utils
import ray.util.state
from ray._common.test_utils import (
    FakeTimer, Semaphore, SignalActor, async_wait_for_condition, fetch_prometheus_metrics, is_named_tuple,
    wait_for_condition,
)
# The next ones, and those in the tests, are what the fixtures of Ray's own tests import.
from ray._common.network_utils import build_address, find_free_port, parse_address
from ray._private import auto_init_hook, ray_constants
from ray._private import test_utils as helpers
from ray._private.authentication_test_utils import set_auth_mode
from ray._private.conftest_utils import set_override_dashboard_url
from ray._private.runtime_env.plugin import RuntimeEnvPlugin
from ray._private.runtime_env.uri_cache import URICache
from ray._private.runtime_env import virtualenv_utils
from ray._private.runtime_env.pip import PipProcessor
from ray._private.runtime_env.plugin_schema_manager import RuntimeEnvPluginSchemaManager
from ray.dashboard.modules.job.sdk import JobSubmissionClient
from ray.runtime_env.runtime_env import RuntimeEnvConfig
from ray._private import utils


@pytest.fixture(scope="module")
def regular():
    yield ray.init(
        "local", num_cpus=2, object_store_memory=150 * 1024 * 1024, dashboard_port=None,
        namespace="default_test_namespace", _system_config={"object_timeout_milliseconds": 200},
    )
    ray.shutdown()
    utils.reset_ray_address()


def test_signal(regular):
    signal_actor = SignalActor.remote()

    @ray.remote(num_cpus=0)
    def waits(actor):
        ray.get(actor.wait.remote())
        return "passed"

    refs = [waits.remote(signal_actor) for _ in range(2)]
    wait_for_condition(lambda: ray.get(signal_actor.cur_num_waiters.remote()) == 2)
    assert ray.wait(refs, timeout=0)[0] == []
    ray.get(signal_actor.wait.remote(should_wait=False))
    ray.get(signal_actor.send.remote(clear=True))
    assert ray.get(refs) == ["passed", "passed"]
    later = waits.remote(signal_actor)
    wait_for_condition(lambda: ray.get(signal_actor.cur_num_waiters.remote()) == 1)
    ray.get(signal_actor.send.remote())
    assert ray.get(later) == "passed"
    assert ray.get(waits.remote(signal_actor)) == "passed"


def test_semaphore(regular):
    semaphore = Semaphore.remote(value=1)
    ray.get(semaphore.acquire.remote())
    assert ray.get(semaphore.locked.remote())
    second = semaphore.acquire.remote()
    assert ray.wait([second], timeout=0.2)[0] == []
    ray.get(semaphore.release.remote())
    ray.get(second)


def test_conditions():
    tries = []

    def third(least):
        tries.append(1)
        if len(tries) < least:
            raise ValueError("not yet")
        return True

    wait_for_condition(third, retry_interval_ms=1, least=3)
    assert len(tries) == 3
    with pytest.raises(RuntimeError, match="condition wasn't met before the timeout expired") as caught:
        wait_for_condition(lambda: 1 / 0, timeout=0)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    with pytest.raises(ZeroDivisionError):
        wait_for_condition(lambda: 1 / 0, timeout=0, raise_exceptions=True)

    async def true():
        return True

    with pytest.raises(TypeError, match="async_wait_for_condition"):
        wait_for_condition(true)

    async def all_ways():
        await async_wait_for_condition(true)
        await async_wait_for_condition(lambda: len(tries) == 3)
        with pytest.raises(RuntimeError):
            await async_wait_for_condition(lambda: False, timeout=0)

    asyncio.run(all_ways())
    with pytest.raises(AssertionError):
        helpers.wait_for_assertion(lambda: (_ for _ in ()).throw(AssertionError("no")), timeout=0)
    assert helpers.wait_until_succeeded_without_exception(int, (ValueError,), "3")
    assert not helpers.wait_until_succeeded_without_exception(int, (ValueError,), "x", timeout_ms=0)


def test_actors(regular):
    @ray.remote(max_restarts=1)
    class Lives:
        def pid(self):
            return os.getpid()

    actor = Lives.remote()
    pid = ray.get(actor.pid.remote())
    helpers.wait_for_num_actors(1, "ALIVE")
    assert helpers.get_actor_node_id(actor) == ray.get_runtime_context().get_node_id()
    assert ray._private.state.actors(actor._actor_id.hex())["State"] == "ALIVE"
    helpers.kill_actor_and_wait_for_failure(actor)
    helpers.wait_for_pid_to_exit(pid)
    assert ray._private.state.actors()[actor._actor_id.hex()]["State"] == "DEAD"
    assert ray.get(helpers.put_object(5, True)) == ray.get(helpers.put_object(5, False)) == 5


def test_programs(regular):
    address = ray.get_runtime_context().gcs_address  # an embedded cluster is reached by its address alone
    script = f"import ray, sys; ray.init({address!r}); print('joined', ray.get(ray.put(3)))"
    script += "; print('err', file=sys.stderr)"
    assert "joined 3" in helpers.run_string_as_driver(script)
    out, err = helpers.run_string_as_driver_stdout_stderr(script)
    assert out == "joined 3\\n" and "err" in err
    process = helpers.run_string_as_driver_nonblocking("print(6)")
    assert process.communicate()[0] == b"6\\n"
    with pytest.raises(subprocess.CalledProcessError) as caught:
        helpers.run_string_as_driver("print('said'); raise SystemExit(3)")
    assert caught.value.returncode == 3 and "said" in caught.value.output


def test_placement_groups(regular):
    group = ray.util.placement_group([{"CPU": 1}])
    ray.get(group.ready())
    assert not helpers.is_placement_group_removed(group)
    helpers.placement_group_assert_no_leak([group])
    assert helpers.is_placement_group_removed(group)
    wait_for_condition(helpers.no_resource_leaks_excluding_node_resources)


def test_output_and_errors_are_heard(regular):
    @ray.remote(max_retries=0)
    def says(code):
        print("said", code, flush=True)
        if code:
            os._exit(code)

    lines, errors = helpers.init_log_pubsub(), helpers.init_error_pubsub()
    ray.get(says.remote(0))
    (batch,) = helpers.get_log_data(lines, num=1, matcher=lambda line: line.startswith("said"))
    assert batch["lines"] == ["said 0"] and int(batch["pid"]) > 0 and not batch["is_err"]
    assert batch["job"] == ray.get_runtime_context().get_job_id() and batch["task_name"].endswith("says")
    with pytest.raises(ray.exceptions.WorkerCrashedError):
        ray.get(says.remote(7))
    (death,) = helpers.get_error_message(errors, 1, ray._private.ray_constants.WORKER_DIED_PUSH_ERROR)
    assert "worker died or was killed while executing" in death["error_message"]

    @ray.remote
    def pushes(job):
        worker = ray._private.worker.global_worker
        utils.push_error_to_driver(worker, "mine", "for you", job)
        utils.push_error_to_driver(worker, "mine", "for others", ray.JobID.from_int(99))

    ray.get(pushes.remote(ray.get_runtime_context().job_id))
    (pushed,) = helpers.get_error_message(errors, 1, "mine")
    assert pushed["error_message"] == "for you"
    assert helpers.get_error_message(errors, 1, "mine", timeout=0.3) == []
    lines.close(), errors.close()


def test_a_worker_that_ended_is_listed(regular):
    @ray.remote
    def who():
        return os.getpid(), ray.get_runtime_context().get_worker_id()

    pid, worker_id = ray.get(who.remote())
    os.kill(pid, signal.SIGTERM)
    wait_for_condition(lambda: not ray.util.state.get_worker(worker_id).is_alive)
    row = ray.util.state.get_worker(worker_id)
    assert row.exit_type == "SYSTEM_ERROR" and "SIGTERM" in row.exit_detail and row.pid == pid


def test_cluster():
    ray.shutdown()
    cluster = ray.cluster_utils.Cluster()
    settings = {"num_cpus": 1, "object_store_memory": 150 * 1024 * 1024, "dashboard_port": None}
    cluster.add_node(**settings, **helpers.generate_system_config_map(health_check_period_ms=100))
    ray.init(address=cluster.address, namespace="n")
    other = cluster.add_node(**settings)
    cluster.wait_for_nodes()
    assert helpers.get_other_nodes(cluster) == helpers.get_non_head_nodes(cluster) == [other]
    helpers.kill_raylet(other)
    wait_for_condition(lambda: sum(node["Alive"] for node in ray.nodes()) == 1)
    ray.shutdown()
    cluster.shutdown()


def test_small_things(tmp_path):
    assert helpers.same_elements([{"a": 1}, {}], [{}, {"a": 1}]) and not helpers.same_elements([1], [1, 1])
    assert utils.hex_to_binary(utils.binary_to_hex(b"ab")) == b"ab" and utils.decode(b"x") == "x"
    with helpers.chdir(str(tmp_path)):
        assert os.getcwd() == str(tmp_path)
    import collections

    assert is_named_tuple(collections.namedtuple("P", "x")) and not is_named_tuple(tuple)
    timer = FakeTimer(3.0)
    timer.advance(2)
    assert timer.time() == 5.0
    port = find_free_port()
    assert parse_address(build_address("::1", port)) == ("::1", str(port))
    assert parse_address("1.2.3.4:5") == ("1.2.3.4", "5") and parse_address("::1") is None


def test_nodes_are_killed():
    ray.shutdown()
    cluster = ray.cluster_utils.Cluster(initialize_head=True, connect=True)
    others = [cluster.add_node() for _ in range(2)]
    killer = helpers.get_and_run_resource_killer(helpers.RayletKiller, 0.1, max_to_kill=1)
    (killed,) = ray.get(killer.get_killed_nodes.remote(), timeout=60)
    assert killed[0] in [node.node_id for node in others]
    wait_for_condition(lambda: [n["NodeID"] for n in ray.nodes() if not n["Alive"]] == [killed[0]])
    ray.shutdown()
    cluster.shutdown()


def test_what_is_not_there_says_so_when_it_is_used():
    from ray.cluster_utils import AutoscalingCluster
    from ray.util.client.server import server

    for use in (AutoscalingCluster, helpers.monitor_memory_usage, fetch_prometheus_metrics, helpers.setup_tls,
                helpers.start_redis_instance, server.init_and_serve, PipProcessor, URICache, set_auth_mode):
        with pytest.raises(RuntimeError, match="not carried by Spoke"):
            use("x")
    assert ray.util.connect and ray.util.client.__name__ == "ray.util.client"  # still those of Spoke
    assert JobSubmissionClient is ray.job_submission.JobSubmissionClient
    assert RuntimeEnvConfig is ray.runtime_env.RuntimeEnvConfig and RuntimeEnvPlugin().priority == 10


def test_no_cluster_by_first_use():
    ray.shutdown()
    auto_init_hook.enable_auto_connect = False
    try:
        with pytest.raises(ray.exceptions.RaySystemError, match="Ray has not been started yet"):
            ray.put(1)
        assert not ray.is_initialized()
    finally:
        auto_init_hook.enable_auto_connect = True
    assert ray.get(ray.put(1)) == 1
    ray.shutdown()
"""


# As in a checkout of Ray: a package of tests below a package `ray` that cannot be imported, unbuilt as it is.
CONFTEST = """
import pytest
import ray


@pytest.fixture
def regular():
    yield ray.init("local", num_cpus=1)
    ray.shutdown()


def helper():
    return ray.__file__
"""
IN_A_CHECKOUT = """
import ray
from ray.tests.conftest import helper


@ray.remote
def where():
    import ray

    return ray.__file__, helper()


def test_workers_find_the_same(regular):
    assert ray.get(where.remote()) == (ray.__file__, ray.__file__)
    assert __name__ == "ray.tests.test_program" and hasattr(ray, "__spoke__")
"""


def _pytest(cwd: Path, program: str) -> None:
    kept = {name: value for name, value in os.environ.items() if name not in ("RAY_ADDRESS", "SPOKE_ADDRESS")}
    done = subprocess.run(
        [sys.executable, "-m", "ray_compat", "-m", "pytest", "-q", "-p", "no:cacheprovider", program],
        cwd=cwd,
        env={**kept, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]


def test_a_program_of_rays_kind_runs(tmp_path: Path) -> None:
    (tmp_path / "test_program.py").write_text(PROGRAM)
    _pytest(tmp_path, "test_program.py")


def test_in_a_checkout_of_rays_tests(tmp_path: Path) -> None:
    tests = tmp_path / "python" / "ray" / "tests"
    tests.mkdir(parents=True)
    (tests.parent / "__init__.py").write_text("raise ImportError('this is the source of Ray, unbuilt')")
    (tests / "__init__.py").write_text("")
    (tests / "conftest.py").write_text(CONFTEST)
    (tests / "test_program.py").write_text(IN_A_CHECKOUT)
    _pytest(tmp_path, "python/ray/tests/test_program.py")
