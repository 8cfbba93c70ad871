"""Where the running code is: job, node, worker, task, actor, and what was assigned to them.

`get_runtime_context()` is cheap and always tells the present state of the calling thread's task.
"""

from __future__ import annotations

from typing import Any

from spoke import absent, current
from spoke.ids import ActorID, JobID, NodeID, PlacementGroupID, TaskID

# Kinds of devices by their resources; Spoke assigns ids of GPUs, the others have none.
_ACCELERATORS = ("FURIOSA", "GPU", "HPU", "MBLT", "NPU", "RBLN", "TPU", "TTNPU", "neuron_cores")


class RuntimeContext:
    """Facts about the process, the task and the actor that ask.

    All ids are hexadecimal text, as `nodes()` and the command line show them.
    """

    __slots__ = ()

    def get(self) -> dict[str, Any]:
        """job_id, node_id and namespace; in a task or actor also task_id or actor_id."""
        _deprecated("get_xxx_id() methods")
        facts = _facts()
        found: dict[str, Any] = {
            "job_id": JobID(facts["job_id"]),
            "node_id": NodeID(facts["node_id"]),
            "namespace": self.namespace,
        }
        if facts.get("task_id"):
            found["task_id"] = TaskID(facts["task_id"])
        if facts.get("actor_id"):
            found["actor_id"] = ActorID(facts["actor_id"])
        return found

    @property
    def job_id(self) -> JobID:
        """The job of this driver or worker."""
        _deprecated("get_job_id()")
        return JobID(_facts()["job_id"])

    @property
    def node_id(self) -> NodeID:
        """The node that this process runs on."""
        _deprecated("get_node_id()")
        return NodeID(_facts()["node_id"])

    @property
    def task_id(self) -> TaskID:
        """The running task.

        Raises:
            AssertionError: this process is a driver.
        """
        _deprecated("get_task_id()")
        task_id = _facts().get("task_id")
        assert task_id, "task_id is only available in a worker."
        return TaskID(task_id)

    @property
    def actor_id(self) -> ActorID:
        """The actor that runs in this process.

        Raises:
            AssertionError: no actor runs here.
        """
        _deprecated("get_actor_id()")
        actor_id = _facts().get("actor_id")
        assert actor_id, "actor_id is only available in an actor."
        return ActorID(actor_id)

    @property
    def namespace(self) -> str:
        """The namespace in which this process names and finds actors."""
        return str(_facts().get("namespace") or "")

    def get_job_id(self) -> str:
        """The job of this driver or worker."""
        return bytes(_of_cluster("job_id", "Job ID")).hex()

    def get_node_id(self) -> str:
        """The node that this process runs on; "NodeID" of an entry of `nodes()`."""
        return bytes(_of_cluster("node_id", "Node ID")).hex()

    def get_worker_id(self) -> str:
        """This process."""
        return bytes(_of_cluster("worker_id", "Worker ID")).hex()

    def get_task_id(self) -> str | None:
        """The running task, or None in a driver."""
        return _hex(_here().get("task_id"))

    def get_actor_id(self) -> str | None:
        """The actor that runs in this process, or None."""
        return _hex(_here().get("actor_id"))

    def get_actor_name(self) -> str | None:
        """The name of the actor that runs in this process: None outside of actors, "" without a name."""
        facts = _here()
        return str(facts.get("actor_name") or "") if facts.get("actor_id") else None

    def get_task_name(self) -> str | None:
        """The name of the running task, or None in a driver."""
        return _text(_here().get("task_name"))

    def get_task_function_name(self) -> str | None:
        """The running ``module.function`` or ``module.Class.method``; None in a driver."""
        return _text(_here().get("function_name"))

    def get_placement_group_id(self) -> str | None:
        """The placement group of the running task or actor, or None."""
        return _hex(_facts().get("group_id"))

    @property
    def current_placement_group_id(self) -> PlacementGroupID:
        """The placement group of the running task or actor; a nil id outside of groups."""
        _deprecated("get_placement_group_id()")
        group_id = _facts().get("group_id")
        return PlacementGroupID(group_id) if group_id else PlacementGroupID.nil()

    @property
    def should_capture_child_tasks_in_placement_group(self) -> bool:
        """Do tasks and actors started here go into the same placement group?"""
        return bool(_facts().get("capture"))

    @property
    def was_current_actor_reconstructed(self) -> bool:
        """Is this actor's process not its first one?

        Raises:
            AssertionError: no actor runs here.
        """
        facts = _facts()
        assert facts.get("actor_id"), "was_current_actor_reconstructed is only available in an actor."
        return int(facts.get("incarnation") or 0) > int(facts.get("first_incarnation") or 0)

    @property
    def current_actor(self) -> Any:
        """A handle of the actor that runs in this process.

        Raises:
            RuntimeError: no actor runs here.
        """
        if not _facts().get("actor_id"):
            raise RuntimeError("This method is only available in an actor.")
        from spoke.handles import own_handle

        return own_handle()

    def get_assigned_resources(self) -> dict[str, float]:
        """What the running task or actor holds, by resource name.

        Raises:
            AssertionError: this process is a driver.
        """
        facts = _facts()
        assert facts.get("is_worker"), "This method is only available when the process is a worker."
        return {name: float(amount) for name, amount in (facts.get("resources") or {}).items()}

    def get_accelerator_ids(self) -> dict[str, list[str]]:
        """Assigned device ids by kind; every kind is there, with an empty list if none is assigned."""
        found: dict[str, list[str]] = {kind: [] for kind in _ACCELERATORS}
        found["GPU"] = [str(index) for index in assigned_gpu_ids()]
        return found

    def get_resource_ids(self) -> dict[str, list[str]]:
        """As `get_accelerator_ids`, by its former name."""
        _deprecated("get_accelerator_ids()")
        return self.get_accelerator_ids()

    def get_node_labels(self) -> dict[str, str]:
        """The labels of this node."""
        mine = bytes(_facts()["node_id"]).hex()
        assert current.client is not None
        for node in current.client.request("nodes"):
            if node["NodeID"] == mine:
                return {str(name): str(value) for name, value in (node.get("Labels") or {}).items()}
        return {}

    @property
    def runtime_env(self) -> Any:
        """The runtime environment of this job, task or actor (a `RuntimeEnv`)."""
        from spoke.runtime_env import RuntimeEnv

        return RuntimeEnv(_validate=False, **(_facts().get("runtime_env") or {}))

    def get_runtime_env_string(self) -> str:
        """The runtime environment as JSON."""
        return str(self.runtime_env.serialize())

    @property
    def gcs_address(self) -> str:
        """``host:port`` of the cluster: another driver joins with ``init(address=...)`` or SPOKE_ADDRESS."""
        return str(_facts().get("address") or "")

    def get_session_name(self) -> str:
        """The name of this run of the cluster."""
        return str(_of_cluster("session", "Session name") or "")

    def get_temp_dir(self) -> str:
        """The directory that holds the directories of sessions."""
        facts = _facts()
        if facts.get("temp_dir"):  # of real Ray
            return str(facts["temp_dir"])
        from spoke import records

        return records.temp_root()

    def is_canceled(self) -> bool:
        """Was the running task cancelled?

        Raises:
            RuntimeError: this process is a driver, or an async actor, whose calls get a CancelledError.
        """
        facts = _facts()
        if not facts.get("is_worker"):
            raise RuntimeError("This method is only available when the process is a worker.")
        if facts.get("in_coroutine"):
            raise RuntimeError("This method is not supported in an async actor.")
        return bool(facts.get("cancelled"))


