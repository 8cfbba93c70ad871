"""Names of `ray.dashboard.modules.job.common`."""

from __future__ import annotations

from typing import Final

from spoke import job_submission as _jobs

JOB_ID_METADATA_KEY: Final = "job_submission_id"
JOB_NAME_METADATA_KEY: Final = "job_name"
JobErrorType = _jobs.JobErrorType
JobInfo = _jobs.JobInfo
JobStatus = _jobs.JobStatus
