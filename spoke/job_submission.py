"""Jobs under the names of Ray's submission interface: command lines, by submission id.

The jobs are those of `spoke.jobs`; here KILLED is STOPPED, BUILDING is PENDING, and WORKER_FAILED and
UNSCHEDULABLE are FAILED, with the reason in the message.  Times are in milliseconds since the epoch.  The
output is the command's alone, without Ray's lines about its start.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from enum import Enum
from typing import TYPE_CHECKING, Any, ClassVar

from spoke import absent, config, current, records
from spoke.jobs.job import Job
from spoke.jobs.line import AddressLine, EngineLine, Line
from spoke.jobs.spec import build

__all__ = [
    "DriverInfo",
    "JobDetails",
    "JobErrorType",
    "JobInfo",
    "JobStatus",
    "JobSubmissionClient",
    "JobType",
]


class JobStatus(str, Enum):
    """Where a job stands."""

    PENDING = "PENDING"
    RUNNING = "RUNNING"
    STOPPED = "STOPPED"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"

    def __str__(self) -> str:
        return self.value

    def is_terminal(self) -> bool:
        """Whether it has ended."""
        return self.value in ("STOPPED", "SUCCEEDED", "FAILED")


class JobType(str, Enum):
    """How a job came to be: submitted, or a driver that connected."""

    SUBMISSION = "SUBMISSION"
    DRIVER = "DRIVER"


class JobErrorType(str, Enum):
    """Why a job failed."""

    RUNTIME_ENV_SETUP_FAILURE = "RUNTIME_ENV_SETUP_FAILURE"
    JOB_SUPERVISOR_ACTOR_START_TIMEOUT = "JOB_SUPERVISOR_ACTOR_START_TIMEOUT"
    JOB_SUPERVISOR_ACTOR_START_FAILURE = "JOB_SUPERVISOR_ACTOR_START_FAILURE"
    JOB_SUPERVISOR_ACTOR_UNSCHEDULABLE = "JOB_SUPERVISOR_ACTOR_UNSCHEDULABLE"
    JOB_SUPERVISOR_ACTOR_DIED = "JOB_SUPERVISOR_ACTOR_DIED"
    JOB_SUPERVISOR_ACTOR_UNKNOWN_FAILURE = "JOB_SUPERVISOR_ACTOR_UNKNOWN_FAILURE"
    JOB_ENTRYPOINT_COMMAND_START_ERROR = "JOB_ENTRYPOINT_COMMAND_START_ERROR"
    JOB_ENTRYPOINT_COMMAND_ERROR = "JOB_ENTRYPOINT_COMMAND_ERROR"


class _Facts:
    """Attributes by keyword, None where not given; readable."""

    _names: tuple[str, ...] = ()

    def __init__(self, **facts: Any) -> None:
        for name in facts:
            if name not in self._names:
                raise TypeError(f"{type(self).__name__} has no {name!r}")
        for name in self._names:
            setattr(self, name, facts.get(name))

    def __init_subclass__(cls) -> None:
        for name in cls._names:
            setattr(cls, name, None)

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any: ...

    def dict(self) -> dict[str, Any]:
        """The facts by name, those of facts inside too."""
        found = {name: getattr(self, name) for name in self._names}
        return {name: one.dict() if isinstance(one, _Facts) else one for name, one in found.items()}

    model_dump = dict

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and vars(other) == vars(self)

    def __hash__(self) -> int:
        return hash(repr(self))

    def __repr__(self) -> str:
        facts = ", ".join(f"{name}={getattr(self, name)!r}" for name in self._names)
        return f"{type(self).__name__}({facts})"


class DriverInfo(_Facts):
    """The process of a job: id, node_ip_address, pid."""

    _names = ("id", "node_ip_address", "pid")
    model_config: ClassVar[dict[str, Any]] = {}  # of the class that Ray builds this on


class JobDetails(_Facts):
    """What `JobSubmissionClient.get_job_info` gives.

    Attributes:
        type: SUBMISSION, or DRIVER: a program that connected by itself, which has no submission id.
        job_id, driver_info: of the driver that the command line became by `init`; None: it became none.
        driver_exit_code: minus the number of a signal that ended it; None: it runs, or was stopped.
        start_time, end_time: milliseconds since the epoch.
    """

    model_config: ClassVar[dict[str, Any]] = {}
    _names = (
        "type", "job_id", "submission_id", "driver_info", "status", "entrypoint", "message", "error_type",
        "start_time", "end_time", "metadata", "runtime_env", "driver_agent_http_address", "driver_node_id",
        "driver_exit_code",
    )  # fmt: skip


class JobInfo(_Facts):
    """A job as its supervisor sees it."""

    _names = (
        "status", "entrypoint", "message", "error_type", "start_time", "end_time", "metadata", "runtime_env",
        "entrypoint_num_cpus", "entrypoint_num_gpus", "entrypoint_memory", "entrypoint_resources",
        "driver_agent_http_address", "driver_node_id", "driver_exit_code",
    )  # fmt: skip

    def to_json(self) -> dict[str, Any]:
        """The facts as plain values, with the resources as numbers."""
        found = {name: getattr(self, name) for name in self._names}
        found["status"] = str(self.status)
        return found

    @classmethod
    def from_json(cls, json_dict: dict[str, Any]) -> JobInfo:
        """The facts of `to_json`."""
        found = {name: json_dict[name] for name in cls._names if name in json_dict}
        return cls(**{**found, "status": JobStatus(json_dict["status"])})


LAST_LINES = 100  # of a failed job's output, told with why it failed
LAST_CHARS = 20_000
KILLED_CODE = 128  # exit codes above it name a signal

_STATUS = {"KILLED": "STOPPED", "BUILDING": "PENDING", "WORKER_FAILED": "FAILED", "UNSCHEDULABLE": "FAILED"}


class JobSubmissionClient:
    """Submits command lines to a cluster and looks after them; needs no `init`.

    Args:
        address: ``host:port`` of the cluster, also with ``http://`` or ``ray://``; "auto", and where Ray's
            dashboard would be (http://127.0.0.1:8265), is the one that runs on this machine.  [default:
            RAY_API_SERVER_ADDRESS, else this process's, else RAY_ADDRESS or SPOKE_ADDRESS, else "auto"]
        create_cluster_if_needed: `spoke.init()` when there is none.
        cookies, metadata, headers, verify: of HTTP, which is not used; accepted and without effect.

    Raises:
        ConnectionError: no cluster answers there within 30 s, or it does not let this user in.
    """

    def __init__(
        self,
        address: str | None = None,
        create_cluster_if_needed: bool = False,
        cookies: dict[str, Any] | None = None,
        metadata: dict[str, Any] | None = None,
        headers: dict[str, Any] | None = None,
        verify: str | bool | None = True,
        **kwargs: Any,
    ) -> None:
        if kwargs:
            raise TypeError(f"JobSubmissionClient() got an unexpected argument {next(iter(kwargs))!r}")
        wanted = records.without_scheme(address or config.get("api_address") or "")
        if not wanted and current.client is None:
            wanted = config.get("address") or "auto"
        self._line: Line
        if not wanted or (wanted == "auto" and current.client is not None):
            self._line = EngineLine()
            return
        try:
            self._line = AddressLine(wanted)
        except ConnectionError:
            if not create_cluster_if_needed:
                raise
            from spoke.lifecycle import init

            init()
            self._line = EngineLine()

    def get_address(self) -> str:
        """``host:port`` of the cluster."""
        if isinstance(self._line, AddressLine):
            return self._line.address
        client = current.client
        return str(client.runtime_context.get("address") or "") if client is not None else ""

    def get_version(self) -> str:
        """Version of the interface."""
        return "4"

    def submit_job(
        self,
        *,
        entrypoint: str,
        job_id: str | None = None,
        runtime_env: dict[str, Any] | None = None,
        metadata: dict[str, str] | None = None,
        submission_id: str | None = None,
        entrypoint_num_cpus: float | None = None,
        entrypoint_num_gpus: float | None = None,
        entrypoint_memory: int | None = None,
        entrypoint_resources: dict[str, float] | None = None,
        entrypoint_label_selector: dict[str, str] | None = None,
    ) -> str:
        """Run a command line; returns its submission id at once.

        Args:
            submission_id: [default: made up]; `job_id` is its old name.
            runtime_env: of the command and all that it starts; a local working_dir is uploaded.
            entrypoint_num_cpus, entrypoint_num_gpus, entrypoint_memory, entrypoint_resources: what the
            command
                itself holds.  [default: nothing]

        Raises:
            RuntimeError: the id was used before, or the cluster refuses.
            ValueError, TypeError: a wrong argument.
        """
        import os

        _check("entrypoint", entrypoint, str)
        _check("metadata", metadata, dict)
        for part, texts in (("keys", metadata or {}), ("values", (metadata or {}).values())):
            for text in texts:
                if not isinstance(text, str):
                    raise TypeError(f"metadata {part} must be strings, got {type(text)}")
        _check("runtime_env", runtime_env, dict)
        _check("job_id", job_id, str)
        _check("submission_id", submission_id, str)
        _check("entrypoint_num_cpus", entrypoint_num_cpus, int, float)
        _check("entrypoint_num_gpus", entrypoint_num_gpus, int, float)
        _check("entrypoint_memory", entrypoint_memory, int)
        _check("entrypoint_resources", entrypoint_resources, dict)
        resources = dict(entrypoint_resources or {})
        resources.update({name: amount for name, amount in (
            ("CPU", entrypoint_num_cpus), ("GPU", entrypoint_num_gpus), ("memory", entrypoint_memory),
        ) if amount is not None})  # fmt: skip
        name = submission_id or job_id or f"raysubmit_{os.urandom(8).hex()}"
        if "/" in name:
            raise RuntimeError(f"job {name!r} was not submitted: an id cannot contain '/'")
        spec = build(
            entrypoint, name=name, parent="", resources=resources, runtime_env=runtime_env, metadata=metadata,
            label_selector=entrypoint_label_selector, max_preemptions=0, ask=self._line.ask,
        )  # fmt: skip
        try:
            return str(self._line.ask("job_submit", spec=spec))
        except ValueError as error:
            raise RuntimeError(f"job {name!r} was not submitted: {error}") from None

    def _found(self, job_id: str) -> dict[str, Any]:
        try:
            return dict(self._line.ask("job", id=job_id))
        except KeyError:
            raise RuntimeError(f"Job {job_id} does not exist") from None

    def stop_job(self, job_id: str) -> bool:
        """SIGTERM, after some seconds SIGKILL; False when it had ended.  RuntimeError: no such job."""
        self._found(job_id)
        return bool(self._line.ask("job_stop", id=job_id))

    def delete_job(self, job_id: str) -> bool:
        """Forget an ended job.  RuntimeError: no such job, or it has not ended."""
        self._found(job_id)
        return bool(self._line.ask("job_delete", id=job_id))

    def get_job_status(self, job_id: str) -> JobStatus:
        """Where it stands.  RuntimeError: no such job."""
        return _status(self._found(job_id))

    def get_job_info(self, job_id: str) -> JobDetails:
        """All that is known of it; the message of a failed one has the end of its output.

        Raises:
            RuntimeError: no such job.
        """
        row = self._found(job_id)
        end = ""
        if row["state"] == "FAILED" and row["attempts"]:
            try:
                lines = list(Job(job_id, self._line).logs(tail=LAST_LINES))
            except RuntimeError:  # its node keeps them no more
                lines = []
            last = "\n".join(lines)[-LAST_CHARS:]
            end = f", last available logs (truncated to 20,000 chars):\n{last}" if lines else ""
        return details_of(row, self._drivers().get(job_id), end)

    def _drivers(self) -> dict[str, dict[str, Any]]:
        """The latest driver of each submitted job; below "" and a number, those of none."""
        rows = enumerate(self._line.ask("jobs"))
        return {row["submission_id"] or f"/{index}": row for index, row in rows}

    def list_jobs(self) -> list[JobDetails]:
        """All jobs, the first submitted first, and then the drivers that are none."""
        drivers = self._drivers()
        found = [details_of(row, drivers.get(row["job_id"])) for row in self._line.ask("submitted_jobs")]
        return found + [_driver_details(row) for row in drivers.values() if not row["submission_id"]]

    def get_job_logs(self, job_id: str) -> str:
        """Its output so far.  RuntimeError: no such job, or the logs are gone."""
        found = self._found(job_id)
        if not found["attempts"]:
            return ""
        return "".join(f"{line}\n" for line in Job(job_id, self._line).logs())

    async def tail_job_logs(self, job_id: str) -> AsyncIterator[str]:
        """Its output as it comes, in pieces, until it has ended.  RuntimeError: no such job."""
        self._found(job_id)
        lines = Job(job_id, self._line).logs(follow=True)
        while True:
            line = await asyncio.to_thread(next, lines, None)
            if line is None:
                return
            yield f"{line}\n"

    def close(self) -> None:
        """End the links to the cluster."""
        self._line.close()


def _status(row: dict[str, Any]) -> JobStatus:
    return JobStatus(_STATUS.get(row["state"], row["state"]))


def _check(what: str, value: Any, *kinds: type) -> None:
    if value is not None and (not isinstance(value, kinds) or isinstance(value, bool)):
        wanted = " or ".join(kind.__name__ for kind in kinds)
        raise TypeError(f"{what} is of type {wanted}, not {type(value).__name__}: {value!r}")


_WORDS = {  # as Ray says it, as programs look for the words
    "PENDING": "Job has not started yet. It may be waiting for resources (CPUs, GPUs, memory, custom "
    "resources) to become available.",
    "BUILDING": "Job has not started yet. It may be waiting for the runtime environment to be set up.",
    "RUNNING": "Job is currently running.",
    "SUCCEEDED": "Job finished successfully.",
}


def _message(row: dict[str, Any]) -> str:
    kind, said = _error_type(row), str(row["message"])
    if kind == JobErrorType.RUNTIME_ENV_SETUP_FAILURE.value:
        return f"runtime_env setup failed: Failed to set up runtime environment. {said}"
    if kind == JobErrorType.JOB_ENTRYPOINT_COMMAND_ERROR.value:
        return f"Job entrypoint command failed with {said}"
    if row["state"] == "KILLED" and said == "Terminated by user":
        return "Job was intentionally stopped."
    return _WORDS.get(row["state"]) or said


def _error_type(row: dict[str, Any]) -> str | None:
    kinds = {
        "FAILED": JobErrorType.JOB_ENTRYPOINT_COMMAND_ERROR,
        "WORKER_FAILED": JobErrorType.JOB_SUPERVISOR_ACTOR_DIED,
        "UNSCHEDULABLE": JobErrorType.JOB_SUPERVISOR_ACTOR_UNSCHEDULABLE,
    }
    kind = kinds.get(row["state"])
    if kind is not None and row["message"].startswith("RuntimeEnvSetupError"):
        kind = JobErrorType.RUNTIME_ENV_SETUP_FAILURE
    return None if kind is None else str(kind.value)


def _exit_code(row: dict[str, Any]) -> int | None:
    """As Ray counts: minus the signal, none for one that was stopped."""
    code: int | None = row["exit_code"]
    if row["state"] == "KILLED" or code is None:
        return None
    by_itself = row["message"].startswith("exit code")
    return KILLED_CODE - code if code > KILLED_CODE and not by_itself else code


def details_of(row: dict[str, Any], driver: dict[str, Any] | None = None, end: str = "") -> JobDetails:
    """A row of the hub's table, and of the driver that it became, as Ray's clients know them.

    end: of the message.
    """
    return JobDetails(
        type=JobType.SUBMISSION, submission_id=row["job_id"], status=_status(row),
        job_id=driver["job_id"].hex() if driver else None,
        driver_info=_driver_info(driver) if driver else None,
        entrypoint=row["entrypoint"], message=_message(row) + end,
        error_type=_error_type(row), start_time=row["started_ms"] or row["submitted_ms"],
        end_time=row["finished_ms"] or None, metadata=row["metadata"], runtime_env=row["runtime_env"],
        driver_node_id=row["node_id"].hex(), driver_exit_code=_exit_code(row),
    )  # fmt: skip


def _driver_info(row: dict[str, Any]) -> DriverInfo:
    return DriverInfo(id=row["job_id"].hex(), node_ip_address=row["ip"], pid=str(row["pid"]))


def _driver_details(row: dict[str, Any]) -> JobDetails:
    """A driver that no submitted job became."""
    started = int(1000 * (time.time() - row["age_s"]))
    return JobDetails(
        type=JobType.DRIVER, job_id=row["job_id"].hex(), driver_info=_driver_info(row),
        status=JobStatus.RUNNING if row["running"] else JobStatus.SUCCEEDED, entrypoint=row["entrypoint"],
        start_time=started, end_time=None if row["running"] else started + int(1000 * row["ran_s"]),
        metadata={}, runtime_env={},
    )  # fmt: skip


__getattr__ = absent.getter(__name__)
