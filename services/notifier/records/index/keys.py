"""The names of the index's keys and channels.

An index key is `headway:ix:{<name>}`. The braces are a hash tag, so that the channel of a list has the same slot.
The sets of a kind and of a final status are split by hour. A directory has their names, with the hours as scores.
"""

from __future__ import annotations

from headway.contracts import JobStatus
from headway.timestamp import Timestamp

from ..keys import JOB_KEY_PREFIX, job_id_from_key

KEY_PREFIX = "headway:ix:{"
CHANNEL_PREFIX = "headway:list:{"
HOUR_MS = 3_600_000
MEMBER_BYTES = 16  # of a UUID
SHARDS = 16  # of the jobs that have not ended, by their ids
WAITING = tuple(f"waiting:{shard}" for shard in range(SHARDS))
RETRYING = tuple(f"retrying:{shard}" for shard in range(SHARDS))  # waiting jobs that have failed an attempt
RUNNING = tuple(f"running:{shard}" for shard in range(SHARDS))
KIND_HOURS = "hours:k"  # the directory of the sets by kind
ENDED_HOURS = "hours:end"  # the directory of the sets by outcome


def index_key(name: str) -> str:
    """Return the key of a set."""
    return f"{KEY_PREFIX}{name}}}"


def index_name(key: str) -> str:
    """Return the name of the set with a key."""
    return key[len(KEY_PREFIX) : -1]


def list_channel(name: str) -> str:
    """Return the channel that announces changes of an owner's or a tag's jobs."""
    return f"{CHANNEL_PREFIX}{name}}}"


def hour_of(time: float) -> int:
    """Return the number of hours between the epoch and a time in milliseconds."""
    return int(time // HOUR_MS)


def kind_name(kind: str, submitted_at: Timestamp) -> str:
    """Return the name of the set of a kind's jobs that were submitted in the same hour."""
    return f"{kind_prefix(kind)}:{hour_of(submitted_at)}"


def kind_prefix(kind: str) -> str:
    """Return the part of a kind's names before the last colon."""
    return f"k:{kind}"


def ended_name(status: JobStatus, kind: str, finished_at: Timestamp) -> str:
    """Return the name of the set of a kind's jobs that ended in the same hour with the same status."""
    return f"{ended_prefix(status)}{kind}:{hour_of(finished_at)}"


def ended_prefix(status: JobStatus) -> str:
    """Return the part of the names of a status before the kind."""
    return f"end:{status}:"


def owner_name(owner: str) -> str:
    """Return the name of the set of an owner's newest jobs."""
    return f"o:{owner}"


def tag_name(tag: str) -> str:
    """Return the name of the set of a tag's newest jobs."""
    return f"t:{tag}"


def member_of(job_id: str) -> bytes:
    """Return a job's member of a set: the 16 bytes of its id.

    Raises:
        ValueError: the text is not a job's id.
    """
    member = bytes.fromhex(job_id.replace("-", ""))
    if job_id_of(member) != job_id:
        raise ValueError("Expected a UUID in lower case")
    return member


def job_id_of(member: bytes) -> str:
    """Return the id of the job with a member."""
    text = member.hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def job_id_of_record(key: bytes) -> str | None:
    """Return the id of the job whose record has this key, or None if it is another key."""
    try:
        text = key.decode()
        job_id = job_id_from_key(text)
        member_of(job_id)
    except ValueError:
        return None
    return job_id if text == f"{JOB_KEY_PREFIX}{job_id}}}" else None
