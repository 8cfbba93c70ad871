"""Leases: workers lent to a caller, who then sends it tasks directly (HUB-1).

Rules of this module: a WANT is declarative and stands until it is replaced, so a lost or retired
worker is followed by another; only a worker that is given back healthy lowers the want, to what is
still leased, so that none is lent again to a caller that has no more work.  A lease whose worker is
still starting can be taken back silently; a granted one ends by GIVE_BACK, or by LEASE_LOST.
"""

from __future__ import annotations

from typing import Any, Final

from spoke import wire
from spoke.core.exits import Exit
from spoke.core.ledger import to_floats
from spoke.core.pool import Pool
from spoke.core.shape import Shape
from spoke.core.state import Client, Holding, Lease, State, Want, Worker
from spoke.limits import MAX_PENDING_LEASE_CLASSES

COUNT_MAX: Final = 100_000


class Leases:
    """All wants and leases."""

    def __init__(self, state: State, pool: Pool) -> None:
        self.s = state
        self.pool = pool

    def want(self, client: Client, class_id: int, spec: dict[str, Any], count: int) -> None:
        """Replace what a client wants for one class."""
        want = client.wants.get(class_id)
        if want is None:
            if count <= 0:
                return
            if len(client.wants) >= MAX_PENDING_LEASE_CLASSES:
                self._refuse(client, class_id, f"more than {MAX_PENDING_LEASE_CLASSES} classes of tasks")
                return
        if want is None or want.spec != spec:
            try:
                shape = Shape(spec)
            except ValueError as error:
                self._refuse(client, class_id, str(error))
                return
            if want is None:
                want = client.wants[class_id] = Want(client, class_id, spec, shape)
            else:
                if want.line is not None and want.shape.fit_key != shape.fit_key:
                    self.s.dequeue(want)
                want.spec = spec
                want.shape = shape
        want.count = max(0, min(count, COUNT_MAX))
        self._take_back(want)
        self.settle(want)

    def restore(self, client: Client, class_id: int, spec: dict[str, Any], count: int) -> Want | None:
        """A want of the hub's earlier life; its leases and its place in line follow."""
        try:
            want = Want(client, class_id, spec, Shape(spec))
        except ValueError as error:
            self._refuse(client, class_id, str(error))
            return None
        want.count = max(0, min(count, COUNT_MAX))
        client.wants[class_id] = want
        return want

    def _refuse(self, client: Client, class_id: int, reason: str, what: str = "class") -> None:
        self.s.send(client.peer, wire.PENDING_REASON, what, class_id, reason, True)

    def _take_back(self, want: Want) -> None:
        """End leases that nobody knows of yet, the newest first."""
        if want.count >= len(want.leases):
            return
        for lease in reversed(list(want.leases.values())):
            if want.count >= len(want.leases):
                break
            if not lease.granted:
                self._withdraw(lease)

    def _withdraw(self, lease: Lease) -> None:
        self.pool.cancel(lease.holding)
        self._forget(lease)
        self.s.release(lease.holding)

    def _forget(self, lease: Lease) -> None:
        del self.s.leases[lease.lease_id]
        del lease.want.leases[lease.lease_id]
        lease.want.client.leases.pop(lease.lease_id, None)
        lease.holding.user = None

    def settle(self, want: Want) -> None:
        """Stand in line exactly while leases are missing."""
        if want.count > len(want.leases):
            if want.line is None and want.client.wants.get(want.class_id) is want:
                self.s.enqueue(want, want.shape.fit_key)
        else:
            if want.line is not None:
                self.s.dequeue(want)
            if not want.count and not want.leases:
                want.client.wants.pop(want.class_id, None)

    def placed(self, want: Want, holding: Holding) -> Lease:
        """Resources were taken for one more lease of a want."""
        lease = Lease(self.s.serial(), want, holding)
        holding.user = lease
        want.leases[lease.lease_id] = self.s.leases[lease.lease_id] = lease
        return lease

    def bind(self, lease: Lease, worker: Worker) -> None:
        """The worker is there: tell the client."""
        lease.granted = True
        want, holding = lease.want, lease.holding
        want.client.leases[lease.lease_id] = lease
        info = {
            "node_id": holding.node.node_id,
            "gpu_ids": holding.node.topology.shown(holding.share.gpu_ids),
            "resources": to_floats(holding.share.amounts),
            "pid": worker.pid,
            "slot": holding.bundle.index if holding.bundle is not None else -1,
        }
        address = worker.address or []
        self.s.send(want.client.peer, wire.GRANT, want.class_id, lease.lease_id, address, info)

    def give_back(self, client: Client, lease_id: int, retire: bool) -> Holding | None:
        """A client has no more use for a worker.  Returns a holding that the worker serves next."""
        lease = client.leases.get(lease_id)
        if lease is None:
            self.s.log("debug", "stale lease given back", lease_id=lease_id)
            return None
        want, holding = lease.want, lease.holding
        self._forget(lease)
        worker = holding.worker
        following = None
        if worker is None or worker.state == "STOPPING":
            pass  # its exit returns the resources
        elif retire:
            self.pool.stop(worker, False, "its caller retired it")
        else:
            want.count = min(want.count, len(want.leases))
            self.s.release(holding)
            following = self.pool.free(worker)
        self.settle(want)
        return following

    def lost(self, lease: Lease, exit_: Exit) -> None:
        """The worker of a lease is gone (its holding was released)."""
        want = lease.want
        self._forget(lease)
        if lease.granted:
            self.s.send(want.client.peer, wire.LEASE_LOST, lease.lease_id, exit_.reason, exit_.kind)
        self.settle(want)

    def fail(self, want: Want, reason: str, what: str = "class") -> None:
        """Nothing can ever serve this want; `what`: "environment" if its runtime environment is why."""
        self.s.dequeue(want)
        want.count = 0
        self._take_back(want)
        self._refuse(want.client, want.class_id, reason, what)
        self.settle(want)

    def client_lost(self, client: Client) -> None:
        """Wants are dropped; workers may still run the dead caller's tasks, so they are stopped."""
        for want in list(client.wants.values()):
            want.count = 0
            self.s.dequeue(want)
            for lease in list(want.leases.values()):
                worker = lease.holding.worker
                if worker is None:
                    self._withdraw(lease)
                else:
                    self._forget(lease)
                    self.pool.stop(worker, True, "its caller died")
        client.wants.clear()

    def blocked(self, worker: Worker, blocked: bool) -> None:
        """A task on this worker sleeps in get (or woke up): its CPUs serve others meanwhile."""
        holding = worker.holding
        if holding is not None and isinstance(holding.user, Lease):
            self.s.block(holding, blocked)
