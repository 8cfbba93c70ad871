"""What user code does in the simulation: random acts on a bag of refs, handles and large values.

A task gets its arguments as its bag, an actor has one for life, a driver has one, and every process
has globals where tasks leave things for later ones.  Each value names the call or put it comes from,
so that a wrong one is seen, and each large value its bytes, so that a block reused too early is.
"""

from __future__ import annotations

import pickle
import random
from collections.abc import Generator
from typing import TYPE_CHECKING, Any

from spoke import wire
from spoke.core.refs import PENDING
from spoke.errors import RayError, RayTaskError
from spoke.objectref import ObjectRef

if TYPE_CHECKING:
    from spoke.execution import Job
    from tests.sim_calls import Proc

Program = Generator[tuple[Any, ...], Any, Any]
CLASSES = ({"resources": {"CPU": 1.0}}, {"resources": {"CPU": 2.0}}, {"resources": {"CPU": 0.5}})
ACTOR_SUFFIX = b"\xff" * 12
STREAMING = -1
LOST = ("ObjectFreedError", "OwnerDiedError", "ObjectLostError", "ObjectReconstructionFailedError")


class UserError(Exception):
    """Raised by user code."""


class Blob:
    """A large value: its bytes travel in shared memory and say what they are."""

    def __init__(self, data: Any, mark: bytes) -> None:
        self.data = data
        self.mark = mark

    @classmethod
    def make(cls, rng: random.Random) -> Blob:
        mark = rng.randbytes(4)
        return cls(mark * rng.choice([1500, 3000]), mark)

    def __reduce_ex__(self, protocol: Any) -> Any:
        self.check()
        return Blob, (pickle.PickleBuffer(self.data), self.mark)

    def check(self) -> None:
        data = bytes(memoryview(self.data))
        assert data == self.mark * (len(data) // 4), "MEM-2: a block changed under a reader's eyes"


class Handle:
    """A handle of an actor: its life is counted like an object."""

    def __init__(self, life: ObjectRef[Any]) -> None:
        self.life = life

    @property
    def actor_id(self) -> bytes:
        return self.life.binary()[:16]


class SimActor:
    """An actor's instance: a bag."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.bag = _flatten([*args, *kwargs.values()])


class Settings:
    """How wild a world is."""

    def __init__(self, rng: random.Random, calm: bool) -> None:
        self.calm = calm  # nothing dies and nothing is cancelled: every call must succeed
        self.errors = rng.choice([0.0, 0.1])
        self.exits = 0.0 if calm else rng.choice([0.0, 0.01])
        self.losses = 0.0 if calm else rng.choice([0.0, 0.3])
        self.cancels = 0.0 if calm else rng.choice([0.0, 1.0])
        self.blobs = rng.choice([0.0, 0.3])
        self.depth = rng.choice([1, 2, 3])
        self.acts = rng.choice([2, 4, 6])
        self.pace = rng.choice([10.0, 30.0, 100.0])  # acts of a driver per second

    def only_lose_nodes(self) -> Settings:
        """Nothing else goes wrong, and many results are large."""
        self.errors = self.exits = self.cancels = 0.0
        self.blobs = self.losses = 0.5
        return self


class Programs:
    """Makes the user code of one world."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.finishing = False
        self.outcomes: dict[str, int] = {}
        self.tokens: dict[bytes, Any] = {}  # what the value of an object must say
        self.actors: dict[bytes, bool] = {}
        self.cancelled: dict[bytes, bool] = {}

    # -- the bodies

    def body(self, proc: Proc, job: Job, args: Any, kwargs: Any) -> Program:
        """The code of a task or method."""
        assert proc.executor is not None
        host = proc.executor.actor
        instance = host.instance if host is not None else None
        return self._called(proc, job, instance, list(args), dict(kwargs))

    def _called(
        self, proc: Proc, job: Job, instance: Any, args: list[Any], kwargs: dict[str, Any]
    ) -> Program:
        rng, settings = proc.world.rng, self.settings
        depth, expected = args[0], args[1]
        tops = [*args[3:], *kwargs.values()]
        for top, token in zip(tops, expected, strict=True):
            self._check(top, token)
        mine = _flatten([args[2], *tops])
        args.clear()
        kwargs.clear()
        tops.clear()
        bag = mine if instance is None else instance.bag
        if instance is not None:
            bag.extend(mine)
        del mine
        yield "sleep", rng.choice([0.0, 0.0, 0.001, 0.02])
        for _ in range(rng.randrange(settings.acts) if depth < settings.depth else 0):
            yield from self.act(proc, bag, depth + 1)
        if rng.random() < settings.exits:
            proc.crash()
            yield ("sleep", 1e9)
        if rng.random() < 0.2 and bag:
            proc.bag.append(rng.choice(bag))
        if proc.bag and (rng.random() < 0.3 or self.finishing):
            del proc.bag[rng.randrange(len(proc.bag))]
        if rng.random() < settings.errors:
            raise UserError("as planned")
        num_returns = self._num_returns(job)
        if num_returns == STREAMING:
            count = rng.randrange(4)
            for index in range(1, count + 1):
                yield "item", index, self._value(proc, bag, (job.call_id, index))
                yield "sleep", rng.choice([0.0, 0.001, 0.01])
            return count
        if num_returns == 1:
            return self._value(proc, bag, (job.call_id, 0))
        return [self._value(proc, bag, (job.call_id, index)) for index in range(num_returns)]

    @staticmethod
    def _num_returns(job: Job) -> int:
        return int(job.message[5] if job.message[0] == wire.CALL else job.message[4])

    def driver(self, proc: Proc) -> Program:
        """A driver's main program: acts until told to finish."""
        rng, bag = proc.world.rng, proc.bag
        while not self.finishing:
            yield from self.act(proc, bag, 0)
            yield "sleep", rng.expovariate(self.settings.pace)
        bag.clear()

    # -- values

    def _value(self, proc: Proc, bag: list[Any], token: Any) -> dict[str, Any]:
        """A value holds older objects only: a cycle of objects is never freed, by design."""
        rng, age = proc.world.rng, proc.world.referee.age
        items = []
        for item in bag:
            older = not isinstance(item, ObjectRef) or age(item.binary()) < age(token[0])
            if rng.random() < 0.3 and _travels(item) and older:
                items.append(item)
        del items[4:]
        if rng.random() < self.settings.blobs:
            items.append(Blob.make(rng))
        return {"token": token, "items": items}

    def _check(self, value: Any, token: Any) -> None:
        assert isinstance(value, dict) and tuple(value["token"]) == tuple(token), f"{value} is not {token}"
        for item in value["items"]:
            if isinstance(item, Blob):
                item.check()

    # -- acts

    def act(self, proc: Proc, bag: list[Any], depth: int) -> Program:
        rng = proc.world.rng
        for item in bag:
            if isinstance(item, Blob):
                item.check()
        kind = rng.random()
        if kind < 0.1:
            self._put(proc, bag)
        elif kind < 0.3:
            self._task(proc, bag, depth)
        elif kind < 0.5:
            self._method(proc, bag, depth)
        elif kind < 0.56:
            self._create(proc, bag, depth)
        elif kind < 0.72:
            yield from self._get(proc, bag)
        elif kind < 0.75:
            self._take_items(proc, bag)
        elif kind < 0.9:
            self._drop(proc, bag)
        elif kind < 0.93:
            self._cancel(proc, bag)
        elif kind < 0.94:
            self._kill(proc, bag)
        else:
            yield "sleep", rng.choice([0.0, 0.005, 0.1])

    def _refs(self, bag: list[Any]) -> list[Any]:
        return [item for item in bag if isinstance(item, ObjectRef)]

    def _put(self, proc: Proc, bag: list[Any]) -> None:
        rng = proc.world.rng
        token = (rng.randbytes(24), 0)
        value = self._value(proc, bag, token)
        ref = proc.client.put(value)
        proc.world.note(ref, 0)
        proc.world.referee.put(ref.binary())
        self.tokens[ref.binary()] = token
        bag.append(ref)

    def _arguments(self, proc: Proc, bag: list[Any], depth: int) -> tuple[list[Any], dict[str, Any]]:
        rng = proc.world.rng
        tops = [ref for ref in self._refs(bag) if rng.random() < 0.2 and ref.binary() in self.tokens][:3]
        nested = [item for item in bag if rng.random() < 0.2 and _travels(item)][:4]
        if rng.random() < self.settings.blobs:
            nested.append(Blob.make(rng))
        expected = [self.tokens[ref.binary()] for ref in tops]
        kwargs = {"last": tops.pop()} if tops and rng.random() < 0.2 else {}
        return [depth, expected, nested, *tops], kwargs

    def _retry_on(self, rng: random.Random) -> Any:
        return (lambda error: isinstance(error, UserError)) if rng.random() < 0.3 else None

    def _returned(self, bag: list[Any], result: Any, num_returns: int) -> None:
        if num_returns == 1:
            self.tokens[result.binary()] = (result.binary()[:24], 0)
            bag.append(result)
        elif num_returns > 1:
            for index, ref in enumerate(result):
                self.tokens[ref.binary()] = (ref.binary()[:24], index)
            bag.extend(result)
        elif result is not None:
            bag.append(result)

    def _task(self, proc: Proc, bag: list[Any], depth: int) -> None:
        rng = proc.world.rng
        for _ in range(rng.choice([1, 1, 1, 4])):
            args, kwargs = self._arguments(proc, bag, depth)
            kind = rng.choice([0, 0, 0, 1, 2])
            num_returns = rng.choice([1, 1, 1, 1, 2, 0, STREAMING])
            retries = rng.choice([0, 0, 1, 3, -1])
            result = proc.client.submitter.submit_task(
                b"f" * 16, kind, dict(CLASSES[kind]), tuple(args), kwargs, num_returns, "task", retries,
                self._retry_on(rng) if num_returns >= 0 else None,
            )  # fmt: skip
            self._returned(bag, result, num_returns)
            del args, kwargs, result

    def _method(self, proc: Proc, bag: list[Any], depth: int) -> None:
        rng = proc.world.rng
        handles = [item for item in bag if isinstance(item, Handle)]
        if not handles:
            return
        for _ in range(rng.choice([1, 1, 4])):
            handle = rng.choice(handles)
            args, kwargs = self._arguments(proc, bag, depth)
            num_returns = rng.choice([1, 1, 1, 1, 2, 0, STREAMING])
            result = proc.client.submitter.call_actor(
                handle.actor_id, handle.life._entry, "method", tuple(args), kwargs, num_returns,
                rng.choice([0, 0, 1, -1]), self._retry_on(rng) if num_returns >= 0 else None,
            )  # fmt: skip
            self._returned(bag, result, num_returns)
            del args, kwargs, result

    def _create(self, proc: Proc, bag: list[Any], depth: int) -> None:
        rng = proc.world.rng
        args, kwargs = self._arguments(proc, bag, depth)
        actor_id = rng.randbytes(12) + b"jobi"
        spec = {
            "resources": {},
            "max_restarts": rng.choice([0, 0, 1, -1]),
            "class_name": "SimActor",
            "owner": proc.client.address,
            "side_by_side": rng.choice([1, 1, 3]),
        }
        self.actors[actor_id] = True
        blob = pickle.dumps(SimActor)
        entry = proc.client.submitter.create_actor(actor_id, spec, blob, tuple(args), kwargs)
        bag.append(Handle(ObjectRef(entry)))

    def _get(self, proc: Proc, bag: list[Any]) -> Program:
        rng = proc.world.rng
        refs = self._refs(bag)
        if not refs:
            return
        chosen = rng.sample(refs, min(len(refs), rng.choice([1, 1, 3])))
        del refs
        wanted = rng.randrange(1, len(chosen) + 1)
        results = yield "wait", list(chosen), wanted, rng.choice([0.0, 0.05, 1.0])
        for ref, (kind, value) in zip(chosen, results, strict=True):
            if kind == "value":
                token = self.tokens.get(ref.binary())
                if token is not None:
                    self._check(value, token)
                    bag.extend(_flatten([value]))
                self._count("value")
            elif kind == "error":
                self.failed(proc, ref.binary(), value)
        del results, value, chosen, ref

    def failed(self, proc: Proc, object_id: bytes, error: BaseException) -> None:
        """An error is fine where a fault explains it."""
        while isinstance(error, RayTaskError) and isinstance(error.cause, RayError):
            error = error.cause  # that of an argument, which failed this call
        name = "UserError" if isinstance(error, UserError) else type(error).__name__
        self._count(name)
        # An actor ends with its last handle, or its owner; children of an abandoned generator are cancelled.
        if name in ("UserError", "ActorDiedError", "TaskCancelledError"):
            return
        if name in LOST:
            referee = proc.world.referee
            if name == "ObjectReconstructionFailedError":
                referee.not_made_again(str(error))
            known = object_id in referee.tainted or object_id in referee.failed  # an argument was lost
            assert known or "gone" in str(error), f"REF-1: {name} without a reason: {error}"
        elif self.settings.calm:
            raise AssertionError(f"{proc} got {name}: {error}")

    def _count(self, what: str) -> None:
        self.outcomes[what] = self.outcomes.get(what, 0) + 1

    def _take_items(self, proc: Proc, bag: list[Any]) -> None:
        """Take what streams have yielded."""
        for item in list(bag):
            if hasattr(item, "next_ready"):
                while item._stream.items:
                    ref = item._take()
                    object_id = ref.binary()
                    self.tokens[object_id] = (object_id[:24], int.from_bytes(object_id[24:], "little"))
                    bag.append(ref)

    def _drop(self, proc: Proc, bag: list[Any]) -> None:
        rng = proc.world.rng
        for _ in range(rng.choice([1, 3, len(bag)])):
            if bag:
                del bag[rng.randrange(len(bag))]

    def _cancel(self, proc: Proc, bag: list[Any]) -> None:
        rng = proc.world.rng
        pending = [ref for ref in self._refs(bag) if ref._entry.status == PENDING]
        if self.settings.cancels and pending:
            ref = rng.choice(pending)
            call = ref._entry.call
            force = rng.random() < 0.3 and isinstance(getattr(call, "key", b""), int)
            proc.client.cancel(ref, force, rng.random() < 0.5)

    def _kill(self, proc: Proc, bag: list[Any]) -> None:
        handles = [item for item in bag if isinstance(item, Handle)]
        if handles and not self.settings.calm:
            proc.client.kill(proc.world.rng.choice(handles).actor_id, proc.world.rng.random() < 0.5)


def _travels(item: Any) -> bool:
    return isinstance(item, (ObjectRef, Handle, Blob))


def _flatten(values: list[Any]) -> list[Any]:
    """The refs, handles and blobs inside values."""
    found: list[Any] = []
    for value in values:
        if isinstance(value, (list, tuple)):
            found.extend(_flatten(list(value)))
        elif isinstance(value, dict):
            found.extend(_flatten(value.get("items", [])))
        elif isinstance(value, (ObjectRef, Handle, Blob)):
            found.append(value)
    return found
