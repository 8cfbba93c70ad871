"""``spoke doctor``: whether this machine has what spoke needs, one line per check."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

import click

from spoke import config, devices, machine, records
from spoke.cli.doctor_rdma import RDMA_CHECKS, reach


@click.command()
@click.option("--peer", metavar="HOST:PORT", help="Also check the way to this daemon of another node.")
def doctor(peer: str | None) -> None:
    """Check this machine.  Exit code 1 if something that is needed is missing."""
    failed = 0
    checks = [*_CHECKS, *RDMA_CHECKS]
    if peer is not None:
        checks.append(("peer", lambda: reach(peer), True))
    for name, check, needed in checks:
        try:
            text, good = check(), True
        except Exception as error:  # whatever is wrong is what this command is asked for
            plain = isinstance(error, LookupError)
            text, good = str(error.args[0]) if plain else f"{type(error).__name__}: {error}", False
        failed += needed and not good
        word = "ok" if good else ("FAILED" if needed else "missing")
        click.echo(f"{word:8}{name:16}{text}")
    sys.exit(1 if failed else 0)


def _native() -> str:
    from spoke import _native as native

    return str(native.__file__)


def _segments() -> str:
    from spoke._native import Segment

    segment = Segment.create("spoke-doctor", 1 << 20)
    segment.write(0, [b"x"])
    return f"{machine.memory_bytes() / 2**30:.1f} GiB of memory"


def _sockets() -> str:
    from spoke._native import Reactor

    reactor = Reactor()
    reactor.listen_unix(b"\0spoke-doctor-" + os.urandom(8).hex().encode())
    _, port = reactor.listen_tcp("127.0.0.1", 0)
    reactor.close_all()
    return f"abstract unix sockets and TCP on the loopback (port {port})"


def _processes() -> str:
    os.close(os.pidfd_open(os.getpid()))
    return f"pidfd; {machine.cpu_count()} CPUs"


def _directories() -> str:
    return f"{records.runtime_dir()}, {records.temp_root()}"


def _gpus() -> str:
    visible = devices.visible_devices(config.get(devices.KNOBS[devices.gpu_variable()][0]))
    count = devices.gpu_count(visible)
    if not count:
        raise LookupError("no driver of NVIDIA or AMD, or no device that may be used")
    return f"{count} x {devices.gpu_model(0) or 'GPU'}"


def _daemons() -> str:
    found = [f"{record['role']} of {record['address']} (pid {record['pid']})" for record in records.live()]
    return "; ".join(found) or "none of this user runs"


_CHECKS: list[tuple[str, Callable[[], str], bool]] = [
    ("native module", _native, True),
    ("shared memory", _segments, True),
    ("sockets", _sockets, True),
    ("processes", _processes, True),
    ("directories", _directories, True),
    ("daemons", _daemons, True),
    ("GPUs", _gpus, False),
]
