"""Names of `ray.dashboard.modules.job.sdk`: those of `ray.job_submission`, by their former place."""

from __future__ import annotations

from spoke import job_submission as _jobs

DriverInfo = _jobs.DriverInfo
JobDetails = _jobs.JobDetails
JobInfo = _jobs.JobInfo
JobStatus = _jobs.JobStatus
JobSubmissionClient = _jobs.JobSubmissionClient
JobType = _jobs.JobType
