"""The verbs engine from Python, over the software device: in one process and between two.

What csrc does by itself is tested by tests/native/test_verbs.cpp, under the sanitizers too.
"""

from __future__ import annotations

import errno
import os
import re
import select
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from spoke import _native

ROOT = Path(__file__).resolve().parent.parent
NATIVE = ROOT / "tests" / "native"


def fake() -> _native.RdmaEngine:
    return _native.RdmaEngine("fake")


def connected(
    reader_engine: _native.RdmaEngine, owner_engine: _native.RdmaEngine
) -> tuple[_native.RdmaReader, _native.RdmaResponder]:
    reader, responder = _native.RdmaReader(reader_engine), _native.RdmaResponder(owner_engine)
    reader.connect(responder.address)
    responder.connect(reader.address)
    return reader, responder


def segment(size: int) -> _native.Segment:
    made = _native.Segment.create("test", size)
    return _native.Segment.map(made.fd, size, True)


def test_structures_are_those_of_the_real_header(tmp_path: Path) -> None:
    if not Path("/usr/include/infiniband/verbs.h").exists():
        pytest.skip("libibverbs-dev is not installed")
    compiler = shutil.which("g++") or shutil.which("c++")
    if compiler is None:
        pytest.skip("no C++ compiler")
    program = tmp_path / "layout"
    source = NATIVE / "test_verbs_layout.cpp"
    subprocess.run(
        [compiler, "-std=c++20", "-Wall", f"-I{ROOT / 'csrc'}", str(source), "-o", str(program)], check=True
    )
    assert "real header" in subprocess.run([program], check=True, capture_output=True, text=True).stdout


# A libibverbs without devices, whose words on forks the environment gives.
LIBRARY = """
#include <stdio.h>
#include <stdlib.h>
static void *none[1];
void **ibv_get_device_list(int *count) {{ *count = 0; return none; }}
int ibv_is_fork_initialized(void) {{ return atoi(getenv("FORK")); }}
int ibv_fork_init(void) {{ puts("ibv_fork_init"); fflush(stdout); return atoi(getenv("FORK_INIT")); }}
{rest}
"""
FORK_DISABLED, FORK_ENABLED, FORK_UNNEEDED = range(3)  # what ibv_is_fork_initialized answers


