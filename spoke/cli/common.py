"""What the commands share: failing in one line, finding the cluster, parsing values."""

from __future__ import annotations

import json
from typing import Any

import click

from spoke import config, labels, records
from spoke.link import parse_target
from spoke.observer import Observer, reach


class Failed(click.ClickException):
    """The command could not do it: one line, exit code 1."""

    def show(self, file: Any = None) -> None:
        """The line on standard error."""
        click.echo(f"spoke: {' '.join(self.message.split())}", err=True)


class Bytes(click.ParamType):  # type: ignore[type-arg]  # generic in new versions only
    """A size such as 500m or 2GiB, in bytes."""

    name = "bytes"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """See `config.parse_bytes`."""
        try:
            return config.parse_bytes(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


class HostPort(click.ParamType):  # type: ignore[type-arg]  # as above
    """An address such as 10.0.0.1:6380."""

    name = "host:port"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """See `link.parse_target`."""
        address = records.without_scheme(str(value))
        if address == "auto":
            return "auto"
        try:
            host, port = parse_target(address)
        except ValueError as error:
            self.fail(str(error), param, ctx)
        return f"{host}:{port}"


def parse_object(ctx: click.Context, param: click.Parameter, value: str | None) -> dict[str, Any]:
    """``'{"name": ...}'`` as a table; without a value an empty one."""
    if value is None:
        return {}
    try:
        table = json.loads(value)
    except ValueError as error:
        raise click.BadParameter(f"not a valid JSON string: {error}") from None
    if not isinstance(table, dict):
        raise click.BadParameter(f'{value!r} is no JSON object, such as {{"name": 1}}')
    return table


def parse_resources(ctx: click.Context, param: click.Parameter, value: str | None) -> dict[str, float]:
    """``'{"name": 2}'`` as a table of amounts."""
    table = parse_object(ctx, param, value)
    for name, amount in table.items():
        if isinstance(amount, bool) or not isinstance(amount, (int, float)) or amount < 0:
            raise click.BadParameter(f"the amount of {name!r} is not a number of 0 or more")
    return {name: float(amount) for name, amount in table.items()}


def parse_ports(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    """``"30000-40000"``, checked."""
    if value is not None:
        try:
            config.parse_port_range(value)
        except ValueError as error:
            raise click.BadParameter(str(error)) from None
    return value


def parse_labels(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    """``("k=v", "a=b,c=d")`` as a table."""
    found = {}
    for value in values:
        try:
            found.update(labels.parse_text(value))
        except ValueError as error:
            raise click.BadParameter(str(error)) from None
    return found


def read_labels(ctx: click.Context, param: click.Parameter, value: str | None) -> dict[str, str]:
    """The labels of a file."""
    try:
        return labels.parse_yaml_file(value or "")
    except (OSError, ValueError) as error:
        raise click.BadParameter(str(error)) from None


def observe(address: str | None) -> tuple[Observer, str]:
    """A link to the hub at `address` (default: SPOKE_ADDRESS, else this machine's), and that address.

    Raises:
        Failed: there is no cluster, or it does not let us in.
    """
    try:
        observer = reach(address)
    except (OSError, ValueError) as error:
        raise Failed(str(error)) from None
    return observer, observer.address


def ask_hub(address: str | None, *questions: str) -> list[Any]:
    """The hub's answers to some questions without arguments.

    Raises:
        Failed: there is no cluster, or it does not answer.
    """
    observer, where = observe(address)
    try:
        return [observer.ask(what) for what in questions]
    except (OSError, ValueError) as error:
        raise Failed(f"{where}: {error}") from None
    finally:
        observer.close()


def plain(value: Any) -> str:
    """Ids in hexadecimal, for JSON."""
    return value.hex() if isinstance(value, bytes) else str(value)
