"""What known clients import, also from private modules, under the name ``ray`` (see `clients`)."""

from __future__ import annotations

import copy
import importlib
import importlib.metadata
import importlib.util
import pickle
import sys
from typing import Any

from tests.conformance.kit import sub

INIT: dict[str, Any] = {"num_cpus": 4, "num_gpus": 2}
THROUGH_RAY_COMPAT = True

# Every name that the clients' programs use, those that real Ray has not (any more) included.
NAMES = """
ActorID JobID LOCAL_MODE ObjectID ObjectRef ObjectRefGenerator WORKER_MODE SCRIPT_MODE __version__ __commit__
available_resources cancel cloudpickle.dumps cloudpickle.loads cloudpickle.register_pickle_by_value
cluster_resources get get_actor get_gpu_ids get_runtime_context init is_initialized kill method nodes put
remote shutdown timeline wait internal.free ray_constants ActorHandle
actor.ActorClass actor.ActorHandle actor.exit_actor
dag.CompiledDAG dag.InputNode dag.MultiOutputNode dag.input_node.InputNode dag.output_node.MultiOutputNode
exceptions.ActorAlreadyExistsError exceptions.ActorDiedError exceptions.ActorUnavailableError
exceptions.ActorUnschedulableError exceptions.GetTimeoutError exceptions.LocalRayletDiedError
exceptions.NodeDiedError exceptions.ObjectFetchTimedOutError exceptions.ObjectLostError
exceptions.ObjectStoreFullError exceptions.OutOfMemoryError exceptions.OwnerDiedError exceptions.RayActorError
exceptions.RayChannelError exceptions.RayError exceptions.RaySystemError exceptions.RayTaskError
exceptions.RpcError exceptions.TaskCancelledError exceptions.TaskUnschedulableError
exceptions.WorkerCrashedError
experimental.channel.accelerator_context.register_accelerator_context
experimental.channel.communicator.Communicator experimental.channel.communicator.TorchTensorAllocator
experimental.compiled_dag_ref.CompiledDAGRef experimental.register_nixl_memory
experimental.set_target_for_ref experimental.state.api.get_actor
job_submission.JobStatus.FAILED job_submission.JobStatus.PENDING job_submission.JobStatus.RUNNING
job_submission.JobStatus.STOPPED job_submission.JobStatus.SUCCEEDED job_submission.JobSubmissionClient
runtime_env.RuntimeEnv types.ObjectRef
util.ActorPool util.collective.allreduce util.collective.barrier util.collective.broadcast
util.collective.destroy_collective_group util.collective.init_collective_group
util.collective.is_group_initialized util.get_current_placement_group util.get_node_ip_address
util.list_named_actors util.metrics.Counter util.metrics.Gauge util.metrics.Histogram util.metrics.Metric
util.placement_group util.placement_group_table util.queue.Queue util.remove_placement_group
util.scheduling_strategies.NodeAffinitySchedulingStrategy
util.scheduling_strategies.PlacementGroupSchedulingStrategy util.state.list_nodes util.timer._Timer
_private.accelerators.TPUAcceleratorManager.get_current_node_num_accelerators
_private.async_compat.has_async_methods _private.profiling.profile
_private.runtime_env.constants.RAY_JOB_CONFIG_JSON_ENV_VAR
_private.services.get_node_ip_address _private.state.available_resources_per_node
_private.state.state._available_resources_per_node _private.state.state.placement_group_table
_private.state.total_resources_per_node _private.worker.RemoteFunctionNoArgs
_private.worker.global_worker.gcs_client.address _private.worker.logger.setLevel
_private.worker.print_to_stdstream _private.worker.print_worker_logs
_private.log_monitor.LogFileInfo _private.log_monitor.LogMonitor
_private.log_monitor.RAY_RUNTIME_ENV_LOG_TO_DRIVER_ENABLED
_private.log_monitor.RUNTIME_ENV_SETUP_PATTERN.match _private.log_monitor.WORKER_LOG_PATTERN.match
_private.log_monitor.is_proc_alive _private.runtime_env.nsight _private.runtime_env.packaging
scripts.scripts.memory_summary
"""