def words_of_the_library(folder: Path, fork: int = FORK_UNNEEDED, init: int = 0, without: str = "") -> str:
    """What the engine says to a libibverbs that answers so and lacks that function."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")
    names = {*re.findall(r'"(_?ibv_\w+)"', (ROOT / "csrc" / "verbs_api.cpp").read_text())}
    names -= {"ibv_get_device_list", "ibv_is_fork_initialized", "ibv_fork_init", without}
    source = folder / "library.c"
    source.write_text(LIBRARY.format(rest="\n".join(f"int {name}(void) {{ return 0; }}" for name in names)))
    library = folder / "libibverbs.so.1"
    subprocess.run([compiler, "-shared", "-fPIC", str(source), "-o", str(library)], check=True)
    found = {"LD_LIBRARY_PATH": str(folder), "FORK": str(fork), "FORK_INIT": str(init)}
    program = "from spoke import _native\ntry: _native.RdmaEngine('system')\nexcept OSError as e: print(e)"
    words, environment = [sys.executable, "-c", program], {**os.environ, **found}
    return subprocess.run(words, env=environment, check=True, capture_output=True, text=True).stdout


def test_forks_are_prepared_for_before_anything_is_registered(tmp_path: Path) -> None:
    for fork in (FORK_UNNEEDED, FORK_ENABLED):  # the kernel copies pinned pages, or somebody was faster
        said = words_of_the_library(tmp_path, fork)
        assert "no RDMA device on this machine" in said and "ibv_fork_init" not in said
    said = words_of_the_library(tmp_path, FORK_DISABLED)
    assert said.startswith("ibv_fork_init\n") and "no RDMA device on this machine" in said
    said = words_of_the_library(tmp_path, FORK_DISABLED, errno.EINVAL)
    assert "ibv_fork_init failed: memory was registered by another library before" in said


def test_a_library_that_is_too_old_is_named(tmp_path: Path) -> None:
    said = words_of_the_library(tmp_path, without="_ibv_query_gid_table")
    assert "libibverbs is too old: it has no _ibv_query_gid_table" in said
    said = words_of_the_library(tmp_path, without="ibv_reg_dmabuf_mr")  # one that is there for GPUs only
    assert "no RDMA device on this machine" in said


def test_read_into_a_segment_copies_nothing_else() -> None:
    taker, owner = fake(), fake()
    source, target = segment(1 << 20), segment(1 << 20)
    data = os.urandom(300_000)
    source.write(4096, [data])
    lent, landing = owner.register_segment(source), taker.register_segment(target)
    reader, responder = connected(taker, owner)
    half = 150_000
    operation = reader.read(
        [
            (landing, target.address + 64, lent.address + 4096, lent.rkey, half),
            (landing, target.address + 64 + half, lent.address + 4096 + half, lent.rkey, half),
        ]
    )
    assert operation.wait(20.0)
    assert operation.finished and operation.error == ""
    assert bytes(target.view(64, len(data))) == data
    assert reader.bytes_read == len(data)
    responder.close()
    assert not responder.usable
    again = reader.read([(landing, target.address, lent.address, lent.rkey, 64)])
    assert again.wait(20.0)
    assert "retry counter exceeded" in again.error
    assert not reader.usable


def test_misuse_is_named() -> None:
    engine = fake()
    source = segment(4096)
    region = engine.register_segment(source)
    reader, _responder = connected(engine, engine)
    with pytest.raises(OSError, match="outside its destination") as caught:
        reader.read([(region, region.address + 1, region.address, region.rkey, 4096)])
    assert caught.value.errno == errno.EINVAL
    with pytest.raises(OSError, match="32 bytes"):
        _native.RdmaReader(engine).connect(b"short")
    created = _native.Segment.create("ro", 4096)
    with pytest.raises(OSError, match="read-only") as caught:
        engine.register_segment(_native.Segment.map(created.fd, 4096, False))
    assert caught.value.errno == errno.EACCES
    with pytest.raises(OSError, match="not connected"):
        _native.RdmaReader(engine).read([])
    with pytest.raises(ValueError, match="a slice is"):
        reader.read([(region, 1, 2)])  # type: ignore[list-item]
    with pytest.raises(OSError, match="there is no RDMA device nope"):
        _native.RdmaEngine("fake", "nope")
    with pytest.raises(OSError, match="no fault"):
        _native.fake_rdma("explode")
    with pytest.raises(OSError, match="system"):
        _native.rdma_ports("other")


def test_too_little_memory_may_be_locked() -> None:
    engine = fake()
    memory = segment(8192)
    _native.fake_rdma("no_memory", 1)
    with pytest.raises(OSError, match="8192 bytes") as caught:
        engine.register_segment(memory)
    assert caught.value.errno == errno.ENOMEM
    engine.register_segment(memory)


def test_events_come_out_of_the_descriptor() -> None:
    engine = fake()
    _native.fake_rdma("port", 0)
    assert select.select([engine.fd], [], [], 20.0)[0]
    assert [notice[0] for notice in engine.take_notices()] == [1]
    assert engine.info()["problem"] == "the port is down"
    assert _native.rdma_ports("fake")[0]["problem"] == "the port is down"
    with pytest.raises(OSError, match="the port is down"):
        fake()
    _native.fake_rdma("port", 1)
    assert select.select([engine.fd], [], [], 20.0)[0]
    assert [notice[0] for notice in engine.take_notices()] == [2]
    assert not select.select([engine.fd], [], [], 0)[0]
    info = engine.info()
    assert info["device"] == "fake0" and info["gid_index"] == 3 and info["gid_type"] == "RoCE v2"


PEER = """
    import os, sys
    from spoke import _native
    engine = _native.RdmaEngine("fake")
    memory = _native.Segment.create("peer", 1 << 20)
    memory = _native.Segment.map(memory.fd, 1 << 20, True)
    memory.write(0, [bytes(range(256)) * 4096])
    region = engine.register_segment(memory)
    responder = _native.RdmaResponder(engine)
    print(responder.address.hex(), region.address, region.rkey, flush=True)
    responder.connect(bytes.fromhex(sys.stdin.readline()))
    print("ready", flush=True)
    sys.stdin.readline()
"""


def test_read_from_another_process_and_its_death() -> None:
    peer: Any = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(PEER)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    with peer:
        words = peer.stdout.readline().split()
        address, remote, rkey = bytes.fromhex(words[0]), int(words[1]), int(words[2])
        engine = fake()
        reader = _native.RdmaReader(engine)
        peer.stdin.write(reader.address.hex() + "\n")
        peer.stdin.flush()
        assert peer.stdout.readline() == "ready\n"
        reader.connect(address)
        target = segment(1 << 20)
        landing = engine.register_segment(target)
        operation = reader.read([(landing, target.address, remote, rkey, 1 << 20)])
        assert operation.wait(20.0) and operation.error == ""
        assert bytes(target.view(0, 1 << 20)) == bytes(range(256)) * 4096
        peer.kill()
        peer.wait()
        operation = reader.read([(landing, target.address, remote, rkey, 4096)])
        assert operation.wait(20.0)
        assert "retry counter exceeded" in operation.error
