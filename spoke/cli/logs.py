"""``spoke logs``: the output of gangs, actors, tasks, processes and jobs, or any log file of any node."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import click

from spoke.cli.common import Failed, HostPort
from spoke.cli.state import ADDRESS_HELP, asked

TAIL: Final = 1000  # lines that are shown where nothing else is asked for


class _Logs(click.Group):
    """What is no command is a pattern of file names: ``spoke logs X`` is ``spoke logs cluster X``."""

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        if args and args[0] not in self.commands:
            args = ["cluster", *args]
        return super().resolve_command(ctx, args)


@click.group(cls=_Logs, invoke_without_command=True, context_settings={"ignore_unknown_options": True})
@click.option("--gang", metavar="ID", help="Ranks of this gang: its id, the beginning of it, or its name.")
@click.option("--rank", type=click.IntRange(0), help="Only this rank of the gang.")
@click.option("-f", "--follow", is_flag=True, help="Of a gang: go on until interrupted.")
@click.option("--address", type=HostPort(), help=ADDRESS_HELP)
@click.pass_context
def logs(ctx: click.Context, gang: str | None, rank: int | None, follow: bool, address: str | None) -> None:
    """Print what was written.  By: actor | task | worker | job | cluster, or --gang ID."""
    if gang is not None:
        if ctx.invoked_subcommand is not None:
            raise click.UsageError(f"--gang does not go with '{ctx.invoked_subcommand}'")
        from spoke.cli.ganglogs import print_logs

        try:
            asked(print_logs, gang, rank, follow, address)
        except KeyboardInterrupt:
            pass
    elif ctx.invoked_subcommand is None:
        if rank is not None:
            raise click.UsageError("--rank needs --gang")
        raise click.UsageError("say whose: logs actor | task | worker | job | cluster, or --gang ID")


def _reads(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options of all commands that print one log."""
    for option in (
        click.option("--timeout", type=click.FloatRange(0, min_open=True), default=30, show_default=True,
                     help="Seconds to wait for answers."),
        click.option("--tail", type=click.IntRange(-1), default=None,
                     help=f"Only so many of the last lines, -1 for all.  [default: {TAIL}]"),
        click.option("-f", "--follow", is_flag=True, help="Go on until interrupted."),
        click.option("--address", type=HostPort(), help=ADDRESS_HELP),
    ):  # fmt: skip
        command = option(command)
    return command


_ERR = click.option("--err", is_flag=True, help="What was written on standard error instead.")
_NODE_ID = click.option("-id", "--node-id", metavar="ID", help="Only of this node.")
_NODE_IP = click.option("-ip", "--node-ip", metavar="IP", help="Only of nodes at this address.")


def _print_log(tail: int | None, follow: bool, **wanted: Any) -> None:
    from spoke.util.state.api import get_log

    lines = get_log(tail=TAIL if tail is None else tail, follow=follow, **wanted)
    shown = 0
    try:
        while (line := asked(next, lines, None)) is not None:
            click.echo(line, nl=not line.endswith("\n"))
            shown += 1
    except KeyboardInterrupt:
        pass
    if tail is None and shown >= TAIL and not follow:
        click.echo(f"spoke: the last {TAIL} lines are shown; --tail -1 shows all", err=True)


@logs.command()
@click.argument("pattern", metavar="[GLOB]", required=False)
@_reads
@_NODE_ID
@_NODE_IP
@click.option("--encoding", default="utf-8", show_default=True, help="Of the file.")
@click.option("--encoding-errors", default="strict", show_default=True, help="What to do with wrong bytes.")
def cluster(
    pattern: str | None, address: str | None, follow: bool, tail: int | None, timeout: float,
    node_id: str | None, node_ip: str | None, encoding: str, encoding_errors: str,
) -> None:  # fmt: skip
    """List the log files that match GLOB.  Print the file where it is one."""
    from spoke.util.state.api import list_logs

    found = asked(
        list_logs, address, node_id=node_id, node_ip=node_ip, glob_filter=pattern or "*", timeout=timeout
    )
    names = [name for group in found.values() for name in group]
    if pattern is not None and not names:
        raise Failed(f"no log file matches {pattern!r}")
    if pattern is not None and len(names) == 1:
        _print_log(
            tail, follow, address=address, filename=names[0], timeout=timeout, node_id=node_id,
            node_ip=node_ip, encoding=encoding, errors=encoding_errors,
        )  # fmt: skip
        return
    for kind, group in found.items():
        if group:
            click.echo("\n".join([f"{kind}:", *(f"- {name}" for name in group)]))


@logs.command()
@click.option("-a", "--id", "actor_id", metavar="ID", help="Id of the actor.")
@click.option("-pid", "--pid", type=int, help="Process id of the actor.")
@_reads
@_NODE_ID
@_NODE_IP
@_ERR
def actor(actor_id: str | None, pid: int | None, err: bool, **options: Any) -> None:
    """What an actor wrote, living or dead."""
    if (actor_id is None) == (pid is None):
        raise click.UsageError("give --id or --pid")
    _print_log(actor_id=actor_id, pid=pid, suffix="err" if err else "out", **options)


@logs.command()
@click.option("--id", "task_id", required=True, metavar="ID", help="Id of the task.")
@click.option("-a", "--attempt-number", type=click.IntRange(0), default=0, help="Of a task that was retried.")
@_reads
@_ERR
def task(task_id: str, attempt_number: int, err: bool, **options: Any) -> None:
    """What a task's worker wrote under the task's name."""
    _print_log(task_id=task_id, attempt_number=attempt_number, suffix="err" if err else "out", **options)


@logs.command()
@click.option("-pid", "--pid", type=int, required=True, help="Process id of the worker.")
@_reads
@_NODE_ID
@_NODE_IP
@_ERR
def worker(pid: int, err: bool, **options: Any) -> None:
    """What a worker process wrote."""
    _print_log(pid=pid, suffix="err" if err else "out", **options)


@logs.command()
@click.option("--id", "submission_id", required=True, metavar="ID", help="Id of the submitted job.")
@_reads
def job(submission_id: str, **options: Any) -> None:
    """What a submitted job wrote."""
    _print_log(submission_id=submission_id, **options)
