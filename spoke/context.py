"""The facts behind `get_runtime_context()`: what this process is and what it runs now."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from spoke.envs import entering
from spoke.running import running

if TYPE_CHECKING:
    from spoke.client import Client


def of_driver(client: Client) -> None:
    """Install the facts of a driver."""
    client.facts = lambda: _common(client)


def _common(client: Client) -> dict[str, Any]:
    info = client.info
    return {
        "job_id": client.job_id or info.get("job_id") or b"\0\0\0\0",
        "node_id": client.node_id,
        "worker_id": client.process_id,
        "namespace": client.namespace,
        "session": info.get("session"),
        "log_dir": info.get("log_dir"),
        "address": info.get("address") or info.get("hub_address"),
        "runtime_env": client.job_env,
        "is_worker": client.is_worker,
    }


def of_worker(client: Client) -> dict[str, Any]:
    """The facts of a worker; job, resources and group come with the lease or the actor."""
    facts = _common(client)
    host = running.actor
    job = running.job()
    grant: dict[str, Any] = {}
    if host is not None:
        spec = host.spec
        grant = spec.get("context") or {}
        facts.update(
            actor_id=host.actor_id,
            actor_name=spec.get("name"),
            incarnation=host.incarnation,
            first_incarnation=0,
            in_coroutine=host.is_async and not running.on_main_thread(),
            resources=spec.get("assigned"),
            gpu_ids=spec.get("gpu_ids"),
        )
        _add_group(facts, spec.get("strategy"))
    elif job is not None:
        grant = client.grants.get(job.message[2]) or {}
        facts.update(resources=grant.get("resources"), gpu_ids=grant.get("gpu_ids"))
        _add_group(facts, grant.get("strategy"))
    if job is not None:
        module = _module(job.function if host is None else type(host.instance))
        function_name = f"{module}.{job.function_name}"
        facts.update(
            task_id=job.call_id, task_name=job.name, function_name=function_name, cancelled=job.cancelled
        )
    elif host is not None:
        facts["task_id"] = host.actor_id + b"\0" * 8
        if host.under_construction is not None:
            facts["task_name"] = f"{host.class_name}.__init__"
            facts["function_name"] = f"{_module(host.under_construction)}.{host.class_name}.__init__"
    for name in ("job_id", "namespace", "runtime_env", "address"):
        if grant.get(name):
            facts[name] = grant[name]
    return facts


def _module(of: Any) -> str:
    """The module of a function or class; of the driver's own program the name of its file, as in Ray."""
    module = str(getattr(of, "__module__", None) or "")
    if module != "__main__":
        return module
    codes = (getattr(one, "__code__", None) for one in (of, *getattr(of, "__dict__", {}).values()))
    files = [code.co_filename for code in codes if code is not None]
    stem, suffix = os.path.splitext(os.path.basename(files[0])) if files else ("", "")
    return stem if suffix == ".py" else module


def _add_group(facts: dict[str, Any], strategy: Any) -> None:
    if isinstance(strategy, dict) and strategy.get("kind") == "group":
        facts["group_id"] = strategy["group_id"]
        facts["capture"] = bool(strategy.get("capture"))


def enter_paths(grant: dict[str, Any]) -> None:
    """In a worker of a driver that joined: find the modules that the driver finds.

    The driver's working directory is taken too, where it exists and no runtime environment chose another.
    """
    sys_path, cwd = grant["paths"]
    entering.take_paths(sys_path)
    if not (grant.get("runtime_env") or {}).get("working_dir"):
        try:
            os.chdir(cwd)
        except OSError:
            pass  # another machine


def inherited_env(grant: dict[str, Any]) -> dict[str, Any]:
    """The runtime environment that what starts here starts from: this task's or actor's own.

    The variables of a rank of a gang are its alone: below it the job's environment holds.
    """
    own: dict[str, Any] = grant.get("runtime_env") or {}
    is_rank = "SPOKE_GANG_ID" in (own.get("env_vars") or {})
    return (grant.get("job_env") if is_rank else own) or {}


def grant_context(client: Client, spec: dict[str, Any], info: dict[str, Any] | None) -> dict[str, Any]:
    """What a worker must know of its caller: sent once per lease, and in an actor's spec."""
    facts = client.facts()
    found = {
        "job_id": facts["job_id"],
        "namespace": facts["namespace"],
        "runtime_env": spec.get("runtime_env") or facts.get("runtime_env") or {},
        "job_env": client.job_env,
        "address": facts.get("address"),
    }
    if client.detached_actors:
        found["detached_actors"] = True
    if client.paths:
        found["paths"] = client.paths
    if client.logging:
        found["logging"] = client.logging
    if info is not None:
        found["resources"] = info.get("resources")
        found["gpu_ids"] = info.get("gpu_ids")
        found["strategy"] = spec.get("strategy")
    return found
