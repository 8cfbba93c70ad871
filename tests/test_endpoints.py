"""Endpoints, pools of them, servers of plain objects (rows F-25 to F-35, F-51, sections 3.4 to 3.6)."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

import spoke
from spoke import endpoints, jobs
from spoke.backoff import ExponentialBackoff
from spoke.endpoints.resolvers import StaticCloud
from spoke.errors import (
    ActorDiedError,
    ActorUnavailableError,
    AuthenticationError,
    RayTaskError,
)

pytestmark = pytest.mark.usefixtures("spoke_cluster")


@spoke.remote(num_cpus=0)
class Member:
    def __init__(self, number: int) -> None:
        self.number = number
        self.calls = 0

    def who(self) -> int:
        self.calls += 1
        return self.number

    def count(self) -> int:
        return self.calls

    def fail(self, number: int) -> int:
        if number == self.number:
            raise ZeroDivisionError("mine")
        return self.number

    def nap(self, seconds: float) -> int:
        time.sleep(seconds)
        return self.number

    def pid(self) -> int:
        return os.getpid()

    def own(self, name: str) -> str:
        return endpoints.register(name, spoke.get_runtime_context().current_actor)


def until(true: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def members(name: str, count: int) -> list[Any]:
    handles = [Member.remote(number) for number in range(count)]
    for handle in handles:
        endpoints.register(name, handle)
    return handles


# -- the registry ---------------------------------------------------------------------------------


def test_f27_register_lookup_list_unregister() -> None:
    first = endpoints.register("reg/a", "127.0.0.1:1234", {"zone": "x"})
    second = endpoints.register("reg/a", "127.0.0.1:1235")
    other = endpoints.register("reg/b", "spoke://127.0.0.1:1236/inner")
    found = endpoints.lookup("reg/a")
    assert found is not None
    assert (found.id, found.address, found.metadata) == (first, "spoke://127.0.0.1:1234/reg/a", {"zone": "x"})
    assert [one.id for one in endpoints.list("reg/")] == [first, second, other]
    assert endpoints.lookup("reg/b").address == "spoke://127.0.0.1:1236/inner"  # type: ignore[union-attr]
    assert endpoints.unregister(first) and not endpoints.unregister(first)
    assert endpoints.lookup("reg/a").id == second  # type: ignore[union-attr]
    for one in (second, other):
        endpoints.unregister(one)
    assert endpoints.lookup("reg/a") is None


@pytest.mark.parametrize("name", ["", None, 3])
def test_f27_bad_names(name: Any) -> None:
    with pytest.raises(ValueError, match="name of an endpoint"):
        endpoints.register(name, "127.0.0.1:1")


def test_f27_bad_addresses() -> None:
    with pytest.raises(ValueError, match="spoke://host:port/name"):
        endpoints.register("x", "nowhere")


def test_f27_unknown_job() -> None:
    with pytest.raises(KeyError, match="ghost"):
        endpoints.register("x", "127.0.0.1:1", job="ghost")


def test_f27_only_a_jobs_own_processes_register_for_it() -> None:
    job = jobs.submit("sleep 300", resources={"CPU": 0.01})
    with pytest.raises(AuthenticationError, match=f"only the processes of job {job.id!r}"):
        endpoints.register("x", "127.0.0.1:1", job=job.id)
    assert endpoints.lookup("x") is None
    job.terminate(force=True)
    job.wait(60)


def test_f27_gone_with_its_owner() -> None:
    """The process that registered it is the owner; an actor's end takes its endpoints along."""
    member = Member.remote(0)
    spoke.get(member.own.remote("owned"))
    assert endpoints.lookup("owned") is not None
    os.kill(spoke.get(member.pid.remote()), signal.SIGKILL)
    until(lambda: endpoints.lookup("owned") is None)
    handle = Member.remote(1)
    spoke.get(handle.who.remote())
    endpoints.register("named", handle)
    spoke.kill(handle)
    until(lambda: endpoints.lookup("named") is None)
    with pytest.raises(ValueError, match="dead"):
        endpoints.register("named", handle)


def test_f25_names_are_per_namespace() -> None:
    one = endpoints.register("spaced", "127.0.0.1:1", namespace="n1")
    two = endpoints.register("spaced", "127.0.0.1:2", namespace="n2")
    assert endpoints.lookup("spaced") is None
    assert endpoints.lookup("spaced", namespace="n2").id == two  # type: ignore[union-attr]
    assert {found.id for found in endpoints.list("spaced", all_namespaces=True)} == {one, two}
    endpoints.unregister(one)
    endpoints.unregister(two)


