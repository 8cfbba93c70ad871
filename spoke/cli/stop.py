"""``spoke stop``: end the daemons that this user started on this machine."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time

import click

from spoke import records
from spoke.cli.common import Failed


@click.command()
@click.option("-f", "--force", is_flag=True, help="Kill at once instead of asking first.")
@click.option(
    "-g",
    "--grace-period",
    type=click.FloatRange(0),
    default=10.0,
    show_default=True,
    help="Seconds from asking to killing.",
)
def stop(force: bool, grace_period: float) -> None:
    """End this user's daemons on this machine, with workers."""
    try:
        found = records.live()
    except OSError as error:
        raise Failed(str(error)) from None
    killed = sum(1 for record in found if not _end(record, force, grace_period))
    if not found:
        click.echo("nothing to stop")
    else:
        click.echo(f"stopped {len(found)} daemon(s)" + (f", {killed} by force" if killed else ""))


def _end(record: records.Record, force: bool, grace_s: float) -> bool:
    """End one daemon and its supervisor; True if it went by itself."""
    supervisor = _supervisor(record)
    try:
        if supervisor is None:
            return _end_daemon(record, force, grace_s)
        if not force:
            signal.pidfd_send_signal(supervisor, signal.SIGTERM)  # no life follows
            if _ended(supervisor, grace_s):
                records.remove(record["path"])
                return True
        signal.pidfd_send_signal(supervisor, signal.SIGKILL)
        _end_daemon(record, True, grace_s)
        return False
    except ProcessLookupError:
        return _end_daemon(record, force, grace_s)
    finally:
        if supervisor is not None:
            os.close(supervisor)


def _supervisor(record: records.Record) -> int | None:
    """A pidfd of the process that would start the daemon again; None if there is none (any more)."""
    pid, started = record.get("supervisor") or (0, "")
    if not pid:
        return None
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return None
    if records.start_time(pid) == started:
        return pidfd
    os.close(pidfd)
    return None


def _end_daemon(record: records.Record, force: bool, grace_s: float) -> bool:
    """End one daemon; True if it went by itself."""
    try:
        pidfd = os.pidfd_open(record["pid"])
    except ProcessLookupError:
        records.remove(record["path"])
        return True
    try:
        if records.start_time(record["pid"]) != record["start_time"]:
            return True  # another process has its id by now
        if not force:
            signal.pidfd_send_signal(pidfd, signal.SIGTERM)
            if _ended(pidfd, grace_s):
                records.remove(record["path"])
                return True
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        _ended(pidfd, 10.0)
        records.remove(record["path"])
        records.remove_dead_session(str(record["session"]))
        _forget(record.get("state_dir"))
        return False
    except ProcessLookupError:
        return True
    finally:
        os.close(pidfd)


def _forget(state_dir: str | None) -> None:
    """A cluster that was stopped has ended: the next head on its port is another one."""
    if state_dir:
        from spoke import journal

        with contextlib.suppress(OSError):  # a head that was started meanwhile has it, or it is broken
            journal.forget(state_dir)


def _ended(pidfd: int, limit_s: float) -> bool:
    deadline = time.monotonic() + limit_s
    while True:
        left = deadline - time.monotonic()
        if select.select([pidfd], [], [], max(0.0, left))[0]:
            return True
        if left <= 0:
            return False
