"""The pieces of a stored log, and appends of which some fail.

There is one piece for each attempt, with the number of the first line if older lines are gone.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any, cast
from uuid import UUID, uuid4

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError

from headway.details import LogAppend
from services.notifier.logs.piece import LogPiece, encode_json
from services.notifier.logs.store import LogStore, StoredLog
from services.notifier.records.keys import job_key
from services.notifier.redis_client.connector import NodeAddress
from services.notifier.redis_client.topology import RedisClient, SlotNotCovered

TEXT = b"one\ntwo\nthree\n"
SECTIONS = ((1, 0), (2, 104), (4, 108))
OK, AWAY, FAILING, UNCOVERED = (uuid4() for _ in range(4))


def log(offset: int = 100, base: int = 100, **fields: Any) -> StoredLog:
    """Return a log whose first 100 bytes, of 7 lines, are gone, as it is read from an offset."""
    stored = {"lines": 7, "sections": SECTIONS, **fields}
    return StoredLog(base, base + len(TEXT), 4, True, TEXT[max(0, offset - base) :], **stored)


def parts(pieces: list[LogPiece]) -> list[tuple[int, int, bytes, int | None]]:
    """Return the attempt, first byte, text and number of the first line of each piece; they follow each other."""
    assert all(piece.end == following.start for piece, following in pairwise(pieces))
    return [(piece.attempt, piece.start, piece.data, piece.line) for piece in pieces]


def test_each_attempt_has_a_piece() -> None:
    """The first piece begins with the oldest line that is kept, and has its number."""
    expected = [(1, 100, b"one\n", 8), (2, 104, b"two\n", None), (4, 108, b"three\n", None)]
    assert parts(log().pieces("j", 0)) == expected
    assert parts(log().pieces("j", 100)) == expected


@pytest.mark.parametrize(
    ("offset", "expected"),
    [
        (102, [(1, 102, b"e\n", None), (2, 104, b"two\n", None), (4, 108, b"three\n", None)]),
        (104, [(2, 104, b"two\n", None), (4, 108, b"three\n", None)]),
        (110, [(4, 110, b"ree\n", None)]),
        (114, []),
        (200, []),
    ],
)
def test_a_client_gets_what_it_lacks(offset: int, expected: list[tuple[int, int, bytes, int | None]]) -> None:
    """The pieces begin at its offset, and it knows the number of its last line."""
    assert parts(log(offset).pieces("j", offset)) == expected


def test_a_log_of_an_older_version_is_one_piece() -> None:
    """It counts as that of the last attempt, and the text before the first known attempt as that of this one."""
    assert parts(log(sections=(), lines=0).pieces("j", 0)) == [(4, 100, TEXT, None)]
    assert parts(log(sections=((3, 108),)).pieces("j", 0)) == [(3, 100, b"one\ntwo\n", 8), (3, 108, b"three\n", None)]


def test_json_names_the_line_only_if_older_ones_are_gone() -> None:
    """A log that is whole is sent as before."""
    gone, whole = log().pieces("j", 0)[0], log(0, 0, lines=0, sections=((4, 0),)).pieces("j", 0)[0]
    assert encode_json(gone) == b'{"job_id":"j","from":100,"to":104,"attempt":1,"line":8,"text":"one\\n"}'
    assert encode_json(whole) == b'{"job_id":"j","from":0,"to":14,"attempt":4,"text":"one\\ntwo\\nthree\\n"}'


class FakeCluster:
    """A cluster with a node that is away, a slot that no node serves, and a job whose log the script cannot change."""

    sharded = True

    def node_for_key(self, key: str) -> NodeAddress:
        """Return the node of a job."""
        if key == job_key(UNCOVERED):
            raise SlotNotCovered
        return NodeAddress("away" if key == job_key(AWAY) else "here", 1)

    async def execute(self, commands: list[tuple[str, Any]]) -> list[Any]:
        """Return the replies of the script."""
        if any(self.node_for_key(key).host == "away" for key, _ in commands):
            raise RedisConnectionError
        return [ResponseError("bug") if key == job_key(FAILING) else 0 for key, _ in commands]


def append(job_id: UUID) -> LogAppend:
    """Return an append to the log of a job."""
    return LogAppend(job_id=job_id, message_id="m", delivery=1, start=0, text="x")


@pytest.fixture
def store() -> LogStore:
    """Return the store."""
    return LogStore(cast(RedisClient, FakeCluster()), lambda: False)


async def test_a_failure_concerns_only_its_own_log(store: LogStore) -> None:
    """The worker sends what was not confirmed again; the logs of other jobs have their text."""
    verdicts = await store.append([append(OK), append(AWAY), append(FAILING), append(UNCOVERED), append(OK)])
    assert [verdict.job_id for verdict in verdicts] == [OK, AWAY, FAILING, UNCOVERED, OK]
    assert [verdict.reason for verdict in verdicts] == [None, "unavailable", "unavailable", "unavailable", None]
    assert [verdict.accepted for verdict in verdicts] == [True, False, False, False, True]


@pytest.mark.parametrize("job_id", [AWAY, FAILING, UNCOVERED])
async def test_nothing_was_confirmed(store: LogStore, job_id: UUID) -> None:
    """If no append is confirmed, the request fails, and the worker may try another replica."""
    with pytest.raises((RedisConnectionError, ResponseError, SlotNotCovered)):
        await store.append([append(job_id), append(job_id)])
