"""Many processes ask for one name at once: one actor is made, and all get it."""

from __future__ import annotations

from typing import Any


class Asker:
    """Gets or makes the actor of a name."""

    def found(self, spoke_name: str, name: str) -> str:
        import importlib

        spoke = importlib.import_module(spoke_name)
        options = {"name": name, "get_if_exists": True, "num_cpus": 0, "lifetime": "detached"}
        actor = spoke.remote(Named).options(**options).remote()
        return str(spoke.get(actor.own_id.remote(), timeout=60))


class Named:
    """Says who it is."""

    def own_id(self) -> str:
        from spoke.runtime_context import get_runtime_context

        return str(get_runtime_context().get_actor_id())


def test_a_race_for_one_name(spoke_cluster: Any) -> None:
    """The loser had a handle of an actor that was never made, and its calls waited for ever."""
    spoke = spoke_cluster
    askers = [spoke.remote(Asker).options(num_cpus=0).remote() for _ in range(4)]
    spoke.get([asker.__ray_ready__.remote() for asker in askers])
    for turn in range(10):
        found = spoke.get([asker.found.remote("spoke", f"name-{turn}") for asker in askers], timeout=120)
        assert len(set(found)) == 1
