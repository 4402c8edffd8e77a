"""Reads the fields of records by which jobs are listed, and the replies of Redis."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from redis.exceptions import RedisError

from ...redis_client.topology import RedisClient
from ..keys import job_key
from .entries import INDEXED_FIELDS, IndexedRecord, parse_record

T = TypeVar("T")


async def read_records(redis: RedisClient, job_ids: Sequence[str]) -> list[IndexedRecord | None]:
    """Return the records of jobs, with None for a job without a valid one.

    Raises:
        RedisError, OSError: Redis is unavailable.
    """
    keys = map(job_key, job_ids)
    return [_parse(reply) for reply in await redis.execute([(key, ("HMGET", key, *INDEXED_FIELDS)) for key in keys])]


def _parse(reply: list[bytes | None] | RedisError) -> IndexedRecord | None:
    values = typed_reply(reply)
    return None if values is None else parse_record(values)


def typed_reply(reply: T | RedisError) -> T | None:
    """Return the reply to a command, or None if the key has another type than the command is for.

    Raises:
        RedisError: the reply is another error.
    """
    if not isinstance(reply, RedisError):
        return reply
    if str(reply).startswith("WRONGTYPE"):
        return None
    raise reply
