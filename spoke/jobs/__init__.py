"""Jobs: functions and command lines that run as processes of the cluster, whoever submitted them.

``job = spoke.jobs.submit(fn, 1, name="train", resources={"CPU": 2}, retries=3)``, then `Job.wait`,
`Job.result`, `Job.logs`, `Job.terminate`.  A job outlives the program that submitted it (a cluster that
`init` started ends with its program, and its jobs with it).  Inside a job, `submit` makes children: they end
when it ends.
"""

from __future__ import annotations

import builtins
from collections.abc import Sequence
from typing import Any

from spoke.jobs.job import AttemptInfo, Job, JobFailedError, Subscription
from spoke.jobs.line import EngineLine
from spoke.jobs.spec import Entrypoint, HealthCheck, RetryPolicy, build, new_key

__all__ = [
    "AttemptInfo", "Entrypoint", "HealthCheck", "Job", "JobFailedError", "RetryPolicy", "Subscription", "get",
    "launch_group", "list", "poll", "request", "status", "submit", "terminate", "terminate_prefix", "wait",
]  # fmt: skip

_line = EngineLine()
ONE_CPU = {"CPU": 1}


def submit(
    entrypoint: Any,
    /,
    *args: Any,
    name: str | None = None,
    resources: dict[str, Any] | None = None,
    runtime_env: dict[str, Any] | None = None,
    ports: Sequence[str] = (),
    retries: int | RetryPolicy = 0,
    scheduling_timeout_s: float = 0,
    job_timeout_s: float = 0,
    max_preemptions: int = 100,
    health_check: HealthCheck | None = None,
    runtime: str = "process",
    namespace: str | None = None,
    parent: str | None = None,
    label_selector: dict[str, str] | None = None,
    metadata: dict[str, str] | None = None,
    grace_s: float = 5.0,
    kwargs: dict[str, Any] | None = None,
) -> Job:
    """Run a function or a command line as a process of the cluster.

    Args:
        entrypoint: a function, called with `args` and `kwargs`; or a command line for the shell.
        name: unique for ever below its parent, without "/".  [default: made up]
        resources: what it holds while it runs, such as ``{"CPU": 2, "GPU": 1, "memory": "2GB"}``; memory is
        also
            a limit: a job above it is killed, alone, with exit code 137.  [default: one CPU]
        runtime_env: of the job and all that it starts: working_dir, pip and the other fields; a local
            directory is uploaded. With a container: env_vars, working_dir and the image, image_uri.
        ports: names of ports of the node that are the job's: SPOKE_PORT_<NAME>,
        ``spoke.ctx().get_port(name)``. retries: attempts after a failure, at once; or a `RetryPolicy`.
        [default: 0] scheduling_timeout_s: UNSCHEDULABLE after waiting this long for a node; 0: wait for
        ever. job_timeout_s: an attempt that runs longer has failed, with exit code -1; 0: no limit.
        max_preemptions: attempts after the loss of its node. health_check: a failed one is a failed
        attempt. runtime: "process", "podman" or "docker". namespace: of its named actors and endpoints.
        [default: the id of its root job] parent: id of the job that it ends with.  [default: the job that
        this process belongs to] label_selector: of the node. grace_s: from SIGTERM to SIGKILL when it is
        terminated.

    Raises:
        ValueError: a wrong argument, or a name that was used before.
        TypeError: a function or argument that does not pickle.
        KeyError: the parent is unknown.
    """
    spec = build(
        entrypoint, args, kwargs, name=name, parent=parent, resources=ONE_CPU if resources is None else
        resources, label_selector=label_selector, runtime_env=runtime_env, ports=ports, retries=retries,
        max_preemptions=max_preemptions, scheduling_timeout_s=scheduling_timeout_s,
        job_timeout_s=job_timeout_s, health_check=health_check, runtime=runtime, namespace=namespace,
        metadata=metadata, grace_s=grace_s, ask=_line.ask,
    )  # fmt: skip
    return Job(_line.ask("job_submit", spec=spec), _line)


def request(entrypoint: Any, /, *args: Any, **options: Any) -> dict[str, Any]:
    """What `launch_group` takes for one member; arguments as `submit`."""
    options.setdefault("resources", ONE_CPU)
    return build(entrypoint, args, options.pop("kwargs", None), ask=_line.ask, **options)


def launch_group(requests: Sequence[dict[str, Any]], name: str | None = None) -> builtins.list[Job]:
    """Start several jobs together or none: each member is a `request`.

    The members are placed in one step, tried again together while all have budget, and ended when one ends in
    another state than SUCCEEDED.

    Raises:
        ValueError: no members, or two of one name.
    """
    specs = [dict(one, key=new_key(), **({"group": name} if name else {})) for one in requests]
    return [Job(job_id, _line) for job_id in _line.ask("jobs_submit_group", specs=specs)]


def get(job_id: str) -> Job:
    """The job of an id.

    Raises:
        KeyError: there is none.
    """
    job = Job(job_id, _line)
    job.info()
    return job


def status(job_id: str) -> str:
    """The state of a job; KeyError when it is unknown."""
    return get(job_id).status()


poll = status


def wait(
    jobs: Sequence[Job | str], timeout: float | None = None, raise_on_failure: bool = False
) -> builtins.list[str]:
    """Wait for the end of all; the states that they ended in.

    Raises:
        TimeoutError: not all have ended within `timeout` seconds.
        JobFailedError: with `raise_on_failure`, one did not succeed.
    """
    import time

    deadline = None if timeout is None else time.monotonic() + timeout
    found = []
    for one in jobs:
        job = one if isinstance(one, Job) else Job(one, _line)
        left = None if deadline is None else max(0.0, deadline - time.monotonic())
        found.append(job.wait(left, raise_on_failure=raise_on_failure))
    return found


def list(prefix: str = "", states: Sequence[str] | None = None) -> builtins.list[dict[str, Any]]:
    """Facts about all jobs whose id begins with `prefix`, in order of submission; see `Job.info`."""
    found: builtins.list[dict[str, Any]] = _line.ask(
        "submitted_jobs", prefix=prefix, states=builtins.list(states) if states else None
    )
    return found


def terminate(job_id: str, *, force: bool = False) -> bool:
    """`Job.terminate` by id; False when it had ended, KeyError when it is unknown."""
    return Job(job_id, _line).terminate(force=force)


def terminate_prefix(prefix: str, exclude_finished: bool = True) -> builtins.list[str]:
    """End all jobs whose id begins with `prefix`; returns the ids (of ended ones too, if asked for)."""
    found: builtins.list[str] = _line.ask(
        "jobs_stop_prefix", prefix=prefix, exclude_finished=exclude_finished
    )
    return found
