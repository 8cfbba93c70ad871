"""What Ray's own test programs expect of actors' lives: their starts, restarts, ends and last words."""

from __future__ import annotations

import os
import sys
from typing import Any

from tests.conformance.kit import Flag, alive, caught, described, eventually, sub

# -- lives


def calls_queued_behind_a_constructor_that_dies(ray: Any) -> Any:
    log = Flag()

    @ray.remote(max_restarts=3)
    class A:
        def __init__(self) -> None:
            log.append("made")
            if len(log.lines()) < 3:
                os._exit(0)

        def f(self, x: int) -> int:
            return x

    a = A.remote()
    return [ray.get([a.f.remote(i) for i in range(3)]), len(log.lines())]


def calls_of_a_constructor_that_dies_for_good(ray: Any) -> Any:
    @ray.remote(max_restarts=1)
    class A:
        def __init__(self) -> None:
            os._exit(0)

        def f(self) -> None:
            pass

    a = A.remote()
    try:
        ray.get(a.f.remote())
    except ray.exceptions.RayActorError as error:
        return [described(error, kinds=(ray.exceptions.ActorDiedError,)), error.actor_id == a._actor_id.hex()]
    return None


def a_call_that_killed_its_actor_is_not_made_again(ray: Any) -> Any:
    log = Flag()

    @ray.remote(max_restarts=1)
    class A:
        def f(self) -> None:
            log.append("f")
            os._exit(1)

        def g(self) -> str:
            return "g"

    a = A.remote()
    first = caught(lambda: ray.get(a.f.remote()), kinds=(ray.exceptions.ActorUnavailableError,))

    def lives() -> bool:
        try:
            return bool(ray.get(a.g.remote()))
        except ray.exceptions.ActorUnavailableError:
            return False

    return [first, eventually(lives), log.lines()]


def texts_of_deaths(ray: Any) -> Any:
    @ray.remote
    class A:
        def ready(self) -> int:
            return os.getpid()

        def exit(self, code: int) -> None:
            sys.exit(code)

        def exit_hard(self, code: int) -> None:
            os._exit(code)

        def leave(self) -> None:
            sub(ray, "actor").exit_actor()

    def death(kill: Any, *fragments: str) -> Any:
        a = A.remote()
        pid = ray.get(a.ready.remote())
        try:
            ray.get(kill(a))
        except ray.exceptions.ActorDiedError as error:
            text, said = str(error), described(error, "class_name: ", "namespace: ", "ip: ", *fragments)
            return [said, f"pid: {pid}\n" in text, f"actor_id: {a._actor_id.hex()}\n" in text]
        return None

    def kill(a: Any) -> Any:
        ray.kill(a)
        return a.ready.remote()

    dead = "The actor is dead because its worker process has died"
    return [
        death(lambda a: a.exit.remote(4), dead, "exit code 4"),
        death(lambda a: a.exit.remote(0), "exit code 0"),
        death(lambda a: a.exit_hard.remote(1), dead),
        death(lambda a: a.leave.remote(), "exit_actor()"),
        death(kill, "ray.kill"),
    ]


def names_while_actors_restart(ray: Any) -> Any:
    @ray.remote(max_restarts=-1)
    class A:
        def pid(self) -> int:
            return os.getpid()

    a = A.options(name="kept").remote()
    pid = ray.get(a.pid.remote())
    ray.kill(a, no_restart=False)
    seen = {tuple(ray.util.list_named_actors()) for _ in range(50)}

    def again() -> bool:
        try:
            return bool(ray.get(a.pid.remote()) != pid)
        except ray.exceptions.ActorUnavailableError:
            return False

    return [sorted(seen), eventually(again)]


def wrong_names(ray: Any) -> Any:
    @ray.remote
    class A:
        pass

    given: list[dict[str, Any]] = [
        {"name": 1}, {"name": ""}, {"name": "a", "namespace": ""}, {"name": "a", "namespace": 2},
    ]  # fmt: skip
    found = [
        caught(lambda one=one: A._remote(lifetime="detached", **one), "Actor name cannot be an empty string")
        for one in given
    ]
    looked = [caught(lambda name=name: ray.get_actor(name)) for name in (None, "", "   ")]
    return [found, looked]


# -- ends of processes


def calls_made_by_a_process_that_ends(ray: Any) -> Any:
    @ray.remote
    class Log:
        def __init__(self) -> None:
            self.lines: list[str] = []

        def add(self, line: str) -> None:
            self.lines.append(line)

        def all(self) -> list[str]:
            return sorted(self.lines)

    @ray.remote
    class Raises:
        def __init__(self, log: Any) -> None:
            log.add.remote("constructor")
            raise ValueError

        def f(self) -> None:
            pass

    @ray.remote
    class Leaves:
        def f(self, log: Any) -> None:
            log.add.remote("method")
            sub(ray, "actor").exit_actor()

    log = Log.remote()
    raises, leaves = Raises.remote(log), Leaves.remote()
    ends = [caught(lambda: ray.get(raises.f.remote())), caught(lambda: ray.get(leaves.f.remote(log)))]
    return [ends, eventually(lambda: ray.get(log.all.remote()) == ["constructor", "method"])]


def last_words_of_actors(ray: Any) -> Any:
    import atexit

    class A:
        def __init__(self, log: Flag, fail: bool = False) -> None:
            self.log = log
            atexit.register(log.append, "atexit")
            if fail:
                raise ValueError

        def __ray_shutdown__(self) -> None:
            self.log.append("shutdown")

        def __del__(self) -> None:
            self.log.append("del")

        def pid(self) -> int:
            return os.getpid()

        def leave(self, code: int | None) -> None:
            if code is None:
                sub(ray, "actor").exit_actor()
            sys.exit(code)

    class Coroutines(A):
        async def leave(self, code: int | None) -> None:
            sub(ray, "actor").exit_actor()

    def words(end: Any, cls: type = A, **options: Any) -> list[str]:
        log = Flag()
        handles = [ray.remote(cls).options(num_cpus=0, **options).remote(log)]
        pid = ray.get(handles[0].pid.remote())
        end(handles)
        eventually(lambda: not alive(pid))
        return [line for line in ("shutdown", "atexit") if line in log.lines()]

    def fails() -> list[str]:
        log = Flag()
        failed = ray.remote(A).options(num_cpus=0).remote(log, True)
        caught(lambda: ray.get(failed.pid.remote()))
        eventually(lambda: "atexit" in log.lines(), 10)
        return [line for line in ("shutdown", "atexit") if line in log.lines()]

    return [
        words(lambda handles: handles.clear()),
        words(lambda handles: handles[0].__ray_terminate__.remote()),
        words(lambda handles: handles[0].leave.remote(None)),
        words(lambda handles: handles[0].leave.remote(0)),
        words(lambda handles: handles[0].leave.remote(None), max_concurrency=3),
        words(lambda handles: handles[0].leave.remote(None), Coroutines),
        words(lambda handles: ray.kill(handles[0])),
        fails(),
    ]


def leaving_what_is_no_actor(ray: Any) -> Any:
    @ray.remote
    def f() -> None:
        sub(ray, "actor").exit_actor()

    text = "exit_actor API is called on a non-actor worker"
    here = caught(sub(ray, "actor").exit_actor, text, kinds=(TypeError,))
    return [here, caught(lambda: ray.get(f.remote()), text, kinds=(TypeError,))]