def _found(ray: Any, name: str) -> bool:
    """Whether a dotted name below ``ray`` is there, modules that nobody imported included."""
    item: Any = ray
    path = "ray"
    for part in name.split("."):
        path = f"{path}.{part}"
        try:
            item = getattr(item, part)
        except (AttributeError, ImportError):
            try:
                item = importlib.import_module(path)
            except ImportError:
                return False
    return True


def names_that_are_not_there(ray: Any) -> Any:
    missing = [name for name in NAMES.split() if not _found(ray, name)]
    try:
        from ray.util.placement_group import PlacementGroupSchedulingStrategy  # noqa: F401
    except ImportError:
        missing.append("the strategy in ray.util.placement_group")
    return missing


def versions(ray: Any) -> Any:
    told = importlib.metadata.version("ray")
    spec = importlib.util.find_spec("ray.experimental.compiled_dag_ref")
    return [told, told == ray.__version__, spec is not None, importlib.util.find_spec("ray") is not None]


def resources_per_node(ray: Any) -> Any:
    import ray._private.state as state

    (node,) = ray.nodes()
    free, total = state.available_resources_per_node(), state.total_resources_per_node()
    ip = node["NodeManagerAddress"]
    wanted = ("CPU", "GPU", f"node:{ip}", "node:__internal_head__")
    shown = [[table[node["NodeID"]].get(name) for name in wanted] for table in (free, total)]
    return [list(free) == list(total) == [node["NodeID"]], *shown, [type(x).__name__ for x in shown[0]]]


def resources_per_node_while_a_group_stands(ray: Any) -> Any:
    import ray._private.state as state

    pg = ray.util.placement_group([{"GPU": 1.0}, {"CPU": 1.0}])
    pg.wait(30)
    (free,) = state.available_resources_per_node().values()
    plain = {name: value for name, value in free.items() if name in ("CPU", "GPU")}
    ray.util.remove_placement_group(pg)
    return plain


def table_of_a_group_by_its_id(ray: Any) -> Any:
    import ray._private.state as state

    pg = ray.util.placement_group([{"GPU": 1.0}, {"CPU": 1.0}], strategy="PACK", name="by id")
    pg.wait(30)
    row = state.state.placement_group_table(pg.id)
    node = ray.get_runtime_context().get_node_id()
    seen = [row["state"], row["name"], list(row["bundles"]), row["bundles"][0]]
    seen += [row["bundles_to_node_id"][1] == node, sorted(row) == sorted(ray.util.placement_group_table(pg))]
    seen.append(pg.id.hex() in state.state.placement_group_table())
    ray.util.remove_placement_group(pg)
    return seen


def addresses_of_the_worker(ray: Any) -> Any:
    import ray._private.services as services
    from ray._private.worker import global_worker

    address = global_worker.gcs_client.address
    context = ray.get_runtime_context()
    return [
        address == context.gcs_address,
        address.split(":")[0] == services.get_node_ip_address() == ray.util.get_node_ip_address(),
        global_worker.connected,
        global_worker.mode == ray.SCRIPT_MODE,
        ray.get(ray.remote(_mode).remote()) == ray.WORKER_MODE,
        address.split(":")[0] == ray.nodes()[0]["NodeManagerAddress"],
    ]


def _mode() -> Any:
    from ray._private.worker import global_worker

    return global_worker.mode


def async_methods_of_a_class(ray: Any) -> Any:
    from ray._private.async_compat import has_async_methods

    class Mixed:
        def plain(self) -> None: ...

        async def waits(self) -> None: ...

    class Streams:
        async def items(self) -> Any:
            yield 1

    class Inherits(Mixed):
        pass

    return [has_async_methods(kind) for kind in (Mixed, Streams, Inherits, int)]


def a_profiled_block(ray: Any) -> Any:
    from ray._private import profiling

    with profiling.profile("step", extra_data={"rank": "0"}):
        return 3


def name_of_the_variable_of_a_job(ray: Any) -> Any:
    from ray._private.runtime_env.constants import RAY_JOB_CONFIG_JSON_ENV_VAR

    return RAY_JOB_CONFIG_JSON_ENV_VAR


def summary_of_the_memory(ray: Any) -> Any:
    from ray.scripts.scripts import memory_summary

    ref = ray.put(b"x" * 1000)
    text = memory_summary(ray.get_runtime_context().gcs_address, stats_only=False)
    return [type(text).__name__, ref.hex() in text, "Aggregate object store stats across all nodes" in text]


