"""Actor types by name, and waiting for a constructor."""

from __future__ import annotations

import time
from typing import Any

import pytest

import spoke
from spoke.exceptions import ActorDiedError, ActorUnschedulableError, GetTimeoutError


@spoke.register("Registered")
class Registered:
    """An actor type."""

    def __init__(self, seconds: float = 0.0) -> None:
        time.sleep(seconds)
        if seconds < 0:
            raise KeyError("negative")

    def spawn_another(self) -> int:
        """Spawn by name in a process that imported neither class."""
        import spoke

        return int(spoke.get(spoke.spawn("Other", 20).double.remote()))


@spoke.register("Other", num_cpus=0)
class Other:
    """Another one."""

    def __init__(self, number: int) -> None:
        self.number = number

    def double(self) -> int:
        return 2 * self.number


def test_spawn_by_name(spoke_cluster: Any) -> None:
    assert spoke.actor_types() == ["Other", "Registered"]
    actor = spoke.spawn("Registered", name="by-name")
    assert spoke.get(actor.spawn_another.remote()) == 40
    assert spoke.get_actor("by-name") == actor
    with pytest.raises(ValueError, match=r"unknown actor type .Nobody.; registered: ..Other., .Registered.."):
        spoke.spawn("Nobody")
    with pytest.raises(TypeError):
        spoke.spawn("Other")
    with pytest.raises(ValueError):
        spoke.register("")
    with pytest.raises(TypeError):
        spoke.register("function")(time.sleep)


def test_wait_ready(spoke_cluster: Any) -> None:
    started = time.monotonic()
    actor = spoke.spawn("Registered", 1.0)
    with pytest.raises(GetTimeoutError, match="STARTING"):
        spoke.wait_ready(actor, 0.3)
    spoke.wait_ready(actor, 20)
    assert time.monotonic() - started >= 1.0
    with pytest.raises(ActorDiedError, match="negative"):
        spoke.wait_ready(spoke.remote(Registered).remote(-1), 20)
    big = spoke.remote(num_cpus=1000)(Registered).remote()
    with pytest.raises(ActorUnschedulableError, match="1000"):
        spoke.wait_ready(big, 0.2)
    with pytest.raises(TypeError):
        spoke.wait_ready("actor")  # type: ignore[arg-type]
