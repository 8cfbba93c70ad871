"""``spoke health-check``: exit code 0 where the cluster answers, 1 where it does not."""

from __future__ import annotations

import click

from spoke.cli.common import Failed, HostPort, observe
from spoke.cli.state import ADDRESS_HELP


@click.command(name="health-check")
@click.option("--address", type=HostPort(), help=ADDRESS_HELP)
@click.option("--component", type=click.Choice(["ray_client_server"]),
              help="Accepted for Ray's sake: drivers join at the head itself.")  # fmt: skip
@click.option("--skip-version-check", is_flag=True,
              help="Accepted for Ray's sake: versions that do not fit are always refused.")  # fmt: skip
@click.option("--timeout", type=click.FloatRange(0, min_open=True), default=10, show_default=True,
              help="Seconds to wait for the answer.")  # fmt: skip
def health_check(
    address: str | None, component: str | None, skip_version_check: bool, timeout: float
) -> None:
    """Ask the head and a node.  Say nothing where they answer; else why not, with exit code 1."""
    observer, where = observe(address)
    try:
        if not any(node["Alive"] for node in observer.ask("nodes", timeout)):
            raise Failed(f"{where}: no node is alive")
    except (OSError, ValueError) as error:
        raise Failed(f"{where}: {error}") from None
    finally:
        observer.close()
