"""Errors: Ray's names and inheritance, pickling, messages, the dual type of user exceptions."""

from __future__ import annotations

import pickle
import sys
from typing import Any

import pytest

from spoke import errors, exceptions

# class -> public bases in Ray 2.60
TREE = {
    "RayError": ("Exception",),
    "CrossLanguageError": ("RayError",),
    "TaskCancelledError": ("RayError",),
    "RayTaskError": ("RayError",),
    "LocalRayletDiedError": ("RayError",),
    "WorkerCrashedError": ("RayError",),
    "RayActorError": ("RayError",),
    "ActorDiedError": ("RayActorError",),
    "ActorUnavailableError": ("RayActorError",),
    "RaySystemError": ("RayError",),
    "AuthenticationError": ("RayError",),
    "UserCodeException": ("RayError",),
    "ObjectStoreFullError": ("RayError",),
    "OutOfDiskError": ("RayError",),
    "OutOfMemoryError": ("RayError",),
    "NodeDiedError": ("RayError",),
    "ObjectLostError": ("RayError",),
    "ObjectFetchTimedOutError": ("ObjectLostError",),
    "RpcError": ("RayError",),
    "ReferenceCountingAssertionError": ("ObjectLostError", "AssertionError"),
    "ObjectFreedError": ("ObjectLostError",),
    "OwnerDiedError": ("ObjectLostError",),
    "ObjectReconstructionFailedError": ("ObjectLostError",),
    "GetTimeoutError": ("RayError", "TimeoutError"),
    "PlasmaObjectNotAvailable": ("RayError",),
    "AsyncioActorExit": ("RayError",),
    "RuntimeEnvSetupError": ("RayError",),
    "TaskPlacementGroupRemoved": ("RayError",),
    "ActorPlacementGroupRemoved": ("RayError",),
    "PendingCallsLimitExceeded": ("RayError",),
    "TaskUnschedulableError": ("RayError",),
    "ActorUnschedulableError": ("RayError",),
    "ObjectRefStreamEndOfStreamError": ("RayError",),
    "StreamingGeneratorReplayInconsistentError": ("RaySystemError",),
    "OufOfBandObjectRefSerializationException": ("RayError",),
    "RayChannelError": ("RaySystemError",),
    "RayChannelTimeoutError": ("RayChannelError", "TimeoutError"),
    "RayCgraphCapacityExceeded": ("RaySystemError",),
    "RayDirectTransportError": ("RaySystemError",),
    "UnserializableException": ("RayError",),
    "ActorAlreadyExistsError": ("ValueError", "RayError"),
    "ActorHandleNotFoundError": ("ValueError", "RayError"),
}


@pytest.mark.parametrize("name", TREE)
def test_inheritance(name: str) -> None:
    cls = getattr(exceptions, name)
    names = [base.__name__ for base in cls.__mro__]
    for base in TREE[name]:
        assert base in names
    assert cls.__module__ == "spoke.exceptions"


@pytest.mark.parametrize("name", sorted(errors.NAMED))
def test_every_error_pickles_and_takes_a_message(name: str) -> None:
    cls = errors.NAMED[name]
    for made in (cls(), cls("x"), cls.from_message("what happened")):
        copy = pickle.loads(pickle.dumps(made))
        assert copy == made
        assert str(copy) == str(made)
    assert "what happened" in str(cls.from_message("what happened"))


def dual_of(cause: BaseException) -> Any:
    error = errors.RayTaskError(
        "f", f"Traceback (most recent call last):\n  line\n{cause!r}\n", cause, pid=1, ip="h"
    )
    return error.as_instanceof_cause()


class Custom(Exception):
    def __init__(self, first: int, *, second: int) -> None:
        super().__init__(first, second)
        self.first = first
        self.second = second

    def total(self) -> int:
        return self.first + self.second


class Sealed(Exception):
    def __init_subclass__(cls) -> None:
        raise TypeError("no subclasses")


class Demanding(Exception):
    def __new__(cls, needed: int) -> Demanding:
        return super().__new__(cls, needed)


def test_dual_type() -> None:
    error = dual_of(ValueError("boom"))
    assert isinstance(error, ValueError)
    assert isinstance(error, errors.RayTaskError)
    assert type(error).__name__ == "RayTaskError(ValueError)"
    assert repr(error) == "RayTaskError(ValueError)(ValueError('boom'))"
    assert str(error) == "ray::f() (pid=1, ip=h)\n  line\nValueError('boom')"
    assert error.cause.args == ("boom",)
    assert type(dual_of(ValueError("b"))) is type(error)


def test_dual_pickles() -> None:
    error = pickle.loads(pickle.dumps(dual_of(KeyError("k"))))
    assert isinstance(error, KeyError)
    assert isinstance(error, errors.RayTaskError)


