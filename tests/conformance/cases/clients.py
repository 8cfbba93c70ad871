"""What known clients of Ray (vLLM, verl, OpenRLHF, SGLang, lmdeploy, NeMo-RL, modin) rely on.

`client_calls` has the shapes of their calls, `client_imports` what they import, private modules included,
`client_drivers` how they start and join clusters.  Where each behaviour has its case (no module: here):

    init, joining, "auto", exact texts  client_drivers: all; sessions.a_second_driver_joins
    RAY_ADDRESS, RAY_AUTH_MODE, ...     client_drivers.variables_*, joining_by_*, timeouts_of_graphs_*
    RAY_RAYLET_PID                      marks_of_a_worker
    NOSET_*                             visible_devices_left_alone; client_drivers.hidden_devices_*;
                                        client_calls.devices_hidden_of_other_makers, forms_of_the_switch_*
    nodes, resources, addresses         addresses; client_calls.fields_of_a_node, counts_of_resources_*,
                                        the_own_address_*; client_imports.resources_per_node*
    groups: shapes, int keys, pending,  group_*, waiting_for_a_group_*, actors_against_a_pending_group,
      node:<ip>, ended more than once   bundles_tied_*, removing_a_group_*; client_calls.group_by_keywords,
                                        workers_and_engine_*; client_imports.table_of_a_group_*
    old-style options, capture          old_style_*; client_calls.old_style_*, capture_of_children_*
    shared and scouted GPUs             fractions_*, a_killed_info_actor_*; client_calls.shares_of_*,
                                        an_info_task_*
    ActorClass(C), the user's methods   name_of_the_actor_class, actor_class_shows_*, methods_added_*
    async __init__, __ray_call__, ...   ray_call_*; concurrency.async_constructor; lifecycle.ray_*
    handles: keys, copies, _actor_id    handles_as_dict_keys, deepcopy_*, missing_attribute_*, types_as_*
    kwargs of remote, options, wait     client_calls.every_option_of_a_worker, keywords_of_*
    refs nested and at the top level    client_calls.a_box_keeps_its_ref
    death sentinels, kill               a_long_call_as_a_death_sentinel, a_worker_that_dies_by_itself
    exceptions                          errors_and_their_kinds; client_calls.exceptions_made_by_hand
    cloudpickle by value, metrics       client_calls.pickle_of_a_module_*, metrics_by_keywords
    compiled graphs                     client_imports.tensor_parallel_graph, pipeline_parallel_graph
    direct tensor transport             client_calls.a_method_with_a_direct_transport, tensor_transport_*
    names, find_spec, versions, pickle  client_imports.names_that_are_not_there, versions, pickled_by_*

Queues, collectives, job submission, timelines have areas of their own.
"""

from __future__ import annotations

import asyncio
import copy
import os
import re
import time
from typing import Any

from tests.conformance.kit import Flag, caught, eventually, settled, sub

INIT: dict[str, Any] = {"num_cpus": 4, "num_gpus": 4}


class Worker:
    """A plain class that clients decorate."""

    def __init__(self, rank: int = 0) -> None:
        self.rank = rank

    def tell(self) -> int:
        return self.rank

    def gpus(self, ray: Any) -> list[Any]:
        return list(ray.get_gpu_ids())

    def run(self) -> None:
        time.sleep(600)

    tell.attrs_123 = {"mode": "all"}  # type: ignore[attr-defined]


class Derived(Worker):
    """Inherits."""

    def more(self) -> int:
        return self.rank + 100


def _in(ray: Any, pg: Any, index: int = -1) -> Any:
    strategy = sub(ray, "util.scheduling_strategies").PlacementGroupSchedulingStrategy
    return strategy(placement_group=pg, placement_group_bundle_index=index)


# -- classes and handles (verl, ROLL) -------------------------------------------------------------


def name_of_the_actor_class(ray: Any) -> Any:
    made = ray.remote(Derived)
    found = re.search(r"ActorClass\(([^)]+)\)", type(made).__name__)
    later = made.options(num_cpus=0).remote(2).tell.remote()
    return [found and found.group(1), isinstance(made, sub(ray, "actor").ActorClass), ray.get(later)]


