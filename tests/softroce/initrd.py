"""Debian's kernel, and a first program for it that mounts what a node sees.

Nothing of Debian's own start-up runs: the modules that are needed are loaded one by one, the host's
file system and the images are mounted, and the node's script runs in them.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

MODULES = (
    "virtio_pci", "virtio_net", "virtio_blk", "9pnet_virtio", "9p", "overlay", "squashfs",
    "crc32_generic", "crc32_pclmul", "rdma_rxe", "rdma_ucm",
)  # fmt: skip
INIT = """#!/bin/busybox sh
B=/bin/busybox
$B mount -t proc p /proc; $B mount -t sysfs s /sys; $B mount -t devtmpfs d /dev
while read m; do $B insmod $m || echo "softroce: insmod failed: $m"; done < /mods
$B mkdir -p /lower /rw /new /out
P=trans=virtio,version=9p2000.L,msize=524288
$B mount -t 9p -o $P,cache=loose,ro root /lower; $B mount -t 9p -o $P,rw out /out
$B mount -t tmpfs t /rw; $B mkdir -p /rw/up /rw/wk
$B mount -t overlay o -o lowerdir=/lower,upperdir=/rw/up,workdir=/rw/wk /new
$B mount -t tmpfs r /new/run; $B mount -t tmpfs r /new/tmp
for d in vda vdb; do $B mkdir -p /rw/$d; $B mount -t squashfs -o ro /dev/$d /rw/$d; done
n=0; while read d path; do n=$((n + 1))
  $B mkdir -p "/new$path" /rw/up$n /rw/wk$n
  $B mount -t overlay o$n -o "lowerdir=/rw/$d$path,upperdir=/rw/up$n,workdir=/rw/wk$n" "/new$path"
done < /out/mounts
$B mount -t proc p /new/proc; $B mount -t sysfs s /new/sys; $B mount -t devtmpfs d /new/dev
$B mkdir -p /new/dev/shm /new/dev/pts /new/out
$B mount -t tmpfs -o size=80% shm /new/dev/shm; $B mount -t devpts p /new/dev/pts
$B mount --bind /out /new/out; $B ip link set lo up
exec $B chroot /new /bin/bash /out/guest
"""


def kernel_of(cache: Path) -> Path | None:
    """The kernel in the cache, None where there is none yet."""
    kernel = cache / "vmlinuz"
    return kernel if kernel.exists() and (cache / "modules").exists() else None


def build_initrd(cache: Path) -> None:
    """Fetch the kernel unless the cache has it, and pack its modules and `INIT` anew where they changed."""
    if kernel_of(cache) is None:
        _fetch_kernel(cache)
    image = cache / "initrd.img"
    if image.exists() and (cache / "init").exists() and (cache / "init").read_text() == INIT:
        return
    busybox = shutil.which("busybox")
    assert busybox is not None, "see machine.missing"
    order = (cache / "modules" / "order").read_text().split()
    files: list[tuple[str, int, bytes]] = [
        *((name, 0o040755, b"") for name in ("bin", "mod", "proc", "sys", "dev")),
        ("bin/busybox", 0o100755, Path(busybox).read_bytes()),
        ("init", 0o100755, INIT.encode()),
        ("mods", 0o100644, "".join(f"/mod/{name}\n" for name in order).encode()),
        *((f"mod/{name}", 0o100644, (cache / "modules" / name).read_bytes()) for name in order),
        ("TRAILER!!!", 0, b""),
    ]
    whole = image.with_suffix(".new")
    whole.write_bytes(b"".join(_entry(*file) for file in files))
    whole.replace(image)
    (cache / "init").write_text(INIT)


def _entry(name: str, mode: int, data: bytes) -> bytes:
    """One file of a cpio archive ("newc" format)."""
    path = name.encode() + b"\0"
    fields = (0, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(path), 0)
    head = b"070701" + b"".join(b"%08X" % field for field in fields)
    return _padded(head + path) + _padded(data)


def _padded(data: bytes) -> bytes:
    return data + b"\0" * (-len(data) % 4)


def _fetch_kernel(cache: Path) -> None:
    """Download the kernel's package, and keep the kernel and the modules in order of loading."""
    with tempfile.TemporaryDirectory(dir=cache) as name:
        work = Path(name)
        package = _kernel_package()
        subprocess.run(["apt-get", "download", "-q", package], cwd=work, check=True, capture_output=True)
        archive = next(work.glob("*.deb"))
        subprocess.run(["dpkg-deb", "-x", str(archive), str(work / "root")], check=True)
        version = next((work / "root/lib/modules").iterdir()).name
        subprocess.run(["depmod", "-b", str(work / "root"), version], check=True)
        paths: dict[str, None] = {}
        for module in MODULES:
            words = ["modprobe", "-d", str(work / "root"), "-S", version, "--show-depends", module]
            listed = subprocess.run(words, check=True, capture_output=True, text=True).stdout
            paths |= {line.split()[1]: None for line in listed.splitlines() if line.startswith("insmod")}
        kept = work / "modules"
        kept.mkdir()
        for path in paths:
            shutil.copy(path, kept)
        (kept / "order").write_text("\n".join(Path(path).name for path in paths))
        shutil.rmtree(cache / "modules", ignore_errors=True)
        kept.rename(cache / "modules")
        shutil.copy(work / f"root/boot/vmlinuz-{version}", cache / "vmlinuz")


def _kernel_package() -> str:
    """The package that Debian's newest kernel for this release is in."""
    for _ in range(2):
        listed = subprocess.run(["apt-cache", "depends", "linux-image-amd64"], capture_output=True, text=True)
        for line in listed.stdout.splitlines():
            if "Depends:" in line:
                return line.split()[-1]
        subprocess.run(["apt-get", "update", "-qq"], check=True)
    raise FileNotFoundError("apt knows no linux-image-amd64: the package lists are not Debian's")
