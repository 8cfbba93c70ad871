"""Names of `ray.dashboard.modules.job.pydantic_models`."""

from __future__ import annotations

from spoke import job_submission as _jobs

DriverInfo = _jobs.DriverInfo
JobDetails = _jobs.JobDetails
JobType = _jobs.JobType
