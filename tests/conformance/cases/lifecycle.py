"""How actors end and start again."""

from __future__ import annotations

import os
import signal
from typing import Any

from tests.conformance.kit import Flag, alive, caught, eventually


def _actor(ray: Any) -> Any:
    @ray.remote
    class A:
        def __init__(self) -> None:
            self.n = 0

        def add(self) -> int:
            self.n += 1
            return self.n

        def pid(self) -> int:
            return os.getpid()

        def exit(self, code: int) -> None:
            os._exit(code)

        def leave(self) -> None:
            ray.actor.exit_actor()

    return A


def _error_after_kill(ray: Any, call: Any, *fragments: str, kinds: tuple[type, ...]) -> Any:
    """The first error of `call`: a kill is asynchronous, so that a few calls may still be answered."""
    seen: dict[str, Any] = {}

    def failed() -> bool:
        seen.clear()
        seen.update(caught(lambda: ray.get(call(), timeout=20), *fragments, kinds=kinds))
        return "error" in seen

    eventually(failed)
    return seen


def kill_then_call(ray: Any) -> Any:
    a = _actor(ray).remote()
    pid = ray.get(a.pid.remote())
    ray.kill(a)
    kinds = (ray.exceptions.ActorDiedError, ray.exceptions.RayActorError)
    return [_error_after_kill(ray, a.add.remote, "ray.kill", kinds=kinds), eventually(lambda: not alive(pid))]


def kill_fails_the_call_that_runs(ray: Any) -> Any:
    started, never = Flag(), Flag()

    @ray.remote
    class A:
        def m(self) -> bool:
            started.set()
            return never.wait()

    a = A.remote()
    ref = a.m.remote()
    queued = a.m.remote()
    started.wait()
    ray.kill(a)
    return [
        caught(lambda r=r: ray.get(r, timeout=20), kinds=(ray.exceptions.RayActorError,))
        for r in (ref, queued)
    ]


def kill_twice(ray: Any) -> Any:
    a = _actor(ray).remote()
    ray.get(a.add.remote())
    ray.kill(a)
    return caught(lambda: ray.kill(a))


def kill_of_something_else(ray: Any) -> Any:
    return [caught(lambda: ray.kill(5), "Actor"), caught(lambda: ray.kill(ray.put(1)))]


def kill_before_the_first_call(ray: Any) -> Any:
    a = _actor(ray).remote()
    ray.kill(a)
    return _error_after_kill(ray, a.add.remote, kinds=(ray.exceptions.RayActorError,))


def kill_of_a_class(ray: Any) -> Any:
    return caught(lambda: ray.kill(_actor(ray)))


def exit_actor_in_a_method(ray: Any) -> Any:
    a = _actor(ray).remote()
    pid = ray.get(a.pid.remote())
    kinds = (ray.exceptions.ActorDiedError,)
    return [
        caught(lambda: ray.get(a.leave.remote()), "exit_actor", kinds=kinds),
        caught(lambda: ray.get(a.add.remote()), kinds=kinds),
        eventually(lambda: not alive(pid)),
    ]


def exit_actor_does_not_restart(ray: Any) -> Any:
    a = _actor(ray).options(max_restarts=3).remote()
    ray.get(a.add.remote())
    caught(lambda: ray.get(a.leave.remote()))
    return caught(lambda: ray.get(a.add.remote()), kinds=(ray.exceptions.ActorDiedError,))


def exit_actor_outside_of_an_actor(ray: Any) -> Any:
    return caught(lambda: ray.actor.exit_actor(), kinds=(TypeError,))


def exit_actor_in_an_async_method(ray: Any) -> Any:
    @ray.remote
    class A:
        async def leave(self) -> None:
            ray.actor.exit_actor()

        async def m(self) -> int:
            return 1

    a = A.remote()
    kinds = (ray.exceptions.ActorDiedError,)
    return [
        ray.get(a.m.remote()),
        *(caught(lambda m=m: ray.get(m.remote()), kinds=kinds) for m in (a.leave, a.m)),
    ]