# -- pools ----------------------------------------------------------------------------------------


def test_f32_six_calls_hit_each_of_three_twice() -> None:
    handles = members("three", 3)
    with spoke.lookup("three") as pool:
        pool.wait_for_size(3)
        assert sorted(pool.call().who() for _ in range(6)) == [0, 0, 1, 1, 2, 2]
        assert pool.size == len(pool) == len(pool.endpoints) == 3
        pool.wait_for_size(0, timeout=0)
        pool.wait_for_size(-1, timeout=0)
        with pytest.raises(TimeoutError, match="3 of 4"):
            pool.wait_for_size(4, timeout=0.05)
        done = threading.Event()

        def wait() -> None:
            pool.wait_for_size(4, timeout=60)
            done.set()

        thread = threading.Thread(target=wait)
        thread.start()
        handles.append(Member.remote(3))
        endpoints.register("three", handles[3])
        thread.join(60)
        assert done.is_set() and pool.size == 4


def test_f32_an_empty_pool_says_so() -> None:
    with spoke.lookup("nobody") as pool:
        with pytest.raises(RuntimeError, match="No endpoints for 'nobody'"):
            pool.call().who()
        with pytest.raises(RuntimeError, match="No endpoints"):
            pool.broadcast().who()


def test_f33_errors_pass_and_nothing_is_retried() -> None:
    handles = members("raising", 1)
    with spoke.lookup("raising") as pool:
        with pytest.raises(ZeroDivisionError, match="mine") as caught:
            pool.call().fail(0)
        assert isinstance(caught.value, RayTaskError)
        with pytest.raises(AttributeError, match="missing"):
            pool.call().missing()
        with pytest.raises(AttributeError):
            _ = pool.call()._private
        assert spoke.get(pool.submit().who()) == 0
    del handles


def test_f33_a_dead_member_raises_or_is_passed_over() -> None:
    handles = members("dying", 2)
    with spoke.lookup("dying") as pool:
        pool.wait_for_size(2)
        pids = spoke.get([handle.pid.remote() for handle in handles])
        # The pool still lists a member of which the hub has not heard that it is dead.
        stop = pool._stop
        stop()
        os.kill(pids[0], signal.SIGKILL)
        until(lambda: len(endpoints.list("dying")) == 1)
        found = [pool.call(retry_on_unavailable=True).who() for _ in range(4)]
        assert found == [1] * 4
        with pytest.raises((ActorDiedError, ActorUnavailableError)):
            for _ in range(2):
                pool.call().who()
        pool._stop = None


def test_members_that_come_and_go_are_pushed() -> None:
    """No lookup per call: the pool is told of changes (Fluster asked its controller before each call)."""
    seen: list[int] = []
    with spoke.lookup("moving") as pool:
        pool.subscribe(lambda rows: seen.append(len(rows)))
        handles = members("moving", 2)
        until(lambda: pool.size == 2)
        asked: list[str] = []
        original = endpoints.engine().request
        endpoints.engine().request = lambda what, *a, **k: asked.append(what) or original(what, *a, **k)  # type: ignore[method-assign]
        try:
            assert [pool.call().who() for _ in range(10)].count(0) == 5
        finally:
            del endpoints.engine().request  # type: ignore[method-assign]
        assert asked == []
        spoke.kill(handles[0])
        until(lambda: pool.size == 1)
        assert pool.call().who() == 1
    assert seen == [1, 2, 1]


def test_f34_broadcast_in_order_of_endpoints() -> None:
    handles = members("crowd", 3)
    with spoke.lookup("crowd") as pool:
        pool.wait_for_size(3)
        assert spoke.get(list(pool.broadcast().who())) == [0, 1, 2]
        results = pool.broadcast().fail(1).wait_all(timeout=60)
        assert [one.success for one in results] == [True, False, True]
        assert isinstance(results[1].exception, ZeroDivisionError) and results[0].value == 0
        assert [one.endpoint for one in results] == pool.endpoints
        assert pool.broadcast().fail(0).wait_any(timeout=60).success
        came = {one.value for one in pool.broadcast().who().as_completed(timeout=60)}
        assert came == {0, 1, 2}
    del handles


def test_f34_the_timeout_is_for_all_together() -> None:
    handles = members("sleepers", 3)
    with spoke.lookup("sleepers") as pool:
        pool.wait_for_size(3)
        started = time.monotonic()
        results = pool.broadcast().nap(1.0).wait_all(timeout=0.1)
        assert time.monotonic() - started < 0.9
        assert all(isinstance(one.exception, TimeoutError) for one in results)
        with pytest.raises(TimeoutError, match="3 of 3"):
            list(pool.broadcast().nap(1.0).as_completed(timeout=0.05))
    del handles


