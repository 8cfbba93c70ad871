"""Spoke: tasks, actors, objects and placement groups with Ray's interface over a lean core.

``import spoke as ray`` and go on as with Ray.  Importing this module is cheap: the engine, and with it
everything that is not a fact, is imported by the first call that needs it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from spoke.api import (
    available_resources,
    cancel,
    cluster_resources,
    get,
    get_actor,
    get_gpu_ids,
    init,
    is_initialized,
    kill,
    method,
    nodes,
    put,
    remote,
    shutdown,
    timeline,
    wait,
)
from spoke.ids import (
    ActorClassID,
    ActorID,
    FunctionID,
    JobID,
    NodeID,
    PlacementGroupID,
    TaskID,
    UniqueID,
    WorkerID,
)
from spoke.runtime_context import get_runtime_context
from spoke.version import RAY_VERSION as RAY_VERSION
from spoke.version import __version__

if TYPE_CHECKING:
    from spoke.objectref import ObjectID, ObjectRef
    from spoke.streams import DynamicObjectRefGenerator, ObjectRefGenerator

SCRIPT_MODE = 0  # a driver
WORKER_MODE = 1  # a worker

__all__ = [
    "SCRIPT_MODE",
    "WORKER_MODE",
    "ActorClassID",
    "ActorID",
    "DynamicObjectRefGenerator",
    "FunctionID",
    "JobID",
    "NodeID",
    "ObjectID",
    "ObjectRef",
    "ObjectRefGenerator",
    "PlacementGroupID",
    "TaskID",
    "UniqueID",
    "WorkerID",
    "__version__",
    "available_resources",
    "cancel",
    "cluster_resources",
    "get",
    "get_actor",
    "get_gpu_ids",
    "get_runtime_context",
    "init",
    "is_initialized",
    "kill",
    "method",
    "nodes",
    "put",
    "remote",
    "shutdown",
    "timeline",
    "wait",
]

# Names that are imported when first looked up, and where they are.
_LAZY = {
    "ClientBuilder": "util.client",
    "DynamicObjectRefGenerator": "streams",
    "Language": "language",
    "LoggingConfig": "job_config",
    "ObjectID": "objectref",
    "ObjectRef": "objectref",
    "ObjectRefGenerator": "streams",
    "Gang": "gang",
    "Slot": "gang",
    "ActorClient": "endpoints.pool",
    "ActorContext": "jobcontext",
    "ActorServer": "endpoints.server",
    "CloudResolver": "endpoints.resolvers",
    "ClusterResolver": "endpoints.resolvers",
    "EndpointPool": "endpoints.pool",
    "FixedResolver": "endpoints.resolvers",
    "JobSubmissionClient": "job_submission",
    "RetryPolicy": "jobs.spec",
    "WorkerPool": "workerpool",
    "ctx": "jobcontext",
    "lookup": "endpoints.resolvers",
    "actor_types": "registry",
    "empty": "tensors",
    "from_tensor": "tensors",
    "gang_allocate": "reserving",
    "object_store_stats": "tensors",
    "Registration": "tensors",
    "register": "registry",
    "register_memory": "tensors",
    "deregister_serializer": "serializers",
    "register_serializer": "serializers",
    "spawn": "registry",
    "transport_of": "paths",
    "wait_ready": "registry",
    "why": "explanations",
}
# Modules that `import spoke` lets one look up; everything else below `spoke` is internal.
MODULES = frozenset({
    "actor", "cloudpickle", "cluster_utils", "dag", "endpoints", "exceptions", "experimental", "internal",
    "job_config", "job_submission", "jobs", "remote_function", "runtime_context", "runtime_env", "testing",
    "types", "util",
})  # fmt: skip


def __getattr__(name: str) -> Any:
    module = _LAZY.get(name, name if name in MODULES else None)
    if module is not None:
        import importlib

        path = f"{__name__}.{module}"
        try:
            found = importlib.import_module(path)
        except ModuleNotFoundError as error:
            if error.name != path:
                raise
        else:
            value = globals()[name] = found if name == module else getattr(found, name)
            return value
    from spoke import absent

    raise absent.error(__name__, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_LAZY, *MODULES})