def ray_terminate(ray: Any) -> Any:
    a = _actor(ray).remote()
    pid = ray.get(a.pid.remote())
    a.__ray_terminate__.remote()
    return [
        eventually(lambda: not alive(pid)),
        caught(lambda: ray.get(a.add.remote()), kinds=(ray.exceptions.ActorDiedError,)),
    ]


def terminate_runs_after_earlier_calls(ray: Any) -> Any:
    a = _actor(ray).remote()
    refs = [a.add.remote() for _ in range(20)]
    a.__ray_terminate__.remote()
    return ray.get(refs) == list(range(1, 21))


def ray_ready(ray: Any) -> Any:
    a = _actor(ray).remote()
    return ray.get(a.__ray_ready__.remote())


def ray_call(ray: Any) -> Any:
    a = _actor(ray).remote()
    ray.get(a.add.remote())
    return ray.get(a.__ray_call__.remote(lambda self, more: self.n + more, 10))


def out_of_scope_ends_the_process(ray: Any) -> Any:
    a = _actor(ray).remote()
    pid = ray.get(a.pid.remote())
    del a
    return eventually(lambda: not alive(pid))


def out_of_scope_waits_for_calls(ray: Any) -> Any:
    a = _actor(ray).remote()
    refs = [a.add.remote() for _ in range(10)]
    del a
    return ray.get(refs)


def temporary_handle(ray: Any) -> Any:
    return ray.get(_actor(ray).remote().add.remote())


def crash_without_restarts(ray: Any) -> Any:
    a = _actor(ray).remote()
    ray.get(a.add.remote())
    kinds = (ray.exceptions.ActorDiedError, ray.exceptions.ActorUnavailableError)
    return [
        caught(lambda: ray.get(a.exit.remote(1)), kinds=(ray.exceptions.RayActorError,)),
        caught(lambda: ray.get(a.add.remote()), kinds=kinds),
    ]


def _until_answer(ray: Any, a: Any) -> Any:
    """The first answer of an actor that may be restarting."""
    answers: list[int] = []

    def ask() -> bool:
        try:
            answers.append(ray.get(a.add.remote()))
        except ray.exceptions.ActorUnavailableError:
            return False
        return True

    eventually(ask)
    return answers


def crash_with_restart(ray: Any) -> Any:
    a = _actor(ray).options(max_restarts=1).remote()
    ray.get([a.add.remote(), a.add.remote()])
    first = ray.get(a.pid.remote())
    died = caught(lambda: ray.get(a.exit.remote(1)), kinds=(ray.exceptions.RayActorError,))
    return [died, _until_answer(ray, a), ray.get(a.pid.remote()) != first]


def restarts_run_out(ray: Any) -> Any:
    a = _actor(ray).options(max_restarts=1).remote()
    ray.get(a.add.remote())
    caught(lambda: ray.get(a.exit.remote(1)))
    _until_answer(ray, a)
    caught(lambda: ray.get(a.exit.remote(1)))
    return caught(lambda: _until_answer(ray, a), kinds=(ray.exceptions.ActorDiedError,))


def restart_after_sigkill(ray: Any) -> Any:
    a = _actor(ray).options(max_restarts=-1).remote()
    pid = ray.get(a.pid.remote())
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: not alive(pid))
    return _until_answer(ray, a)


def kill_allowing_restart(ray: Any) -> Any:
    a = _actor(ray).options(max_restarts=1).remote()
    pid = ray.get(a.pid.remote())
    ray.kill(a, no_restart=False)
    eventually(lambda: not alive(pid))
    return _until_answer(ray, a)


def kill_forbids_restart(ray: Any) -> Any:
    a = _actor(ray).options(max_restarts=5).remote()
    pid = ray.get(a.pid.remote())
    ray.kill(a)
    eventually(lambda: not alive(pid))
    return caught(lambda: _until_answer(ray, a), kinds=(ray.exceptions.ActorDiedError,))


