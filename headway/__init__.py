"""Background jobs whose progress everyone can watch live: what a job's author imports."""

from headway.context import JobContext
from headway.jobs import Fail, Job, Retry, job

__all__ = ["Fail", "Job", "JobContext", "Retry", "job"]
