"""Queries of lists as URLs, the filters of their tokens, and the pages of lists."""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import uuid4

import msgspec
import pytest

from headway.client.job_queries import (
    IssuedToken,
    JobCounts,
    JobQuery,
    decode_page,
    narrowest_token,
    query_string,
)
from headway.contracts import Timestamp, encode
from headway.labels import JobFilter, Labels
from tests.unit.headway.client.fake_services import snapshot_json

NOW = "2026-01-01T00:00:00.000Z"


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({}, ""),
        ({"status": "failed", "kind": "k"}, "status=failed&kind=k"),
        ({"status": ("failed", "cancelled")}, "status=failed%2Ccancelled"),
        ({"tag": "a"}, "tag=a"),
        ({"tag": ["a", "b:c"]}, "tag=a&tag=b%3Ac"),
        ({"owner": "a+b@c&d=e"}, "owner=a%2Bb%40c%26d%3De"),
        ({"since": Timestamp.parse(NOW)}, "since=2026-01-01T00%3A00%3A00.000Z"),
        ({"until": datetime.fromisoformat("2026-01-01T01:00:00+01:00")}, "until=2026-01-01T00%3A00%3A00.000Z"),
        ({"attempts_min": 2, "error_type": "ValueError"}, "attempts_min=2&error_type=ValueError"),
        ({"status": [], "kind": None, "owner": None, "tag": None, "since": None}, ""),
        ({"owner": "", "kind": ""}, "owner=&kind="),
    ],
)
def test_a_query_is_a_part_of_the_url(query: JobQuery, expected: str) -> None:
    """Fields without a value are left out; an empty owner is not, because that would be a list of all owners."""
    assert query_string(query, None, None) == expected


def test_limit_and_cursor_are_parts_of_the_url() -> None:
    """A limit of 0 is sent, too, so that the notifier rejects it."""
    assert query_string({"kind": "k"}, 0, "a b") == "kind=k&limit=0&cursor=a%20b"


def test_a_time_needs_a_time_zone() -> None:
    """The local time of a server is hardly ever what was meant."""
    with pytest.raises(ValueError, match="time zone"):
        query_string({"since": datetime(2026, 1, 1)}, None, None)
    assert "since=" in query_string({"since": datetime.now(UTC)}, None, None)


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({"status": "failed"}, (JobFilter(), "list details")),
        ({"owner": "o", "kind": "k", "status": "failed"}, (JobFilter(owner="o", kind="k"), "list")),
        ({"tag": ("a", "b")}, (JobFilter(tag="a"), "list")),
        ({"kind": "k", "error_type": "Oops"}, (JobFilter(), "list details")),
    ],
)
def test_a_token_allows_as_little_as_possible(query: JobQuery, expected: tuple[JobFilter, str]) -> None:
    """Its filter has no status and a single tag. Without a filter, the scope is the one that every API key may have."""
    assert narrowest_token(query) == expected


def test_a_page_is_decoded() -> None:
    """Labels and errors are known only if the token has the scope `details`; unknown fields are ignored."""
    plain, detailed = snapshot_json(uuid4(), 3, "failed", name="October"), snapshot_json(uuid4(), 4)
    element = {"job": detailed, "labels": {"owner": "o", "tags": ["a"]}, "error_type": "ValueError", "new": 1}
    about = {"waiting": 3, "retrying": 1, "running": 2, "failed_24h": 1, "queue": None}
    page = decode_page(
        encode({"now": NOW, "jobs": [plain, element], "next": "c", "complete": False, "about": about, "new": {}})
    )
    assert (page.now, page.next, page.complete) == (Timestamp.parse(NOW), "c", False)
    assert page.about == JobCounts(waiting=3, retrying=1, running=2, failed_24h=1)
    assert [str(job.id) for job in page.jobs] == [plain["id"], detailed["id"]]
    assert [(job.version, job.name, job.labels, job.error_type) for job in page.jobs] == [
        (3, "October", None, None),
        (4, None, Labels(owner="o", tags=("a",)), "ValueError"),
    ]


@pytest.mark.parametrize("body", ["[]", "{}", '{"now": "2026-01-01T00:00:00.000Z", "jobs": [{}]}', "<html>"])
def test_any_other_body_is_not_a_page(body: str) -> None:
    """A proxy may answer instead of the notifier."""
    with pytest.raises(msgspec.DecodeError):
        decode_page(body.encode())


def test_a_token_is_not_printed() -> None:
    """It must not get into a log."""
    assert "secret" not in repr(IssuedToken("secret", datetime.now(UTC)))
