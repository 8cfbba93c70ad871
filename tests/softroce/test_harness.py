"""The harness itself, on this machine: what is missing is named, archives are well formed."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import initrd
import machine
import pytest

HERE = Path(__file__).resolve().parent


def test_what_is_missing_is_named_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "PACKAGES", {"no-such-program-anywhere": "its-package", "sh": "dash"})
    reason = machine.missing()
    assert reason is not None and reason.endswith("apt-get install --no-install-recommends its-package")


def test_the_command_line_skips_with_the_reason(tmp_path: Path) -> None:
    code = (
        "import sys, machine; machine.PACKAGES = {'/nowhere': 'its-package'};"
        "sys.argv = ['machine.py', '-n', '2', '--', 'true']; sys.exit(machine.main())"
    )
    env = {"PYTHONPATH": str(HERE), "HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert done.returncode == 77 and "its-package" in done.stderr


def test_the_first_program_is_packed_as_the_kernel_expects(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "vmlinuz").write_bytes(b"kernel")
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules/order").write_text("b.ko\na.ko")
    for name in ("a.ko", "b.ko"):
        (tmp_path / "modules" / name).write_bytes(name.encode() * 3)
    monkeypatch.setattr(initrd.shutil, "which", lambda name: str(Path(sys.executable).resolve()))
    initrd.build_initrd(tmp_path)
    files = _unpack((tmp_path / "initrd.img").read_bytes())
    assert files["init"].decode() == initrd.INIT and files["mods"] == b"/mod/b.ko\n/mod/a.ko\n"
    assert files["mod/a.ko"] == b"a.ko" * 3 and files["bin/busybox"][:4] == b"\x7fELF"
    before = (tmp_path / "initrd.img").stat().st_mtime_ns
    initrd.build_initrd(tmp_path)
    assert (tmp_path / "initrd.img").stat().st_mtime_ns == before, "made again without a reason"


def _unpack(archive: bytes) -> dict[str, bytes]:
    """A reader of the format, written from its description: 13 hexadecimal fields, names and data padded."""
    files: dict[str, bytes] = {}
    stream = io.BytesIO(archive)
    while True:
        head = stream.read(110)
        assert head[:6] == b"070701"
        fields = [int(head[6 + 8 * index : 14 + 8 * index], 16) for index in range(13)]
        name = stream.read(fields[11])[:-1].decode()
        stream.seek(-stream.tell() % 4, io.SEEK_CUR)
        files[name] = stream.read(fields[6])
        stream.seek(-stream.tell() % 4, io.SEEK_CUR)
        if name == "TRAILER!!!":
            return files