# -- resolvers ------------------------------------------------------------------------------------


def test_f35_fixed() -> None:
    resolver = spoke.FixedResolver({"a": "h:1", "b": ["spoke://h:1/x", "h:2"]})
    assert resolver.resolve("a").first().url == "spoke://h:1/a"
    assert [one.actor_id for one in resolver.resolve("b").endpoints] == ["fixed-b-0", "fixed-b-1"]
    assert resolver.resolve("b").first().url == "spoke://h:1/x"
    empty = resolver.resolve("none")
    assert empty.is_empty
    with pytest.raises(ValueError, match="no endpoints for 'none'"):
        empty.first()
    with pytest.raises(ValueError, match="host:port"):
        spoke.FixedResolver({"a": "h"})


def test_f35_cloud() -> None:
    port = {"spoke_actor_calc": "7"}
    resolver = spoke.CloudResolver(StaticCloud([
        {"name": "a", "status": "RUNNING", "internal_ip": "10.0.0.1", "metadata": port},
        {"name": "b", "status": "STOPPED", "internal_ip": "10.0.0.2", "metadata": port},
        {"name": "c", "status": "RUNNING", "internal_ip": "", "metadata": port},
        {"name": "d", "status": "RUNNING", "internal_ip": "10.0.0.4", "metadata": {"spoke_actor_calc": "x"}},
        {"name": "e", "status": "RUNNING", "internal_ip": "10.0.0.5"},
    ]))  # fmt: skip
    found = resolver.resolve("calc").endpoints
    assert [(one.url, one.actor_id) for one in found] == [("spoke://10.0.0.1:7/calc", "cloud-a-calc")]


