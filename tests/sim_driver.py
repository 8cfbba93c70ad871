"""Drivers of a simulated cluster: programs that do random things until told to finish."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from spoke import wire
from tests.sim_processes import Caller, Task

if TYPE_CHECKING:
    from tests.sim import World


class Driver(Caller):
    """A program that does random things until told to finish."""

    def __init__(self, world: World, node_id: bytes) -> None:
        super().__init__(world, world.new_id(28), node_id, "driver")
        self.actors: list[bytes] = []
        self.groups: dict[bytes, int] = {}
        self.gangs: dict[bytes, list[Any]] = {}  # policy, incarnation that was launched, detached
        self.finishing = False
        self.world.after(world.rng.uniform(0, 0.1), self.act)

    def hub_lost(self, reason: str) -> None:
        """Its node is gone, and it with it: all that it waits for ends by name."""
        if self in self.world.drivers:
            self.world.kill_driver(self)

    def act(self) -> None:
        rng = self.world.rng
        if not self.alive or self.finishing:
            return
        rng.choice(
            [self._tasks, self._tasks, self._actor, self._actor, self._group, self._gang, self._end_one]
        )()
        self.world.after(rng.expovariate(self.world.rate), self.act)

    def _spec(self) -> dict[str, Any]:
        rng = self.world.rng
        spec: dict[str, Any] = {"resources": {"CPU": rng.choice([1.0, 1.0, 1.0, 0.5, 2.0, 4.0])}}
        kind = rng.random()
        if kind < 0.15:
            spec["resources"] = {"CPU": 1.0, "GPU": rng.choice([1.0, 1.0, 2.0, 0.5, 0.25])}
        elif kind < 0.2:
            spec["resources"] = {"CPU": 1.0, "memory": 100.0}
        place = rng.random()
        if place < 0.1:
            spec["strategy"] = "SPREAD"
        elif place < 0.2:
            node = rng.choice(self.world.agents).id if self.world.agents else bytes(28)
            spec["strategy"] = {"kind": "node", "node_id": node, "soft": rng.random() < 0.5}
            spec["resources"] = {"CPU": 1.0}
        elif place < 0.3:
            spec["label_selector"] = {"zone": rng.choice(["a", "!a", "in(a,b)"])}
            spec["resources"] = {"CPU": 1.0}
        elif place < 0.5 and self.groups:
            group_id, size = rng.choice(list(self.groups.items()))
            spec["strategy"] = {"kind": "group", "group_id": group_id, "index": rng.randrange(-1, size)}
            spec["resources"] = {"CPU": rng.choice([0.5, 1.0])}
        if rng.random() < 0.1:
            spec["env"] = {"vars": {"MODE": rng.choice("ab")}}
        return spec

    def _tasks(self) -> None:
        rng = self.world.rng
        spec = self._spec()
        nested = rng.choice([0, 0, 0, 1, 3]) if "strategy" not in spec else 0
        for _ in range(rng.choice([1, 1, 2, 5, 20])):
            self.submit(Task(self.world, spec, rng.choice([0.001, 0.01, 0.1, 0.5]), nested))

    def _actor(self) -> None:
        rng = self.world.rng
        spec = self._spec()
        if rng.random() < 0.6:
            spec["placement_resources"] = spec["resources"]
            spec["resources"] = {k: v for k, v in spec["resources"].items() if k != "CPU"}
        spec["max_restarts"] = rng.choice([0, 0, 1, 3, -1])
        spec["detached"] = rng.random() < 0.15
        if spec["detached"] or rng.random() < 0.3:
            spec["name"] = f"name-{rng.randrange(6)}"
            spec["request_id"] = 1
        actor_id = self.world.new_id(16)
        self.actors.append(actor_id)
        if spec["detached"]:
            self.world.detached.append(actor_id)
        self.send(wire.CREATE_ACTOR, actor_id, spec, payload=b"class")

    def _group(self) -> None:
        rng = self.world.rng
        strategy = rng.choice(["PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD"])
        bundle = rng.choice([{"CPU": 1.0}, {"CPU": 1.0}, {"CPU": 1.0, "GPU": 1.0}, {"GPU": 0.5, "CPU": 0.5}])
        size = rng.randrange(1, 3 if bundle.get("GPU") == 1.0 else 4)  # some nodes have two GPUs only
        group_id = self.world.new_id(18)
        self.groups[group_id] = size
        self.send(wire.CREATE_GROUP, group_id, {"bundles": [bundle] * size, "strategy": strategy})

    def _gang(self) -> None:
        """A gang of up to four ranks that are launched as soon as it is there."""
        rng = self.world.rng
        size = rng.randrange(1, 5)
        policy = {
            "restart": rng.choice(["none", "gang", "member"]),
            "max_restarts": rng.choice([0, 1, -1]),
            "window_s": 5.0,
        }
        if rng.random() < 0.3:
            policy.update(pending_timeout_s=2.0, launch_timeout_s=2.0)
        spec: dict[str, Any] = {"strategy": rng.choice(["PACK", "STRICT_PACK"]), "gang": policy}
        spec["bundles"] = [{"CPU": 0.5}] * size
        spec["detached"] = rng.random() < 0.2
        group_id = self.world.new_id(18)
        self.groups[group_id] = size
        self.gangs[group_id] = [policy["restart"], -1, spec["detached"]]
        if spec["detached"]:
            self.world.detached_groups.append(group_id)
        self.send(wire.CREATE_GROUP, group_id, spec)

    def receive(self, message: list[Any], payload: Any) -> None:
        super().receive(message, payload)
        if message[0] == wire.GROUP_STATE and message[1] in self.gangs and message[2] == "CREATED":
            gang, info = self.gangs[message[1]], message[3]
            if info["ports"] is not None and gang[1] < info["incarnation"]:
                assert all(info["ports"]), "GANG-2: a slot without its port"
                if gang[1] < 0 or gang[0] == "gang":
                    gang[1] = info["incarnation"]
                    self.world.after(self.world.rng.uniform(0.0, 1.0), lambda: self._launch(message[1], gang))

    def _launch(self, group_id: bytes, gang: list[Any]) -> None:
        for rank in range(self.groups.get(group_id, 0)):
            strategy = {"kind": "group", "group_id": group_id, "index": rank}
            strategy.update(rank=rank, incarnation=gang[1])
            spec = {"resources": {"CPU": 0.5}, "strategy": strategy, "detached": gang[2]}
            spec["max_restarts"] = -1 if gang[0] == "member" else 0
            actor_id = self.world.new_id(16)
            self.actors.append(actor_id)
            if gang[2]:
                self.world.detached.append(actor_id)
            self.send(wire.CREATE_ACTOR, actor_id, spec, payload=b"class")

    def _end_one(self) -> None:
        rng = self.world.rng
        if self.actors and rng.random() < 0.6:
            actor_id = rng.choice(self.actors)
            self.send(wire.KILL_ACTOR, actor_id, rng.random() < 0.6, "", -1)
        elif self.groups:
            group_id = rng.choice(list(self.groups))
            self.groups.pop(group_id)
            self.send(wire.REMOVE_GROUP, group_id)

    def finish(self) -> None:
        """End what is placed, again and again, so that what waits gets its turn."""
        self.finishing = True
        if not self.alive:
            return
        for actor_id in self.actors:
            if self.referee.actors.get(actor_id, ("?", 0))[0] == "ALIVE":
                self.send(wire.KILL_ACTOR, actor_id, True, "finishing", -1)
        for group_id in list(self.groups):
            if self.referee.groups.get(group_id) == "CREATED":
                self.groups.pop(group_id)
                self.send(wire.REMOVE_GROUP, group_id)
        for actor_id in self.world.detached:
            self.send(wire.KILL_ACTOR, actor_id, True, "finishing", -1)
        for group_id in self.world.detached_groups:
            self.send(wire.REMOVE_GROUP, group_id)
        self.world.after(0.5, self.finish)
