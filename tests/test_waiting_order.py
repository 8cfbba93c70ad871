"""The order in which groups that wait are placed: nobody starves, nobody holds half of what it asked for."""

from __future__ import annotations

import random
from typing import Any

from spoke import wire
from tests.hub_harness import Harness


class Crowd:
    """A hub whose small groups and tasks come and go for ever, on nodes of eight CPUs and four GPUs."""

    def __init__(self, seed: int, nodes: int = 3) -> None:
        self.rng = random.Random(seed)
        self.hub = Harness()
        self.nodes = [self.hub.node(f"n{number}", CPU=8.0, GPU=4.0) for number in range(nodes)]
        self.driver = self.hub.driver("crowd", self.nodes[0])
        self.number = 0
        self.placed_at: dict[bytes, float] = {}
        self.lives: dict[bytes, float] = {}  # from the placement on; others stay for ever
        self.ends: list[tuple[float, bytes]] = []

    def group(self, bundles: list[dict[str, float]], strategy: str = "PACK", life: float = 1.0) -> bytes:
        self.number += 1
        group_id = self.hub.group(self.driver, f"g{self.number}", bundles, strategy)
        if life:
            self.lives[group_id] = life
        self._hear()
        return group_id

    def _hear(self) -> None:
        for message in self.hub.take(self.driver, wire.GROUP_STATE):
            group_id = message[1]
            if message[2] == "CREATED" and group_id not in self.placed_at:
                self.placed_at[group_id] = self.hub.now
                if group_id in self.lives:
                    self.ends.append((self.hub.now + self.lives[group_id], group_id))

    def run(self, seconds: float, arrivals: Any = None) -> None:
        until = self.hub.now + seconds
        while self.hub.now < until:
            if arrivals is not None:
                arrivals()
            self.hub.pass_time(0.25, *self.nodes)
            for when, group_id in [one for one in self.ends if one[0] <= self.hub.now]:
                self.ends.remove((when, group_id))
                self.hub.say(self.driver, wire.REMOVE_GROUP, group_id)
            self._hear()
            self.check()

    def check(self) -> None:
        """GANG-2: whole or not at all; what all groups hold together is there."""
        state = self.hub.hub.state
        for group in state.groups.values():
            homes = [bundle.node for bundle in group.bundles]
            assert all(homes) or not any(homes), "a group holds a part of what it asked for"


def test_two_groups_that_need_all_never_hold_half_each() -> None:
    for seed in range(5):
        crowd = Crowd(seed)
        whole = [{"CPU": 4.0, "GPU": 2.0}] * 6  # all of the cluster
        waiting = [crowd.group(whole, "SPREAD", life=0.0) for _ in range(3)]
        crowd.run(1.0)
        assert [one in crowd.placed_at for one in waiting] == [True, False, False]
        for place in range(2):
            crowd.hub.say(crowd.driver, wire.REMOVE_GROUP, waiting[place])
            crowd.run(1.0)
            assert waiting[place + 1] in crowd.placed_at, "the next in order has it whole"


def test_small_groups_do_not_starve_a_huge_one() -> None:
    """Without an end to the small ones, room for the huge one is kept as they leave."""
    for seed in range(4):
        crowd = Crowd(seed)

        def arrive(crowd: Crowd = crowd) -> None:
            for _ in range(3):
                crowd.group([{"CPU": 2.0, "GPU": 1.0}], life=crowd.rng.uniform(0.3, 1.5))

        crowd.run(3.0, arrive)
        asked = crowd.hub.now
        huge = crowd.group([{"CPU": 8.0, "GPU": 4.0}] * 2, "STRICT_SPREAD", life=0.0)
        crowd.run(60.0, arrive)
        assert huge in crowd.placed_at, f"seed {seed}: the huge group starved"
        print(f"seed {seed}: the huge group waited {crowd.placed_at[huge] - asked:.1f} s")


def test_a_huge_group_does_not_starve_all_others() -> None:
    """One that cannot be placed for long, or ever, lets the small ones pass."""
    for seed in range(4):
        crowd = Crowd(seed)
        blocker = crowd.group([{"CPU": 1.0, "GPU": 1.0}], life=0.0)  # for ever: the huge one never fits
        huge = crowd.group([{"CPU": 8.0, "GPU": 4.0}] * 3, "STRICT_SPREAD", life=0.0)
        small: list[tuple[float, bytes]] = []

        def arrive(crowd: Crowd = crowd, small: list[tuple[float, bytes]] = small) -> None:
            if crowd.rng.random() < 0.3:
                small.append((crowd.hub.now, crowd.group([{"CPU": 1.0, "GPU": 1.0}], life=0.5)))

        crowd.run(40.0, arrive)
        assert blocker in crowd.placed_at and huge not in crowd.placed_at
        late = [when for when, one in small if one not in crowd.placed_at and when < crowd.hub.now - 20]
        assert len(small) > 20 and not late, f"seed {seed}: {len(late)} of {len(small)} small groups starved"


def test_equal_groups_are_placed_in_the_order_of_their_arrival() -> None:
    crowd = Crowd(1, nodes=1)
    crowd.group([{"GPU": 4.0}], life=1.0)
    line = [crowd.group([{"GPU": 2.0}, {"GPU": 2.0}], life=0.0) for _ in range(4)]
    for place, group_id in enumerate(line):
        crowd.run(2.0)
        assert [one for one in line if one in crowd.placed_at] == line[: place + 1]
        crowd.hub.say(crowd.driver, wire.REMOVE_GROUP, group_id)
