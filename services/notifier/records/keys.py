"""The names of Redis keys and channels."""

from __future__ import annotations

from uuid import UUID

JOB_KEY_PREFIX = "headway:job:{"  # the braces are a hash tag: all keys of a job share a slot
LOG_KEY_PREFIX = "headway:log:{"


def job_key(job_id: UUID | str) -> str:
    """Return the key of a job's record, which is also the name of its channel."""
    return f"{JOB_KEY_PREFIX}{job_id}}}"


def job_id_from_key(key: str) -> str:
    """Return the job's id from the key of its record."""
    return key[len(JOB_KEY_PREFIX) : -1]


def details_key(job_id: UUID | str) -> str:
    """Return the key of a job's details, which has the slot of its record."""
    return f"headway:details:{{{job_id}}}"


def log_key(job_id: UUID | str) -> str:
    """Return the key of the state of a job's log, which is also the name of the log's channel."""
    return f"{LOG_KEY_PREFIX}{job_id}}}"


def job_id_from_log_key(key: str) -> str:
    """Return the job's id from the key of its log."""
    return key[len(LOG_KEY_PREFIX) : -1]


def log_text_key(job_id: UUID | str) -> str:
    """Return the key of the text of a job's log."""
    return f"{log_key(job_id)}:text"
