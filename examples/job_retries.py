"""A job that fails twice and succeeds the third time; one that is never tried again.

    python examples/job_retries.py
"""

from __future__ import annotations

import os
import sys
import tempfile

import spoke
from spoke import jobs


def unsteady(path: str) -> str:
    """Fails with exit code 75 until its third attempt."""
    with open(path, "a") as file:
        file.write("x")
    count = os.path.getsize(path)
    print(f"attempt {spoke.ctx().attempt_id}")
    if count < 3:
        sys.exit(75)
    return f"done after {count} attempts"


def main() -> None:
    spoke.init()
    policy = jobs.RetryPolicy(max_retries_failure=5, initial_delay=0.05, no_retry_on_exit_codes=[64])
    with tempfile.TemporaryDirectory() as directory:
        job = jobs.submit(unsteady, os.path.join(directory, "count"), name="unsteady", retries=policy)
        print(job.result(timeout=60))  # done after 3 attempts
        print([(attempt.attempt_id, attempt.exit_code) for attempt in job.attempts()])  # 0: 75, 1: 75, 2: 0
        print(list(job.logs(follow=True, attempt=0)))
        usage = jobs.submit("exit 64", name="usage", retries=policy)
        print(usage.wait(timeout=60), usage.exit_code, len(usage.attempts()))  # FAILED 64 1


if __name__ == "__main__":
    main()
