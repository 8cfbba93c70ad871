"""The worker: a process that runs tasks or hosts one actor.

The main thread leads the reactor while it has nothing to run and runs user code otherwise; the I/O
thread leads meanwhile.  Messages only queue jobs (lock held); `execution.Executor` runs them.
"""

from __future__ import annotations

import os
import sys
import time
from typing import Any

from spoke import context, current, forking, output, spawning, wire
from spoke._native import Reactor, set_title
from spoke.client import Client
from spoke.errors import AuthenticationError
from spoke.execution import Executor
from spoke.link import connect, target_of
from spoke.links import Links


def join(config: dict[str, Any]) -> Client:
    """Connect this process to its hub and agent as the configured worker.

    Raises:
        OSError, AuthenticationError: the cluster is not there any more.
    """
    reactor = Reactor()
    worker_id, node_id = config["worker_id"], config["node_id"]
    links = Links(reactor, config["token"], worker_id, node_id)
    reactor.listen_unix(wire.unix_name(worker_id))
    port = reactor.listen_tcp(config["host"], 0)[1] if config["listen_tcp"] else 0
    address = [worker_id, node_id, config["host"], port]
    hub = _link(links, reactor, config["hub"], config, worker_id)
    agent = hub if config["agent"][0] == config["hub"][0] else _link(
        links, reactor, config["agent"], config, worker_id
    )  # fmt: skip
    client = Client(reactor, links, address, hub, agent)
    client.info.update({"node_id": node_id, "session": config["session"], "log_dir": config["log_dir"]})
    client.hub_target = target_of(config["hub"], node_id)
    client.is_worker = True
    client.info["hub_address"] = f"{config['hub'][2]}:{config['hub'][3]}" if config["hub"][3] else ""
    return client


def _link(links: Links, reactor: Reactor, address: Any, config: dict[str, Any], worker_id: bytes) -> Any:
    target = target_of(address, config["node_id"])
    conn, peer = connect(reactor, target, config["token"], worker_id, "worker")
    return links.adopt(conn, peer)


def _set_up() -> None:
    """Run the setup hook of the runtime environment; the process ends when it fails."""
    from spoke.envs import entering

    failure = entering.run_hook()
    if failure:
        print(failure, file=sys.stderr, flush=True)
        os._exit(entering.HOOK_FAILED)


def _go_first() -> None:
    """Where the machine runs out of memory, the kernel ends workers, not what supervises them."""
    try:
        with open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
            file.write("1000")
    except OSError:
        pass  # no such file, or not ours to write


def main() -> None:
    """Entry of a worker process; it ends with its agent, its hub link, or on request."""
    try:
        config = spawning.enter_worker()
    except (OSError, ValueError):
        print("spoke.worker is started by the agent, not by hand", file=sys.stderr)
        sys.exit(2)
    if "job" in config:
        from spoke import jobprocess

        jobprocess.main(config["job"])
    if "prepare" in config:
        from spoke.envs import prepare

        prepare.main(config["prepare"])
    set_title("spoke-worker")
    _go_first()
    try:
        client = join(config)
    except (OSError, AuthenticationError) as error:
        print(f"spoke worker: {error}", file=sys.stderr)
        sys.exit(1)
    client.facts = lambda: context.of_worker(client)
    current.client = client
    forking.install()
    output.install()
    executor = Executor(client)
    executor.interrupts.install(client)
    if config.get("env"):
        _set_up()
    client.on_hub_lost = lambda: os._exit(0)  # PROC-1: nothing to live for without the cluster
    with client.lock:
        info = {"started": time.time(), "calls": client.call_prefix}
        client.hub.tell(wire.CLIENT_UP, "worker", client.address, os.getpid(), info)
    client.lead.start()
    executor.run()
