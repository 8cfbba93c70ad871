"""``spoke why ID``: what an object, an actor, a gang or a group waits for, or does, and since when."""

from __future__ import annotations

import click

from spoke.cli.common import Failed, HostPort, observe
from spoke.ids import OBJECT_BYTES


@click.command()
@click.argument("identity", metavar="ID")
@click.option("--address", type=HostPort(), help="The cluster's head.  [default: this machine's cluster]")
def why(identity: str, address: str | None) -> None:
    """Say why an object, an actor or a gang waits or is gone.

    ID is its hexadecimal id, of an actor or gang also the beginning of it, or its name.  An object's id is
    what `ref.hex()` shows; the process that made it answers.
    """
    observer, where = observe(address)
    try:
        known = {row["actor_id"].hex(): row["name"] for row in observer.ask("actors")}
        known.update({row["group_id"].hex(): row["name"] for row in observer.ask("groups")})
        wanted = identity.lower()
        found = [key for key, name in known.items() if key.startswith(wanted) or (name and name == identity)]
        if not found and _is_object(wanted):
            found = [wanted]
        if not found:
            raise Failed(f"{where} knows no actor, gang or group {identity!r}")
        if len(found) > 1 and wanted not in found:
            raise Failed(f"{identity!r} is the beginning of {len(found)} ids; give more of it")
        key = wanted if wanted in found else found[0]
        click.echo(f"{key}: {observer.ask('explain', id=bytes.fromhex(key))}")
    except (OSError, ValueError) as error:
        raise Failed(f"{where}: {error}") from None
    finally:
        observer.close()


def _is_object(text: str) -> bool:
    try:
        return len(bytes.fromhex(text)) == OBJECT_BYTES
    except ValueError:
        return False
