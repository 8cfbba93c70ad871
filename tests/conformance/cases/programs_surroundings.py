"""What a program finds around its calls: its context, its environment, its job, helpers of test programs."""

from __future__ import annotations

import contextlib
import importlib
import os
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from typing import Any

from tests.conformance.kit import QUIET, caught, eventually

INIT = None
THROUGH_RAY_COMPAT = True
_QUIET: dict[str, Any] = {"num_cpus": 2, "num_gpus": 0, **QUIET}


def _private(name: str) -> Any:
    return importlib.import_module(f"ray.{name}")


@contextlib.contextmanager
def _cluster(ray: Any, **options: Any) -> Iterator[Any]:
    yield ray.init("local", **{**_QUIET, **options})
    ray.shutdown()


@contextlib.contextmanager
def _no_cluster_by_itself() -> Iterator[None]:
    hook = _private("_private.auto_init_hook")
    hook.enable_auto_connect = False
    try:
        yield
    finally:
        hook.enable_auto_connect = True


# -- without a cluster


def calls_without_a_cluster(ray: Any) -> Any:
    f = ray.remote(lambda: 1)
    text = "Ray has not been started yet"
    with _no_cluster_by_itself():
        return [
            caught(call, text)
            for call in (
                lambda: ray.put(1), lambda: ray.get([]), lambda: ray.wait([]), lambda: f.remote(), ray.nodes,
                ray.cluster_resources, lambda: ray.get_actor("x"), ray.util.placement_group_table,
            )
        ]  # fmt: skip


def ids_without_a_cluster(ray: Any) -> Any:
    with _no_cluster_by_itself():
        context = ray.get_runtime_context()
        text = "is not available because Ray has not been initialized"
        return [
            ray.is_initialized(),
            [
                caught(getattr(context, name), text)
                for name in ("get_job_id", "get_node_id", "get_worker_id", "get_session_name")
            ],
            [
                getattr(context, name)()
                for name in ("get_task_id", "get_actor_id", "get_actor_name", "get_task_name")
            ],
        ]


def asking_for_the_context_starts_a_cluster(ray: Any) -> Any:
    os.environ["RAY_ADDRESS"] = "local"  # and not the cluster of somebody else
    try:
        before = ray.is_initialized()
        ray.get_runtime_context()
        after = ray.is_initialized()
        ray.shutdown()
        return [before, after]
    finally:
        del os.environ["RAY_ADDRESS"]


# -- the context


def _warnings_of(call: Any) -> list[str]:
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        call()
    return sorted({f"{one.category.__name__}: {one.message!s}" for one in seen})


def former_names_of_ids_warn(ray: Any) -> Any:
    def seen(*names: str) -> list[list[str]]:
        context = ray.get_runtime_context()
        return [
            [word for word in ("get_job_id()", "get_node_id()", "get_task_id()", "get_actor_id()",
                               "get_placement_group_id()", "get_accelerator_ids()", "RayDeprecationWarning")
             if any(word in text for text in _warnings_of(lambda name=name: getattr(context, name)))]
            for name in names
        ]  # fmt: skip

    with _cluster(ray):

        @ray.remote
        class A:
            def seen(self) -> Any:
                return seen("job_id", "node_id", "task_id", "actor_id", "current_placement_group_id")

        return [seen("job_id", "node_id"), ray.get(A.remote().seen.remote())]


# -- runtime environments


_URIS = (
    "s3://b/x", "s3://b/x.zip", "s3://b/x.whl", "https://h/x", "https://h/x.zip?a=b", "https://h/x.tar.gz",
    "gs://b/x.jar", "file:///a/b", "file:///a/b.zip", "gcs://x", "gcs://x.zip", "unknown://abc", "conda://x",
    "azure://a/b.zip", "s3://b/x.tar.xz", "s3://b/x.tgz", "s3://b/x.tar", "hdfs://a/x.zip", "http://a",
    "/does/not/exist", "does_not_exist", "local://relative",
)  # fmt: skip


def uris_of_directories(ray: Any) -> Any:
    env = ray.runtime_env.RuntimeEnv
    words = ("files are supported for working_dir URIs", "is not a valid URI", "is not a valid path",
             "must be absolute")  # fmt: skip
    return {uri: caught(lambda uri=uri: env(working_dir=uri)["working_dir"], *words) for uri in _URIS}


