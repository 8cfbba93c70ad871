"""What a job is submitted with, checked where it is given, as the plain table that travels."""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from spoke import codec, config
from spoke import runtime_env as environments
from spoke.envs import upload
from spoke.limits import MAX_JOB_BLOB_BYTES, MAX_NAME_CHARS
from spoke.quantities import amounts

_PORT_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_RUNTIMES = ("process", "podman", "docker")


class RetryPolicy:
    """How often and how soon a job is tried again, and after which exit codes.

    Args:
        max_retries_failure: attempts after a failure: an exit code other than 0, an exception, a timeout.
        max_retries_preemption: attempts after the loss of the node.
        initial_delay, max_delay: pause before the first and at most, in seconds.
        backoff_multiplier: each pause is this many times the one before.
        retry_on_exit_codes: only these are tried again.  [default: all]
        no_retry_on_exit_codes: these never are, whatever the other list says.

    Raises:
        ValueError: a negative count, a delay that is not positive, a multiplier below 1.
    """

    def __init__(
        self,
        max_retries_failure: int = 0,
        max_retries_preemption: int = 100,
        initial_delay: float = 1.0,
        max_delay: float = 60.0,
        backoff_multiplier: float = 2.0,
        retry_on_exit_codes: Sequence[int] = (),
        no_retry_on_exit_codes: Sequence[int] = (),
    ) -> None:
        for name, count in (
            ("max_retries_failure", max_retries_failure),
            ("max_retries_preemption", max_retries_preemption),
        ):
            _check_count(name, count)
        if initial_delay <= 0 or max_delay <= 0:
            raise ValueError(f"delays are positive times in seconds, not {initial_delay!r} and {max_delay!r}")
        if backoff_multiplier < 1:
            raise ValueError(f"backoff_multiplier is 1 or more, not {backoff_multiplier!r}")
        self.fields: dict[str, Any] = {
            "max_failures": max_retries_failure,
            "max_preemptions": max_retries_preemption,
            "initial_delay_s": float(initial_delay),
            "max_delay_s": float(max_delay),
            "multiplier": float(backoff_multiplier),
            "retry_on": list(retry_on_exit_codes),
            "no_retry_on": list(no_retry_on_exit_codes),
        }


class HealthCheck:
    """A question that a job must keep answering; after `threshold` failures in a row it is a failed attempt.

    Args:
        check: a function that runs in the job's process; False or an exception is a failure, and so is one
        that
            does not come back.  Or the name of one of the job's ports, which must accept connections.
        period: seconds between two checks, and before the first.
        timeout: seconds that a port may take to accept.
        threshold: failures in a row.

    Raises:
        ValueError, TypeError: a wrong argument.
    """

    def __init__(
        self, check: Callable[[], Any] | str, period: float = 5.0, timeout: float = 2.0, threshold: int = 3
    ) -> None:
        if not callable(check) and not isinstance(check, str):
            raise TypeError(f"a health check is a function or the name of a port, not {check!r}")
        if period <= 0 or timeout <= 0 or threshold < 1:
            raise ValueError("period and timeout are positive times in seconds, threshold is at least 1")
        self.check = check
        self.period, self.timeout, self.threshold = float(period), float(timeout), int(threshold)

    def fields(self, ports: list[str]) -> dict[str, Any]:
        """As the agent gets it.

        Raises:
            ValueError: it names a port that the job has not asked for.
        """
        found: dict[str, Any] = {
            "period_s": self.period, "timeout_s": self.timeout, "threshold": self.threshold,
        }  # fmt: skip
        if isinstance(self.check, str):
            if self.check not in ports:
                raise ValueError(
                    f"the health check asks port {self.check!r}, but the job's ports are {ports}"
                )
            found["port"] = self.check
        else:
            found["blob"] = codec.dumps_function(self.check)
        return found


