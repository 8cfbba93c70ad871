"""Virtual machines with a real RDMA verbs device, for tests on machines that have none.

    python tests/softroce/machine.py [-n NODES] [-m MIB] [-t SECONDS] [-o FOLDER] -- COMMAND [ARG ...]

boots one or two machines with Debian's kernel and its Soft-RoCE driver (rdma_rxe over a virtual Ethernet
between them), and runs COMMAND on node 0 in the project's folder; node 1 answers `peer.py`.  The exit
status is COMMAND's, 124 when it took too long.

A node sees this machine's file system read-only with a layer of RAM on top, except that the Python
environment that runs this file and the project come from read-only disk images: importing from those is
five times faster than through 9p.  It has the device rxe0 (its RoCE v2 address is 10.77.0.<node + 1> on
eth0), NODE_RANK and NODE_COUNT in the environment, an unlimited RLIMIT_MEMLOCK, and /out, a folder that
comes back as FOLDER/<node>.  The machine is emulated (by KVM with SPOKE_SOFTROCE_KVM=1), 10 to 20 times
slower than this one: it proves behaviour, and timings mean something only beside others of the same run.

Kernel and images are kept in $SPOKE_SOFTROCE_CACHE, by default ~/.cache/spoke-softroce; the kernel is
fetched with apt the first time.  What is missing on this machine is said by name (`missing`).
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from initrd import build_initrd, kernel_of

PROJECT = Path(__file__).resolve().parent.parent.parent
PACKAGES = {  # what is looked for -> Debian's package
    "qemu-system-x86_64": "qemu-system-x86",
    "busybox": "busybox-static",
    "modprobe": "kmod",
    "rdma": "iproute2",
    "ibv_devinfo": "ibverbs-utils",
    "ib_read_bw": "perftest",
    "mksquashfs": "squashfs-tools",
    "/usr/lib/x86_64-linux-gnu/libibverbs/librxe-rdmav34.so": "ibverbs-providers",
    "/usr/lib/python3/dist-packages/pyverbs/__init__.py": "python3-pyverbs",
}
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
PASSED_ON = ("HOME", "LANG", "LC_ALL", "PYTHON", "SPOKE_")  # beginnings of variables that a node gets
# no_timer_check: on a busy machine the emulated timer is too late for the kernel's own test of it.
BOOT = "console=ttyS0 quiet panic=-1 no_timer_check mitigations=off random.trust_cpu=on rdinit=/init"


def missing() -> str | None:
    """Why machines cannot be started here, with the command that would help; None where they can."""
    if os.uname().machine != "x86_64":
        return f"the machines are x86_64, this one is {os.uname().machine}"
    lacking = [
        package
        for name, package in PACKAGES.items()
        if not (Path(name).exists() if name.startswith("/") else shutil.which(name, path=PATH))
    ]
    if lacking:
        return f"not installed: apt-get install --no-install-recommends {' '.join(lacking)}"
    if not kernel_of(cache()) and not shutil.which("apt-get"):
        return "there is no apt-get to fetch Debian's kernel with"
    return None


def cache() -> Path:
    """The folder of kernels and images."""
    given = os.environ.get("SPOKE_SOFTROCE_CACHE")
    folder = Path(given) if given else Path.home() / ".cache" / "spoke-softroce"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


# -- images


def _squash(image: Path, sources: list[Path], *without: str) -> None:
    """A disk image of folders under their full paths."""
    whole = image.with_suffix(f".{os.getpid()}")
    options = ["-no-strip", "-comp", "lz4", "-no-progress", "-quiet", "-no-xattrs", "-wildcards"]
    words = ["mksquashfs", *map(str, sources), str(whole), *options, "-e", "... *.a", *without]
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
    whole.replace(image)


def environment_folders() -> list[Path]:
    """What the running interpreter imports from, without the project and what Debian has anyway."""
    folders = [Path(sys.prefix)]
    base = Path(sys.base_prefix)
    if base not in folders:
        folders.append(
            Path("/usr/lib/python" + sys.version[:4].rstrip(".")) if base == Path("/usr") else base
        )
    return [folder for folder in folders if folder.is_dir() and folder != Path("/usr")]


def environment_image() -> Path:
    """The image of the Python environment; made anew when a package changed."""
    folders = environment_folders()
    facts = [sys.version, *map(str, folders)]
    for folder in folders:
        for site in sorted(folder.glob("lib/python3*/site-packages")):
            facts += [f"{one.name} {one.stat().st_mtime_ns}" for one in sorted(site.iterdir())]
    name = hashlib.sha256("\n".join(facts).encode()).hexdigest()[:16]
    image = cache() / f"environment-{name}.img"
    if not image.exists():
        for old in cache().glob("environment-*.img"):
            old.unlink()
        _squash(image, folders, "... test/*", "... tests/*", "... include/*", "... share/man")
    image.touch()
    return image


def project_image(folder: Path) -> Path:
    """The image of the project as it is now."""
    image = folder / "project.img"
    names = ["spoke", "ray_compat", "tests", "examples", "pyproject.toml", "README.md", "csrc"]
    _squash(image, [PROJECT / name for name in names])
    return image


# -- nodes


def _guest_script(rank: int, nodes: int, command: list[str]) -> str:
    """What a node runs, as a shell script."""
    here = Path(__file__).resolve().parent
    peer = [sys.executable, str(here / "peer.py")]
    mine = command if rank == 0 else [*peer, "serve"]
    given = {name: value for name, value in os.environ.items() if name.startswith(PASSED_ON)}
    given |= {
        "PATH": f"{Path(sys.executable).parent}:{PATH}", "TERM": "dumb", "PYTHONPATH": str(PROJECT),
        "NODE_RANK": str(rank), "NODE_COUNT": str(nodes), "PYTHONDONTWRITEBYTECODE": "1",
        "SPOKE_IO_PAUSE_S": "0.04",  # 20 times slower, as all here: else it wakes in the middle of each call
    }  # fmt: skip
    lines = [f"export {name}={shlex.quote(value)}" for name, value in given.items()]
    lines += [
        f"hostname node{rank}; ulimit -l unlimited; mount -t cgroup2 cgroup /sys/fs/cgroup",
        f"ip link set eth0 up; ip addr add 10.77.0.{rank + 1}/24 dev eth0",
        "rdma link add rxe0 type rxe netdev eth0",
        f"cd {shlex.quote(str(PROJECT))}",
        f"({shlex.join(mine)}) > /out/log 2>&1; echo $? > /out/status",
    ]
    if rank == 0 and nodes > 1:
        lines.append(f"{shlex.join(peer)} stop")
    return "\n".join([*lines, "sync; poweroff -f", ""])


def _mounts(images: list[list[Path]]) -> str:
    """The image (by device letter) and folder of each mount, for the first program of the node."""
    lines = [f"vd{'ab'[index]} {path}" for index, folders in enumerate(images) for path in folders]
    return "\n".join([*lines, ""])


def _kvm() -> bool:
    """Only where it is asked for: in a machine that is itself virtual it is often there and does not work."""
    return os.environ.get("SPOKE_SOFTROCE_KVM") == "1"


def _qemu(rank: int, nodes: int, out: Path, memory_mib: int, images: list[Path]) -> list[str]:
    kernel = kernel_of(cache())
    assert kernel is not None
    accelerator = ["kvm", "-cpu", "host"] if _kvm() else ["tcg,thread=multi", "-cpu", "max"]
    command = [
        "qemu-system-x86_64", "-accel", *accelerator, "-m", str(memory_mib), "-smp", "2",
        "-display", "none", "-no-reboot", "-nodefaults", "-serial", f"file:{out}/console",
        "-kernel", str(kernel), "-initrd", str(cache() / "initrd.img"), "-append", BOOT,
        "-virtfs", "local,path=/,mount_tag=root,security_model=none,readonly=on,multidevs=remap",
        "-virtfs", f"local,path={out},mount_tag=out,security_model=none",
    ]  # fmt: skip
    for image in images:
        command += ["-drive", f"file={image},format=raw,if=virtio,readonly=on,file.locking=off"]
    if nodes > 1:
        socket = f"addr.type=unix,addr.path={out.parent}/wire"
        command += ["-netdev", f"stream,id=n0,server={'on' if rank == 0 else 'off'},{socket}"]
    else:
        command += ["-netdev", "user,id=n0,restrict=on"]
    return [*command, "-device", f"virtio-net-pci,netdev=n0,mac=52:54:00:77:00:0{rank + 1}"]


def run(command: list[str], nodes: int, memory_mib: int, limit_s: float, folder: Path) -> int:
    """Boot, run, return the status of `command`; what the nodes printed is in FOLDER/<node>/log."""
    build_initrd(cache())
    environment, project = environment_image(), project_image(folder)
    mounts = _mounts([environment_folders(), [PROJECT]])
    machines: list[subprocess.Popen[bytes]] = []
    try:
        for rank in range(nodes):
            out = folder / str(rank)
            out.mkdir(exist_ok=True)
            for name in ("status", "log"):
                (out / name).unlink(missing_ok=True)
            (out / "guest").write_text(_guest_script(rank, nodes, command))
            (out / "mounts").write_text(mounts)
            with open(out / "qemu", "wb") as log:
                words = _qemu(rank, nodes, out, memory_mib, [environment, project])
                machines.append(subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log))
            if nodes > 1 and rank == 0:
                _await(folder / "wire")
        return _follow(machines, folder, limit_s)
    finally:
        for machine in machines:
            machine.kill()
            machine.wait()
        (folder / "wire").unlink(missing_ok=True)
        project.unlink(missing_ok=True)


def _await(path: Path) -> None:
    deadline = time.monotonic() + 30
    while not path.exists() and time.monotonic() < deadline:
        time.sleep(0.05)


def _follow(machines: list[subprocess.Popen[bytes]], folder: Path, limit_s: float) -> int:
    """Show what node 0 prints while it runs; its status."""
    deadline = time.monotonic() + limit_s
    shown = 0
    log, status = folder / "0" / "log", folder / "0" / "status"
    while True:
        ended = machines[0].poll() is not None or (status.exists() and status.read_text().strip())
        if log.exists():
            data = log.read_bytes()
            sys.stdout.write(data[shown:].decode(errors="replace"))
            sys.stdout.flush()
            shown = len(data)
        if ended:
            break
        if time.monotonic() > deadline:
            print(f"\nsoftroce: not done after {limit_s:g} s")
            return 124
        time.sleep(0.2)
    if not status.exists() or not status.read_text().strip():
        for name in ("qemu", "console"):
            text = (folder / "0" / name).read_text(errors="replace")
            print(f"softroce: node 0 ended early; its {name}:\n{text[-3000:]}")
        return 125
    return int(status.read_text())


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("-n", type=int, default=1, choices=(1, 2), help="nodes (default 1)")
    parser.add_argument("-m", type=int, default=3072, help="MiB of memory of each (default 3072)")
    parser.add_argument("-t", type=float, default=480, help="seconds until it is ended (default 480)")
    parser.add_argument("-o", type=Path, help="folder for what the nodes write (default: a temporary one)")
    parser.add_argument("--packages", action="store_true", help="print the Debian packages that are needed")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    given = parser.parse_args()
    if given.packages:
        print(" ".join(dict.fromkeys(PACKAGES.values())))
        return 0
    command = given.command[1:] if given.command[:1] == ["--"] else given.command
    if not command:
        parser.error("no command")
    reason = missing()
    if reason is not None:
        print(f"softroce: {reason}", file=sys.stderr)
        return 77  # as test programs say that they were skipped
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    folder = given.o or Path(tempfile.mkdtemp(prefix="spoke-softroce-"))
    folder.mkdir(parents=True, exist_ok=True)
    try:
        return run(command, given.n, given.m, given.t, folder.resolve())
    finally:
        if given.o is None:
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