def uris_of_modules(ray: Any) -> Any:
    env = ray.runtime_env.RuntimeEnv
    words = ("files are supported for py_modules URIs", "is not a valid URI", "is not a valid path",
             "must be absolute")  # fmt: skip
    return {uri: caught(lambda uri=uri: env(py_modules=[uri])["py_modules"], *words) for uri in _URIS}


def variables_that_name_others(ray: Any) -> Any:
    with _cluster(ray, runtime_env={"env_vars": {"FIRST": "1", "PATH": "/mine:${PATH}"}}):

        @ray.remote
        def seen(*names: str) -> list[str | None]:
            return [os.environ.get(name) for name in names]

        path = ray.get(seen.remote("PATH"))[0]
        given = {"ONE": "<${FIRST}>", "NONE": "<${NOT_THERE}>", "LOWER": "<$not_there>", "MONEY": "5$"}
        task = seen.options(runtime_env={"env_vars": given})
        return [
            path.startswith("/mine:/"),
            os.environ["PATH"] in path,
            ray.get(task.remote("NONE", "LOWER", "MONEY")),
        ]


def a_setup_hook_that_is_not_there(ray: Any) -> Any:
    with _cluster(ray, runtime_env={"worker_process_setup_hook": "os.not_there"}):

        @ray.remote
        class A:
            pass

        actor = A.remote()
        text = "Failed to execute the setup hook method"
        kinds = (ray.exceptions.RayActorError, ray.exceptions.RuntimeEnvSetupError)
        return caught(lambda: ray.get(actor.__ray_ready__.remote()), text, kinds=kinds)


def a_setup_hook_that_does_not_pickle(ray: Any) -> Any:
    lock = threading.Lock()

    def start() -> None:
        with _cluster(ray, runtime_env={"worker_process_setup_hook": lambda: print(lock)}):
            pass

    seen = caught(start, "Failed to export the setup function")
    ray.shutdown()
    return seen


def an_interpreter_behind_a_script(ray: Any) -> Any:
    executable = f"env THROUGH=the_shell {sys.executable}"
    with _cluster(ray, runtime_env={"py_executable": executable}):
        return ray.get(ray.remote(lambda: os.environ.get("THROUGH")).remote())


# -- the node, the job


def memory_of_the_node(ray: Any) -> Any:
    with _cluster(ray, _memory=5_000_000):
        return ray.cluster_resources()["memory"]


def the_directories_of_the_session(ray: Any) -> Any:
    with _cluster(ray) as context:
        node = _private("_private.worker")._global_node
        session = node.get_session_dir_path()
        return [
            context.address_info["session_dir"] == session == node.address_info["session_dir"],
            node.session_name == os.path.basename(session),
            os.path.isdir(session),
            session == os.path.join(ray.get_runtime_context().get_temp_dir(), os.path.basename(session)),
            ray.get_runtime_context().get_session_name() == os.path.basename(session),
            os.path.isdir(node.get_logs_dir_path()),
        ]


def metadata_of_the_job(ray: Any) -> Any:
    config = ray.job_config.JobConfig(metadata={"a": "b"})
    config.set_metadata("c", "d")
    with _cluster(ray, job_config=config):
        found = _private("_private.worker").global_worker.core_worker.get_job_config()
        return dict(sorted(dict(found.metadata).items()))


def rows_of_jobs(ray: Any) -> Any:
    with _cluster(ray) as context:
        state = _private("_private.state")
        program = f"import ray; ray.init({context.address_info['address']!r}, logging_level='ERROR')"
        subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)
        eventually(lambda: [row["IsDead"] for row in state.jobs()].count(True) == 1)
        rows = sorted(state.jobs(), key=lambda row: row["JobID"])
        return [
            [
                row["JobID"],
                row["IsDead"],
                row["DriverPid"] == os.getpid(),
                row["Timestamp"] == (row["EndTime"] or row["StartTime"]),
                row["EndTime"] > row["StartTime"] > 0,
            ]
            for row in rows
        ]