def _facts() -> Any:
    """The engine's facts: a mapping by the names used in this module; ids are bytes or None."""
    client = current.client
    if client is None:
        from spoke.lifecycle import not_started

        raise not_started()
    return client.runtime_context


def _here() -> Any:
    """The same, with nothing in it where there is no cluster: no task or actor runs here then."""
    return {} if current.client is None else _facts()


def _of_cluster(name: str, shown: str) -> Any:
    if current.client is None:
        raise RuntimeError(f"{shown} is not available because Ray has not been initialized.")
    return _facts().get(name)


def _deprecated(use: str) -> None:
    """Warn the caller's caller, as Ray does."""
    import warnings

    from spoke.util.annotations import RayDeprecationWarning

    text = f"This API is deprecated and may be removed in future Ray releases. Use {use} instead"
    warnings.warn(text, RayDeprecationWarning, stacklevel=3)


def _hex(value: Any) -> str | None:
    return bytes(value).hex() if value else None


def _text(value: Any) -> str | None:
    return str(value) if value else None


def assigned_gpu_ids() -> list[Any]:
    """The GPUs assigned to this worker: indices, or the texts of the variable that the node was given."""
    return list(_facts().get("gpu_ids") or [])


_context = RuntimeContext()


def get_runtime_context() -> RuntimeContext:
    """Facts about the running process, task and actor; starts a cluster if there is none yet."""
    if current.client is None:
        from spoke.lifecycle import init_by_first_use, may_init_by_first_use

        if may_init_by_first_use():
            init_by_first_use()
    return _context


__getattr__ = absent.getter(__name__)