def pickled_by_plain_pickle(ray: Any) -> Any:
    from ray.runtime_env import RuntimeEnv
    from ray.util.scheduling_strategies import (
        NodeAffinitySchedulingStrategy,
        PlacementGroupSchedulingStrategy,
    )

    pg = ray.util.placement_group([{"CPU": 1.0}])
    node = ray.get_runtime_context().get_node_id()
    made = [
        pg,
        RuntimeEnv(env_vars={"A": "1"}),
        PlacementGroupSchedulingStrategy(pg, placement_group_bundle_index=0),
        NodeAffinitySchedulingStrategy(node_id=node, soft=False),
        ray.exceptions.GetTimeoutError("late"),
    ]
    again = [pickle.loads(pickle.dumps(item)) for item in made]
    copied = [copy.deepcopy(item) for item in made]
    kinds = [type(a) is type(b) is type(c) for a, b, c in zip(made, again, copied, strict=True)]
    seen = [
        kinds,
        again[0] == pg,
        again[1].to_dict(),
        again[2].placement_group == pg,
        again[3].node_id == node,
    ]
    ray.util.remove_placement_group(pg)
    return [*seen, again[3].soft, str(again[4]) == "late"]


def modules_of_classes_are_importable(ray: Any) -> Any:
    kinds = [ray.ObjectRef, sub(ray, "actor").ActorHandle, sub(ray, "util.placement_group").PlacementGroup]
    kinds += [sub(ray, "runtime_env").RuntimeEnv, ray.exceptions.RayTaskError]
    return [getattr(sys.modules.get(kind.__module__), kind.__name__, None) is kind for kind in kinds]


def tensor_parallel_graph(ray: Any) -> Any:
    from ray.dag import InputNode, MultiOutputNode
    from ray.experimental.compiled_dag_ref import CompiledDAGRef

    class Rank:
        def __init__(self, rank: int) -> None:
            self.rank = rank

        def execute_model_ray(self, given: Any) -> Any:
            scheduled, grammar = given
            return scheduled + self.rank, grammar

    workers = [ray.remote(num_cpus=0, num_gpus=1)(Rank).remote(rank) for rank in range(2)]
    with InputNode() as given:
        outputs = MultiOutputNode([worker.execute_model_ray.bind(given) for worker in workers])
    graph = outputs.experimental_compile(enable_asyncio=False, _overlap_gpu_communication=False)
    seen: list[Any] = [type(graph).__name__ == "CompiledDAG"]
    refs = graph.execute((10, None))
    seen += [all(isinstance(ref, CompiledDAGRef) for ref in refs), refs[0].get(), ray.get(refs[1])]
    seen += [ray.get(graph.execute((step, "g"))) for step in range(3)]
    first, second = graph.execute((5, None))
    seen.append([first.get(timeout=30), ray.get(second, timeout=30), graph.teardown()])
    for worker in workers:
        ray.kill(worker)
    return seen


def pipeline_parallel_graph(ray: Any) -> Any:
    from ray.dag import InputNode, MultiOutputNode

    class Stage:
        def execute_model_ray(self, given: Any) -> Any:
            value, passed = given
            return value + 1, [*passed, value]

    stages = [[ray.remote(Stage).remote() for _ in range(2)] for _ in range(2)]
    with InputNode() as given:
        outputs: list[Any] = [given for _ in stages[0]]
        for stage in stages:
            outputs = [worker.execute_model_ray.bind(outputs[i]) for i, worker in enumerate(stage)]
            if stage is stages[0]:
                outputs = [output.with_tensor_transport(transport="auto") for output in outputs]
        bound = MultiOutputNode(outputs)
    graph = bound.experimental_compile(enable_asyncio=False)
    ahead = [graph.execute((step, [])) for step in range(2)]
    seen = [[ref.get() for ref in refs] for refs in ahead]
    graph.teardown()
    return seen


def a_communicator_for_an_accelerator(ray: Any) -> Any:
    from ray.experimental.channel.accelerator_context import register_accelerator_context
    from ray.experimental.channel.communicator import Communicator

    names = [name for name in vars(Communicator) if not name.startswith("_")]
    return [callable(register_accelerator_context), sorted(names)]
