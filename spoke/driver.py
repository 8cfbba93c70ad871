"""How a program gets its engine: by joining a cluster, that of its own (`embedded`) or another."""

from __future__ import annotations

import atexit
import os
import sys
import time
from typing import TYPE_CHECKING, Any, Final

from spoke import config, current, forking, notices, records, spawning, wire

if TYPE_CHECKING:
    from spoke._native import Reactor
    from spoke.client import Client

WELCOME_S: Final = 30.0
GOODBYE_S: Final = 5.0
JOIN_S: Final = 1.8  # to the answer of a head


def join(address: str, options: dict[str, Any]) -> Client:
    """Join the cluster at ``host:port``, or the one that runs on this machine for "auto".

    Raises:
        ConnectionError: nobody answers there, or the token or version do not match.
    """
    from spoke._native import Reactor
    from spoke.client import Client
    from spoke.errors import AuthenticationError
    from spoke.link import connect, parse_target
    from spoke.links import Links

    record = records.find(address)
    if record is None and address == "auto":
        raise ConnectionError(
            "address='auto' found no running cluster of this user on this machine: start one with "
            "`spoke start --head`, or give its host:port"
        )
    target = parse_target(record["address"] if record else address)
    secret = _token_for(record["address"] if record else address, target)
    process_id = os.urandom(28)
    reactor = Reactor()
    try:
        conn, hub_id = connect(reactor, target, secret, process_id, "driver", JOIN_S)
    except (OSError, AuthenticationError) as error:
        raise _unreachable(address, error) from None
    try:
        agent_conn, node_id, host = _local_agent(reactor, hub_id, secret, process_id)
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
    client.hub_target = wire.unix_name(node_id) if hub is agent else target
    client.paths = [spawning.search_path(), os.getcwd()]
    return enter(client, options, f"the cluster at {address} did not let this driver in")


def _unreachable(address: str, error: Exception) -> ConnectionError:
    return ConnectionError(
        f"could not join the cluster at {address}: {error}. Is it running (`spoke status`), and is the "
        "address that of its head? A cluster is started with `spoke start --head`."
    )


def _token_for(address: str, target: tuple[str, int]) -> bytes:
    """The cluster's token.

    Raises:
        ConnectionError: there is none here; or nobody listens at the address in the first place.
    """
    from spoke.link import dial

    secret = records.token_for(address)
    if secret is None:
        try:
            dial(target, JOIN_S).close()
        except OSError as error:
            raise _unreachable(address, error) from None
        raise ConnectionError(
            f"no token for the cluster at {address}: set SPOKE_TOKEN, or SPOKE_TOKEN_FILE to its token file"
        )
    return secret


def _local_agent(reactor: Reactor, hub_id: bytes, secret: bytes, process_id: bytes) -> tuple[int, bytes, str]:
    """A link to an agent of the cluster on this machine: (connection, node id, its host).

    Raises:
        OSError: there is none.
    """
    from spoke.errors import AuthenticationError
    from spoke.link import connect

    same = [found for found in records.live() if found.get("hub_id") == hub_id.hex()]
    same.sort(key=lambda found: found["role"] != "head")
    nodes = [(bytes.fromhex(found["node_id"]), str(found["host"])) for found in same]
    failure: Exception = OSError("no agent")
    for node_id, host in [*nodes, (hub_id, "127.0.0.1")]:
        try:
            conn, _ = connect(reactor, wire.unix_name(node_id), secret, process_id, "driver", JOIN_S)
            return conn, node_id, host
        except (OSError, AuthenticationError) as error:  # it is just ending
            failure = error
    raise OSError(str(failure))


def enter(client: Client, options: dict[str, Any], failure: str) -> Client:
    """Say hello to the hub, wait for its WELCOME, and be this process's engine.

    failure: begins the text of the error where there is none.

    Raises:
        RuntimeError: the hub refused, or is gone.
    """
    from spoke import context
    from spoke.envs import resolving
    from spoke.lead import Waiter

    info = {
        "namespace": options.get("namespace") or "",
        "entrypoint": " ".join(sys.argv[:8]),
        "started": time.time(),
        "submission_id": config.get("job_id") or "",
        "attempt_id": config.get("attempt_id"),
        "calls": client.call_prefix,
    }
    welcome = Waiter(1)
    last_words: list[str] = []
    client.on_welcome = welcome.finish
    client.on_hub_lost = welcome.finish
    on_shutdown = client.handlers[wire.SHUTDOWN]
    client.handlers[wire.SHUTDOWN] = lambda link, message, payload: last_words.append(message[1])
    with client.lock:
        client.hub.tell(wire.CLIENT_UP, "driver", client.address, os.getpid(), info)
    import cloudpickle  # noqa: F401  # functions of the user's program need it, and this process waits

    client.lead.wait(welcome, time.monotonic() + WELCOME_S)
    client.on_hub_lost = None
    client.handlers[wire.SHUTDOWN] = on_shutdown
    if client.closed is not None or "job_id" not in client.info:
        client.close()
        reason = "".join(last_words) or "its daemon ended without a word; what it printed is above"
        raise RuntimeError(f"{failure}: {reason}")
    client.namespace = client.info["namespace"]
    client.detached_actors = options.get("actor_lifetime") == "detached"
    try:
        client.job_env = resolving.enter_job(client, options.get("runtime_env") or {})
    except BaseException:
        client.close()
        raise
    context.of_driver(client)
    if options.get("logging"):
        from spoke import structuredlogs

        client.logging = options["logging"]
        structuredlogs.apply(client.logging)
    if options.get("log_to_driver", True):
        from spoke.driver_log import DriverLog

        output = DriverLog(client, bare=bool(client.logging))
        client.hub.on_log_lines = output.print_lines
        client.on_closing = lambda: _flush_logs(client, output)
    notices.show = bool(options.get("log_to_driver", True))
    client.hub.on_pending_reason = _warn_pending
    client.lead.start()
    forking.install()
    current.client = client
    return client


def _flush_logs(client: Client, output: Any) -> None:
    """Print what workers wrote until now, before the link to the hub ends."""
    from spoke.errors import RayError

    try:
        client.request("flush_logs", timeout=GOODBYE_S)
    except RayError:
        pass  # the cluster is gone: nothing more comes
    output.close()


def _warn_pending(what: str, key: Any, reason: str, fatal: bool) -> None:
    who = {"class": "a task", "actor": "an actor"}.get(what, f"a {what}")
    print(f"spoke: {who} waits for resources that are not there: {reason}", file=sys.stderr)


def _at_exit() -> None:
    """Leave at the interpreter's end; forked copies have left already (`forking`)."""
    client = current.client
    if client is not None and not client.is_worker:
        current.client = None
        client.close()


atexit.register(_at_exit)
