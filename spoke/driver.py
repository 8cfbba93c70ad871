"""How a program gets its engine: with a cluster of its own, or by joining one."""

from __future__ import annotations

import atexit
import os
import sys
import time
from socket import socketpair
from typing import Any, Final

from spoke import config, context, current, records, spawning, token, wire
from spoke._native import Reactor, reap
from spoke.client import Client
from spoke.errors import AuthenticationError
from spoke.lead import Waiter
from spoke.link import TRUSTED_FRAME_BYTES, connect, parse_target
from spoke.links import Links

WELCOME_S: Final = 30.0
GOODBYE_S: Final = 5.0


def start_embedded(options: dict[str, Any]) -> Client:
    """Start a daemon that lives and dies with this process, and connect to it.

    options: of `api.init` (num_cpus, num_gpus, resources, labels, object_store_memory, namespace,
    runtime_env, log_to_driver, temp_dir).

    Raises:
        RuntimeError: the daemon did not start; the text says why.
    """
    secret = token.resolve(config.get("token"), config.get("token_file"), None) or token.generate()
    process_id, node_id = os.urandom(28), os.urandom(28)
    mine, theirs = socketpair()
    settings = {
        "mode": "head", "link": "driver", "driver_id": process_id, "driver_pid": os.getpid(),
        "token": secret, "node_id": node_id, "sys_path": _sys_path(),
        "port": 0, "record": True, "log_dir": config.get("log_dir"),
        **{name: options.get(name) for name in ("num_cpus", "num_gpus", "object_store_memory")},
        "resources": options.get("resources") or {}, "labels": options.get("labels") or {},
    }  # fmt: skip
    pid, pidfd = spawning.start_daemon(settings, theirs.fileno(), config.environment())
    theirs.close()
    reactor = Reactor()
    links = Links(reactor, secret, process_id, node_id)
    reactor.listen_unix(wire.unix_name(process_id))
    conn = reactor.adopt(mine.detach())
    reactor.set_limit(conn, TRUSTED_FRAME_BYTES)
    hub = links.adopt(conn, node_id)
    client = Client(reactor, links, [process_id, node_id, "127.0.0.1", 0], hub, hub)
    client.on_closed = lambda: _reap_daemon(pid, pidfd)
    return _enter(client, options, "the cluster daemon ended at its start; its last words are above")


def join(address: str, options: dict[str, Any]) -> Client:
    """Join the cluster at ``host:port``, or the one that runs on this machine for "auto".

    Raises:
        ConnectionError: nobody answers there, or the token or version do not match.
    """
    record = records.find(address)
    if record is None and address == "auto":
        raise ConnectionError(
            "address='auto' found no running cluster of this user on this machine: start one with "
            "`spoke start --head`, or give its host:port"
        )
    target = parse_target(record["address"] if record else address)
    secret = records.token_for(record["address"] if record else address)
    if secret is None:
        raise ConnectionError(
            f"no token for the cluster at {address}: set SPOKE_TOKEN, or SPOKE_TOKEN_FILE to its token file"
        )
    process_id = os.urandom(28)
    reactor = Reactor()
    try:
        conn, hub_id = connect(reactor, target, secret, process_id, "driver", 1.8)
    except (OSError, AuthenticationError) as error:
        raise ConnectionError(
            f"could not join the cluster at {address}: {error}. Is it running (`spoke status`), and is the "
            "address that of its head?"
        ) from None
    try:
        agent_conn, node_id, host = _local_agent(reactor, record, hub_id, secret, process_id)
    except OSError:
        reactor.close_all()
        raise ConnectionError(
            f"the cluster at {address} has no node on this machine, whose shared memory a driver needs: "
            f"run `spoke start --address {address}` here first"
        ) from None
    links = Links(reactor, secret, process_id, node_id)
    reactor.listen_unix(wire.unix_name(process_id))
    port = reactor.listen_tcp(host, 0)[1]
    agent = links.adopt(agent_conn, node_id)
    if node_id == hub_id:
        reactor.close(conn)  # one link to the head's daemon is enough: the one that can carry descriptors
    hub = agent if node_id == hub_id else links.adopt(conn, hub_id)
    client = Client(reactor, links, [process_id, node_id, host, port], hub, agent)
    client.info["address"] = f"{target[0]}:{target[1]}"
    return _enter(client, options, f"the cluster at {address} closed the connection")


def _local_agent(
    reactor: Reactor, record: Any, hub_id: bytes, secret: bytes, process_id: bytes
) -> tuple[int, bytes, str]:
    """A link to an agent of the cluster on this machine: (connection, node id, its host).

    Raises:
        OSError: there is none.
    """
    known = [record] if record is not None else records.live()
    nodes = [(bytes.fromhex(found["node_id"]), str(found["host"])) for found in known]
    failure: Exception = OSError("no agent")
    for node_id, host in [*nodes, (hub_id, "127.0.0.1")]:
        try:
            conn, _ = connect(reactor, wire.unix_name(node_id), secret, process_id, "driver", 1.8)
            return conn, node_id, host
        except (OSError, AuthenticationError) as error:  # a node of another cluster
            failure = error
    raise OSError(str(failure))


def _enter(client: Client, options: dict[str, Any], failure: str) -> Client:
    """Say hello to the hub and wait for its WELCOME."""
    info = {
        "namespace": options.get("namespace") or "",
        "entrypoint": " ".join(sys.argv[:8]),
        "started": time.time(),
    }
    welcome = Waiter(1)
    client.on_welcome = welcome.finish
    client.on_hub_lost = welcome.finish
    with client.lock:
        client.hub.tell(wire.CLIENT_UP, "driver", client.address, os.getpid(), info)
    client.lead.wait(welcome, time.monotonic() + WELCOME_S)
    client.on_hub_lost = None
    if client.closed is not None or "job_id" not in client.info:
        client.close()
        raise RuntimeError(failure)
    client.job_env = options.get("runtime_env") or {}
    client.namespace = client.info["namespace"]
    context.of_driver(client)
    if options.get("log_to_driver", True):
        from spoke.driver_log import print_lines

        client.hub.on_log_lines = print_lines
    client.hub.on_pending_reason = _warn_pending
    client.lead.start()
    current.client = client
    return client


def _warn_pending(what: str, key: Any, reason: str, fatal: bool) -> None:
    print(f"spoke: a {what} waits for resources that are not there: {reason}", file=sys.stderr)


def _sys_path() -> list[str]:
    """The driver's module search path, for workers; the script's directory first, as Python has it."""
    return [os.path.abspath(path) if path else os.getcwd() for path in sys.path]


def _reap_daemon(pid: int, pidfd: int) -> None:
    """Wait until the daemon has ended, which it does when its link to us ends; then kill it (PROC-2)."""
    import select
    import signal

    try:
        if not select.select([pidfd], [], [], GOODBYE_S)[0]:
            os.kill(pid, signal.SIGKILL)
            select.select([pidfd], [], [], GOODBYE_S)
        reap(pidfd)
    except (ProcessLookupError, ChildProcessError, OSError):
        pass
    finally:
        os.close(pidfd)


def _at_exit() -> None:
    client = current.client
    if client is not None and not client.is_worker:
        current.client = None
        client.close()


atexit.register(_at_exit)