def test_f35_cluster_by_address() -> None:
    mine = endpoints.register("seen", "127.0.0.1:9", namespace="shared")
    port = spoke.nodes()[0]["NodeManagerPort"]
    code = (
        f"import spoke; r = spoke.ClusterResolver('127.0.0.1:{port}', namespace='shared');"
        "print(r.resolve('seen').first().actor_id, r.resolve('unseen').is_empty)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert out.stdout.split() == [mine, "True"]
    endpoints.unregister(mine)


def test_f35_outside_of_a_cluster_is_an_error() -> None:
    code = "import spoke; spoke.ClusterResolver()"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert "RuntimeError: no cluster" in out.stderr


# -- servers of plain objects ---------------------------------------------------------------------


class Calc:
    """Adds."""

    def __init__(self) -> None:
        self.total = 0

    def add(self, number: int) -> int:
        """Add to the total."""
        self.total += number
        return self.total

    def divide(self, one: int, by: int) -> float:
        return one / by

    def context(self, ctx: spoke.ActorContext, value: int) -> tuple[str, int]:
        return ctx.job_id, value

    def named(self, ctx) -> str:  # type: ignore[no-untyped-def]
        return type(ctx).__name__

    def plain(self, other: int) -> int:
        return other

    def nap(self, seconds: float) -> None:
        time.sleep(seconds)

    def odd(self) -> None:
        raise Odd(1, 2)

    def big(self, size: int) -> bytes:
        return b"x" * size

    def _hidden(self) -> None: ...


class Odd(Exception):
    def __init__(self, one: int, two: int) -> None:
        super().__init__("odd")


@pytest.fixture
def server() -> Any:
    with spoke.ActorServer() as server:
        yield server


def test_f28_an_undecorated_object_is_callable_by_name_in_the_cluster(server: Any) -> None:
    server.register("calc", Calc(), {"k": 1})
    assert endpoints.lookup("calc").metadata == {"k": 1}  # type: ignore[union-attr]
    with spoke.lookup("calc") as pool:
        assert [pool.call().add(2), pool.call().add(number=3)] == [2, 5]
        assert pool.submit().divide(1, 4).result(timeout=60) == 0.25
        assert [one.value for one in pool.broadcast().add(0).wait_all(60)] == [5]
        assert len(pool.call().big(3_000_000)) == 3_000_000
        server.unregister("calc")
        until(lambda: pool.size == 0)
    assert endpoints.lookup("calc") is None


def test_f29_errors_of_the_method_arrive_as_themselves(server: Any) -> None:
    server.register("calc", Calc())
    with spoke.lookup("calc") as pool:
        with pytest.raises(ZeroDivisionError) as caught:
            pool.call().divide(1, 0)
        assert "return one / by" in str(caught.value)
        with pytest.raises(AttributeError, match=r"no public method 'gone', but .*'add'"):
            pool.call().gone()
        with pytest.raises(RayTaskError, match="odd"):
            pool.call().odd()
        with pytest.raises(TypeError, match="lock"):
            pool.call().plain(threading.Lock())
        with pytest.raises(TypeError, match="pass its value"):
            pool.call().plain(spoke.put(1))


def test_f26_the_context_is_injected_only_where_it_is_asked_for(server: Any) -> None:
    server.register("calc", Calc())
    with spoke.lookup("calc") as pool:
        assert pool.call().context(5) == ("", 5)
        assert pool.call().named() == "ActorContext"
        assert pool.call().plain(7) == 7
    with pytest.raises(RuntimeError, match=r"spoke\.jobs\.submit"):
        spoke.ctx()


def test_f28_a_slow_method_holds_up_no_other_object_and_no_health_check(server: Any) -> None:
    server.register("slow", Calc())
    server.register("quick", Calc())
    with spoke.lookup("slow") as slow, spoke.lookup("quick") as quick:
        nap = slow.submit().nap(2.0)
        assert quick.call().add(1) == 1
        assert endpoints.describe(server.address)["running"] == 1
        assert not nap.done()


def test_f30_health_and_methods(server: Any) -> None:
    server.register("calc", Calc())
    told = endpoints.describe(server.address)
    assert told["healthy"] and told["uptime_s"] >= 0
    add = next(row for row in told["actors"]["calc"] if row["name"] == "add")
    assert add == {"name": "add", "signature": "(number: 'int') -> 'int'", "doc": "Add to the total."}
    assert "_hidden" not in [row["name"] for row in told["actors"]["calc"]]


def test_f28_bad_names_and_ports(server: Any) -> None:
    server.register("calc", Calc())
    for name in ("", "a/b", "calc"):
        with pytest.raises(ValueError, match=r"name|hosted"):
            server.register(name, Calc())
    with pytest.raises(OSError, match=r"\d|use"):
        spoke.ActorServer(port=server.port)


def test_without_a_cluster_and_with_a_fixed_address() -> None:
    """Another process, no cluster, a common token: FixedResolver finds the server."""
    code = """
import spoke
class Echo:
    def say(self, text): return text * 2
server = spoke.ActorServer(port=0)
server.register("echo", Echo())
print(server.address, flush=True)
server.serve_background()
input()
server.shutdown()
"""
    environment = {**os.environ, "SPOKE_TOKEN": "a token that both have"}
    child = subprocess.Popen(
        [sys.executable, "-c", code],
        env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert child.stdout is not None and child.stdin is not None
        address = child.stdout.readline().strip()
        resolver = spoke.FixedResolver({"echo": address})
        with spoke.lookup("echo", resolver=resolver, token="a token that both have") as pool:
            assert pool.call().say("ab") == "abab"
            other = spoke.lookup("echo", resolver=resolver, token="a token of another sort")
            with other, pytest.raises(AuthenticationError):
                other.call().say("x")
            child.kill()
            child.wait()
            with pytest.raises(ActorUnavailableError):
                for _ in range(2):  # the first may still find the old connection
                    pool.call().say("x")
    finally:
        child.kill()
        child.wait()
        child.stdin.close()
        child.stdout.close()


def test_f31_client_waits_for_the_name() -> None:
    with spoke.ActorServer() as server:
        timer = threading.Timer(0.5, lambda: server.register("late", Calc()))
        timer.start()
        with spoke.ActorClient(spoke.ClusterResolver(), "late") as client:
            assert client.add(4) == 4
            with pytest.raises(AttributeError):
                _ = client._x
        timer.join()
    with (
        spoke.ActorClient(spoke.ClusterResolver(), "never", timeout=0.2) as client,
        pytest.raises(TimeoutError, match="no endpoint 'never'"),
    ):
        client.add(1)


def test_f51_backoff() -> None:
    pauses = ExponentialBackoff(1.0, 6.0, 2.0, 0.0)
    assert [pauses.next() for _ in range(4)] == [1.0, 2.0, 4.0, 6.0]
    pauses.reset()
    assert pauses.next() == 1.0
    for low, high in ((0.0, 0.9), (0.999, 1.1)):
        pause = ExponentialBackoff(1.0, 1.0, 1.0, 0.1, lambda low=low: low).next()
        assert pause == pytest.approx(high, abs=0.01)
    for wrong in ((0, 1, 1, 0), (2, 1, 1, 0), (1, 1, 0.5, 0), (1, 1, 1, 1), (1, 1, 1, -0.1)):
        with pytest.raises(ValueError, match=r"initial|maximum|factor|jitter"):
            ExponentialBackoff(*wrong)