def actor_class_shows_the_users_methods(ray: Any) -> Any:
    made = ray.remote(Derived)
    names = [name for name in dir(made) if name in ("tell", "more", "gpus")]
    mro = [cls.__name__ for cls in made.__ray_actor_class__.__mro__]
    return [names, made.tell.attrs_123, mro, callable(made.more)]


def methods_added_by_setattr(ray: Any) -> Any:
    class Fused:
        pass

    def plain(self: Any) -> str:
        return "plain"

    async def waiting(self: Any) -> str:
        await asyncio.sleep(0)
        return "async"

    Fused.plain = plain  # type: ignore[attr-defined]
    Fused.waiting = waiting  # type: ignore[attr-defined]
    actor = ray.remote(Fused).remote()
    return ray.get([actor.plain.remote(), actor.waiting.remote()])


def ray_call_with_arguments(ray: Any) -> Any:
    actor = ray.remote(Worker).remote(7)
    return ray.get(
        [
            actor.__ray_call__.remote(lambda self: self.rank),
            actor.__ray_call__.remote(lambda self, x, y=1: self.rank + x + y, 10, y=5),
        ]
    )


def deepcopy_of_what_holds_handles(ray: Any) -> Any:
    actor = ray.remote(Worker).remote(3)
    held = {"actors": [actor]}
    copied = copy.deepcopy(held)["actors"][0]
    return [copied == actor, copied._actor_id.hex() == actor._actor_id.hex(), ray.get(copied.tell.remote())]


def handles_as_dict_keys(ray: Any) -> Any:
    first, second = (ray.remote(Worker).remote(rank) for rank in range(2))
    table = {first: "first", second: "second"}
    again = sub(ray, "cloudpickle").loads(sub(ray, "cloudpickle").dumps(second))
    return [table[again], len(table), first in table]


def types_as_annotations(ray: Any) -> Any:
    handle, ref = sub(ray, "actor").ActorHandle, sub(ray, "types").ObjectRef
    group = sub(ray, "util.placement_group").PlacementGroup
    made = [handle | None, ref | None, group | None, dict[handle, ref], ref[int], handle[Worker]]
    return [len(made), isinstance(None, handle | None)]


def options_by_keywords_of_a_dict(ray: Any) -> Any:
    options = {"num_cpus": 0, "max_concurrency": 4, "name": "by_dict", "namespace": "mine"}
    actor = ray.remote(Worker).options(**options).remote(rank=5)
    found = ray.get_actor("by_dict", namespace="mine")
    return [ray.get(found.tell.remote()), caught(lambda: ray.get_actor("by_dict")), found == actor]


def missing_attribute_of_a_handle(ray: Any) -> Any:
    actor = ray.remote(Worker).remote()
    return [caught(lambda: actor.nosuch, "nosuch"), hasattr(actor, "nosuch"), hasattr(actor, "tell")]


# -- placement groups (all launchers) -------------------------------------------------------------


def group_pickles_and_copies(ray: Any) -> Any:
    pg = ray.util.placement_group([{"GPU": 1.0}, {"CPU": 1.0}], strategy="PACK", name="copied")
    pickled = sub(ray, "cloudpickle").loads(sub(ray, "cloudpickle").dumps(pg))
    copied = copy.deepcopy({"pg": pg})["pg"]
    seen = [pickled == pg, copied == pg, {pg.id: 1}[pickled.id], pickled.bundle_specs, copied.bundle_count]
    ray.util.remove_placement_group(pickled)
    return [*seen, pg.id.hex() == copied.id.hex(), settled(ray)]


def group_table_has_int_keys(ray: Any) -> Any:
    pg = ray.util.placement_group([{"GPU": 1.0}, {"GPU": 1.0}], strategy="PACK")
    ray.get(pg.ready())
    table = ray.util.placement_group_table(pg)
    node = ray.get_runtime_context().get_node_id()
    seen = [list(table["bundles_to_node_id"]), list(table["bundles"]), table["bundles"][1], table["state"]]
    seen += [set(table["bundles_to_node_id"].values()) == {node}, ray.nodes()[0]["NodeID"] == node]
    ray.util.remove_placement_group(pg)
    return seen


