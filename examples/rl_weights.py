"""Reinforcement learning's data path: a learner broadcasts weights, workers play, the learner updates.

The weights are a tensor that lives in shared memory: publishing copies nothing, and every worker of the node
maps the same bytes.  Each run has a namespace of its own, so two runs side by side do not see each other.

    python examples/rl_weights.py
"""

from __future__ import annotations

import spoke
from spoke import endpoints


@spoke.remote(num_cpus=0)
class Curriculum:
    """What to play next."""

    def __init__(self) -> None:
        self.step = 0

    def next(self) -> int:
        self.step += 1
        return self.step


@spoke.remote(num_cpus=0)
class Learner:
    """Owns the weights."""

    def __init__(self, size: int) -> None:
        self.weights = spoke.empty(size)
        self.weights.fill_(0.0)
        self.version = 0

    def publish(self) -> list:
        """The present weights, in a list so that the caller gets a ref and not a copy."""
        fresh = spoke.empty(self.weights.shape[0])
        fresh.copy_(self.weights)
        return [spoke.put(fresh), self.version]

    def learn(self, gradients: list) -> int:
        """One update from all workers' gradients; returns the version of the new weights."""
        for gradient in gradients:
            self.weights += gradient / len(gradients)
        self.version += 1
        return self.version

    def total(self) -> float:
        return float(self.weights.sum())


@spoke.remote(num_cpus=0)
class Player:
    """Finds the curriculum by its name and plays with the weights it is given."""

    def __init__(self, rank: int, namespace: str) -> None:
        self.rank = rank
        self.curriculum = spoke.get_actor("curriculum", namespace=namespace)

    def play(self, weights: list) -> list:
        """A gradient: the rank's share everywhere."""
        import torch

        found = spoke.get(weights[0])
        spoke.get(self.curriculum.next.remote())
        return [torch.full_like(found, float(self.rank + 1))]


def train(namespace: str, players: int = 2, rounds: int = 3, size: int = 1_000_000) -> tuple[float, int]:
    """Sum of the weights after some rounds, and how many games the curriculum has counted."""
    curriculum = Curriculum.options(name="curriculum", namespace=namespace).remote()
    learner = Learner.options(name="weights", namespace=namespace).remote(size)
    crew = [Player.remote(rank, namespace) for rank in range(players)]
    for one in crew:
        endpoints.register("players", one, namespace=namespace)
    with spoke.lookup("players", namespace=namespace) as pool:
        pool.wait_for_size(players)
        for _ in range(rounds):
            weights = spoke.get(learner.publish.remote())
            games = [result.value for result in pool.broadcast().play(weights).wait_all(timeout=60)]
            spoke.get(learner.learn.remote([game[0] for game in games]))
    return spoke.get(learner.total.remote()), spoke.get(curriculum.next.remote()) - 1


def main() -> None:
    spoke.init(num_cpus=2)
    total, games = train("run-1")
    print(total, games)  # 4500000.0 6


if __name__ == "__main__":
    main()