def the_store_by_its_client(ray: Any) -> Any:
    with _cluster(ray):
        client = _private("_private.worker").global_worker.gcs_client
        return [
            client.internal_kv_put(b"k1", b"v1", True, b"ns"),
            client.internal_kv_put(b"k1", b"v2", True, b"ns"),
            client.internal_kv_put(b"k1", b"v3", False, b"ns"),
            [client.internal_kv_get(name, b"ns") for name in (b"k1", b"k2")],
            client.internal_kv_get(b"k1", None),
            client.internal_kv_exists(b"k1", b"ns"),
            client.internal_kv_multi_get([b"k1", b"k2"], b"ns"),
            client.internal_kv_keys(b"k", b"ns"),
            client.internal_kv_del(b"k", True, b"ns"),
            client.internal_kv_del(b"k1", False, b"ns"),
        ]


def what_the_store_does_not_take(ray: Any) -> Any:
    with _cluster(ray):
        kv = _private("experimental.internal_kv")
        return [
            [
                caught(lambda bad=bad: kv._internal_kv_put(bad, "x")),
                caught(lambda bad=bad: kv._internal_kv_put("x", bad)),
                caught(lambda bad=bad: kv._internal_kv_get(bad)),
            ]
            for bad in (1, None, 1.5, ["x"])
        ]


def a_ref_of_an_earlier_session(ray: Any) -> Any:
    with _cluster(ray):
        ref = ray.put("x")
    with _cluster(ray):
        call = ray.remote(lambda x: x).remote
        new = ray.put("y")
        ready, others = ray.wait([new, ref], timeout=10)
        return [
            caught(lambda: ray.get(ref, timeout=20), "Ray objects whose owner is unknown"),
            caught(lambda: call(ref), "Ray object whose owner is unknown"),
            caught(lambda: call([ref]), "Ray object whose owner is unknown"),
            [ready == [new], others == [ref]],
            caught(lambda: ray.wait(others, timeout=20), "Ray object whose owner is unknown"),
        ]


# -- what goes to drivers


def errors_that_are_pushed(ray: Any) -> Any:
    with _cluster(ray):
        helpers, utils = _private("_private.test_utils"), _private("_private.utils")
        subscriber = helpers.init_error_pubsub()
        job = _private("_private.worker").global_worker.current_job_id

        @ray.remote
        def push() -> None:
            worker = importlib.import_module("ray._private.worker").global_worker
            importlib.import_module("ray._private.utils").push_error_to_driver(worker, "kind", "text", job)

        ray.get(push.remote())
        (error,) = helpers.get_error_message(subscriber, 1, "kind")
        subscriber.close()
        return [error["type"], error["error_message"], callable(utils.publish_error_to_driver)]


def lines_that_workers_print(ray: Any) -> Any:
    with _cluster(ray, log_to_driver=True):
        helpers = _private("_private.test_utils")
        subscriber = helpers.init_log_pubsub()

        @ray.remote
        def says() -> int:
            print("said this")
            return os.getpid()

        pid = ray.get(says.remote())
        (batch,) = helpers.get_log_batch(subscriber, 1, matcher=lambda one: "said this" in one["lines"])
        subscriber.close()
        return [
            int(batch["pid"]) == pid,
            type(batch["pid"]).__name__,
            batch["is_err"],
            batch["job"],
            batch["lines"],
        ]


# -- addresses


def addresses_and_ports(ray: Any) -> Any:
    network = _private("_common.network_utils")
    port = network.find_free_port()
    return [
        network.build_address("1.2.3.4", 5),
        network.build_address("::1", "5"),
        [network.parse_address(one) for one in ("1.2.3.4:5", "[::1]:5", "::1", "x", "localhost:80", ":5")],
        [network.is_ipv6(one) for one in ("::1", "1.2.3.4")],
        [network.is_localhost(one) for one in ("localhost", "127.0.0.1", "::1", "10.0.0.1")],
        1024 < port < 65536,
    ]


def builders_of_connections(ray: Any) -> Any:
    module = _private("client_builder")

    def kind(address: Any) -> Any:
        builder = module.client(address)
        return [type(builder).__name__, isinstance(builder, ray.ClientBuilder), builder.address]

    return [
        [kind(address) for address in ("localhost", "1.2.3.4:1200", "ray://1.2.3.4:1200", "local")],
        caught(lambda: ray.client("no_such_module://x"), "does not exist"),
        caught(lambda: ray.client("json://x"), "does not have ClientBuilder"),
        caught(lambda: ray.client("http://127.0.0.1:8265"), "RAY_ADDRESS"),
        [module._split_address(one) for one in ("a:1", "ray://a:1", "mod://a", "")],
    ]