def bundles_tied_to_a_node_by_its_address(ray: Any) -> Any:
    ip = ray.nodes()[0]["NodeManagerAddress"]
    pg = ray.util.placement_group([{"GPU": 1.0, f"node:{ip}": 0.001}, {"CPU": 1.0, f"node:{ip}": 0.001}])
    seen = [pg.wait(30), ip == ray.util.get_node_ip_address()]
    actor = ray.remote(Worker).options(num_cpus=0, num_gpus=1, scheduling_strategy=_in(ray, pg, 0)).remote(1)
    seen.append(ray.get(actor.tell.remote()))
    ray.util.remove_placement_group(pg)
    names = ray.cluster_resources()
    return [*seen, f"node:{ip}" in names, "node:__internal_head__" in names, names["GPU"], settled(ray)]


def waiting_for_a_group_as_vllm_does(ray: Any) -> Any:
    pg = ray.util.placement_group([{"GPU": 1.0}] * 2, strategy="PACK")
    ref = pg.ready()
    ready, _ = ray.wait([ref], timeout=30)
    value = ray.get(ref, timeout=0)
    too_many = ray.util.placement_group([{"GPU": 100.0}])
    late = too_many.ready()
    seen = [len(ready), type(value).__name__, len(ray.wait([late], timeout=0.2)[0])]
    seen.append(
        caught(lambda: ray.get(late, timeout=0), kinds=(ray.exceptions.GetTimeoutError, TimeoutError))
    )
    for group in (pg, too_many):
        ray.util.remove_placement_group(group)
    return seen


def actors_against_a_pending_group(ray: Any) -> Any:
    settled(ray)
    blocker = ray.util.placement_group([{"GPU": 4.0}])
    blocker.wait(30)
    pg = ray.util.placement_group([{"GPU": 1.0}, {"CPU": 1.0}])
    made = ray.remote(Worker).options(num_cpus=0, num_gpus=1, scheduling_strategy=_in(ray, pg, 0)).remote(4)
    ref = made.tell.remote()
    early = len(ray.wait([ref], timeout=0.2)[0])
    ray.util.remove_placement_group(blocker)
    seen = [early, ray.get(ref, timeout=30)]
    ray.util.remove_placement_group(pg)
    return [*seen, settled(ray)]


def group_of_an_actors_own_bundle(ray: Any) -> Any:
    pg = ray.util.placement_group([{"CPU": 1.0}])

    class Asks:
        def group(self) -> str | None:
            found = ray.util.get_current_placement_group()
            return None if found is None else str(found.id.hex())

    actor = ray.remote(Asks).options(num_cpus=1, scheduling_strategy=_in(ray, pg, 0)).remote()
    seen = [ray.get(actor.group.remote()) == pg.id.hex(), ray.util.get_current_placement_group()]
    ray.util.remove_placement_group(pg)
    return seen


def default_cpus_of_an_actor_in_a_cpu_bundle(ray: Any) -> Any:
    pg = ray.util.placement_group([{"GPU": 1.0}, {"CPU": 1.0}], strategy="STRICT_PACK")
    environment = sub(ray, "runtime_env").RuntimeEnv(env_vars={"CLIENT_VARIABLE": "x"})
    made = ray.remote(Worker).options(scheduling_strategy=_in(ray, pg, 1), runtime_env=environment).remote(2)
    seen = [ray.get(made.tell.remote(), timeout=30)]
    seen.append(ray.get(made.__ray_call__.remote(lambda self: os.environ["CLIENT_VARIABLE"])))
    ray.util.remove_placement_group(pg)
    return [*seen, settled(ray)]


# -- GPUs -----------------------------------------------------------------------------------------


def fractions_in_one_bundle_share_a_device(ray: Any) -> Any:
    pg = ray.util.placement_group([{"GPU": 1.0}])
    pg.wait(30)
    options = {"num_cpus": 0, "num_gpus": 0.4, "scheduling_strategy": _in(ray, pg, 0)}
    engines = [ray.remote(Worker).options(**options).remote(rank) for rank in range(2)]
    ids = ray.get([engine.__ray_call__.remote(lambda self: ray.get_gpu_ids()) for engine in engines])
    third = ray.remote(Worker).options(**options).remote(9)
    ref = third.tell.remote()
    pending = len(ray.wait([ref], timeout=0.3)[0])
    ray.kill(engines[0])
    seen = [ids[0] == ids[1], len(ids[0]), pending, ray.get(ref, timeout=30)]
    ray.util.remove_placement_group(pg)
    return [*seen, settled(ray)]


