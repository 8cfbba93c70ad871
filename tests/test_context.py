"""What code that runs in a worker knows of the job it belongs to, and passes on."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from spoke import context

JOB = b"\1\0\0\0"


def test_a_task_says_its_job_whichever_thread_sends_it() -> None:
    """That of the I/O runs no task, and the worker may have been there before any driver."""
    client: Any = SimpleNamespace(
        info={}, node_id=b"n", process_id=b"p", namespace="", job_env={}, is_worker=True,
        paths=None, job_id=JOB, detached_actors=False, logging=None,
    )  # fmt: skip
    client.facts = lambda: context.of_worker(client)
    assert context.grant_context(client, {}, None)["job_id"] == JOB
