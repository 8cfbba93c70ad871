"""A gang from nothing to its first answers: the workload beside `workloads`, run in the same way.

Eight slots are reserved at once, an actor is started in each, and each answers one call.  Where the engine
has gangs they are used (with ports, ranks and an environment per rank); elsewhere a placement group and
eight actors in its bundles, without any of these.
"""

from __future__ import annotations

import time

if __package__:
    from . import workloads as base
    from .workloads import Plan, remote, workload
else:  # run by path
    import workloads as base  # type: ignore[import-not-found,no-redef]
    from workloads import Plan, remote, workload  # type: ignore[no-redef]

RANKS = 8
PAUSE_S = 1.5  # the processes of the gang before go; a pool of spare workers, if any, is refilled


class Rank:
    """One rank."""

    def small_value(self) -> bytes:
        return b"ok"


@workload("gang of 8 reserved, launched, answering", "s", init={"num_cpus": RANKS})
def gang_of_eight(plan: Plan) -> list[float]:
    """Seconds until all have answered; the first round warms up."""
    ray = base.ray
    once = _gang if hasattr(ray, "gang_allocate") else _group
    once()
    return plan.each(once, max(2, plan.rounds))


def _gang() -> float:
    ray = base.ray
    begin = time.perf_counter()
    gang = ray.gang_allocate(1, RANKS, {"CPU": 1})
    ranks = gang.launch(Rank)
    answers = ray.get([rank.small_value.remote() for rank in ranks])
    took = time.perf_counter() - begin
    assert answers == [b"ok"] * RANKS
    gang.release(timeout=30)
    time.sleep(PAUSE_S)
    return took


def _group() -> float:
    ray = base.ray
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    begin = time.perf_counter()
    group = ray.util.placement_group([{"CPU": 1}] * RANKS, strategy="STRICT_PACK")
    ray.get(group.ready())
    cls = remote(Rank, num_cpus=1)
    ranks = [
        cls.options(scheduling_strategy=PlacementGroupSchedulingStrategy(group, index)).remote()
        for index in range(RANKS)
    ]
    answers = ray.get([rank.small_value.remote() for rank in ranks])
    took = time.perf_counter() - begin
    assert answers == [b"ok"] * RANKS
    for rank in ranks:
        ray.kill(rank)
    ray.util.remove_placement_group(group)
    time.sleep(PAUSE_S)
    return took


if __name__ == "__main__":
    base.main()