def a_killed_info_actor_leaves_its_bundle(ray: Any) -> Any:
    pg = ray.util.placement_group([{"GPU": 1.0, "CPU": 1.0}] * 2)
    pg.wait(30)
    made = ray.remote(num_cpus=0, num_gpus=1)(Worker)
    scouts = [made.options(scheduling_strategy=_in(ray, pg, index)).remote(index) for index in range(2)]
    told = ray.get([one.__ray_call__.remote(lambda self: ray.get_gpu_ids()[0]) for one in scouts])
    for one in scouts:
        ray.kill(one)
    again = [made.options(scheduling_strategy=_in(ray, pg, index)).remote(index) for index in range(2)]
    ids = ray.get([one.__ray_call__.remote(lambda self: ray.get_gpu_ids()[0]) for one in again], timeout=30)
    seen = [len(set(told)), sorted(ids) == sorted(told)]
    ray.util.remove_placement_group(pg)
    return [*seen, settled(ray)]


def visible_devices_left_alone(ray: Any) -> Any:
    def look(self: Any) -> Any:
        ids = ray.get_runtime_context().get_accelerator_ids()["GPU"]
        return [
            os.environ.get("CUDA_VISIBLE_DEVICES"),
            len(ids),
            len(ray.get_gpu_ids()),
            type(ids[0]).__name__,
        ]

    environment = {"env_vars": {"RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES": "1"}}
    plain = ray.remote(num_gpus=1)(Worker).remote()
    noset = ray.remote(num_gpus=1, runtime_env=environment)(Worker).remote()
    shown, left = ray.get([plain.__ray_call__.remote(look), noset.__ray_call__.remote(look)])
    return [shown[0] is not None, shown[1:], left]


def kinds_of_accelerators(ray: Any) -> Any:
    ids = ray.get_runtime_context().get_accelerator_ids()
    return [sorted(ids), [ids[name] for name in sorted(ids)]]


# -- life and death -------------------------------------------------------------------------------


def a_long_call_as_a_death_sentinel(ray: Any) -> Any:
    actor = ray.remote(Worker).remote()
    ref = actor.run.remote()
    early = ray.wait([ref], num_returns=1, timeout=0.2)[0]
    for _ in range(3):
        ray.kill(actor)
    ready, _ = ray.wait([ref], num_returns=1, timeout=10)
    return [len(early), ready == [ref], caught(lambda: ray.get(ref), kinds=(ray.exceptions.RayActorError,))]


def a_worker_that_dies_by_itself(ray: Any) -> Any:
    actor = ray.remote(Worker).remote()
    ref = actor.run.remote()
    actor.__ray_call__.options(name="die")
    pid = ray.get(ray.remote(Worker).remote().__ray_call__.remote(lambda self: os.getpid()))
    os.kill(pid, 9)
    other = ray.remote(max_restarts=0)(Worker).remote()
    pid = ray.get(other.__ray_call__.remote(lambda self: os.getpid()))
    running = other.run.remote()
    os.kill(pid, 9)
    ready, _ = ray.wait([running], timeout=15)
    ray.kill(actor)
    ray.wait([ref], timeout=10)
    return [len(ready), caught(lambda: ray.get(running), kinds=(ray.exceptions.RayActorError,))]


def removing_a_group_ends_its_actors(ray: Any) -> Any:
    pg = ray.util.placement_group([{"CPU": 1.0}])
    actor = ray.remote(Worker).options(num_cpus=1, scheduling_strategy=_in(ray, pg, 0)).remote()
    ray.get(actor.tell.remote())
    ref = actor.run.remote()
    for _ in range(3):
        ray.util.remove_placement_group(pg)
    ready, _ = ray.wait([ref], timeout=20)
    return [len(ready), caught(lambda: ray.get(ref), kinds=(ray.exceptions.RayActorError,)), settled(ray)]


