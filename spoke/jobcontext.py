"""What a process of a job knows of its job: read from the variables that its agent injected."""

from __future__ import annotations

from typing import Any

from spoke import config


class ActorContext:
    """Facts about the job that this process belongs to.

    Attributes:
        job_id: id of the job; its parents' names come first, divided by "/".
        attempt_id: number of this attempt, 0 for the first.
        worker_id: the node that it runs on, in hexadecimal.
        namespace: of named actors and endpoints: the root job's id.
        parent_job_id: "" for a root job.
        ports: the ports it asked for, by name.
        address: ``host:port`` of the cluster.
    """

    __slots__ = ("address", "attempt_id", "job_id", "namespace", "parent_job_id", "ports", "worker_id")

    def __init__(self, facts: dict[str, Any]) -> None:
        self.job_id: str = facts["job_id"]
        self.attempt_id: int = facts["attempt_id"]
        self.worker_id: str = facts["worker_id"]
        self.namespace: str = facts["namespace"]
        self.parent_job_id: str = facts["parent_job_id"]
        self.ports: dict[str, int] = facts["ports"]
        self.address: str = facts["address"]

    @classmethod
    def outside(cls) -> ActorContext:
        """The context of a process that belongs to no job: empty."""
        return cls({"job_id": "", "attempt_id": 0, "worker_id": "", "namespace": "", "parent_job_id": "",
                    "ports": {}, "address": ""})  # fmt: skip

    def get_port(self, name: str) -> int:
        """The port that the job asked for as `name`.

        Raises:
            KeyError: it did not; the text lists what there is.
        """
        try:
            return self.ports[name]
        except KeyError:
            raise KeyError(f"the job has no port {name!r}, but {sorted(self.ports)}") from None

    @property
    def resolver(self) -> Any:
        """Finds endpoints of this namespace."""
        from spoke.endpoints.resolvers import ClusterResolver

        return ClusterResolver(namespace=self.namespace or None)

    @property
    def client(self) -> Any:
        """The module `spoke.jobs`, which submits children of this job."""
        from spoke import jobs

        return jobs

    def __repr__(self) -> str:
        return f"ActorContext(job_id={self.job_id!r}, attempt_id={self.attempt_id})"


def context_or_none() -> ActorContext | None:
    """The context of this process, or None outside of jobs."""
    job_id = config.get("job_id")
    if not job_id:
        return None
    return ActorContext({
        "job_id": job_id,
        "attempt_id": config.get("attempt_id"),
        "worker_id": config.get("job_node_id") or "",
        "namespace": config.get("namespace") or "",
        "parent_job_id": config.get("parent_job_id") or "",
        "ports": config.job_ports(),
        "address": config.get("address") or "",
    })  # fmt: skip


def ctx() -> ActorContext:
    """The context of the job that this process belongs to.

    Raises:
        RuntimeError: it belongs to none.
    """
    found = context_or_none()
    if found is None:
        raise RuntimeError("spoke.ctx() is for processes of a job: submit one with spoke.jobs.submit()")
    return found
