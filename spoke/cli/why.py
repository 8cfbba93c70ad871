"""``spoke why ID``: the state of an actor, gang or group in one sentence, with the cause."""

from __future__ import annotations

import click

from spoke.cli.common import Failed, HostPort, observe


@click.command()
@click.argument("identity", metavar="ID")
@click.option("--address", type=HostPort(), help="The cluster's head.  [default: this machine's cluster]")
def why(identity: str, address: str | None) -> None:
    """Say why an actor or a gang waits or is gone.

    ID is its hexadecimal id, the beginning of it, or its name.
    """
    observer, where = observe(address)
    try:
        known = {row["actor_id"].hex(): row["name"] for row in observer.ask("actors")}
        known.update({row["group_id"].hex(): row["name"] for row in observer.ask("groups")})
        wanted = identity.lower()
        found = [key for key, name in known.items() if key.startswith(wanted) or (name and name == identity)]
        if not found:
            raise Failed(f"{where} knows no actor, gang or group {identity!r}")
        if len(found) > 1 and wanted not in found:
            raise Failed(f"{identity!r} is the beginning of {len(found)} ids; give more of it")
        key = wanted if wanted in found else found[0]
        click.echo(f"{key}: {observer.ask('why', id=bytes.fromhex(key))}")
    except (OSError, ValueError) as error:
        raise Failed(f"{where}: {error}") from None
    finally:
        observer.close()