def errors_and_their_kinds(ray: Any) -> Any:
    found = ray.exceptions
    pairs = {
        "RayTaskError": ["RayError"], "RayActorError": ["RayError"], "ActorDiedError": ["RayActorError"],
        "ActorUnavailableError": ["RayActorError"], "GetTimeoutError": ["RayError", "TimeoutError"],
        "TaskCancelledError": ["RayError"], "WorkerCrashedError": ["RayError"], "NodeDiedError": ["RayError"],
        "LocalRayletDiedError": ["RayError"], "ObjectLostError": ["RayError"],
        "OwnerDiedError": ["ObjectLostError"], "OutOfMemoryError": ["RayError"],
        "RaySystemError": ["RayError"], "RpcError": ["RayError"], "ActorUnschedulableError": ["RayError"],
        "TaskUnschedulableError": ["RayError"], "ObjectFetchTimedOutError": ["ObjectLostError"],
        "ObjectStoreFullError": ["RayError"], "ActorAlreadyExistsError": ["ValueError", "RayError"],
        "RayChannelError": ["RayError"], "RayChannelTimeoutError": ["RayChannelError", "TimeoutError"],
    }  # fmt: skip
    seen = {}
    for name, kinds in pairs.items():
        bases = [cls.__name__ for cls in getattr(found, name).__mro__]
        seen[name] = [kind in bases for kind in kinds]
    return seen


# -- contexts -------------------------------------------------------------------------------------


def addresses(ray: Any) -> Any:
    context = ray.get_runtime_context()
    port = context.gcs_address.rpartition(":")[2]
    inside = ray.get(ray.remote(lambda: ray.get_runtime_context().gcs_address).remote())
    return [port.isdigit(), inside == context.gcs_address]


def marks_of_a_worker(ray: Any) -> Any:
    def look() -> Any:
        return ["RAY_RAYLET_PID" in os.environ, ray.get_runtime_context().get_actor_id() is None]

    here = ["RAY_RAYLET_PID" in os.environ, ray.get_runtime_context().get_actor_id()]
    return [ray.get(ray.remote(look).remote()), here]


def runtime_env_as_a_dict(ray: Any) -> Any:
    environment = sub(ray, "runtime_env").RuntimeEnv(env_vars={"A": "1"})
    actor = ray.remote(Worker).options(runtime_env=environment).remote()
    told = ray.get(actor.__ray_call__.remote(lambda self: ray.get_runtime_context().runtime_env.to_dict()))
    return [environment.to_dict(), told.get("env_vars"), dict(environment)["env_vars"], environment.get("A")]


def node_affinity_to_the_own_node(ray: Any) -> Any:
    strategy = sub(ray, "util.scheduling_strategies").NodeAffinitySchedulingStrategy
    node = ray.get_runtime_context().get_node_id()
    options = {"num_cpus": 0, "scheduling_strategy": strategy(node_id=node, soft=False)}
    actor = ray.remote(Worker).options(**options).remote()
    return ray.get(actor.__ray_call__.remote(lambda self: ray.get_runtime_context().get_node_id())) == node


def gather_of_refs_in_the_driver(ray: Any) -> Any:
    actors = [ray.remote(Worker).remote(rank) for rank in range(3)]

    async def ask() -> Any:
        told = await asyncio.gather(*[actor.tell.remote() for actor in actors])
        return [told, await asyncio.wait_for(actors[0].tell.remote(), 30)]

    return asyncio.run(ask())


def old_style_group_options(ray: Any) -> Any:
    pg = ray.util.placement_group([{"CPU": 1.0}, {"CPU": 1.0}])
    made = ray.remote(Worker).options(placement_group=pg, placement_group_bundle_index=1, num_cpus=1)
    told = ray.get(made.remote(6).tell.remote(), timeout=30)
    ray.util.remove_placement_group(pg)
    return told


def options_of_tensor_transport(ray: Any) -> Any:
    class Sends:
        @ray.method(enable_task_events=False)
        def value(self) -> int:
            return 3

    actor = ray.remote(Sends).options(enable_tensor_transport=False).remote()
    return ray.get(actor.value.remote())


def a_flag_of_a_named_actor_pool(ray: Any) -> Any:
    flag = Flag()
    actor = ray.remote(Worker).options(name="shared", get_if_exists=True, lifetime="detached").remote(1)
    again = ray.remote(Worker).options(name="shared", get_if_exists=True, lifetime="detached").remote(2)
    seen = [ray.get(again.tell.remote()), actor == again]
    ray.get(actor.__ray_call__.remote(lambda self, flag: flag.set(), flag))
    ray.kill(again)
    return [*seen, flag.is_set(), eventually(lambda: "shared" not in ray.util.list_named_actors())]
