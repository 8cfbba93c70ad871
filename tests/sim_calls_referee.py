"""What is true in a simulated cluster, kept beside the code under test and independent of it.

The referee counts the ObjectRefs that user code really holds in each process, remembers every call
and every execution, and complains the moment the engine contradicts them.  An object is *tainted*
when a process that knew it died, or lost a link to a living process: then it may be lost, by name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from spoke.core import lineage
from spoke.core.calls import Call
from spoke.core.refs import PENDING, Entry

if TYPE_CHECKING:
    from spoke.execution import Job
    from tests.sim_calls import Proc

LIFE_SUFFIX = b"\xff" * 12


class Submitted:
    """One call as its caller made it."""

    __slots__ = ("actor_id", "caller", "incarnations", "may_repeat", "retries", "sequence", "starts")

    def __init__(
        self, caller: bytes, actor_id: bytes | None, sequence: int, retries: int, may_repeat: bool
    ) -> None:
        self.caller = caller
        self.actor_id = actor_id
        self.sequence = sequence
        self.retries = retries
        self.may_repeat = may_repeat  # the user's exceptions are retried, which breaks the order
        self.starts = 0
        self.incarnations: list[int] = []  # of the actor, in which it started


class Referee:
    """CALL-1, CALL-2, REF-1 as they happen; leaks when asked (`quiet`)."""

    def __init__(self) -> None:
        self.held: dict[tuple[bytes, bytes], int] = {}  # (process, object): ObjectRefs of user code
        self.tainted: dict[bytes, Any] = {}  # with what the object contained then
        self.calls: dict[bytes, Submitted] = {}
        self.freed: dict[bytes, float] = {}
        self.failed: dict[bytes, bool] = {}  # calls that resolved to an error
        self._last_start: dict[tuple[bytes, bytes, int], int] = {}
        self._sequence = 0
        self.made_again = 0  # calls that ran for results that were lost
        self._puts: dict[bytes, int] = {}
        self.procs: dict[bytes, Proc] = {}
        self.failures: list[str] = []  # also those seen where nothing can be raised, as in __del__

    # -- refs of user code

    def made(self, process_id: bytes, object_id: bytes) -> None:
        key = (process_id, object_id)
        self.held[key] = self.held.get(key, 0) + 1

    def dropped(self, process_id: bytes, object_id: bytes) -> None:
        key = (process_id, object_id)
        self.held[key] -= 1
        if not self.held[key]:
            del self.held[key]

    def count(self, process_id: bytes, object_id: bytes) -> int:
        return self.held.get((process_id, object_id), 0)

    def died(self, proc: Proc) -> None:
        self._taint(proc)
        for key in [key for key in self.held if key[0] == proc.id]:
            del self.held[key]

    def cut(self, one: Proc, other: Proc) -> None:
        self._taint(one)
        self._taint(other)

    def _taint(self, proc: Proc) -> None:
        """What this process knows may be lost now, and so may what lies inside of it."""
        doubtful = list(proc.client.refs.entries.values())
        while doubtful:
            entry = doubtful.pop()
            if entry.contains is None and entry.owner is not None:
                owner = self.procs.get(entry.owner[0])
                entry = owner.client.refs.entries.get(entry.id, entry) if owner is not None else entry
            if self.tainted.get(entry.id, self) is not entry.contains:
                self.tainted[entry.id] = entry.contains
                doubtful.extend(entry.contains or ())

    # -- watching one client

    def watch(self, proc: Proc) -> None:
        """Look over the shoulder of a process's engine."""
        self.procs[proc.id] = proc
        client = proc.client
        free, borrow, resolve = client._free, client.refs.on_borrow, client.refs.resolve
        submit, peer_lost = client.submitter._submit, client._peer_lost

        def watched_free(entry: Entry) -> None:
            self._freeing(proc, entry.id)
            free(entry)

        def watched_borrow(peer: bytes, object_ids: list[bytes]) -> None:
            for object_id in object_ids:
                known = client.refs.entries.get(object_id)
                if known is None or known.owner is not None:
                    doubtful = object_id in self.tainted or self._known_to_doomed(object_id)
                    assert doubtful or self._of_call_made_again(object_id), (
                        f"REF-1: {object_id.hex()} was freed at {self.freed.get(object_id)} on its way"
                    )
            borrow(peer, object_ids)

        def watched_resolve(entry: Entry, status: int, value: Any, contains: Any = None) -> None:
            assert entry.owner is not None or entry.status == PENDING, f"CALL-1: {entry} resolved twice"
            if entry.owner is None and status > 0:
                self.failed[entry.id] = True
            resolve(entry, status, value, contains)

        def watched_submit(call: Call, packed: Any) -> Any:
            self._submitted(proc, call)
            result = submit(call, packed)
            for ref in result if isinstance(result, list) else [result]:
                proc.world.note(ref, 0)
            return result

        def watched_peer_lost(peer: bytes) -> None:
            other = self.procs.get(peer)
            if other is not None and other.alive:  # its node was cut off and declared dead
                self.cut(proc, other)
            peer_lost(peer)

        client._peer_lost = watched_peer_lost  # type: ignore[method-assign]
        client._free = watched_free  # type: ignore[method-assign]
        client.refs.on_borrow = watched_borrow  # type: ignore[method-assign]
        client.refs.resolve = watched_resolve  # type: ignore[method-assign]
        client.submitter._submit = watched_submit  # type: ignore[method-assign]

    def unpickled(self, proc: Proc, object_id: bytes, owner: bytes) -> None:
        """A ref arrives in user code."""
        if owner == proc.id and object_id not in proc.client.refs.entries:
            known = object_id in self.tainted or self._of_call_made_again(object_id)
            assert known, f"REF-1: own {object_id.hex()} was freed while it travelled"

    def _freeing(self, owner: Proc, object_id: bytes) -> None:
        self.freed[object_id] = owner.world.now
        if object_id in self.tainted:
            return
        for process_id, proc in self.procs.items():
            if proc.alive and self.held.get((process_id, object_id)) and not self._doomed(process_id):
                self.failures.append(f"REF-1: {object_id.hex()} is freed while {proc} holds a ref")

    def _known_to_doomed(self, object_id: bytes) -> bool:
        """Whether a process that is about to be killed knows the object, and may have passed it on."""
        return any(
            self._doomed(process_id)
            for process_id, proc in self.procs.items()
            if object_id in proc.client.refs.entries
        )

    def _of_call_made_again(self, object_id: bytes) -> bool:
        """Whether it may be a handle in the arguments of a call that ran once more, after its actor's end."""
        return object_id.endswith(LIFE_SUFFIX) and self.made_again > 0

    def _doomed(self, process_id: bytes) -> bool:
        """The hub has ended the actor of this process: it is about to be killed."""
        proc = self.procs[process_id]
        host = proc.executor.actor if proc.executor is not None else None
        return host is not None and host.actor_id not in proc.world.hub.core.state.actors

    # -- calls

    def put(self, object_id: bytes) -> None:
        self._sequence += 1
        self._puts[object_id[:24]] = self._sequence

    def age(self, object_id: bytes) -> int:
        """A number that grows with the time at which the call or put was made."""
        call = self.calls.get(object_id[:24])
        return call.sequence if call is not None else self._puts.get(object_id[:24], self._sequence + 1)

    def _submitted(self, proc: Proc, call: Call) -> None:
        self._sequence += 1
        actor_id = call.key if isinstance(call.key, bytes) else None
        self.calls[call.id] = Submitted(
            proc.id, actor_id, self._sequence, call.retries_left, call.retry_on is not None
        )

    def started(self, proc: Proc, job: Job, incarnation: int) -> None:
        """User code of a call begins to run."""
        call = self.calls[job.call_id]
        call.starts += 1
        again = job.call_id in self.procs[call.caller].client.calls.recomputing
        self.made_again += again
        if call.retries >= 0:
            assert call.starts <= call.retries + 1, (
                f"CALL-1: a call with {call.retries} retries ran {call.starts} times"
            )
        if call.actor_id is not None and not call.may_repeat and not again:
            key = (call.caller, call.actor_id, incarnation)
            if incarnation in call.incarnations:
                return  # again, after a broken link: its order was kept the first time
            call.incarnations.append(incarnation)
            assert call.sequence > self._last_start.get(key, 0), "CALL-2: calls started out of order"
            self._last_start[key] = call.sequence

    def not_made_again(self, text: str) -> None:
        """The reason that is given for a lost object must be true."""
        object_id = bytes.fromhex(text.split()[2])
        call = self.calls[object_id[:24]]
        if lineage.NO_RETRIES in text or lineage.NO_TASK_RETRIES in text:
            assert call.retries == 0, text
        elif lineage.USED_UP in text:
            assert call.retries > 0, text
        else:  # an argument was lost, or a generator that yields less each time
            assert lineage.FAILED in text or lineage.FEWER in text, text

    def stopped_idle(self, proc: Proc) -> None:
        """The hub thinks that nobody needs this process."""
        worker = proc.world.hub.core.state.workers.get(proc.id)
        if worker is not None and worker.why == "it was idle" and proc.client.replies.obligations():
            self.failures.append(f"REF-1: {proc} is stopped though others need what it owns")

    # -- the end

    def quiet(self, proc: Proc) -> None:
        """Nothing may be left in a process where no user code runs and no ref is held."""
        client, name = proc.client, str(proc)
        left = [key for key in self.held if key[0] == proc.id]
        assert not left, f"{name}: the simulation itself forgot to drop {left}"
        calls = list(client.calls.calls.values())
        assert not calls, f"CALL-3: {name} has unresolved calls {calls}"
        assert not client.refs.entries, f"REF-1: {name} leaks {self._tell(client.refs.entries)}"
        assert not client.refs.borrowed_from, f"REF-2: {name} borrows {client.refs.borrowed_from}"
        assert not any(client.refs.lent_to.values()), f"REF-2: {name} lends {client.refs.lent_to}"
        assert not client.replies._handed, f"REF-1: {name} keeps refs of replies {client.replies._handed}"
        assert not client.replies._retained, f"REF-1: {name} keeps arguments {client.replies._retained}"
        assert not client.submitter._creations, f"REF-1: {name} keeps constructor arguments"
        assert not client.lineage.records, f"REF-1: {name} keeps calls {client.lineage.records}"
        assert not client.calls.recomputing, f"CALL-1: {name} waits for {client.calls.recomputing}"
        assert not client.values._leases, f"REF-1: {name} counts views that are gone"
        stats = client.store.stats()
        assert not stats["blocks"], f"REF-1: {name} leaks {stats['blocks']} blocks"
        blocks = {str(self.procs.get(peer)): held for peer, held in client.store._peers.items() if held}
        assert not blocks, f"REF-2: {name} has lent blocks to {blocks}"
        for channel in client.calls.actors.channels.values():
            assert not channel.queue and not channel.inflight
        for lease in client.calls.tasks.leases.values():
            assert not lease.inflight

    def _tell(self, entries: dict[bytes, Entry]) -> str:
        """Entries as a person who looks for a leak wants to see them."""
        lines = []
        for entry in list(entries.values())[:12]:
            owner = "own" if entry.owner is None else f"of {self.procs.get(entry.owner[0])}"
            inside = [inner.id.hex() for inner in entry.contains or ()]
            lent = [str(self.procs.get(peer)) for peer in entry.borrowers or ()]
            lines.append(
                f"\n  {entry.id.hex()} {owner} local={entry.local} status={entry.status} "
                f"unconfirmed={entry.unconfirmed} lent to {lent} contains {inside} call={entry.call}"
            )
        return "".join(lines)
