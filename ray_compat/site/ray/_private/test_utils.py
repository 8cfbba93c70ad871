"""Names of `ray._private.test_utils`: what test programs written for Ray are helped by."""

from __future__ import annotations

import contextlib
import fnmatch
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, NoReturn

import spoke
from ray._common import test_utils as _common
from ray._private import gcs_pubsub
from ray._private.gcs_utils import ActorTableData
from ray_compat import killers
from ray_compat.refusing import refused
from spoke import records
from spoke.util import state

_DRIVER_S = 60.0

FakeTimer = _common.FakeTimer
Semaphore = _common.Semaphore
SignalActor = _common.SignalActor
async_wait_for_condition = _common.async_wait_for_condition
is_named_tuple = _common.is_named_tuple
run_string_as_driver = _common.run_string_as_driver
wait_for_condition = _common.wait_for_condition


# -- waiting


def wait_for_pid_to_exit(pid: int, timeout: float = 20) -> None:
    """Return when there is no such process, or it only waits to be reaped.

    Raises:
        TimeoutError: it lives after `timeout` seconds.
    """
    _until(lambda: not _alive(pid), timeout, f"process {pid} has not ended in {timeout:g} s")


def wait_for_children_of_pid(pid: int, num_children: int = 1, timeout: float = 20) -> None:
    """Return when the process has as many children, or more."""
    import psutil

    parent = psutil.Process(pid)
    text = f"process {pid} has not {num_children} children after {timeout:g} s"
    _until(lambda: len(parent.children()) >= num_children, timeout, text)


def wait_for_children_of_pid_to_exit(pid: int, timeout: float = 20) -> None:
    """Return when the children that the process has now are gone."""
    import psutil

    children = psutil.Process(pid).children()
    _, alive = psutil.wait_procs(children, timeout=timeout)
    if alive:
        raise TimeoutError(f"children of process {pid} live after {timeout:g} s: {alive}")


def wait_for_assertion(
    assertion_predictor: Callable[..., Any],
    timeout: float = 10,
    retry_interval_ms: float = 100,
    raise_exceptions: bool = False,
    **kwargs: Any,
) -> None:
    """Call `assertion_predictor(**kwargs)` until no assertion in it fails; the last failure is raised."""
    caught = AssertionError if raise_exceptions else Exception
    deadline = time.monotonic() + timeout
    while True:
        try:
            assertion_predictor(**kwargs)
            return
        except caught:
            if time.monotonic() > deadline:
                raise
        time.sleep(retry_interval_ms / 1000)


def wait_until_succeeded_without_exception(
    func: Callable[..., Any],
    exceptions: tuple[type[BaseException], ...],
    *args: Any,
    timeout_ms: float = 1000,
    retry_interval_ms: float = 100,
    raise_last_ex: bool = False,
) -> bool:
    """Call `func(*args)` until it raises none of these; whether it did in time."""
    deadline = time.monotonic() + timeout_ms / 1000
    while True:
        try:
            func(*args)
            return True
        except exceptions:
            if time.monotonic() > deadline:
                if raise_last_ex:
                    raise
                return False
        time.sleep(retry_interval_ms / 1000)


def wait_until_server_available(
    address: str, timeout_ms: float = 5000, retry_interval_ms: float = 100
) -> bool:
    """Whether something accepts connections at ``host:port`` in time."""
    host, _, port = address.rpartition(":")

    def connect() -> None:
        socket.create_connection((host.strip("[]"), int(port)), timeout=1).close()

    return wait_until_succeeded_without_exception(
        connect, (OSError,), timeout_ms=timeout_ms, retry_interval_ms=retry_interval_ms
    )


def _until(condition: Callable[[], bool], timeout: float, text: str) -> None:
    try:
        wait_for_condition(condition, timeout)
    except RuntimeError:
        raise TimeoutError(text) from None


def _alive(pid: int) -> bool:
    import psutil

    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


# -- programs


def run_string_as_driver_stdout_stderr(
    driver_script: str, env: dict[str, str] | None = None, encode: str = "utf-8", timeout: float = _DRIVER_S
) -> tuple[str, str]:
    """Run a program of its own; what it printed to standard output and error."""
    process = run_string_as_driver_nonblocking(driver_script, env)
    out, err = process.communicate(timeout=timeout)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, driver_script, out, err)
    return out.decode(encode), err.decode(encode)


