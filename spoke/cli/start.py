"""``spoke start``: become a cluster's head, or one of its nodes."""

from __future__ import annotations

import os
import time
from typing import Any

import click

from spoke import config, journal, records, token
from spoke.cli.common import Bytes, Failed, HostPort, parse_labels, parse_ports, parse_resources, read_labels
from spoke.launch import Launched, LaunchError, launch

DEFAULT_PORT = 6380


@click.command()
@click.option("--head", is_flag=True, help="Start a new cluster with this machine as its head.")
@click.option("--address", type=HostPort(), help="Join the cluster whose head is at HOST:PORT.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=None,
    help=f"TCP port of the head, 0 for a free one.  [default: {DEFAULT_PORT}]",
)
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="Address to listen on; 0.0.0.0 lets other machines in.",
)
@click.option("--num-cpus", type=click.FloatRange(0), help="CPUs to offer.  [default: all]")
@click.option("--num-gpus", type=click.FloatRange(0), help="GPUs to offer.  [default: all]")
@click.option("--memory", type=Bytes(), help="Bytes of memory to offer to tasks that ask for memory.")
@click.option(
    "--object-store-memory", type=Bytes(), help="Bytes of shared memory.  [default: 30 % of memory]"
)
@click.option("--resources", metavar="JSON", callback=parse_resources, help="Further resources by name.")
@click.option(
    "--label",
    "--labels",
    "labels",
    metavar="KEY=VALUE",
    multiple=True,
    callback=parse_labels,
    help="A label of the node; can be repeated.",
)
@click.option("--labels-file", type=click.Path(dir_okay=False), callback=read_labels,
              help="A YAML file of labels; those of --labels come before.")  # fmt: skip
@click.option("--log-dir", type=click.Path(file_okay=False), help="Where workers' logs are kept.")
@click.option(
    "--state-dir",
    type=click.Path(file_okay=False),
    help="Where the head keeps what its next life must know.  [default: one per port, for the user]",
)
@click.option("--scheduler", type=click.Choice(["fifo", "strict_fifo", "locality", "spread"]),
              help="Of jobs; the head's.  [default: fifo]")  # fmt: skip
@click.option("--job-port-range", metavar="FIRST-LAST", callback=parse_ports,
              help="Ports for jobs.  [default: 30000-40000]")  # fmt: skip
@click.option(
    "--restarts",
    type=click.IntRange(0),
    default=5,
    show_default=True,
    help="How often within a minute a head that was killed is started again; 0: never.",
)
@click.option("--block", is_flag=True, help="Stay in the foreground until the daemon ends.")
def start(head: bool, address: str | None, port: int | None, host: str, block: bool, **node: Any) -> None:
    """Start a node.  --head for a new cluster, --address HOST:PORT to join one."""
    if head == bool(address):
        raise click.UsageError("give either --head or --address HOST:PORT")
    if address is not None and port is not None:
        raise click.UsageError("--port is the head's; a node that joins takes a free one")
    if address is not None and node["state_dir"]:
        raise click.UsageError("--state-dir is the head's; a node keeps nothing")
    node["labels"] = {**node.pop("labels_file"), **node["labels"]}
    settings = {**node, "link": "tied" if block else "starter", "host": host, "record": True, "started": True}
    if head:
        settings.update(mode="head", port=DEFAULT_PORT if port is None else port)
        settings["state_dir"] = _state_dir(settings["state_dir"], settings["port"])
        if block or not settings["state_dir"]:
            settings["restarts"] = 0  # whoever waits for it sees its end; without a journal none follows
        settings["session"] = f"session-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"  # of all its lives
    else:
        settings.update(mode="node", port=0, state_dir=None, restarts=0)
    daemon = _launch(settings, address)
    try:
        click.echo(_ready_line(daemon, head))
        while block and daemon.is_alive():
            time.sleep(0.1)
    except KeyboardInterrupt:
        daemon.stop()
    else:
        daemon.release()


def _launch(settings: dict[str, Any], address: str | None) -> Launched:
    try:
        given = token.resolve(config.get("token"), config.get("token_file"))
        if address is not None:
            settings["hub"] = _hub_target(address)
            given = given or records.token_for(":".join(map(str, settings["hub"])))
            if given is None:
                raise Failed(f"no token for {address}: set SPOKE_TOKEN or SPOKE_TOKEN_FILE to the head's")
        if settings["state_dir"]:
            given = given or journal.facts_of(settings["state_dir"]).get("token")
        settings["token"] = given or token.generate()
        environment = config.environment()
        ports = settings.pop("job_port_range")
        if ports:
            environment["SPOKE_JOB_PORT_RANGE"] = ports
        if settings["log_dir"]:
            settings["log_dir"] = os.path.abspath(settings["log_dir"])
        return launch(settings, environment)
    except (OSError, ValueError, LaunchError) as error:
        raise Failed(str(error)) from None


def _state_dir(chosen: str | None, port: int) -> str | None:
    """The directory of the head's journal; a head on any free port has none unless it is given one."""
    chosen = chosen or config.get("state_dir")
    if chosen:
        return os.path.abspath(chosen)
    return journal.default_directory(port) if port else None


def _hub_target(address: str) -> list[Any]:
    if address == "auto":
        record = records.find("auto")
        if record is None:
            raise Failed("no head runs on this machine")
        address = str(record["address"])
    host, _, port = address.rpartition(":")
    return [host, int(port)]


def _ready_line(daemon: Launched, head: bool) -> str:
    program = click.get_current_context().find_root().info_name  # `spoke`, or `ray` where it stands in
    if head:
        # Start scripts read the address from between the quotes of --address, as Ray prints it.
        return (
            f"ready: head of {daemon.address} (pid {daemon.info['pid']}); connect with "
            f'{program}.init("{daemon.address}") or init("auto"), add nodes with '
            f"`{program} start --address='{daemon.address}'`, end with `{program} stop`"
        )
    name = daemon.node_id.hex()[:12]
    return f"ready: node {name} of {daemon.address} (pid {daemon.pid}); end with `{program} stop`"
