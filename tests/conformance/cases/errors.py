"""Exceptions of tasks and actors as the caller sees them."""

from __future__ import annotations

import builtins
import os
import pickle
import sys
import threading
from typing import Any

from tests.conformance.kit import Flag, caught, described, eventually


class _Plain(Exception):
    pass


class _WithArguments(Exception):
    def __init__(self, code: int, detail: str) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail

    def __reduce__(self) -> Any:
        return (_WithArguments, (self.code, self.detail))


class _NotReducible(Exception):
    def __init__(self, code: int, detail: str) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code


class _HoldsALock(Exception):
    def __init__(self) -> None:
        super().__init__("holds a lock")
        self.lock = threading.Lock()


def _fails(ray: Any, error: Any) -> Any:
    @ray.remote(max_retries=0)
    def f() -> None:
        raise error

    return f.remote()


def _kinds(seen: Any) -> Any:
    """Only the kinds and fragments: where Ray has no fixed name for an error."""
    return {key: value for key, value in seen.items() if key != "error"}


def _raised(ray: Any, ref: Any) -> BaseException:
    try:
        ray.get(ref)
    except BaseException as error:
        return error
    raise AssertionError("no error")


def users_type_and_task_error(ray: Any) -> Any:
    error = _raised(ray, _fails(ray, ValueError("a message")))
    return described(
        error, "a message", kinds=(ValueError, ray.exceptions.RayTaskError, ray.exceptions.RayError, KeyError)
    )


def cause_is_the_users_exception(ray: Any) -> Any:
    error: Any = _raised(ray, _fails(ray, ValueError("a", 2)))
    return [type(error.cause).__name__, error.cause.args, error.args == error.cause.args]


def text_shows_the_remote_traceback(ray: Any) -> Any:
    @ray.remote(max_retries=0)
    def divides() -> float:
        def inner() -> float:
            return 1 / 0

        return inner()

    error = _raised(ray, divides.remote())
    return described(
        error, "Traceback", "divides", "in inner", "return 1 / 0", "ZeroDivisionError", "pid=", "ip="
    )


def custom_exception(ray: Any) -> Any:
    error = _raised(ray, _fails(ray, _Plain("mine")))
    return described(error, "mine", kinds=(_Plain, ray.exceptions.RayTaskError))


def custom_exception_with_arguments(ray: Any) -> Any:
    error: Any = _raised(ray, _fails(ray, _WithArguments(7, "seven")))
    return [described(error, kinds=(_WithArguments,)), error.code, error.detail, error.cause.code]


def custom_exception_that_does_not_unpickle(ray: Any) -> Any:
    return _kinds(caught(lambda: ray.get(_fails_locally(ray)), kinds=(ray.exceptions.RayError,)))


def _fails_locally(ray: Any) -> Any:
    @ray.remote(max_retries=0)
    def f() -> None:
        raise _NotReducible(1, "x")

    return f.remote()


def exception_that_does_not_pickle(ray: Any) -> Any:
    @ray.remote(max_retries=0)
    def f() -> None:
        raise _HoldsALock

    return _kinds(
        caught(lambda: ray.get(f.remote()), "holds a lock", kinds=(ray.exceptions.RayError, _HoldsALock))
    )


def exception_class_of_the_task_itself(ray: Any) -> Any:
    @ray.remote(max_retries=0)
    def f() -> None:
        class Local(Exception):
            pass

        raise Local("inside")

    return caught(lambda: ray.get(f.remote()), "inside", kinds=(ray.exceptions.RayTaskError,))


def chained_cause_shows_in_the_text(ray: Any) -> Any:
    @ray.remote(max_retries=0)
    def f() -> None:
        try:
            raise KeyError("first")
        except KeyError as error:
            raise ValueError("second") from error

    return described(
        _raised(ray, f.remote()), "first", "second", "direct cause", kinds=(ValueError, KeyError)
    )


