"""The device itself, by pyverbs alone: where these fail, nothing of Spoke is to blame."""

from __future__ import annotations

from typing import Any

import pytest

MIB = 1 << 20
REMOTE_ACCESS_ERROR = 10  # IBV_WC_REM_ACCESS_ERR


def _connected(one: Any, other: Any, size: int) -> tuple[dict[str, Any], dict[str, Any]]:
    first, second = one.ask(do="open", bytes=size), other.ask(do="open", bytes=size)
    for end, target in ((one, second), (other, first)):
        end.ask(do="connect", **{name: target[name] for name in ("qpn", "psn", "gid")})
    return first, second


@pytest.mark.parametrize("size", [1, 4096, MIB + 1])
def test_a_node_reads_the_other_nodes_memory(verbs: Any, far_verbs: Any, size: int) -> None:
    _, far = _connected(verbs, far_verbs, size)
    want = far_verbs.ask(do="fill", seed=size)["sha256"]
    answer = verbs.ask(do="read", addr=far["addr"], rkey=far["rkey"], length=size)
    assert answer == {"status": 0, "sha256": want}


@pytest.mark.parametrize("wrong", ["rkey", "past the end"])
def test_the_device_refuses_what_was_not_granted(verbs: Any, far_verbs: Any, wrong: str) -> None:
    _, far = _connected(verbs, far_verbs, 4096)
    addr = far["addr"] + (1 if wrong == "past the end" else 0)
    rkey = far["rkey"] ^ (0x100 if wrong == "rkey" else 0)
    assert verbs.ask(do="read", addr=addr, rkey=rkey, length=4096)["status"] == REMOTE_ACCESS_ERROR
