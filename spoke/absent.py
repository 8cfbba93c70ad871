"""Names of Ray that a module of Spoke does not define: where they are, or why they are not.

Ray's modules hold many names only because they import them (`PublicAPI`, `TYPE_CHECKING`, `ray`).  Such
a name is given from its home.  Every other unknown name is an AttributeError; one of Ray's says that
Spoke does not carry it, why, and where the table of all names is.  `tests/test_coverage.py` holds this
module and that table together.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

TABLE: Final = "spoke/COVERAGE.md"

# Where names are that Ray's modules hold by import: module, or module:name.
HOMES: Final[dict[str, str]] = {
    "ActorAlreadyExistsError": "spoke.errors:ActorAlreadyExistsError",
    "ActorClassID": "spoke.ids:ActorClassID",
    "ActorHandle": "spoke.handles:ActorHandle",
    "ActorID": "spoke.ids:ActorID",
    "Deprecated": "spoke.util.annotations:Deprecated",
    "DeveloperAPI": "spoke.util.annotations:DeveloperAPI",
    "Device": "spoke.experimental.util.types:Device",
    "GetTimeoutError": "spoke.errors:GetTimeoutError",
    "Language": "spoke.language:Language",
    "Lock": "threading:Lock",
    "LoggingConfig": "spoke.job_config:LoggingConfig",
    "NodeID": "spoke.ids:NodeID",
    "ObjectRef": "spoke.objectref:ObjectRef",
    "ObjectRefGenerator": "spoke.streams:ObjectRefGenerator",
    "PlacementGroupID": "spoke.ids:PlacementGroupID",
    "PlacementGroupSchedulingStrategy": "spoke.util.scheduling_strategies:PlacementGroupSchedulingStrategy",
    "PublicAPI": "spoke.util.annotations:PublicAPI",
    "RayCgraphCapacityExceeded": "spoke.errors:RayCgraphCapacityExceeded",
    "RayChannelError": "spoke.errors:RayChannelError",
    "RayChannelTimeoutError": "spoke.errors:RayChannelTimeoutError",
    "RayTaskError": "spoke.errors:RayTaskError",
    "ReduceOp": "spoke.experimental.util.types:ReduceOp",
    "RuntimeEnv": "spoke.runtime_env:RuntimeEnv",
    "TYPE_CHECKING": "typing:TYPE_CHECKING",
    "TaskID": "spoke.ids:TaskID",
    "WorkerID": "spoke.ids:WorkerID",
    "cp": "spoke.cloudpickle",
    "hex_to_binary": "binascii:unhexlify",
    "log_once": "spoke.util.debug:log_once",
    "pickle": "spoke.cloudpickle",
    "ray": "spoke",
    "validate_label_selector": "spoke.labels:selector_problem",
}

_CLIENT_MODE = "it belongs to Ray's client proxy; a Spoke driver joins the cluster itself: init(address=...)"
_INTERNAL = "it is a helper inside of Ray, no interface"
_ONLY_PYTHON = "tasks and actors are Python; call other languages from Python code"

_GRAPHS = "compiled graphs run over links of their own: experimental_compile() needs no channels"
_TENSORS = "tensors travel by Spoke's own movers: spoke.empty() and spoke.from_tensor()"

# Why a name, or a module with everything below it, is not carried: by Ray's name, longest match first.
REFUSED: Final[dict[str, str]] = {
    "ray.client": "in `spoke` this is a module of the engine; use spoke.util.connect",
    "ray.cloudpickle.cloudpickle": "import cloudpickle.cloudpickle",
    "ray.cloudpickle.cloudpickle_fast": "import cloudpickle.cloudpickle",
    "ray.experimental.CommunicatorMetadata": _TENSORS,
    "ray.experimental.RDTManager": _TENSORS,
    "ray.experimental.TensorTransportManager": _TENSORS,
    "ray.experimental.TensorTransportMetadata": _TENSORS,
    "ray.experimental.register_tensor_transport": _TENSORS,
    "ray.air": "see ray.tune",
    "ray.autoscaler": "nodes come and go by `spoke start` and `spoke stop`; your platform starts machines",
    "ray.cpp_function": _ONLY_PYTHON,
    "ray.data": "Spoke carries Ray's core; read data with the library of your choice inside tasks",
    "ray.java_actor_class": _ONLY_PYTHON,
    "ray.java_function": _ONLY_PYTHON,
    "ray.llm": "run vLLM with its Ray executor, which Spoke serves",
    "ray.rllib": "Spoke carries Ray's core; training libraries are apart from it",
    "ray.serve": "Spoke carries Ray's core; serve with an HTTP server in the driver or an actor",
    "ray.train": "Spoke carries Ray's core; launch ranks with spoke.gang_allocate",
    "ray.tune": "Spoke carries Ray's core; run trials as tasks",
    "ray.widgets": "there is no notebook widget; print the context that init() returns",
    "ray.workflow": "Ray has removed it, too",
    "ray.cluster_utils.AutoscalingCluster": "there is no autoscaler; use Cluster.add_node and remove_node",
    "ray.experimental.internal_kv.GcsClient": _INTERNAL,
    "ray.experimental.internal_kv.global_gcs_client": _INTERNAL,
    "ray.experimental.internal_kv.internal_kv_get_gcs_client": "use the functions of this module",
    "ray.experimental.rdt": _TENSORS,
    "ray.dag.compiled_dag_node": _GRAPHS,
    "ray.experimental.channel.cpu_communicator.CPUCommBarrier": "ranks meet by torch's process groups",
    "ray.experimental.channel.shared_memory_channel.ReaderRefInfo": "a channel is no object with refs",
    "ray.util.multiprocessing.pool": "machinery of Ray's Pool",
    "ray.util.state.common": "machinery of Ray's state server",
    "ray.experimental.sandbox": "run containers with your container runtime",
    "ray.experimental.shuffle": "it is an example program of Ray's",
    "ray.experimental.job": "it is an example program of Ray's",
    "ray.actor.STREAMING_GENERATOR_RETURN": "give num_returns='streaming'",
    "ray.remote_function.STREAMING_GENERATOR_RETURN": "give num_returns='streaming'",
    "ray.util.accelerators.tpu": "declare TPU hosts as resources of their nodes",
    "ray.util.pdb": "debug with breakpoint() in the driver, or py-spy on the worker's pid",
    "ray.util.ray_debugpy": "debug with breakpoint() in the driver, or py-spy on the worker's pid",
    "ray.util.tracing": "record a timeline with SPOKE_TRACE=1 and spoke.timeline()",
    "auto_init_ray": _INTERNAL,
    "client_mode_convert_actor": _CLIENT_MODE,
    "client_mode_convert_function": _CLIENT_MODE,
    "client_mode_hook": _CLIENT_MODE,
    "client_mode_should_convert": _CLIENT_MODE,
    "client_mode_wrap": _CLIENT_MODE,
    "cross_language": _ONLY_PYTHON,
    "disable_client_hook": _CLIENT_MODE,
}

# What parts of a name that works are not there, and why.
PARTS: Final[dict[str, str]] = {
    "ray.ObjectRefGenerator": "iterate it; Ray's refuse these, too",
    "ray.TaskID": "an id is random, nothing is encoded in it",
    "ray.util.multiprocessing.pool.AsyncResult": "made by Pool",
    "ray.util.state.StateApiClient": "it asks the cluster that this process is in",
    "ray.util.state.common": "what Spoke does not keep is no field",
    "ray.dag.compiled_dag_node": "made by experimental_compile",
    "ray.experimental.compiled_dag_ref": "made by execute",
    "ray.actor.ActorClass": "made by remote",
    "ray.actor.ActorHandle": "made by ActorClass.remote",
    "ray.actor.ActorMethod": "an attribute of a handle",
    "ray.remote_function.RemoteFunction": "made by remote",
    "ray.runtime_context.RuntimeContext": "made by get_runtime_context",
    "ray.runtime_env.RuntimeEnv": "read its keys as those of a dict",
    "ray.runtime_env.RuntimeEnvConfig": "give a dict",
    "ray.exceptions.ObjectReconstructionFailedError": "the message has the reason",
    "ray.exceptions.RayTaskError": "as_instanceof_cause makes the instance",
}

# Members of many names that are not there, and why.
MEMBERS: Final[dict[str, str]] = {
    "from_bytes": "errors pickle",
    "from_ray_exception": "errors pickle",
    "to_bytes": "errors pickle",
}


def reason(ray_name: str) -> str | None:
    """Why a full name of Ray's is not carried, or None if nothing is said about it."""
    found = REFUSED.get(ray_name) or REFUSED.get(ray_name.rpartition(".")[2])
    parent = ray_name
    while found is None and "." in parent:
        parent = parent.rpartition(".")[0]
        found = REFUSED.get(parent) if parent != "ray" else None
    return found


def part(ray_name: str) -> str | None:
    """Why parts of a name that works are not there, or None if nothing is said about it."""
    return PARTS.get(ray_name) or PARTS.get(ray_name.rpartition(".")[0])


def error(module: str, name: str) -> AttributeError:
    """The error for a name that `module` does not have."""
    why = reason(f"ray{module.removeprefix('spoke')}.{name}")
    text = f"module {module!r} has no attribute {name!r}"
    if why is not None:
        text += f": this name of Ray's is not carried by Spoke; {why} (all names: {TABLE})"
    return AttributeError(text, name=name)


def resolve(module: str, name: str) -> Any:
    """The value of a name that `module` does not define itself.

    Raises:
        AttributeError: there is none; the text says why and points to the table.
    """
    home = HOMES.get(name)
    if home is None or (module == "spoke" and name not in ("Language", "LoggingConfig")):
        raise error(module, name)
    import importlib

    place, _, attribute = home.partition(":")
    found = importlib.import_module(place)
    return getattr(found, attribute) if attribute else found


def getter(module: str) -> Callable[[str], Any]:
    """The ``__getattr__`` of a public module."""
    return lambda name: resolve(module, name)