def run_string_as_driver_nonblocking(
    driver_script: str, env: dict[str, str] | None = None
) -> subprocess.Popen[bytes]:
    """Start a program of its own, with pipes for what it prints."""
    process = subprocess.Popen(
        [sys.executable, "-"],
        env={**os.environ, **env} if env else None,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdin is not None
    process.stdin.write(driver_script.encode())
    process.stdin.close()
    process.stdin = None  # `communicate` would flush it
    return process


def check_call_subprocess(
    argv: list[str], capture_stdout: bool = False, capture_stderr: bool = False
) -> subprocess.CompletedProcess[bytes]:
    """Run a command that must succeed."""
    pipe = subprocess.PIPE
    return subprocess.run(
        argv, check=True, stdout=pipe if capture_stdout else None, stderr=pipe if capture_stderr else None
    )


def check_call_ray(args: list[str], capture_stdout: bool = False, capture_stderr: bool = False) -> None:
    """Run ``ray`` with these arguments."""
    command = [sys.executable, "-m", "ray.scripts.scripts"]
    check_call_subprocess([*command, *args], capture_stdout, capture_stderr)


@contextlib.contextmanager
def chdir(d: str) -> Iterator[None]:
    """Work in another directory for a while."""
    with contextlib.ExitStack() as stack:
        stack.callback(os.chdir, os.getcwd())
        os.chdir(d)
        yield


def get_current_unused_port() -> int:
    """A port that nobody listens on at the moment."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])


# -- clusters


def generate_system_config_map(**kwargs: Any) -> dict[str, Any]:
    """Arguments of `init` or `Cluster.add_node` that carry these settings of Ray's daemons."""
    return {"_system_config": kwargs}


def get_other_nodes(cluster: Any, exclude_head: bool = False) -> list[Any]:
    """The nodes of a `Cluster` that this driver is not on."""
    mine = spoke.get_runtime_context().get_node_id()
    nodes = cluster.list_all_nodes()
    return [node for node in nodes if node.node_id != mine and not (exclude_head and node.head)]


def get_non_head_nodes(cluster: Any) -> list[Any]:
    """The nodes of a `Cluster` but its head."""
    return [node for node in cluster.list_all_nodes() if not node.head]


def no_resource_leaks_excluding_node_resources() -> bool:
    """Whether all resources of the cluster are free."""
    return all(
        spoke.available_resources().get(name) == amount
        for name, amount in spoke.cluster_resources().items()
        if "node" not in name
    )


def object_memory_usage() -> float:
    """Bytes of the object stores that are in use."""
    name = "object_store_memory"
    return spoke.cluster_resources().get(name, 0) - spoke.available_resources().get(name, 0)


def client_test_enabled() -> bool:
    """Whether tests go through Ray Client: no."""
    return False


def external_redis_test_enabled() -> bool:
    """Whether tests have a Redis: no."""
    return False


def kill_process_by_name(name: str, SIGKILL: bool = False) -> NoReturn:
    """Refused: the processes of Ray's parts do not exist here."""
    raise RuntimeError(f"Spoke has no process {name}: kill a node of a Cluster, cluster.remove_node(node)")


# -- what drivers hear


def init_error_pubsub() -> Any:
    """A subscriber to the errors that this driver is told of."""
    subscriber = gcs_pubsub.GcsErrorSubscriber()
    subscriber.subscribe()
    return subscriber


def get_error_message(
    subscriber: Any, num: float = 1e6, error_type: str | None = None, timeout: float = 20
) -> list[dict[str, Any]]:
    """Up to `num` errors, of one type if given, that come within `timeout` seconds."""
    return _polled(
        lambda left: subscriber.poll(timeout=left)[1],
        num,
        timeout,
        lambda error: error_type is None or error["type"] == error_type,
    )


def init_log_pubsub() -> Any:
    """A subscriber to the output of this driver's workers."""
    subscriber = gcs_pubsub.GcsLogSubscriber()
    subscriber.subscribe()
    return subscriber


def get_log_batch(
    subscriber: Any, num: float, timeout: float = 20, job_id: str | None = None, matcher: Any = None
) -> list[dict[str, Any]]:
    """Up to `num` batches of output, of a job, that satisfy `matcher`, within `timeout` seconds."""
    return _polled(
        lambda left: subscriber.poll(timeout=left),
        num,
        timeout,
        lambda batch: (not job_id or batch["job"] == job_id) and (not matcher or matcher(batch)),
    )


def get_log_data(
    subscriber: Any, num: float = 1e6, timeout: float = 20, job_id: str | None = None, matcher: Any = None
) -> list[dict[str, Any]]:
    """As `get_log_batch`; `matcher` is asked for single lines, of which one must satisfy it."""
    wanted = matcher and (lambda batch: any(matcher(line) for line in batch["lines"]))
    return get_log_batch(subscriber, num, timeout, job_id, wanted)


def get_log_message(
    subscriber: Any, num: float = 1e6, timeout: float = 20, job_id: str | None = None, matcher: Any = None
) -> list[list[str]]:
    """The lines of `get_log_data`."""
    return [batch["lines"] for batch in get_log_data(subscriber, num, timeout, job_id, matcher)]


def get_log_sources(
    subscriber: Any, num: float = 1e6, timeout: float = 20, job_id: str | None = None, matcher: Any = None
) -> set[str]:
    """The processes of `get_log_data`."""
    return {batch["pid"] for batch in get_log_data(subscriber, num, timeout, job_id, matcher)}


def _polled(
    poll: Callable[[float], Any], num: float, timeout: float, wanted: Callable[[Any], Any]
) -> list[Any]:
    deadline = time.monotonic() + timeout
    found: list[Any] = []
    while len(found) < num and (left := deadline - time.monotonic()) > 0:
        message = poll(left)
        if message is None:
            break
        if wanted(message):
            found.append(message)
    return found


# -- actors and groups


def convert_actor_state(state: Any) -> str | None:
    """The text of an actor's state: of its number, or of itself."""
    if type(state) is int:
        return str(ActorTableData.ActorState.Name(state))
    return None if state is None else str(getattr(state, "name", state))


def wait_for_num_actors(num_actors: int, state: Any = None, timeout: float = 10) -> None:
    """Return when so many actors, or more, are in this state (any)."""
    wanted = convert_actor_state(state)

    def enough() -> bool:
        rows = list_actors(filters=[("state", "=", wanted)] if wanted else None, limit=10_000)
        return len(rows) >= num_actors

    _until(enough, timeout, f"there are not {num_actors} actors in state {wanted} after {timeout:g} s")


def kill_actor_and_wait_for_failure(actor: Any, timeout: float = 10, retry_interval_ms: float = 100) -> None:
    """Kill an actor; return when it is dead or starts anew."""
    actor_id = actor._actor_id.hex()
    before = get_actor(actor_id)
    spoke.kill(actor)

    def over() -> bool:
        row = get_actor(actor_id)
        return (
            row is None or row.state == "DEAD" or row.num_restarts != (before.num_restarts if before else 0)
        )

    wait_for_condition(over, timeout, retry_interval_ms)


def get_actor_node_id(actor_handle: Any) -> str:
    """The node that an actor lives on, in hexadecimal."""
    return str(spoke.get(actor_handle.__ray_call__.remote(_node_of)))


def _node_of(_actor: Any) -> str:
    return spoke.get_runtime_context().get_node_id()


def is_placement_group_removed(pg: Any) -> bool:
    """Whether the group was removed."""
    return bool(spoke.util.placement_group_table(pg).get("state") == "REMOVED")


def placement_group_assert_no_leak(pgs_created: Iterable[Any]) -> None:
    """Remove these groups, and see that nothing of any group is left."""
    for group in pgs_created:
        spoke.util.remove_placement_group(group)

    def gone() -> bool:
        states = [row["state"] for row in spoke.util.placement_group_table().values()]
        return all(one == "REMOVED" for one in states) and not any(
            "_group_" in name for name in spoke.cluster_resources()
        )

    wait_for_condition(gone)


# -- small things


def same_elements(elems_a: Iterable[Any], elems_b: Iterable[Any]) -> bool:
    """Whether two collections have the same elements, in any order; they need not be hashable."""
    first, second = list(elems_a), list(elems_b)
    for one in first:
        if one not in second:
            return False
        second.remove(one)
    return not second


@spoke.remote
def _put(obj: Any) -> Any:
    return obj


def put_object(obj: Any, use_ray_put: bool) -> Any:
    """A ref to an object that the driver owns, put or returned by a task."""
    return spoke.put(obj) if use_ray_put else _put.remote(obj)


def format_web_url(url: str) -> str:
    """An address as that of a web page."""
    url = url.replace("localhost", "http://127.0.0.1")
    return url if url.startswith("http://") else f"http://{url}"


def recursive_fnmatch(dirpath: str, pattern: str) -> list[str]:
    """The files in and below a directory whose name matches."""
    return [
        os.path.join(root, name)
        for root, _, names in os.walk(dirpath)
        for name in fnmatch.filter(names, pattern)
    ]


def generate_runtime_env_dict(
    field: str, spec_format: str, tmp_path: Any, pip_list: list[str] | None = None
) -> dict[str, Any]:
    """A runtime environment with packages: `field` is "pip" or "conda", `spec_format` "file" or
    "python_object".
    """
    packages = ["pip-install-test==0.5"] if pip_list is None else pip_list
    given: Any = {"dependencies": ["pip", {"pip": packages}]} if field == "conda" else packages
    if spec_format == "file":
        file = tmp_path / f"packages-{abs(hash(str(packages)))}.{'yml' if field == 'conda' else 'txt'}"
        file.write_text(json.dumps(given) if field == "conda" else "\n".join(packages))
        given = str(file)
    return {field: given}


def job_hook(**kwargs: Any) -> NoReturn:
    """A hook of `ray job submit` that says what would run, and ends the command."""
    print(f"hook intercepted: {' '.join(kwargs['entrypoint'])}")
    sys.exit(0)


def _kill_node(node: Any, graceful: bool = False) -> None:
    """End a node of this machine: of a `Cluster`, or a row of `ray.nodes()`."""
    if isinstance(node, dict):
        pid = next(int(one["pid"]) for one in records.live() if one["node_id"] == node["NodeID"])
    else:
        pid = node.pid
    os.kill(pid, signal.SIGTERM if graceful else signal.SIGKILL)


globals()["kill_raylet"] = _kill_node  # Ray's word for an agent

list_actors = state.list_actors
get_actor = state.get_actor

NodeKillerBase = killers.NodeKillerBase
RayletKiller = killers.RayletKiller
ResourceKillerActor = killers.ResourceKillerActor
WorkerKillerActor = killers.WorkerKillerActor
get_and_run_resource_killer = killers.get_and_run_resource_killer


def get_and_run_node_killer(node_kill_interval_s: float, **options: Any) -> Any:
    """`get_and_run_resource_killer` for nodes, by its former name."""
    return get_and_run_resource_killer(RayletKiller, node_kill_interval_s, **options)


def reset_autoscaler_v2_enabled_cache() -> None:
    """Look again which autoscaler there is: there is none."""


def redis_replicas() -> int:
    """How many Redis servers tests shall have."""
    return 1


redis_sentinel_replicas = redis_replicas
persistent_gcs_test_enabled = rocksdb_gcs_test_enabled = sandbox_test_enabled = external_redis_test_enabled
enable_external_redis = external_redis_test_enabled  # its former name

# Fixtures import these at once and call them where a test asks for it.
_PARTS: Final = {
    "Redis": ("get_redis_cli", "start_redis_instance", "start_redis_sentinel_instance"),
    "TLS; links prove the cluster token": ("setup_tls", "teardown_tls"),
    "dashboard": (
        "get_dashboard_agent_address", "get_load_metrics_report", "get_resource_usage",
        "request_with_auth_token", "wait_for_aggregator_agent", "wait_for_aggregator_agent_if_enabled",
        "auth_token_grpc_metadata", "get_metric_check_condition", "get_system_metric_for_component",
        "raw_metric_timeseries", "wait_for_dashboard_agent_available", "external_ray_cluster_activity_hook1",
        "external_ray_cluster_activity_hook2", "external_ray_cluster_activity_hook3",
        "external_ray_cluster_activity_hook4", "external_ray_cluster_activity_hook5",
    ),
    "monitor of memory": ("monitor_memory_usage",),
    "folder of Ray's test data": ("get_test_config_path", "load_test_config", "safe_write_to_results_json"),
    "process of Ray's to be killed": ("kill_processes",),
    "detection to be replaced; give num_gpus": ("mock_accelerator_detection", "mock_no_accelerators"),
    "folder of environments at a node": ("check_local_files_gced",),
    "server of that name": ("get_gcs_memory_used", "make_global_state_accessor"),
    "raylet": ("check_spilled_mb", "get_node_stats"),
    "provider of machines": ("EC2InstanceTerminator", "EC2InstanceTerminatorWithGracePeriod"),
}  # fmt: skip
for _part, _names in _PARTS.items():
    globals().update({_name: refused(f"{__name__}.{_name}", f"there is no {_part}") for _name in _names})


def __getattr__(name: str) -> Any:
    raise AttributeError(f"module {__name__!r} has no {name!r}: it is about a part of Ray that Spoke has not")
