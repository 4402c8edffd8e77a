"""Background jobs whose progress everyone can watch live: what a job's author imports."""

from headway.jobs import Job, JobContext, job

__all__ = ["Job", "JobContext", "job"]
