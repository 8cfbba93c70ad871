"""A cluster of this program's own: one daemon that lives and dies with it.

Rule: next to nothing is imported before the daemon's process runs.  What a driver is made of takes about as
long to import as that process takes to start, and the two go on side by side.
"""

from __future__ import annotations

import gc
import os
from typing import TYPE_CHECKING, Any, Final

from spoke import config, spawning, token

if TYPE_CHECKING:
    from spoke.client import Client

GOODBYE_S: Final = 5.0  # the daemon has to end after its driver's link

_AMOUNTS = ("num_cpus", "num_gpus", "memory", "object_store_memory")


def start(options: dict[str, Any]) -> Client:
    """Start a daemon that lives and dies with this process, and connect to it.

    options: of `api.init` (num_cpus, num_gpus, resources, labels, object_store_memory, namespace,
    runtime_env, log_to_driver, temp_dir).

    Raises:
        RuntimeError: the daemon did not start; the text says why.
    """
    collecting = gc.isenabled()
    gc.disable()  # nothing to find among modules that are just being imported, and looking takes milliseconds
    try:
        return _start(options)
    finally:
        if collecting:
            gc.enable()


def _start(options: dict[str, Any]) -> Client:
    from _socket import socketpair

    secret = token.resolve(config.get("token"), config.get("token_file"), None) or token.generate()
    process_id, node_id = os.urandom(28), os.urandom(28)
    mine, theirs = socketpair()
    settings = {
        "mode": "head", "link": "driver", "driver_id": process_id, "driver_pid": os.getpid(),
        "token": secret, "node_id": node_id, "sys_path": spawning.search_path(),
        "port": 0, "record": True, "log_dir": config.get("log_dir"),
        **{name: options.get(name) for name in _AMOUNTS},
        "resources": options.get("resources") or {}, "labels": options.get("labels") or {},
    }  # fmt: skip
    pid, pidfd = spawning.start_daemon(settings, theirs.fileno(), config.environment())
    theirs.close()

    from spoke import driver, wire
    from spoke._native import Reactor
    from spoke.client import Client
    from spoke.link import TRUSTED_FRAME_BYTES
    from spoke.links import Links

    reactor = Reactor()
    links = Links(reactor, secret, process_id, node_id)
    reactor.listen_unix(wire.unix_name(process_id))
    conn = reactor.adopt(mine.detach())
    reactor.set_limit(conn, TRUSTED_FRAME_BYTES)
    hub = links.adopt(conn, node_id)
    client = Client(reactor, links, [process_id, node_id, "127.0.0.1", 0], hub, hub)
    client.on_closed = lambda: _reap_daemon(client, pid, pidfd)
    return driver.enter(client, options, "the cluster could not be started")


def _reap_daemon(client: Client, pid: int, pidfd: int) -> None:
    """Wait until the daemon has ended, which it does when its link to us ends; then kill it (PROC-2)."""
    import select
    import signal

    from spoke._native import reap

    status: tuple[int | None, int] | None = None
    try:
        if not select.select([pidfd], [], [], GOODBYE_S)[0]:
            os.kill(pid, signal.SIGKILL)
            select.select([pidfd], [], [], GOODBYE_S)
        status = reap(pidfd)
    except (ProcessLookupError, ChildProcessError, OSError):
        pass
    finally:
        os.close(pidfd)
    if status is not None and status[1] and client.info.get("session"):
        from spoke import records

        records.remove_dead_session(str(client.info["session"]))  # it could not do so itself
        records.live()  # which removes the record
