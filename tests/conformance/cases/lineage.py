"""Objects whose node is gone: made again, or lost by name.  Each case adds a node, and kills it."""

from __future__ import annotations

import itertools
from typing import Any

from tests.conformance.kit import Flag, caught, described, sub

INIT = None
LONG = 200_000  # doubles: too much to travel inside a message
_STATE: dict[str, Any] = {}
_numbers = itertools.count(1)


def _cluster(ray: Any) -> Any:
    """One cluster for the whole area: a head where no case's work runs unless it says so."""
    if not _STATE:
        quick = {
            "health_check_initial_delay_ms": 0, "health_check_period_ms": 200,
            "health_check_failure_threshold": 5,
        }  # fmt: skip
        cluster = sub(ray, "cluster_utils").Cluster(
            initialize_head=True,
            head_node_args={
                "num_cpus": 2, "num_gpus": 0, "resources": {"head": 8}, "_system_config": quick,
            },
        )  # fmt: skip
        _STATE["cluster"] = cluster
        ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
    return _STATE["cluster"]


class _Place:
    """Nodes that have a resource of their own, one after the other."""

    def __init__(self, ray: Any) -> None:
        self.ray = ray
        self.cluster = _cluster(ray)
        self.name = f"place{next(_numbers)}"
        self.node = self._add()

    def _add(self) -> Any:
        return self.cluster.add_node(num_cpus=2, num_gpus=0, resources={self.name: 8})

    def here(self, **more: Any) -> dict[str, Any]:
        """Options of what runs there."""
        return {"resources": {self.name: 0.1}, "num_cpus": 0, **more}

    def lose(self, again: bool = True) -> None:
        """Kill the node; with `again`, there is another like it."""
        self.cluster.remove_node(self.node, allow_graceful=False)
        self.cluster.wait_for_nodes()
        self.node = self._add() if again else None

    def end(self) -> None:
        if self.node is not None:
            self.cluster.remove_node(self.node, allow_graceful=False)
            self.cluster.wait_for_nodes()


def _made(ray: Any, place: _Place, **options: Any) -> Any:
    """A remote function that makes an array and says in `log` that it ran."""

    @ray.remote
    def make(log: Any, value: float, *needed: Any) -> Any:
        import numpy

        log.append(f"made {value}")
        return numpy.full(LONG, value + sum(float(one[0]) for one in needed))

    return make.options(**place.here(**options))


def _ready(ray: Any, *refs: Any) -> None:
    """They are there, and no copy of them is anywhere else."""
    ray.wait(list(refs), num_returns=len(refs), timeout=30, fetch_local=False)


def _first(ray: Any, ref: Any) -> Any:
    return caught(lambda: float(ray.get(ref, timeout=30)[0]), kinds=_kinds(ray))


def _kinds(ray: Any) -> tuple[type, ...]:
    errors = ray.exceptions
    return (errors.ObjectLostError, errors.RayTaskError, errors.RayActorError, errors.OwnerDiedError)


def a_result_is_made_again(ray: Any) -> Any:
    place, log = _Place(ray), Flag()
    ref = _made(ray, place).remote(log, 3.0)
    _ready(ray, ref)
    place.lose()
    seen = [_first(ray, ref), _first(ray, ref), log.lines()]
    place.end()
    return seen


def a_result_that_nobody_reads_is_made_again_once(ray: Any) -> Any:
    place, log = _Place(ray), Flag()
    ref = _made(ray, place).remote(log, 3.0)
    _ready(ray, ref)
    place.lose()
    ready, _ = ray.wait([ref], timeout=30)
    seen = [len(ready), _first(ray, ref), log.lines()]
    place.end()
    return seen


def a_result_is_made_again_twice(ray: Any) -> Any:
    place, log = _Place(ray), Flag()
    ref = _made(ray, place).remote(log, 1.0)
    _ready(ray, ref)
    seen = []
    for _ in range(2):
        place.lose()
        _ready(ray, ref)
        ray.wait([ref], timeout=30, fetch_local=False)
    seen = [_first(ray, ref), len(log.lines()) >= 3]
    place.end()
    return seen


