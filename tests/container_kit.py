"""A real podman for tests, without a network: an image of directories, in which this machine's files show.

The image has no files of its own; podman mounts `/usr`, the interpreter and this checkout into every
container, read-only, as its configuration says.  Storage and configuration are the test run's own.
"""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
IMAGE = "localhost/spoke-test:1"
_RUNTIMES = ("crun", "runc")
_CONFIGURATION = """
[containers]
volumes = [{volumes}]
default_ulimits = ["nofile=1024:4096", "nproc=4096:4096"]
[network]
network_backend = "netavark"
[engine]
cgroup_manager = "cgroupfs"
events_logger = "none"
runtime = "{runtime}"
"""
_STORAGE = """
[storage]
driver = "{driver}"
graphroot = "{root}/storage"
runroot = "{root}/run"
"""


@contextmanager
def _without_locks() -> Iterator[None]:
    """Podman's shared memory goes if it was not there before: podman makes it again when it is needed."""
    user = os.geteuid()
    locks = Path("/dev/shm") / (f"libpod_rootless_lock_{user}" if user else "libpod_lock")
    there = locks.exists()
    try:
        yield
    finally:
        if not there:
            locks.unlink(missing_ok=True)


@contextmanager
def podman(root: Path) -> Iterator[None]:
    """Variables under which `podman` has `IMAGE`; the test is skipped where it cannot run a container."""
    if shutil.which("podman") is None:
        pytest.skip("podman is not installed")
    with _without_locks(), pytest.MonkeyPatch.context() as patch:
        patch.setenv("CONTAINERS_CONF", str(root / "containers.conf"))
        patch.setenv("CONTAINERS_STORAGE_CONF", str(root / "storage.conf"))
        failures = []
        for driver in ("overlay", "vfs"):
            for runtime in filter(shutil.which, _RUNTIMES):
                failure = _try(root, driver, runtime)
                if not failure:
                    yield
                    _clean(root)
                    return
                failures.append(f"{runtime} on {driver}: {failure}")
                _clean(root)
        pytest.skip(f"podman cannot run a container here: {'; '.join(failures) or 'neither crun nor runc'}")


def run(*argv: str) -> str:
    """What podman prints."""
    done = subprocess.run(["podman", *argv], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def _try(root: Path, driver: str, runtime: str) -> str:
    """Make the image and run a container with a limit and a port; the reason why that fails, or ""."""
    folders = dict.fromkeys(["/usr", sys.prefix, sys.base_prefix, str(ROOT)])
    volumes = ", ".join(f'"{folder}:{folder}:ro"' for folder in folders)
    (root / "containers.conf").write_text(_CONFIGURATION.format(volumes=volumes, runtime=runtime))
    (root / "storage.conf").write_text(_STORAGE.format(driver=driver, root=root))
    (root / "image.tar").write_bytes(_image())
    path = f"PATH={os.path.dirname(sys.executable)}:/usr/bin:/bin"
    changes = ["--change", f"ENV {path}", "--change", f"ENV PYTHONPATH={ROOT}"]
    probe = ["--memory", "64m", "--cpus", "1", "-p", "127.0.0.1:29999:29999", IMAGE, "python", "-c", ""]
    for argv in (["import", *changes, str(root / "image.tar"), IMAGE], ["run", "--rm", *probe]):
        done = subprocess.run(["podman", *argv], capture_output=True, text=True, timeout=60)
        if done.returncode:
            return done.stderr.strip().rpartition("\n")[2]
    return ""


def _image() -> bytes:
    """An archive of directories, and links into /usr."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        for name in ("usr", "tmp", "etc", "root", "proc", "sys", "dev", "run", "var"):
            info = tarfile.TarInfo(name)
            info.type, info.mode = tarfile.DIRTYPE, 0o1777 if name == "tmp" else 0o755
            archive.addfile(info)
        for name in ("bin", "sbin", "lib", "lib64"):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.SYMTYPE, f"usr/{name}"
            archive.addfile(info)
    return made.getvalue()


def _clean(root: Path) -> None:
    subprocess.run(["podman", "rm", "-f", "-t", "0", "-a"], capture_output=True, timeout=60)
    for folder in ("storage/overlay", "storage"):
        subprocess.run(["umount", str(root / folder)], capture_output=True)
    for folder in ("storage", "run"):
        shutil.rmtree(root / folder, ignore_errors=True)