def task_retries_across_a_restart(ray: Any) -> Any:
    flag = Flag()

    @ray.remote(max_restarts=2, max_task_retries=2)
    class A:
        def m(self) -> str:
            flag.append("run")
            if len(flag.lines()) < 2:
                os._exit(1)
            return "done"

    return [ray.get(A.remote().m.remote()), len(flag.lines())]


def constructor_runs_again_on_restart(ray: Any) -> Any:
    flag = Flag()

    @ray.remote(max_restarts=1, max_task_retries=1)
    class A:
        def __init__(self, x: int) -> None:
            flag.append(f"init {x}")

        def pid(self) -> int:
            return os.getpid()

    a = A.remote(4)
    pid = ray.get(a.pid.remote())
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: not alive(pid))
    return [ray.get(a.pid.remote()) != pid, flag.lines()]


def was_reconstructed(ray: Any) -> Any:
    @ray.remote(max_restarts=1, max_task_retries=1)
    class A:
        def was(self) -> bool:
            return bool(ray.get_runtime_context().was_current_actor_reconstructed)

        def pid(self) -> int:
            return os.getpid()

    a = A.remote()
    before = ray.get(a.was.remote())
    pid = ray.get(a.pid.remote())
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: not alive(pid))
    return [before, ray.get(a.was.remote())]


def actor_of_a_dead_actor_dies_with_it(ray: Any) -> Any:
    child_class = _actor(ray)

    @ray.remote
    class Parent:
        def __init__(self) -> None:
            self.child = child_class.remote()

        def child_pid(self) -> int:
            return int(ray.get(self.child.pid.remote()))

    parent = Parent.remote()
    pid = ray.get(parent.child_pid.remote())
    ray.kill(parent)
    return eventually(lambda: not alive(pid))


def objects_of_a_dead_actor_are_named_lost(ray: Any) -> Any:
    @ray.remote
    class A:
        def make(self) -> Any:
            return [ray.put("owned by the actor"), os.getpid()]

    a = A.remote()
    ref, pid = ray.get(a.make.remote())
    ray.kill(a)
    eventually(lambda: not alive(pid))
    kinds = (ray.exceptions.OwnerDiedError, ray.exceptions.ObjectLostError)
    return _error_after_kill(ray, lambda: ref, kinds=kinds).get("is")


def results_of_a_dead_actor_stay(ray: Any) -> Any:
    a = _actor(ray).remote()
    ref = a.add.remote()
    ray.get(ref)
    ray.kill(a)
    return ray.get(ref)


def exit_code_zero_by_sys_exit(ray: Any) -> Any:
    import sys

    @ray.remote
    class A:
        def leave(self) -> None:
            sys.exit(0)

    a = A.remote()
    return caught(lambda: ray.get(a.leave.remote()), kinds=(ray.exceptions.RayActorError,))


def constructor_that_exits(ray: Any) -> Any:
    @ray.remote
    class A:
        def __init__(self) -> None:
            os._exit(7)

        def m(self) -> int:
            return 1

    a = A.remote()
    return caught(lambda: ray.get(a.m.remote(), timeout=30), kinds=(ray.exceptions.ActorDiedError,))


def error_shows_the_actors_class(ray: Any) -> Any:
    a = _actor(ray).remote()
    pid = ray.get(a.pid.remote())
    ray.kill(a)
    eventually(lambda: not alive(pid))
    try:
        ray.get(a.add.remote())
    except ray.exceptions.ActorDiedError as error:
        text = str(error)
        return ["class_name: " in text, a._actor_id.hex() in text or "actor_id" in text]
    return None


def owner_of_error_actor_id(ray: Any) -> Any:
    a = _actor(ray).remote()
    pid = ray.get(a.pid.remote())
    ray.kill(a)
    eventually(lambda: not alive(pid))
    try:
        ray.get(a.add.remote())
    except ray.exceptions.ActorDiedError as error:
        return error.actor_id == a._actor_id.hex()
    return None
