"""``spoke list | get | summary``: what is in the cluster, from the state API."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, Final

import click

from spoke.cli.common import Failed, HostPort
from spoke.cli.output import FORMATS, NOTHING, as_yaml, heading, print_rows, print_table

RESOURCES: Final = (
    "actors", "jobs", "placement-groups", "nodes", "workers", "tasks", "objects", "runtime-envs",
    "cluster-events",
)  # fmt: skip
ADDRESS_HELP: Final = "The cluster's head.  [default: this machine's cluster]"
_RULE: Final = "-" * 36


def asked(question: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """The answer of the state API; what it does not show is said on standard error.

    Raises:
        click.UsageError: a filter or a limit that there is not; Failed: there is no answer.
    """
    from spoke.util.state.exception import InvalidQuery, RayStateApiException

    with warnings.catch_warnings(record=True) as notes:
        warnings.simplefilter("always")
        try:
            found = question(*args, **kwargs)
        except InvalidQuery as error:
            raise click.UsageError(str(error)) from None
        except (RayStateApiException, ValueError, RuntimeError, OSError) as error:
            raise Failed(str(error)) from None
    for note in notes:
        click.echo(f"spoke: {note.message}", err=True)
    return found


def looks(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options of all commands that look at a cluster."""
    with_timeout = click.option(
        "--timeout", type=click.FloatRange(0, min_open=True), default=30, show_default=True,
        help="Seconds to wait for answers.",
    )(command)  # fmt: skip
    return click.option("--address", type=HostPort(), help=ADDRESS_HELP)(with_timeout)


def _parse_filters(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> list[Any]:
    """``("key=value", "key!=value")`` as the state API takes them."""
    filters = []
    for value in values:
        key, operator, wanted = value.partition("!=")
        if not operator:
            key, operator, wanted = value.partition("=")
        if not operator or not key.strip():
            raise click.BadParameter(f"{value!r} is neither key=value nor key!=value")
        filters.append((key.strip(), operator, wanted.strip()))
    return filters


@click.command(name="list")
@click.argument("resource", metavar="RESOURCE", type=click.Choice(RESOURCES))
@click.option("--format", "form", type=click.Choice(FORMATS), default="default", help="Of the output.")
@click.option("-f", "--filter", "filters", multiple=True, metavar="KEY=VALUE", callback=_parse_filters,
              help="Only rows where it holds; also KEY!=VALUE. Can be repeated: all must hold.")  # fmt: skip
@click.option("--limit", type=int, default=100, show_default=True, help="At most so many rows.")
@click.option("--detail", is_flag=True, help="Show all fields.")
@looks
def list_(
    resource: str,
    form: str,
    filters: list[Any],
    limit: int,
    detail: bool,
    timeout: float,
    address: str | None,
) -> None:
    """Show all actors, tasks, nodes and so on, a row each.

    RESOURCE is actors, jobs, placement-groups, nodes, workers, tasks, objects, runtime-envs or
    cluster-events.
    """
    from spoke.util.state import api

    question = getattr(api, f"list_{resource.replace('-', '_')}")
    rows = asked(
        question, address, filters=filters, limit=limit, timeout=timeout, detail=detail,
        raise_on_missing_output=False, _explain=True,
    )  # fmt: skip
    if form == "default":
        form = "yaml" if detail and rows else "table"
    columns = rows[0].list_columns(detail) if rows else []
    print_rows([row.asdict() for row in rows], columns, form)


@click.command()
@click.argument("resource", metavar="RESOURCE", type=click.Choice(RESOURCES[:-2] + RESOURCES[-1:]))
@click.argument("identity", metavar="ID")
@click.option("--format", "form", type=click.Choice(FORMATS), default="default", help="Of the output.")
@looks
def get(resource: str, identity: str, form: str, timeout: float, address: str | None) -> None:
    """Show everything about one actor, task, node and so on.

    RESOURCE is as for list, but for runtime-envs.
    """
    from spoke.util.state import api

    name = resource.replace("-", "_")
    question = getattr(api, f"get_{name if name == 'objects' else name.rstrip('s')}")
    found = asked(question, identity, address, timeout=timeout)
    if not found:
        click.echo(f"Resource with id={identity} not found in the cluster.")
        return
    rows = [row.asdict() for row in (found if isinstance(found, list) else [found])]
    print_rows(rows, list(rows[0]), "yaml" if form == "default" else form)


@click.group()
def summary() -> None:
    """Count actors, tasks or objects by kind and state."""


def _summary(resource: str, title: str, grouped_by: str, hidden: tuple[str, ...] = ()) -> None:
    @summary.command(name=resource, help=f"Count {resource} by {grouped_by}.")
    @click.option("--format", "form", type=click.Choice(FORMATS), default="default", help="Of the output.")
    @looks
    def show(form: str, timeout: float, address: str | None) -> None:
        from spoke.util.state import api

        question = getattr(api, f"summarize_{resource}")
        found = asked(question, address, timeout=timeout, raise_on_missing_output=False)["cluster"]
        if form in ("json", "yaml"):
            print_rows([found], [], form) if form == "json" else click.echo(as_yaml(found), nl=False)
            return
        heading(title)
        totals = {name: value for name, value in found.items() if name not in ("summary", "summary_by")}
        lines = "\n".join(f"{name}: {value}" for name, value in sorted(totals.items()))
        click.echo(f"Stats:\n{_RULE}\n{lines}\n\n\nTable (group by {found['summary_by']}):\n{_RULE}")
        rows = found["summary"]
        if not rows:
            click.echo(NOTHING)
            return
        columns = list(next(iter(rows.values())))
        if resource == "objects":
            columns = ["callsite", *columns]
            rows = {name: {"callsite": name, **row} for name, row in rows.items()}
        print_table(
            [one.upper() for one in columns], [[row[one] for one in columns] for row in rows.values()]
        )


_summary("actors", "Actors Summary", "class")
_summary("tasks", "Tasks Summary", "function")
_summary("objects", "Object Summary", "call site")