def test_dual_of_a_class_with_its_own_constructor() -> None:
    error = dual_of(Custom(1, second=2))
    assert isinstance(error, Custom)
    assert (error.first, error.second, error.total()) == (1, 2, 3)


@pytest.mark.parametrize("cause", [Demanding(1), MemoryError("all of it")])
def test_dual_of_a_class_that_is_not_made_without_arguments(cause: Exception) -> None:
    error = dual_of(cause)
    assert isinstance(error, type(cause)) and error.args == (cause,)
    assert type(pickle.loads(pickle.dumps(error))) is type(error)


def test_dual_shows_the_fields_of_built_in_errors() -> None:
    error = dual_of(FileNotFoundError(2, "no such file", "/x"))
    assert (error.errno, error.filename) == (2, "/x")
    assert dual_of(UnicodeDecodeError("utf8", b"a", 0, 1, "why")).reason == "why"


@pytest.mark.parametrize("cause", [Sealed("s"), SystemExit(3), KeyboardInterrupt()])
def test_what_cannot_be_dual_stays_a_task_error(cause: BaseException) -> None:
    error = dual_of(cause)
    assert type(error) is errors.RayTaskError
    assert error.cause is cause


@pytest.mark.skipif(sys.version_info < (3, 11), reason="exception groups came with 3.11")
def test_dual_of_a_group() -> None:
    cause = ExceptionGroup("g", [ValueError("v")])  # noqa: F821
    error = dual_of(cause)
    assert isinstance(error, ExceptionGroup)  # noqa: F821
    assert error.exceptions == cause.exceptions
    assert pickle.loads(pickle.dumps(error)).message == "g"


def test_nested_task_errors_give_the_first_cause() -> None:
    inner = dual_of(ValueError("deep"))
    outer = errors.RayTaskError("g", "tb", inner).as_instanceof_cause()
    assert type(outer).__name__ == "RayTaskError(ValueError)"
    assert outer.cause.args == ("deep",)


def test_a_system_error_as_cause_keeps_its_class() -> None:
    error = errors.RayTaskError("g", "tb", errors.ActorDiedError("gone")).as_instanceof_cause()
    assert isinstance(error, errors.ActorDiedError)
    assert isinstance(error, errors.RayTaskError)


def test_actor_errors() -> None:
    failed = errors.ActorDiedError(dual_of(ValueError("init")))
    assert failed.actor_init_failed
    assert "ValueError('init')" in str(failed)
    died = errors.ActorDiedError("exit code 3")
    assert not died.actor_init_failed
    assert "exit code 3" in str(died)
    away = errors.ActorUnavailableError("it restarts", b"\x01\x02")
    assert "0102" in str(away)


def test_by_name() -> None:
    assert type(errors.named("ValueError", "x")) is ValueError
    assert isinstance(errors.named("ActorDiedError", "exit code 3"), errors.ActorDiedError)
    unknown = errors.named("Unheard", "text")
    assert isinstance(unknown, errors.RaySystemError)
    assert "Unheard: text" in str(unknown)
    assert isinstance(errors.named("SystemExit", "1"), errors.RaySystemError)


def test_an_error_goes_through_a_long_chain_of_calls(spoke_cluster: Any) -> None:
    ray = spoke_cluster

    @ray.remote(max_retries=0)
    def fails() -> None:
        raise ValueError("mine")

    @ray.remote(max_retries=0)
    def passes_on(value: Any) -> Any:
        return value

    ref = fails.remote()
    for _ in range(800):
        ref = passes_on.remote(ref)
    with pytest.raises(ValueError, match="mine") as caught:
        ray.get(ref)
    assert len(str(caught.value)) < 10_000


def test_an_instance_is_not_asked_for_its_name_under_the_lock(spoke_cluster: Any) -> None:
    ray = spoke_cluster

    class Asks:
        def __repr__(self) -> str:
            return f"Asks({ray.get(ray.put(1))})"

        def one(self) -> int:
            return 1

    actor = ray.remote(Asks).options(num_cpus=0).remote()
    with pytest.raises(ValueError, match="no concurrency group"):
        ray.get(actor.one.options(concurrency_group="none").remote(), timeout=30)
    assert ray.get(actor.one.remote(), timeout=30) == 1


def test_a_name_with_a_nul_is_no_title(spoke_cluster: Any) -> None:
    ray = spoke_cluster
    assert ray.get(ray.remote(lambda: 1).options(name="a\0b", max_retries=0).remote()) == 1


def test_exit_actor_ends_an_actor_from_a_generator_with_fixed_returns(spoke_cluster: Any) -> None:
    ray = spoke_cluster

    class Leaves:
        @ray.method(num_returns=2)
        def two(self) -> Any:
            yield 1
            ray.actor.exit_actor()

        async def one(self) -> int:
            return 1

    actor = ray.remote(Leaves).options(num_cpus=0).remote()
    with pytest.raises(ray.exceptions.RayActorError):
        ray.get(actor.two.remote(), timeout=30)