def max_retries_0(ray: Any) -> Any:
    place, log = _Place(ray), Flag()
    ref = _made(ray, place, max_retries=0).remote(log, 1.0)
    _ready(ray, ref)
    place.lose()
    seen = [_first(ray, ref), log.lines()]
    place.end()
    return seen


def a_small_result_is_not_lost(ray: Any) -> Any:
    place, log = _Place(ray), Flag()

    @ray.remote
    def small(log: Any) -> Any:
        log.append("ran")
        return 5

    ref = small.options(**place.here(max_retries=0)).remote(log)
    _ready(ray, ref)
    place.lose(again=False)
    return [ray.get(ref, timeout=30), log.lines()]


def a_chain_of_which_the_last_is_held(ray: Any) -> Any:
    place, log = _Place(ray), Flag()
    make = _made(ray, place)
    ref = make.remote(log, 1.0)
    for value in (10.0, 100.0):
        ref = make.remote(log, value, ref)
    _ready(ray, ref)
    place.lose()
    seen = [_first(ray, ref), sorted(log.lines())]
    place.end()
    return seen


def a_chain_of_which_all_are_held(ray: Any) -> Any:
    place, log = _Place(ray), Flag()
    make = _made(ray, place)
    refs = [make.remote(log, 1.0)]
    for value in (10.0, 100.0):
        refs.append(make.remote(log, value, refs[-1]))
    _ready(ray, *refs)
    place.lose()
    seen = [[_first(ray, ref) for ref in reversed(refs)], sorted(log.lines())]
    place.end()
    return seen


def an_argument_of_a_later_task(ray: Any) -> Any:
    place, log = _Place(ray), Flag()

    @ray.remote(num_cpus=0, resources={"head": 0.1})
    def first_of(array: Any) -> float:
        return float(array[0])

    ref = _made(ray, place).remote(log, 4.0)
    _ready(ray, ref)
    place.lose()
    seen = [caught(lambda: ray.get(first_of.remote(ref), timeout=30)), log.lines()]
    place.end()
    return seen


def an_argument_put_by_the_owner(ray: Any) -> Any:
    import numpy

    place, log = _Place(ray), Flag()
    given = ray.put(numpy.full(LONG, 7.0))
    ref = _made(ray, place).remote(log, 1.0, given)
    _ready(ray, ref)
    del given
    place.lose()
    seen = [_first(ray, ref), log.lines()]
    place.end()
    return seen


def an_argument_that_cannot_be_made_again(ray: Any) -> Any:
    place, log = _Place(ray), Flag()
    first = _made(ray, place, max_retries=0).remote(log, 1.0)
    second = _made(ray, place).remote(log, 10.0, first)
    _ready(ray, first, second)
    place.lose()
    seen = [isinstance(_error(ray, second), ray.exceptions.ObjectLostError), sorted(log.lines())[:2]]
    place.end()
    return seen


def _error(ray: Any, ref: Any) -> Any:
    try:
        return ray.get(ref, timeout=30)
    except Exception as error:
        return error


def one_of_two_returns(ray: Any) -> Any:
    place, log = _Place(ray), Flag()

    @ray.remote
    def pair(log: Any) -> Any:
        import numpy

        log.append("ran")
        return numpy.full(LONG, 1.0), numpy.full(LONG, 2.0)

    one, other = pair.options(**place.here(num_returns=2)).remote(log)
    _ready(ray, one, other)
    del one
    place.lose()
    seen = [_first(ray, other), log.lines()]
    place.end()
    return seen


def two_returns(ray: Any) -> Any:
    place, log = _Place(ray), Flag()

    @ray.remote
    def pair(log: Any) -> Any:
        import numpy

        log.append("ran")
        return numpy.full(LONG, 1.0), numpy.full(LONG, 2.0)

    refs = pair.options(**place.here(num_returns=2)).remote(log)
    _ready(ray, *refs)
    place.lose()
    seen = [[_first(ray, ref) for ref in refs], log.lines()]
    place.end()
    return seen


