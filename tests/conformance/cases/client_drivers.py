"""Programs that start or join clusters as known clients do (see `clients`): drivers of their own."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from typing import Any

from tests.conformance.kit import FLAG_PREFIX, QUIET, caught

INIT = None
THROUGH_RAY_COMPAT = True
_START = "import os, json, ray\nray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)\n"


def _program(text: str, **variables: str | None) -> Any:
    """The last line that a program prints, of the errors' if it failed; None takes a variable away."""
    environment = {**os.environ, **variables}
    given = {name: value for name, value in environment.items() if value is not None}
    done = subprocess.run(
        [sys.executable, "-c", text], capture_output=True, text=True, timeout=100, env=given
    )
    return [
        done.returncode,
        ((done.stderr if done.returncode else done.stdout).splitlines() or [""])[-1][:1500],
    ]


def joining_with_the_wrong_arguments(ray: Any) -> Any:
    context = ray.init(num_cpus=2, num_gpus=0, **QUIET)
    code = """
import json, ray
seen = []
for given in ({"num_cpus": 1}, {"num_gpus": 1}, {"num_cpus": 1, "num_gpus": 1}, {"resources": {"a": 1}},
              {"labels": {"a": "b"}}, {"object_store_memory": 100_000_000},
              {"num_cpus": 1, "object_store_memory": 100_000_000}):
    try:
        ray.init(address=ADDRESS, ignore_reinit_error=True, **given)
        ray.shutdown()
        seen.append("joined")
    except ValueError as error:
        seen.append(list(error.args))
print(json.dumps(seen))
"""
    try:
        return [
            _program(code.replace("ADDRESS", "None"), RAY_ADDRESS=context.address_info["address"]),
            _program(code.replace("ADDRESS", repr(context.address_info["address"]))),
        ]
    finally:
        ray.shutdown()


def joining_by_the_variable(ray: Any) -> Any:
    context = ray.init(num_cpus=3, num_gpus=2, namespace="first", **QUIET)
    code = """
import ray
from ray.runtime_env import RuntimeEnv
ray.init(address=None, runtime_env=RuntimeEnv(env_vars={"A": "1"}), log_to_driver=False)
import os
print(ray.cluster_resources()["CPU"], ray.get_runtime_context().namespace == "first",
      ray.get(ray.remote(lambda: os.environ["A"]).remote()))
"""
    try:
        return _program(code, RAY_ADDRESS=context.address_info["address"])
    finally:
        ray.shutdown()


def local_wins_over_the_variable(ray: Any) -> Any:
    context = ray.init(num_cpus=3, num_gpus=0, **QUIET)
    code = """
import ray
ray.init(address="local", num_cpus=1, log_to_driver=False, include_dashboard=False)
print(ray.cluster_resources()["CPU"])
"""
    try:
        return _program(code, RAY_ADDRESS=context.address_info["address"])
    finally:
        ray.shutdown()


def auto_without_a_cluster(ray: Any) -> Any:
    code = """
import ray
try:
    ray.init("auto", log_to_driver=False)
except ConnectionError as error:
    ray.init(None, num_cpus=1, num_gpus=1, log_to_driver=False, include_dashboard=False)
    print(type(error).__name__, ray.is_initialized(), ray.cluster_resources()["GPU"])
"""
    folder = tempfile.mkdtemp(prefix=FLAG_PREFIX)  # so that nobody else's cluster of this machine is found
    return _program(code, RAY_ADDRESS=None, RAY_TMPDIR=folder, XDG_RUNTIME_DIR=folder)


def init_twice(ray: Any) -> Any:
    code = """
again = ray.init(num_cpus=1, ignore_reinit_error=True)
try:
    ray.init()
except RuntimeError as error:
    print(json.dumps([again.address_info["node_id"] == ray.get_runtime_context().get_node_id(), str(error)]))
"""
    return _program(_START + code, RAY_ADDRESS="local")


def every_keyword_of_init(ray: Any) -> Any:
    code = """
import ray
ray.init(num_cpus=2, num_gpus=1, resources={"bundle": 2}, ignore_reinit_error=True, log_to_driver=False,
         include_dashboard=False, object_store_memory=100_000_000, namespace="ns", _temp_dir=FOLDER,
         _redis_password="x", runtime_env={"env_vars": {"A": "1"}}, logging_level="ERROR")
total = ray.cluster_resources()
print(total["CPU"], total["GPU"], total["bundle"], ray.get_runtime_context().namespace)
"""
    return _program(code.replace("FOLDER", repr(os.path.join(os.environ.get("TMPDIR", "/tmp"), "r"))))


