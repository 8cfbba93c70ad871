"""What is said of RDMA: by `spoke doctor`, `spoke status` and `transport_of`."""

from __future__ import annotations

import resource
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy
import pytest
from click.testing import CliRunner

import spoke
from spoke import rdmafacts
from spoke.cli import doctor_rdma
from spoke.cli.doctor import doctor
from spoke.cluster_utils import Cluster


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text + "\n")


@pytest.fixture
def sysfs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with two devices: one port down, one port with the usual table of addresses."""
    monkeypatch.setenv("SPOKE_SYSFS", str(tmp_path))
    root = tmp_path / "class/infiniband"
    for device, state in (("mlx5_0", "1: DOWN"), ("mlx5_1", "4: ACTIVE")):
        port = root / device / "ports/1"
        _write(port / "state", state)
        _write(port / "link_layer", "Ethernet")
        _write(port / "rate", "100 Gb/sec (4X EDR)")
    gids = [
        ("fe80:0000:0000:0000:5054:00ff:fe77:0001", "IB/RoCE v1"),
        ("fe80:0000:0000:0000:5054:00ff:fe77:0001", "RoCE v2"),
        ("0000:0000:0000:0000:0000:0000:0000:0000", ""),
        ("0000:0000:0000:0000:0000:ffff:7f00:0001", "IB/RoCE v1"),
        ("2001:0db8:0000:0000:0000:0000:0000:0001", "RoCE v2"),
        ("0000:0000:0000:0000:0000:ffff:7f00:0001", "RoCE v2"),
    ]
    for index, (text, kind) in enumerate(gids):
        _write(root / f"mlx5_1/ports/1/gids/{index}", text)
        _write(root / f"mlx5_1/ports/1/gid_attrs/types/{index}", kind)
        _write(root / f"mlx5_1/ports/1/gid_attrs/ndevs/{index}", "eth1")
    return tmp_path


def test_ports_and_the_address_that_connections_use(sysfs: Path) -> None:
    down, up = rdmafacts.ports()
    assert (down.name, down.active, up.name, up.active) == ("mlx5_0/1", False, "mlx5_1/1", True)
    best = up.best_gid()
    assert best is not None and (best.slot, best.address, best.interface) == (5, "127.0.0.1", "eth1")
    assert down.best_gid() is None
    assert [gid.slot for gid in up.gids] == [0, 1, 3, 4, 5], "an empty entry is no address"
    (sysfs / "class/infiniband/mlx5_1/ports/1/gids/5").unlink()
    assert rdmafacts.ports()[1].best_gid().slot == 4  # type: ignore[union-attr]


def test_memlock_says_the_number_needed(sysfs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rdmafacts, "_may_lock", lambda: False)
    monkeypatch.setattr(resource, "getrlimit", lambda _: (8 << 20, 8 << 20))
    monkeypatch.setenv("SPOKE_OBJECT_STORE_MEMORY", "4g")
    assert rdmafacts.memlock(4 << 30) == (8 << 20, 2 * ((4 << 30) + rdmafacts.RINGS_BYTES))
    result = CliRunner().invoke(doctor)
    assert "missing RLIMIT_MEMLOCK  8192 KiB, and 8.1 GiB are needed" in result.output
    assert "ulimit -l unlimited" in result.output
    monkeypatch.setattr(rdmafacts, "_may_lock", lambda: True)
    assert rdmafacts.memlock(1)[0] is None


def test_doctor_names_what_is_there(sysfs: Path) -> None:
    result = CliRunner().invoke(doctor)
    assert result.exit_code == 0
    assert "mlx5_0/1 NOT ACTIVE, Ethernet, 100 Gb/sec (4X EDR); mlx5_1/1 active" in result.output
    assert "ok      RDMA addresses  mlx5_1/1 GID 5 127.0.0.1 (RoCE v2, eth1)" in result.output
    for check in ("/dev/shm", "fork", "GPUDirect", "RLIMIT_MEMLOCK"):
        assert check in result.output


def test_doctor_without_a_device_says_what_happens_instead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPOKE_SYSFS", str(tmp_path))
    result = CliRunner().invoke(doctor)
    assert "missing RDMA ports      no RDMA device; blocks travel between nodes over TCP" in result.output


def test_doctor_checks_the_way_to_a_peer(sysfs: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        text = doctor_rdma.reach(f"127.0.0.1:{port}")
        assert "reached from 127.0.0.1; that is mlx5_1/1 GID 5: RDMA can go there" in text
        (sysfs / "class/infiniband/mlx5_1/ports/1/gids/5").unlink()
        assert "blocks go over TCP" in doctor_rdma.reach(f"127.0.0.1:{port}")
    result = CliRunner().invoke(doctor, ["--peer", f"127.0.0.1:{port}"])
    assert result.exit_code == 1 and "FAILED  peer" in result.output
    result = CliRunner().invoke(doctor, ["--peer", "nonsense"])
    assert "is not HOST:PORT, such as" in result.output


def test_a_nodes_devices_in_one_cell() -> None:
    assert rdmafacts.nic_text([]) == "no device"
    rows = [{"name": "rxe0", "up": True}, {"name": "rxe1", "up": False}]
    assert rdmafacts.nic_text(rows) == "rxe0, rxe1: no active port"


# -- transport_of


class Maker:
    def array(self, count: int) -> Any:
        return numpy.zeros(count)

    def registered(self) -> Any:
        self.mine = numpy.ones(100_000)
        self.registration = spoke.register_memory(self.mine)
        return self.mine


@pytest.fixture
def two_nodes() -> Iterator[Any]:
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2})
    cluster.add_node(num_cpus=1, resources={"far": 1})
    spoke.init(address=cluster.address)
    yield spoke.remote(Maker)
    spoke.shutdown()
    cluster.shutdown()


def test_refs_and_handles_say_their_path(two_nodes: Any) -> None:
    near, far = two_nodes.remote(), two_nodes.options(resources={"far": 1}).remote()
    refs = [
        near.array.remote(100_000),
        near.array.remote(10),
        near.registered.remote(),
        far.array.remote(100_000),
    ]
    spoke.wait(refs, num_returns=4)
    paths = [spoke.transport_of(ref) for ref in refs]
    assert [path.name for path in paths[:3]] == ["shm", "inline", "tcp"]
    assert paths[0].why_not_rdma == ""
    assert paths[3].name in ("tcp", "rdma") and bool(paths[3].why_not_rdma) == (paths[3].name == "tcp")
    assert spoke.transport_of(near).name == "unix"
    over = spoke.transport_of(far)
    assert over.name == "tcp" and over.why_not_rdma
    mine = numpy.zeros(100_000)
    with spoke.register_memory(mine):
        assert spoke.transport_of(spoke.put(mine)).name == "shm"
    slow = spoke.remote(lambda: __import__("time").sleep(60)).remote()
    assert spoke.transport_of(slow).name == "pending"
    spoke.cancel(slow, force=True)
    with pytest.raises(TypeError, match="takes an ObjectRef or an actor handle"):
        spoke.transport_of("x")
