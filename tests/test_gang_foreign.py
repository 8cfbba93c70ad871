"""S2-05: the id of a gang is a capability of its job; who names another job's gets a named error."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from typing import Any

import pytest

from spoke import wire
from tests.hub_harness import one_node

STRANGER = """
import sys
import spoke
from spoke.exceptions import AuthenticationError
from spoke.ids import PlacementGroupID
from spoke.util.placement_group import PlacementGroup, placement_group_table, remove_placement_group
from spoke.util.scheduling_strategies import PlacementGroupSchedulingStrategy

spoke.init(address=sys.argv[1], log_to_driver=False)
group = PlacementGroup(PlacementGroupID.from_hex(sys.argv[2]))
assert placement_group_table(group)["state"] == "CREATED", "everybody may look"

@spoke.remote
class Actor:
    pass

@spoke.remote
def task():
    pass

strategy = PlacementGroupSchedulingStrategy(group, 0)
for attempt in (
    lambda: Actor.options(scheduling_strategy=strategy).remote(),
    lambda: task.options(scheduling_strategy=strategy).remote(),
    lambda: Actor.options(placement_group=group).remote(),
    lambda: remove_placement_group(group),
):
    try:
        attempt()
    except AuthenticationError as error:
        print("refused:", error)
spoke.shutdown()
"""


def test_a_stranger_is_told(fresh_cluster: Any) -> None:
    spoke = fresh_cluster(num_cpus=2)
    context = spoke.get_runtime_context()
    with spoke.gang_allocate(1, 2) as gang:
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(STRANGER), context.gcs_address, gang.id],
            capture_output=True, text=True, timeout=100,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        lines = done.stdout.splitlines()
        assert len(lines) == 4, done.stdout
        said = f"refused: gang {gang.id} belongs to job {context.get_job_id()}, not to "
        assert all(line.startswith(said) for line in lines)
        assert gang.state == "CREATED"


def test_the_hub_relies_on_no_check_of_the_callers() -> None:
    hub, node, owner = one_node(4.0)
    other = hub.driver("other", node)
    group = hub.group(owner, "gang", [{"CPU": 1.0}], "STRICT_PACK", gang={"restart": "none"})
    strategy = {"kind": "group", "group_id": group, "index": 0}
    hub.actor(other, "thief", {"strategy": strategy}, CPU=1.0)
    (state,) = [one for one in hub.take(other, wire.ACTOR_STATE) if one[2] == "DEAD"]
    assert "belongs to job" in state[5]["cause"]
    hub.want(other, 1, 1, {"strategy": strategy}, CPU=1.0)
    assert not hub.grants(other)
    (reason,) = [one for one in hub.take(other, wire.PENDING_REASON) if one[4]]
    assert "belongs to job" in reason[3]
    hub.say(other, wire.REMOVE_GROUP, group)
    assert group in hub.hub.state.groups
    with pytest.raises(LookupError, match="AuthenticationError"):
        hub.ask(other, "use_group", id=group)
    with pytest.raises(LookupError, match="ValueError"):
        hub.ask(other, "use_group", id=b"?" * 18)
    assert hub.ask(owner, "use_group", id=group) is None
    hub.say(owner, wire.REMOVE_GROUP, group)
    assert group not in hub.hub.state.groups
    assert hub.ask(other, "use_group", id=group) is None, "what is removed says so by itself"


def test_plain_groups_and_detached_gangs_are_for_all_who_know_them() -> None:
    """As in Ray."""
    hub, node, owner = one_node(4.0)
    other = hub.driver("other", node)
    plain = hub.group(owner, "plain", [{"CPU": 1.0}])
    detached = hub.group(owner, "gang", [{"CPU": 1.0}], gang={"restart": "none"}, detached=True)
    for group in (plain, detached):
        hub.want(other, 1, 1, {"strategy": {"kind": "group", "group_id": group, "index": 0}}, CPU=1.0)
        (grant,) = hub.grants(other)
        hub.want(other, 1, 0, {"strategy": {"kind": "group", "group_id": group, "index": 0}}, CPU=1.0)
        hub.say(other, wire.GIVE_BACK, grant[2], True)
        hub.say(other, wire.REMOVE_GROUP, group)
        assert group not in hub.hub.state.groups