def context_shows_in_the_text(ray: Any) -> Any:
    @ray.remote(max_retries=0)
    def f() -> None:
        try:
            raise KeyError("first")
        except KeyError:
            raise ValueError("second")  # noqa: B904

    return described(_raised(ray, f.remote()), "first", "second", "During handling")


def through_two_tasks(ray: Any) -> Any:
    @ray.remote(max_retries=0)
    def inner() -> None:
        raise KeyError("deep")

    @ray.remote(max_retries=0)
    def outer() -> Any:
        return ray.get(inner.remote())

    return described(
        _raised(ray, outer.remote()), "deep", "inner", "outer", kinds=(KeyError, ray.exceptions.RayTaskError)
    )


def through_a_dependency(ray: Any) -> Any:
    @ray.remote(max_retries=0)
    def after(x: Any) -> Any:
        return x

    ref = after.remote(after.remote(_fails(ray, OSError(2, "no file"))))
    return described(_raised(ray, ref), "no file", kinds=(OSError,))


def caught_inside_a_task(ray: Any) -> Any:
    @ray.remote(max_retries=0)
    def inner() -> None:
        raise ValueError("x")

    @ray.remote
    def outer() -> Any:
        try:
            ray.get(inner.remote())
        except ValueError as error:
            return type(error).__name__
        return None

    return ray.get(outer.remote())


def every_return_of_a_failed_task_raises(ray: Any) -> Any:
    @ray.remote(num_returns=2, max_retries=0)
    def f() -> Any:
        raise ValueError("both")

    return [caught(lambda ref=ref: ray.get(ref), "both") for ref in f.remote()]


def the_same_ref_raises_each_time(ray: Any) -> Any:
    ref = _fails(ray, ValueError("again"))
    return [caught(lambda: ray.get(ref)) for _ in range(3)]


def system_exit_in_a_task(ray: Any) -> Any:
    @ray.remote(max_retries=0)
    def f() -> None:
        sys.exit(3)

    return caught(
        lambda: ray.get(f.remote()), kinds=(ray.exceptions.WorkerCrashedError, ray.exceptions.RayError)
    )


def os_exit_in_a_task(ray: Any) -> Any:
    @ray.remote(max_retries=0)
    def f() -> None:
        os._exit(1)

    return caught(
        lambda: ray.get(f.remote()), kinds=(ray.exceptions.WorkerCrashedError, ray.exceptions.RayError)
    )


def keyboard_interrupt_in_a_task(ray: Any) -> Any:
    return _kinds(caught(lambda: ray.get(_fails(ray, KeyboardInterrupt())), kinds=(ray.exceptions.RayError,)))


def base_exception_in_a_task(ray: Any) -> Any:
    class Odd(BaseException):
        pass

    return _kinds(caught(lambda: ray.get(_fails(ray, Odd("odd"))), kinds=(ray.exceptions.RayError,)))


def stop_iteration_in_a_task(ray: Any) -> Any:
    return caught(lambda: ray.get(_fails(ray, StopIteration(3))), kinds=(StopIteration, RuntimeError))


def assertion_error(ray: Any) -> Any:
    return described(_raised(ray, _fails(ray, AssertionError("must"))), "must", kinds=(AssertionError,))


def exception_group(ray: Any) -> Any:
    if sys.version_info < (3, 11):
        return [["ValueError", "KeyError"], True]
    group_type = builtins.ExceptionGroup  # type: ignore[attr-defined,unused-ignore]
    group = group_type("several", [ValueError(1), KeyError(2)])
    error: Any = _raised(ray, _fails(ray, group))
    return [[type(part).__name__ for part in error.exceptions], isinstance(error, group_type)]


def task_error_pickles(ray: Any) -> Any:
    error = _raised(ray, _fails(ray, ValueError("text")))
    return described(
        pickle.loads(pickle.dumps(error)), "text", kinds=(ray.exceptions.RayTaskError, ValueError)
    )


def get_timeout_pickles(ray: Any) -> Any:
    return described(pickle.loads(pickle.dumps(ray.exceptions.GetTimeoutError("text"))), "text")


