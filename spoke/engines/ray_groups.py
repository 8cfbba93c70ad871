"""Placement groups of a Ray cluster, in the form in which Spoke's hub offers them.

Rules of this module: a plain group is Ray's, nothing is kept of it but its bundles.  A gang is a group that
`ray_gang.RayGang` looks after: what it reserves, where its ranks are, what the loss of one means.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from spoke.engines.ray_errors import unsupported
from spoke.engines.ray_gang import RayGang
from spoke.errors import RaySystemError
from spoke.objectref import ObjectRef

if TYPE_CHECKING:
    from spoke.engines.ray_client import RayClient

NODE_LABEL: Final = "ray.io/node-id"
_FOREVER_S: Final = 3600.0


class RayGroups:
    """See `spoke.engines.Groups`."""

    def __init__(self, client: RayClient) -> None:
        self._client = client
        self.group_states: dict[bytes, tuple[str, dict[str, Any]]] = {}
        self._groups: dict[bytes, Any] = {}  # Ray's groups that this process has met
        self._gangs: dict[bytes, RayGang] = {}
        self._watchers: dict[bytes, list[Any]] = {}

    # -- reserving

    def create_group(self, spec: dict[str, Any], named: bool) -> bytes:
        """See `spoke.engines.Groups`."""
        self._client.check_open()
        gang = RayGang(self._client, self, spec) if "gang" in spec else None
        bundles = gang.bundles if gang is not None else spec["bundles"]
        selectors = spec.get("selectors")
        given: dict[str, Any] = {"lifetime": "detached" if spec["detached"] else None, "name": spec["name"]}
        if selectors:
            given["bundle_label_selector"] = selectors[: len(bundles)]
        if spec["strategy"] == "STRICT_PACK" and spec["target_node"]:
            given["_soft_target_node_id"] = spec["target_node"].hex()
        if spec["same"]:
            given["topology_strategy"] = {NODE_LABEL: spec["strategy"], spec["same"]: "STRICT_PACK"}
        else:
            given["strategy"] = spec["strategy"]
        with self._client.translating():
            real = self._client.ray.util.placement_group([dict(one) for one in bundles], **given)
        group_id: bytes = real.id.binary()
        self._groups[group_id] = real
        if gang is not None:
            self._gangs[group_id] = gang
            self.group_states[group_id] = ("PENDING", {})
            gang.begin(group_id, real)
        return group_id

    def _real(self, group_id: bytes) -> Any:
        """Ray's group of this id."""
        found = self._groups.get(group_id)
        if found is None:
            from ray import PlacementGroupID
            from ray.util.placement_group import PlacementGroup

            found = self._groups[group_id] = PlacementGroup(PlacementGroupID(group_id))
        return found

    def bundle(self, group_id: bytes, index: int) -> tuple[Any, int]:
        """Ray's group, and its bundle for a bundle, or a rank, of ours."""
        gang = self._gangs.get(group_id)
        return self._real(group_id), index if gang is None or index < 0 else gang.bundle_of[index]

    def wait_group(self, group_id: bytes, timeout: float | None) -> bool:
        """See `spoke.engines.Groups`."""
        gang = self._gangs.get(group_id)
        if gang is not None:
            return gang.wait(timeout)
        real = self._real(group_id)
        while True:
            with self._client.translating():
                placed = bool(real.wait(_FOREVER_S if timeout is None else timeout))
            if placed or timeout is not None or self.describe(group_id)["state"] == "REMOVED":
                return placed

    def group_ready(self, group_id: bytes, value: Any) -> ObjectRef[Any]:
        """See `spoke.engines.Groups`."""
        client, real = self._client, self._real(group_id)
        with client.translating():
            if not client.connected:
                raise unsupported("ready() of a group through ray://", "use its wait()")
            from ray._private.worker import global_worker

            told = global_worker.get_serialization_context().serialize(value)
            return client.objects.ref(
                global_worker.core_worker.async_wait_placement_group_ready(real.id, told)
            )

    def remove_group(self, group_id: bytes) -> None:
        """See `spoke.engines.Groups`."""
        gang = self._gangs.get(group_id)
        if gang is not None:
            gang.remove("")
            return
        with self._client.translating():
            self._client.ray.util.remove_placement_group(self._real(group_id))

    # -- news of gangs

    def on_group(self, group_id: bytes, callback: Any) -> None:
        """See `spoke.engines.Groups`."""
        self._watchers.setdefault(group_id, []).append(callback)

    def tell(self, group_id: bytes, state: str, info: dict[str, Any]) -> None:
        """A gang is in another state."""
        with self._client.lock:
            self.group_states[group_id] = (state, info)
            for callback in self._watchers.pop(group_id, ()):
                callback.resolved(None)

    def launched(self, rank: dict[str, Any], handle: Any) -> None:
        """An actor is a rank of a gang; `rank` is the strategy that put it there."""
        gang = self._gangs.get(rank["group_id"])
        if gang is None:
            raise RaySystemError(f"gang {rank['group_id'].hex()} is not of this process")
        gang.launched(rank["rank"], rank["incarnation"], handle)

    def variables(self, group_id: bytes, rank: int) -> dict[str, str]:
        """What a rank's process is started with beside its place."""
        return self._gangs[group_id].variables(rank)

    def own_gpus(self) -> list[Any]:
        """The GPUs of this worker: a rank's are those of its slot, whatever Ray calls them."""
        from spoke.engines.ray_probe import gang_gpus

        found = gang_gpus()
        return list(self._client.ray.get_gpu_ids()) if found is None else found

    def close(self) -> None:
        """This process leaves: its gangs end, unless they are detached."""
        for gang in list(self._gangs.values()):
            gang.close()

    # -- descriptions

    def knows(self, group_id: bytes) -> bool:
        """Is it a group that this process has met?"""
        return group_id in self._groups

    def describe(self, id: bytes | None = None, name: str = "", namespace: str = "") -> dict[str, Any]:
        """One group, by id or by name; ValueError if there is none."""
        util = self._client.ray.util
        if id is None:
            id = bytes(util.get_placement_group(name).id.binary())
        row = util.placement_group_table(self._real(id))
        if not row:
            raise ValueError(f"there is no placement group {id.hex()}")
        return self._row(id, row)

    def describe_all(self) -> list[dict[str, Any]]:
        """All groups of the cluster."""
        rows = self._client.ray.util.placement_group_table()
        return [self._row(bytes.fromhex(key), row) for key, row in rows.items()]

    def _row(self, group_id: bytes, row: dict[str, Any]) -> dict[str, Any]:
        gang = self._gangs.get(group_id)
        nodes = [bytes.fromhex(row["bundles_to_node_id"].get(index) or "") for index in row["bundles"]]
        return {
            "group_id": group_id,
            "name": row["name"],
            "bundles": [row["bundles"][index] for index in sorted(row["bundles"])],
            "nodes": nodes if gang is None else gang.held(),
            "strategy": row["strategy"],
            "state": row["state"],
            "stats": dict(row["stats"]),
            "reason": row["stats"].get("scheduling_state", ""),
        }

    def topology(self, id: bytes) -> dict[str, Any]:
        """See `Gang.topology`."""
        gang = self._gangs.get(id)
        if gang is None:
            raise ValueError(f"there is no gang {id.hex()} of this process")
        return gang.topology()

    def fits_somewhere(self, wanted: dict[str, float]) -> bool:
        """Is there a living node with so many resources, taken or not?"""
        return any(
            node["Alive"] and all(node["Resources"].get(name, 0) >= amount for name, amount in wanted.items())
            for node in self._client.ray.nodes()
        )

    def why(self, group_id: bytes) -> str:
        """What a group waits for."""
        row = self.describe(group_id)
        if row["state"] in ("CREATED", "REMOVED"):
            return f"the group is {row['state']}"
        for bundle in row["bundles"]:
            if not self.fits_somewhere(bundle):
                return f"it can never be placed on the Ray cluster as it is: no node has {bundle}"
        free = self._client.ray.available_resources()
        shown = {name: free.get(name, 0.0) for bundle in row["bundles"] for name in bundle}
        return f"the Ray cluster has not placed {row['bundles']} ({row['strategy']}); it has free {shown}"
