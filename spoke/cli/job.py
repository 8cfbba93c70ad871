"""``spoke job submit | status | stop | list | logs | delete``: jobs of a cluster, as ``ray job`` has them."""

from __future__ import annotations

import importlib
import json
import pprint
import shlex
import sys
from collections.abc import Callable
from typing import Any

import click

from spoke import config
from spoke.cli.common import Failed, parse_labels, parse_object, parse_resources


def _client(address: str | None) -> Any:
    from spoke.job_submission import JobSubmissionClient

    try:
        return JobSubmissionClient(address)
    except (ConnectionError, ValueError) as error:
        raise Failed(str(error)) from None


def _address(command: Callable[..., Any]) -> Callable[..., Any]:
    return click.option("--address", help="The cluster's head.  [default: this machine's cluster]")(command)


def _do(what: Callable[[], Any]) -> Any:
    try:
        return what()
    except KeyError as error:
        raise Failed(str(error.args[0])) from None  # its text in quotes otherwise
    except (RuntimeError, ValueError, TypeError, OSError) as error:
        raise Failed(str(error)) from None


@click.group()
def job() -> None:
    """Submit command lines to a cluster and look after them."""


@job.command(context_settings={"ignore_unknown_options": True})
@_address
@click.option("--submission-id", "--job-id", help="Id of the job, unique for ever.  [default: made up]")
@click.option("--runtime-env", metavar="FILE", help="A YAML file with its runtime environment.")
@click.option(
    "--runtime-env-json",
    metavar="JSON",
    callback=parse_object,
    help="Its runtime environment: working_dir, pip, env_vars, ...",
)
@click.option("--working-dir", help="Directory to upload and run in.")
@click.option("--metadata-json", metavar="JSON", callback=parse_object, help="Notes to keep with the job.")
@click.option("--entrypoint-num-cpus", type=click.FloatRange(0), help="CPUs that the command holds.")
@click.option("--entrypoint-num-gpus", type=click.FloatRange(0), help="GPUs that the command holds.")
@click.option("--entrypoint-memory", type=click.IntRange(0), help="Bytes; above them it is killed.")
@click.option("--entrypoint-resources", metavar="JSON", callback=parse_resources, help="Further resources.")
@click.option("--label", "labels", metavar="KEY=VALUE", multiple=True, callback=parse_labels,
              help="A label that the node must have.")  # fmt: skip
@click.option("--no-wait", is_flag=True, help="Return at once instead of showing its output to its end.")
@click.argument("entrypoint", nargs=-1, required=True, type=click.UNPROCESSED)
def submit(address: str | None, entrypoint: tuple[str, ...], no_wait: bool, **options: Any) -> None:
    """Run ENTRYPOINT on the cluster: spoke job submit -- python script.py --arg"""
    _call_hook(address=address, entrypoint=entrypoint, no_wait=no_wait, **options)
    env = dict(options["runtime_env_json"])
    if options["runtime_env"]:
        if env:
            raise click.UsageError("Only one of --runtime-env and --runtime-env-json can be given.")
        env = _of_file(options["runtime_env"])
    client = _client(address)
    if options["working_dir"]:
        env["working_dir"] = options["working_dir"]
    line = entrypoint[0] if len(entrypoint) == 1 else shlex.join(entrypoint)
    job_id = _do(lambda: client.submit_job(
        entrypoint=line, submission_id=options["submission_id"], runtime_env=env,
        metadata=options["metadata_json"], entrypoint_num_cpus=options["entrypoint_num_cpus"],
        entrypoint_num_gpus=options["entrypoint_num_gpus"], entrypoint_memory=options["entrypoint_memory"],
        entrypoint_resources=options["entrypoint_resources"], entrypoint_label_selector=options["labels"],
    ))  # fmt: skip
    click.echo(f"Job '{job_id}' submitted successfully")  # in Ray's words: scripts look for the id in them
    if not no_wait:
        click.echo("Tailing logs until the job exits (disable with --no-wait):")
        _follow(client, job_id)