def actor_method_error(ray: Any) -> Any:
    @ray.remote
    class A:
        def bad(self) -> None:
            raise _WithArguments(1, "one")

        def good(self) -> int:
            return 1

    a = A.remote()
    error = _raised(ray, a.bad.remote())
    return [described(error, "one", "A.bad", kinds=(_WithArguments,)), ray.get(a.good.remote())]


def actor_constructor_error(ray: Any) -> Any:
    @ray.remote
    class A:
        def __init__(self) -> None:
            raise ValueError("cannot start")

        def m(self) -> int:
            return 1

    a = A.remote()
    kinds = (ray.exceptions.ActorDiedError, ray.exceptions.RayActorError, ValueError)
    return [
        caught(lambda: ray.get(a.m.remote()), "cannot start", "ValueError", kinds=kinds) for _ in range(2)
    ]


def retry_after_a_crash(ray: Any) -> Any:
    flag = Flag()

    @ray.remote(max_retries=2)
    def f() -> int:
        flag.append("run")
        if len(flag.lines()) < 3:
            os._exit(1)
        return len(flag.lines())

    return ray.get(f.remote())


def retries_run_out(ray: Any) -> Any:
    flag = Flag()

    @ray.remote(max_retries=1)
    def f() -> None:
        flag.append("run")
        os._exit(1)

    return [caught(lambda: ray.get(f.remote())), len(flag.lines())]


def no_retry_of_an_exception_by_default(ray: Any) -> Any:
    flag = Flag()

    @ray.remote(max_retries=3)
    def f() -> None:
        flag.append("run")
        raise ValueError("x")

    return [caught(lambda: ray.get(f.remote())), len(flag.lines())]


def retry_exceptions_true(ray: Any) -> Any:
    flag = Flag()

    @ray.remote(max_retries=3, retry_exceptions=True)
    def f() -> int:
        flag.append("run")
        if len(flag.lines()) < 3:
            raise ValueError("x")
        return len(flag.lines())

    return ray.get(f.remote())


def retry_exceptions_list(ray: Any) -> Any:
    flag = Flag()

    @ray.remote(max_retries=5, retry_exceptions=[KeyError])
    def f() -> None:
        flag.append("run")
        if len(flag.lines()) < 3:
            raise KeyError("again")
        raise ValueError("not again")

    return [caught(lambda: ray.get(f.remote())), len(flag.lines())]


def retry_exceptions_run_out(ray: Any) -> Any:
    flag = Flag()

    @ray.remote(max_retries=2, retry_exceptions=True)
    def f() -> None:
        flag.append("run")
        raise ValueError("x")

    return [caught(lambda: ray.get(f.remote())), len(flag.lines())]


def actor_method_retry_exceptions(ray: Any) -> Any:
    @ray.remote(max_task_retries=3)
    class A:
        def __init__(self) -> None:
            self.n = 0

        @ray.method(retry_exceptions=True)
        def m(self) -> int:
            self.n += 1
            if self.n < 3:
                raise ValueError("x")
            return self.n

    a = A.remote()
    return ray.get(a.m.remote())


def an_error_is_not_lost_when_nobody_gets_it(ray: Any) -> Any:
    flag = Flag()

    @ray.remote(max_retries=0)
    def f() -> None:
        flag.set()
        raise ValueError("unseen")

    f.remote()

    @ray.remote
    def g() -> int:
        return 1

    return [eventually(flag.is_set), ray.get(g.remote())]


def argument_that_does_not_unpickle(ray: Any) -> Any:
    class Bad:
        def __reduce__(self) -> Any:
            return (int, ("not a number",))

    @ray.remote(max_retries=0)
    def f(x: Any) -> Any:
        return x

    return _kinds(caught(lambda: ray.get(f.remote(Bad())), kinds=(ray.exceptions.RayError,)))


def argument_that_does_not_pickle(ray: Any) -> Any:
    @ray.remote
    def f(x: Any) -> Any:
        return x

    return caught(lambda: f.remote(threading.Lock()), "cannot pickle", kinds=(TypeError,))