def a_borrower_reads_it(ray: Any) -> Any:
    place, log = _Place(ray), Flag()

    @ray.remote(num_cpus=0, resources={"head": 0.1})
    class Reader:
        def keep(self, refs: Any) -> int:
            self.ref = refs[0]
            return len(refs)

        def read(self) -> float:
            return float(ray.get(self.ref, timeout=30)[0])

    reader = Reader.remote()
    ref = _made(ray, place).remote(log, 6.0)
    _ready(ray, ref)
    ray.get(reader.keep.remote([ref]))
    place.lose()
    seen = [caught(lambda: ray.get(reader.read.remote(), timeout=35)), log.lines()]
    place.end()
    return seen


def put_by_a_worker_of_the_node(ray: Any) -> Any:
    place = _Place(ray)

    @ray.remote
    def put() -> Any:
        import numpy

        return [ray.put(numpy.full(LONG, 1.0))]

    (inner,) = ray.get(put.options(**place.here()).remote(), timeout=30)
    place.lose(again=False)
    return _first(ray, inner)


def of_an_actor_that_is_not_restarted(ray: Any) -> Any:
    place = _Place(ray)
    ref, actor = _of_actor(ray, place, Flag())
    place.lose()
    seen = _first(ray, ref)
    place.end()
    del actor
    return seen


def of_an_actor_whose_calls_are_retried(ray: Any) -> Any:
    place, log = _Place(ray), Flag()
    ref, actor = _of_actor(ray, place, log, max_restarts=1, max_task_retries=2)
    place.lose()
    seen = [_first(ray, ref), log.lines()]
    place.end()
    del actor
    return seen


def of_an_actor_that_is_restarted(ray: Any) -> Any:
    place, log = _Place(ray), Flag()
    ref, actor = _of_actor(ray, place, log, max_restarts=1)
    place.lose()
    seen = [_first(ray, ref), log.lines()]
    place.end()
    del actor
    return seen


def _of_actor(ray: Any, place: _Place, log: Any, **options: Any) -> Any:
    @ray.remote
    class Maker:
        def make(self, log: Any) -> Any:
            import numpy

            log.append("made")
            return numpy.full(LONG, 9.0)

    actor = Maker.options(**place.here(**options)).remote()
    ref = actor.make.remote(log)
    _ready(ray, ref)
    return ref, actor


def the_second_run_raises(ray: Any) -> Any:
    place, log = _Place(ray), Flag()

    @ray.remote
    def once(log: Any) -> Any:
        import numpy

        log.append("ran")
        if len(log.lines()) > 1:
            raise ValueError("only once")
        return numpy.full(LONG, 1.0)

    ref = once.options(**place.here()).remote(log)
    _ready(ray, ref)
    place.lose()
    error = _error(ray, ref)
    seen = [described(error, "only once", kinds=(ValueError, *_kinds(ray))), log.lines()]
    place.end()
    return seen


def what_contains_a_lost_one(ray: Any) -> Any:
    place, log = _Place(ray), Flag()
    ref = _made(ray, place).remote(log, 2.0)
    _ready(ray, ref)

    @ray.remote(num_cpus=0, resources={"head": 0.1})
    def read(refs: Any) -> float:
        return float(ray.get(refs[0], timeout=30)[0])

    place.lose()
    seen = [caught(lambda: ray.get(read.remote([ref]), timeout=35)), log.lines()]
    place.end()
    return seen


def items_of_a_generator(ray: Any) -> Any:
    place, log = _Place(ray), Flag()

    @ray.remote
    def items(log: Any) -> Any:
        import numpy

        log.append("ran")
        for index in range(3):
            yield numpy.full(LONG, float(index))

    stream = items.options(**place.here(num_returns="streaming")).remote(log)
    refs = list(stream)
    _ready(ray, *refs)
    place.lose()
    seen = [[_first(ray, ref) for ref in refs], log.lines()]
    place.end()
    return seen