def _call_hook(**arguments: Any) -> None:
    """Call the function that SPOKE_JOB_SUBMIT_HOOK names; it may change nothing, and may end the command."""
    path = config.get("job_submit_hook")
    if path:
        module, _, name = path.rpartition(".")
        given = {**arguments, "job_id": arguments["submission_id"]}
        getattr(importlib.import_module(module), name)(**given)


def _of_file(path: str) -> dict[str, Any]:
    try:
        import yaml
    except ImportError:
        raise Failed("--runtime-env needs PyYAML: install it, or give --runtime-env-json") from None
    try:
        with open(path, encoding="utf-8") as file:
            found = yaml.safe_load(file)
    except (OSError, yaml.YAMLError) as error:
        raise Failed(f"{path}: {error}") from None
    if not isinstance(found, dict):
        raise Failed(f"{path} has no runtime environment in it")
    return found


def _follow(client: Any, job_id: str) -> None:
    """Show its output to its end; exit code 1 if it failed."""
    from spoke.jobs.job import Job

    for line in _do(lambda: Job(job_id, client._line).logs(follow=True)):
        click.echo(line)
    Job(job_id, client._line).wait()
    if _tell(client, job_id) == "FAILED":
        sys.exit(1)


def _tell(client: Any, job_id: str) -> str:
    """Say where a job stands."""
    found = _do(lambda: client.get_job_info(job_id))
    ends = {"SUCCEEDED": "succeeded", "STOPPED": "was stopped", "FAILED": "failed"}
    end = ends.get(str(found.status))
    click.echo(f"Job '{job_id}' {end}" if end else f"Status for job '{job_id}': {found.status}")
    if found.status != "SUCCEEDED":
        click.echo(f"Status message: {found.message}")
    return str(found.status)


@job.command()
@_address
@click.argument("job_id")
def status(address: str | None, job_id: str) -> None:
    """Where a job stands, and why."""
    _tell(_client(address), job_id)


@job.command()
@_address
@click.option("--no-wait", is_flag=True, help="Return before its processes are gone.")
@click.argument("job_id")
def stop(address: str | None, job_id: str, no_wait: bool) -> None:
    """End a job and everything below it."""
    client = _client(address)
    click.echo(f"Attempting to stop job '{job_id}'")
    if not _do(lambda: client.stop_job(job_id)):
        click.echo(f"Job '{job_id}' had ended")
    elif not no_wait:
        from spoke.jobs.job import Job

        click.echo(f"Waiting for job '{job_id}' to exit (disable with --no-wait):")
        Job(job_id, client._line).wait()
        _tell(client, job_id)


@job.command()
@_address
@click.argument("job_id")
def delete(address: str | None, job_id: str) -> None:
    """Forget a job that has ended."""
    _do(lambda: _client(address).delete_job(job_id))
    click.echo(f"Job '{job_id}' deleted successfully")


@job.command(name="list")
@_address
@click.option("--json", "as_json", is_flag=True, help="As JSON, with all states that Spoke tells apart.")
def list_(address: str | None, as_json: bool) -> None:
    """All jobs, one a line."""
    client = _client(address)
    if not as_json and click.get_current_context().find_root().info_name == "ray":
        click.echo(pprint.pformat(_do(client.list_jobs)))  # as Ray shows them
        return
    rows = _do(lambda: client._line.ask("submitted_jobs"))
    if as_json:
        click.echo(json.dumps(rows, default=lambda value: value.hex(), sort_keys=True))
        return
    for row in rows:
        click.echo(f"{row['job_id']}  {row['state']}  {row['entrypoint']}")


@job.command()
@_address
@click.option("-f", "--follow", is_flag=True, help="Go on until it has ended.")
@click.option("--tail", type=click.IntRange(0), help="Only the last lines.")
@click.argument("job_id")
def logs(address: str | None, job_id: str, follow: bool, tail: int | None) -> None:
    """The output of a job."""
    from spoke.jobs.job import Job

    client = _client(address)
    lines = _do(lambda: Job(job_id, client._line).logs(follow=follow, tail=tail))
    while (line := _do(lambda: next(lines, None))) is not None:
        click.echo(line)