def result_that_does_not_pickle(ray: Any) -> Any:
    @ray.remote(max_retries=0)
    def f() -> Any:
        return threading.Lock()

    return caught(lambda: ray.get(f.remote()), "cannot pickle", kinds=(TypeError,))


def closure_that_does_not_pickle(ray: Any) -> Any:
    lock = threading.Lock()

    @ray.remote
    def f() -> Any:
        return lock

    return caught(lambda: f.remote(), "pickle", kinds=(TypeError,))


def exception_tree(ray: Any) -> Any:
    names = sorted(
        name for name in vars(ray.exceptions) if name.endswith(("Error", "Exception", "Exists", "Failed"))
    )
    tree = {}
    for name in names:
        kind = getattr(ray.exceptions, name)
        if isinstance(kind, type) and issubclass(kind, ray.exceptions.RayError):
            tree[name] = [base.__name__ for base in kind.__mro__[1:-1] if not base.__name__.startswith("_")]
    return tree


def as_instanceof_cause(ray: Any) -> Any:
    error: Any = _raised(ray, _fails(ray, ValueError("x")))
    again = error.as_instanceof_cause()
    return described(again, kinds=(ValueError, ray.exceptions.RayTaskError))


def except_clause_order(ray: Any) -> Any:
    try:
        ray.get(_fails(ray, FileNotFoundError("f")))
    except OSError as error:
        return [type(error).__name__, isinstance(error, FileNotFoundError)]


def a_cancelled_error_of_the_users(ray: Any) -> Any:
    import asyncio

    @ray.remote(max_retries=0)
    def f() -> None:
        raise asyncio.CancelledError

    try:
        ray.get(f.remote())
    except BaseException as error:
        kinds = (ray.exceptions.RayTaskError, asyncio.CancelledError)
        return [isinstance(error, kind) for kind in kinds], type(error.cause).__name__  # type: ignore[attr-defined]


def notes_of_an_exception(ray: Any) -> Any:
    @ray.remote(max_retries=0)
    def f() -> None:
        error = ValueError("text")
        error.add_note("a note")
        raise error

    try:
        ray.get(f.remote())
    except ValueError as error:
        return [error.cause.__notes__, "a note" in str(error)]  # type: ignore[attr-defined]


class _Breaks:
    def __reduce__(self) -> Any:
        return _broken, ()


def _broken() -> None:
    raise ValueError("does not come back")


def built_in_errors(ray: Any) -> Any:
    found = (MemoryError, OSError, RecursionError, SyntaxError, KeyError, ImportError, EOFError, TimeoutError)

    @ray.remote(max_retries=0)
    def fails(kind: Any) -> None:
        raise kind("text")

    refs = {kind: fails.remote(kind) for kind in found}
    return [caught(lambda ref=ref: ray.get(ref), kinds=(kind,)) for kind, ref in refs.items()]  # type: ignore[misc]


def an_error_whose_class_wants_arguments(ray: Any) -> Any:
    class Wants(Exception):
        def __new__(cls, code: int) -> Any:
            made = super().__new__(cls)
            made.code = code
            return made

        def __init__(self, code: int) -> None:
            super().__init__(code)

    @ray.remote(max_retries=0)
    def fails() -> None:
        raise Wants(7)

    try:
        ray.get(fails.remote())
    except Wants as error:
        return [type(error).__name__, error.cause.code]  # type: ignore[attr-defined]
    except Exception as error:
        return type(error).__name__


def a_value_that_does_not_unpickle(ray: Any) -> Any:
    @ray.remote
    def makes() -> Any:
        return _Breaks()

    kinds = (ray.exceptions.RaySystemError, ValueError)
    return [
        caught(lambda: ray.get(ray.put(_Breaks())), "does not come back", kinds=kinds),
        caught(lambda: ray.get(makes.remote()), "does not come back", kinds=kinds),
    ]