class Entrypoint:
    """A function with its arguments: ``Entrypoint(fn, args, kwargs)``, for `submit`."""

    __slots__ = ("args", "callable", "kwargs")

    def __init__(
        self, callable: Callable[..., Any], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> None:
        self.callable, self.args, self.kwargs = callable, tuple(args), dict(kwargs or {})

    @classmethod
    def from_callable(cls, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Entrypoint:
        """The same, written as a call."""
        return cls(fn, args, kwargs)


def check_name(name: Any) -> str:
    """A name for a job.

    Raises:
        ValueError: it is empty, too long or has a "/".
    """
    if not isinstance(name, str) or not name:
        raise ValueError(f"the name of a job is a text, not {name!r}")
    if "/" in name:
        raise ValueError("Job name cannot contain '/'")
    if len(name) > MAX_NAME_CHARS:
        raise ValueError(f"the name of a job has at most {MAX_NAME_CHARS} characters")
    return name


def build(
    entrypoint: Any,
    args: tuple[Any, ...] = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    name: str | None = None,
    parent: str | None = None,
    resources: Mapping[str, Any] | None = None,
    label_selector: Mapping[str, str] | None = None,
    runtime_env: Mapping[str, Any] | None = None,
    ports: Sequence[str] = (),
    retries: int | RetryPolicy = 0,
    max_preemptions: int = 100,
    scheduling_timeout_s: float = 0,
    job_timeout_s: float = 0,
    health_check: HealthCheck | None = None,
    runtime: str = "process",
    namespace: str | None = None,
    metadata: Mapping[str, str] | None = None,
    grace_s: float = 5.0,
    ask: upload.Ask,
) -> dict[str, Any]:
    """The spec of a job (see `spoke.jobs.submit` for the arguments).

    Args:
        ask: puts a question to the hub; it gets the packages of the runtime environment.

    Raises:
        ValueError, TypeError: a wrong argument; a function that does not pickle.
        RuntimeEnvSetupError: a package of the environment is too large.
    """
    _check_times(scheduling_timeout_s=scheduling_timeout_s, job_timeout_s=job_timeout_s, grace_s=grace_s)
    if runtime not in _RUNTIMES:
        raise ValueError(f"runtime is one of {', '.join(_RUNTIMES)}, not {runtime!r}")
    wanted = _check_ports(ports)
    environment = _environment(runtime_env, runtime, ask)
    run: dict[str, Any] = {
        "env": {str(key): str(value) for key, value in (environment.get("env_vars") or {}).items()},
        "ports": wanted,
        "timeout_s": float(job_timeout_s),
        "runtime": runtime,
        "image": environment.get("image_uri"),
    }
    run.update(_surroundings(environment))
    if isinstance(entrypoint, str):
        if not entrypoint.strip():
            raise ValueError("the command line of a job is not empty")
        if args or kwargs:
            raise TypeError("a command line takes no arguments: write them into it")
        run["entrypoint"] = shown = entrypoint
    else:
        run["blob"], shown = _pickled(entrypoint, args, kwargs or {})
        run["sys_path"] = [os.path.abspath(path) if path else os.getcwd() for path in sys.path]
    if health_check is not None:
        run["health"] = health_check.fields(wanted)
        if isinstance(entrypoint, str) and "blob" in run["health"]:
            raise ValueError("the health check of a command line is the name of a port")
    need = amounts(resources)
    run["cpus"] = need.get("CPU", 0)
    retry = retries if isinstance(retries, RetryPolicy) else None
    if retry is None:
        _check_count("retries", retries)
        _check_count("max_preemptions", max_preemptions)
    return {
        "name": check_name(name if name is not None else f"job-{os.urandom(6).hex()}"),
        "parent": config.get("job_id") or "" if parent is None else parent,
        "resources": need,
        "label_selector": dict(label_selector or {}),
        "runtime_env": environments.plain(environment),
        "retries": retry.fields if retry else {"max_failures": retries, "max_preemptions": max_preemptions},
        "scheduling_timeout_s": float(scheduling_timeout_s),
        "namespace": namespace or "",
        "metadata": {str(key): str(value) for key, value in (metadata or {}).items()},
        "grace_s": float(grace_s),
        "key": new_key(),
        "submitted_ms": int(time.time() * 1000),
        "entrypoint": shown,
        "run": run,
    }


def new_key() -> str:
    """For one submission: a hub that hears it twice, as after its restart, takes it once."""
    return os.urandom(8).hex()


def _pickled(entrypoint: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[bytes, str]:
    if isinstance(entrypoint, Entrypoint):
        entrypoint, args, kwargs = entrypoint.callable, entrypoint.args, entrypoint.kwargs
    if not callable(entrypoint):
        raise TypeError(f"a job is a function or a command line, not {entrypoint!r}")
    blob = codec.dumps_function((entrypoint, args, dict(kwargs)))
    if len(blob) > MAX_JOB_BLOB_BYTES:
        raise ValueError(
            f"the function and its arguments have {len(blob)} bytes, more than {MAX_JOB_BLOB_BYTES}"
        )
    return blob, str(getattr(entrypoint, "__qualname__", type(entrypoint).__name__))


def _environment(runtime_env: Mapping[str, Any] | None, runtime: str, ask: upload.Ask) -> dict[str, Any]:
    """The runtime environment, checked, with its packages at the hub."""
    given = dict(runtime_env or {})
    image = given.pop("image_uri", None) if runtime != "process" else None  # is alone for a worker only
    found = environments.checked(given)
    if image is not None:
        found.update(environments.checked({"image_uri": image}))
    if runtime != "process":
        known = ("env_vars", "working_dir", "image_uri", "config", "excludes")
        others = [name for name, value in found.items() if value and name not in known]
        if others:
            raise ValueError(
                f"the runtime_env of a job in a container has no {', '.join(others)}: use an image that has "
                "what it needs, or runtime='process'"
            )
    return upload.resolve(found, ask) if environments.rest_of(found) else found


def _surroundings(environment: Mapping[str, Any]) -> dict[str, Any]:
    """What an attempt's node is told: what to make for it, which packages, and what its driver inherits."""
    if not environment:
        return {}
    hidden = ("image_uri", "container", "worker_process_setup_hook")  # not of the job's own process
    rest = environments.rest_of({key: value for key, value in environment.items() if key not in hidden})
    return {
        "rest": environments.to_json(rest) if rest else "",
        "packages": upload.uris(environment),
        "job_env": environments.to_json(environment),
    }


def _check_times(**times: Any) -> None:
    for label, seconds in times.items():
        number = isinstance(seconds, (int, float)) and not isinstance(seconds, bool)
        if not number or not 0 <= seconds < float("inf"):
            raise ValueError(f"{label} is a time in seconds of 0 or more, not {seconds!r}")


def _check_ports(ports: Sequence[str]) -> list[str]:
    if isinstance(ports, str):
        raise TypeError("ports is a list of names such as ['http']")
    found = list(ports)
    for name in found:
        if not isinstance(name, str) or not _PORT_NAME.fullmatch(name):
            raise ValueError(f"the name of a port is letters, digits and underscores, not {name!r}")
    if len({name.lower() for name in found}) != len(found):
        raise ValueError(f"two ports have one name: {found}")
    return [name.lower() for name in found]


def _check_count(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(f"{name} is a whole number of 0 or more, not {value!r}")