def hidden_devices_for_a_whole_cluster(ray: Any) -> Any:
    code = """
import os, ray
ray.init(num_cpus=2, num_gpus=2, log_to_driver=False, include_dashboard=False)
@ray.remote(num_gpus=1)
def look():
    ids = ray.get_runtime_context().get_accelerator_ids()["GPU"]
    return "CUDA_VISIBLE_DEVICES" in os.environ, len(ids), len(ray.get_gpu_ids())
@ray.remote(num_gpus=1)
class Looks:
    def look(self): return "CUDA_VISIBLE_DEVICES" in os.environ
print(ray.get(look.remote()), ray.get(Looks.remote().look.remote()))
"""
    return _program(code, RAY_ADDRESS="local", RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES="1")


def variables_that_children_inherit(ray: Any) -> Any:
    code = """
import subprocess, sys
@ray.remote
class Launcher:
    def run(self):
        os.environ["RAY_ADDRESS"] = ray.get_runtime_context().gcs_address
        return subprocess.run([sys.executable, "-c", CHILD], capture_output=True, text=True).stdout.strip()
CHILD = "import ray; ray.init(); print(ray.cluster_resources()['CPU'], ray.is_initialized())"
launcher = Launcher.remote()
mine = subprocess.run([sys.executable, "-c", CHILD], capture_output=True, text=True,
                      env={**os.environ, "RAY_ADDRESS": ray.get_runtime_context().gcs_address})
print(ray.get(launcher.run.remote()), mine.stdout.strip())
"""
    return _program(_START + code, RAY_ADDRESS="local")


def variables_without_effect_on_results(ray: Any) -> Any:
    code = """
@ray.remote
def look():
    return os.environ.get("RAY_DEDUP_LOGS"), os.environ.get("RAY_USAGE_STATS_ENABLED")
print(ray.get(look.remote()))
"""
    return _program(
        _START + code,
        RAY_ADDRESS="local",
        RAY_DEDUP_LOGS="0",
        RAY_USAGE_STATS_ENABLED="0",
        RAY_AUTH_MODE="disabled",
    )


def timeouts_of_graphs_by_variables(ray: Any) -> Any:
    code = """
import os
os.environ.setdefault("RAY_CGRAPH_get_timeout", "300")
from ray.dag import DAGContext
found = DAGContext.get_current()
print(found.get_timeout, found.submit_timeout, found.buffer_size_bytes, found.max_inflight_executions)
"""
    return [
        _program(code),
        _program(
            code,
            RAY_CGRAPH_get_timeout="7",
            RAY_CGRAPH_submit_timeout="-1",
            RAY_CGRAPH_buffer_size_bytes="4096",
            RAY_CGRAPH_max_inflight_executions="3",
        ),
    ]


def the_environment_of_a_submitted_job(ray: Any) -> Any:
    code = """
import os, ray
from ray._private.runtime_env.constants import RAY_JOB_CONFIG_JSON_ENV_VAR
os.environ[RAY_JOB_CONFIG_JSON_ENV_VAR] = '{"runtime_env": {"env_vars": {"OF_JOB": "1"}}}'
ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, runtime_env={"env_vars": {"OF_INIT": "2"}})
@ray.remote
def look(): return os.environ.get("OF_JOB"), os.environ.get("OF_INIT")
print(ray.get(look.remote()))
"""
    return _program(code, RAY_ADDRESS="local")


def a_handle_of_a_dead_cluster(ray: Any) -> Any:
    ray.init(num_cpus=1, num_gpus=0, **QUIET)
    actor = ray.remote(type("A", (), {"one": lambda self: 1})).remote()
    seen = [ray.get(actor.one.remote())]
    ray.shutdown()
    ray.init(num_cpus=1, num_gpus=0, **QUIET)
    try:
        return [*seen, "error" in caught(lambda: ray.get(actor.one.remote(), timeout=5))]
    finally:
        ray.shutdown()
