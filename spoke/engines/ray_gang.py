"""A gang on a Ray cluster: a placement group whose slots are looked at before anything is launched.

Rules of this module: slots come from Ray's bundles, one per rank, or one per node that all its ranks share
where ranks must stand on different nodes by a fixed number.  Nodes, devices and ports are asked for within
the bundles (`ray_probe`).  One thread watches ranks and applies the policy; Ray restarts single members.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Any, Final

from spoke.engines import ray_probe
from spoke.engines.ray_errors import unsupported
from spoke.errors import ActorPlacementGroupRemoved

if TYPE_CHECKING:
    from spoke.engines.ray_client import RayClient
    from spoke.engines.ray_groups import RayGroups

WATCH_S: Final = 0.1
AFAR_S: Final = 1.0  # through ray://, where each look is a task
LOOK_S: Final = 0.5
PROBE_S: Final = 60.0


class RayGang:
    """Looks after one gang; see `spoke.gang.Gang` for what its users see."""

    def __init__(self, client: RayClient, groups: RayGroups, spec: dict[str, Any]) -> None:
        self._client, self._groups = client, groups
        self._policy = spec["gang"]
        self._wish = {name: spec[name] for name in ("same", "prefer")}
        self._target: bytes | None = spec["target_node"]
        self._detached = bool(spec["detached"])
        _refuse(spec)
        if spec["same"] == "node":
            spec["same"], spec["strategy"] = "", "STRICT_PACK"
        ranks, per_node = spec["bundles"], spec["per_node"]
        self.size = len(ranks)
        self.bundles = [
            {name: amount * per_node for name, amount in bundle.items()} for bundle in ranks[::per_node]
        ]
        self.bundle_of = [rank // per_node for rank in range(self.size)]
        self._gpus = ranks[0].get("GPU", 0.0)
        self._state = "PENDING"
        self._info: dict[str, Any] = {"incarnation": 0}
        self._placed: list[tuple[str, str, list[int]]] = []  # per bundle: node, host, GPUs
        self._holders: list[Any] = []  # per bundle
        self._ranks: dict[int, Any] = {}  # Ray's handles of the present incarnation
        self._ended: list[Any] = []  # and of those that were killed
        self._restarts: deque[float] = deque()
        self._known_restarts: dict[int, int] = {}
        self._lock = threading.RLock()
        self._news = threading.Condition(self._lock)
        self._thread = threading.Thread(target=self._watch, name="spoke-ray-gang", daemon=True)
        self.group_id = b""
        self._real: Any = None

    def begin(self, group_id: bytes, real: Any) -> None:
        """The group was asked for: wait for it, ask its nodes, watch its ranks."""
        self.group_id, self._real = group_id, real
        self._thread.start()

    # -- states

    def _become(self, state: str, **changes: Any) -> None:
        with self._lock:
            if self._state == "REMOVED":
                return
            self._state = state
            self._info = {**self._info, **changes}
            info = self._info
            self._news.notify_all()
        self._groups.tell(self.group_id, state, info)

    def wait(self, timeout: float | None) -> bool:
        """Whether the gang is placed within `timeout` seconds."""
        with self._lock:
            self._news.wait_for(lambda: self._state in ("CREATED", "REMOVED"), timeout)
            return self._state == "CREATED"

    def remove(self, reason: str, **changes: Any) -> None:
        """Stop all ranks, the highest first, and give the bundles back."""
        with self._lock:
            if self._state == "REMOVED":
                return
            self._end_ranks()
            holders, self._holders = self._holders, []
        self._become("REMOVED", reason=reason or "released by its owner", **changes)
        for holder in holders:
            self._kill(holder)
        try:
            self._client.ray.util.remove_placement_group(self._real)
        except Exception as error:  # the cluster is gone, and the group with it
            self._info["reason"] = f"{self._info['reason']} ({type(error).__name__})"

    def close(self) -> None:
        """The creator leaves the cluster."""
        if not self._detached:
            self.remove("its creator left the cluster")
        else:
            with self._lock:
                self._state = "REMOVED"  # here only: the ranks go on
                self._news.notify_all()
        if self._thread is not threading.current_thread():
            self._thread.join(5.0)

    def _kill(self, handle: Any) -> None:
        try:
            self._client.ray.kill(handle)
        except Exception:
            return  # it is gone

    def _end_ranks(self) -> None:
        for rank in sorted(self._ranks, reverse=True):
            self._kill(self._ranks[rank])
            self._ended.append(self._ranks[rank])
        self._ranks, self._known_restarts = {}, {}

    def held(self) -> list[Any]:
        """Nodes of slots whose processes are not gone yet."""
        with self._lock:
            self._ended = [one for one in self._ended if self._row(one).get("State") != "DEAD"]
            if self._state == "REMOVED":
                return [b"held"] * len(self._ended)
            return list(self._info.get("nodes") or [])

    def _row(self, handle: Any) -> dict[str, Any]:
        return self._client.questions.actor(handle._actor_id.binary())

    # -- slots

    def _look(self) -> None:
        """Ask each bundle for its node, its devices and new ports; tell the slots."""
        ray, real = self._client.ray, self._real
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy as InGroup

        if not self._holders:
            actor, probe = ray.remote(ray_probe.Holder), ray.remote(ray_probe.gpu_ids)
            places_ = [InGroup(real, index) for index in range(len(self.bundles))]
            self._holders = [
                actor.options(num_cpus=0, scheduling_strategy=place).remote() for place in places_
            ]
            where = ray.get([holder.where.remote() for holder in self._holders], timeout=PROBE_S)
            asked = [
                probe.options(num_cpus=0, num_gpus=bundle["GPU"], scheduling_strategy=place).remote()
                for bundle, place in zip(self.bundles, places_, strict=True)
                if bundle.get("GPU")
            ]
            gpus = ray.get(asked, timeout=PROBE_S) or [[] for _ in self.bundles]
            self._placed = [(node, host, ids) for (node, host), ids in zip(where, gpus, strict=True)]
            self._order()
        counts = [self.bundle_of.count(index) for index in range(len(self.bundles))]
        asked = [holder.ports.remote(count) for holder, count in zip(self._holders, counts, strict=True)]
        ports = [list(one) for one in ray.get(asked, timeout=PROBE_S)]
        self._info = {
            **self._info,
            **self._slots(),
            "ports": [ports[index].pop(0) for index in self.bundle_of],
        }

    def _order(self) -> None:
        """Ranks go node by node, from the wanted master's node on."""
        per_node = self.size // len(self.bundles)
        nodes = [bytes.fromhex(node) for node, _, _ in self._placed]
        first = {node: index for index, node in reversed(list(enumerate(nodes)))}
        order = sorted(
            range(len(nodes)), key=lambda index: (nodes[index] != self._target, first[nodes[index]], index)
        )
        self.bundle_of = [index for index in order for _ in range(per_node)]

    def _slots(self) -> dict[str, Any]:
        devices: list[list[int]] = []
        taken: dict[int, int] = {}
        wanted = int(self._gpus) if self._gpus >= 1 else 1
        for index in self.bundle_of:
            ids, start = self._placed[index][2], taken.get(index, 0)
            taken[index] = start + wanted
            if 0 < self._gpus < 1:  # ranks share a device, as many as it has room for
                position = int(start * self._gpus + 1e-9)
                devices.append(ids[position : position + 1])
            else:
                devices.append(ids[start : start + wanted])
        return {
            "nodes": [bytes.fromhex(self._placed[index][0]) for index in self.bundle_of],
            "hosts": [self._placed[index][1] for index in self.bundle_of],
            "gpu_ids": devices,
            "shown": [",".join(map(str, ids)) for ids in devices],
            "variables": ["CUDA_VISIBLE_DEVICES"] * len(devices),
            "nics": [""] * self.size,
            "reached": "node" if len({node for node, _, _ in self._placed}) == 1 else "",
        }

    def topology(self) -> dict[str, Any]:
        """See `Gang.topology`; Ray tells nothing of links between devices."""
        info = self._info
        nodes: list[bytes] = info.get("nodes") or []
        rows = [
            {
                "node_id": node.hex(),
                "node_ip": info["hosts"][nodes.index(node)],
                "ranks": [rank for rank, one in enumerate(nodes) if one == node],
                "reached": "node",
                "gpus": [{"index": gpu} for rank, one in enumerate(nodes) if one == node
                         for gpu in info["gpu_ids"][rank]],
                "nics": [],
            }
            for node in dict.fromkeys(nodes)
        ]  # fmt: skip
        return {**self._wish, "reached": info.get("reached", ""), "labels": {}, "nodes": rows}

    def variables(self, rank: int) -> dict[str, str]:
        """What the process of a rank is started with beside its place: its devices, which Ray leaves."""
        shown = self._info["shown"][rank]
        return {
            "CUDA_VISIBLE_DEVICES": shown,
            "SPOKE_GANG_GPUS": shown,
            "RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES": "1",
        } if shown else {}  # fmt: skip

    # -- ranks

    def launched(self, rank: int, incarnation: int, handle: Any) -> None:
        """An actor was made as this rank."""
        with self._lock:
            if self._state == "CREATED" and incarnation == self._info["incarnation"]:
                self._ranks[rank] = handle
                self._news.notify_all()
                return
        self._kill(handle)
        raise ActorPlacementGroupRemoved(f"rank {rank} of gang {self.group_id.hex()} came too late")

    def _watch(self) -> None:
        """The gang's thread."""
        try:
            if not self._place():
                return
            begun, pause = _now(), WATCH_S if self._client.connected else AFAR_S
            while True:
                with self._lock:
                    self._news.wait(pause)
                    if self._state == "REMOVED" or self._client.closed is not None:
                        return
                    ranks = dict(self._ranks)
                limit = self._policy["launch_timeout_s"]
                if not ranks and limit is not None and _now() - begun > limit and not self._ended:
                    self.remove(f"nothing was launched within {limit} s")
                for rank, handle in ranks.items():
                    if self._look_at(rank, handle):
                        break
        except Exception as error:  # who waits for the gang must hear it
            self.remove(f"the Ray cluster failed: {type(error).__name__}: {error}")

    def _place(self) -> bool:
        limit = self._policy["pending_timeout_s"]
        deadline = None if limit is None else _now() + limit
        while not self._real.wait(LOOK_S if deadline is None else min(LOOK_S, max(0.0, deadline - _now()))):
            if self._state == "REMOVED" or self._client.closed is not None:
                return False
            if deadline is not None and _now() >= deadline:
                self.remove(f"not placed within {limit} s: {self._groups.why(self.group_id)}")
                return False
            if self._groups.describe(self.group_id)["state"] == "REMOVED":
                self.remove("its placement group was removed")
                return False
        self._look()
        self._become("CREATED")
        return True

    def _look_at(self, rank: int, handle: Any) -> bool:
        """Has the gang changed by what happened to a rank?"""
        row = self._row(handle)
        restarts = int(row.get("NumRestarts") or 0)
        before = self._known_restarts.get(rank, 0)
        if restarts > before:
            self._known_restarts[rank] = restarts
            if not self._may_restart(restarts - before):
                self.remove(f"rank {rank} was lost too often", lost=[rank, _cause(row)])
                return True
            self._become("CREATED", lost=[rank, _cause(row)])
        if row.get("State") != "DEAD":
            return False
        lost = [rank, _cause(row)]
        if self._policy["restart"] != "gang" or not self._may_restart(1):
            self.remove(f"rank {rank} was lost: {lost[1]}", lost=lost)
            return True
        self._again(lost)
        return True

    def _may_restart(self, count: int) -> bool:
        now, limit = _now(), self._policy["max_restarts"]
        while self._restarts and now - self._restarts[0] > self._policy["window_s"]:
            self._restarts.popleft()
        self._restarts.extend([now] * count)
        return bool(limit < 0 or len(self._restarts) <= limit)

    def _again(self, lost: list[Any]) -> None:
        """The next incarnation: all ranks end, the slots stay or are placed anew."""
        with self._lock:
            self._end_ranks()
        self._become("RESCHEDULING", lost=lost, incarnation=self._info["incarnation"] + 1, ports=None)
        while self.held_by_ended():
            time.sleep(WATCH_S)
        if self._groups.describe(self.group_id)["state"] != "CREATED" or not self._holders_live():
            holders, self._holders = self._holders, []
            for holder in holders:
                self._kill(holder)
            while not self._real.wait(LOOK_S):
                if self._state == "REMOVED" or self._client.closed is not None:
                    return
        self._look()
        self._become("CREATED")

    def held_by_ended(self) -> bool:
        """Is a process of the incarnation before still there?"""
        with self._lock:
            self._ended = [one for one in self._ended if self._row(one).get("State") != "DEAD"]
            return bool(self._ended) and self._state != "REMOVED"

    def _holders_live(self) -> bool:
        return all(self._row(holder).get("State") == "ALIVE" for holder in self._holders)


def _now() -> float:
    return time.monotonic()


def _refuse(spec: dict[str, Any]) -> None:
    """EngineUnsupported for wishes that Ray cannot keep."""
    if spec["same"] in ("nvlink", "numa"):
        raise unsupported(f"same={spec['same']!r}", "Ray knows nothing of links between devices")
    if spec.get("devices") is not None:
        raise unsupported("gpu_ids=", "Ray chooses the devices of a bundle; see Slot.gpu_ids")
    if spec["detached"] and spec["gang"]["restart"] == "gang":
        raise unsupported(
            "restart='gang' of a detached gang", "nobody of Ray relaunches it when its creator is gone"
        )


def _cause(row: dict[str, Any]) -> str:
    return str(row["Cause"] or "its process ended")
