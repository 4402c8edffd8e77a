"""Background jobs whose progress can be watched live. Authors of jobs import these names."""

from headway.context import JobContext
from headway.jobs import Fail, Job, Retry, job

__version__ = "0.2.0"

__all__ = ["Fail", "Job", "JobContext", "Retry", "job"]
