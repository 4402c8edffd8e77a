"""Queries select jobs by their records, and cursors continue exactly the query that returned them."""

from __future__ import annotations

import random
from typing import Any

import pytest
from msgspec.structs import replace

from headway.contracts import JobStatus, Timestamp
from headway.labels import JobFilter, Labels
from services.notifier.records.index.entries import ErrorType, IndexedRecord
from services.notifier.records.index.query import InvalidCursor, JobQuery, Position

NOW = Timestamp(1_767_225_600_123)
RECORD = IndexedRecord(
    status="failed",
    kind="letters",
    submitted_at=NOW,
    attempt=3,
    finished_at=NOW.after(60),
    error=ErrorType("Timeout"),
    labels=Labels(owner="ann", tags=("eu", "red")),
)
QUERY = JobQuery(filter=JobFilter(owner="ann"), tags=("eu", "red"), statuses=frozenset({"failed"}), since=NOW)
POSITION = Position(float(NOW), bytes(range(16)))
ENDED: frozenset[JobStatus] = frozenset({"failed", "succeeded"})


@pytest.mark.parametrize(
    ("criteria", "is_selected"),
    [
        ({}, True),
        ({"filter": JobFilter(owner="ann", tag="eu", kind="letters")}, True),
        ({"filter": JobFilter(owner="bob")}, False),
        ({"filter": JobFilter(tag="blue")}, False),
        ({"filter": JobFilter(kind="letter")}, False),
        ({"tags": ("eu", "red")}, True),
        ({"tags": ("eu", "blue")}, False),
        ({"statuses": ENDED}, True),
        ({"statuses": frozenset({"running"})}, False),
        ({"since": NOW}, True),
        ({"since": NOW.after(0.001)}, False),
        ({"until": NOW}, False),
        ({"until": NOW.after(0.001)}, True),
        ({"since": NOW.after(60), "statuses": ENDED}, True),
        ({"since": NOW.after(61), "statuses": ENDED}, False),
        ({"until": NOW.after(60), "statuses": ENDED}, False),
        ({"since": NOW.after(1), "statuses": ENDED | {"running"}}, False),
        ({"attempts_min": 3}, True),
        ({"attempts_min": 4}, False),
        ({"error_type": "Timeout"}, True),
        ({"error_type": "ValueError"}, False),
    ],
)
def test_a_query_selects_jobs_by_their_records(criteria: dict[str, Any], *, is_selected: bool) -> None:
    """The times are those of the end if only final statuses are asked for, otherwise those of the submission."""
    assert JobQuery(**criteria).matches(RECORD) == is_selected


def test_a_job_without_labels_has_no_owner_and_no_tags() -> None:
    """Only a query without them selects it."""
    unlabelled = replace(RECORD, labels=None, error=None, finished_at=None)
    assert JobQuery().matches(unlabelled)
    for query in (QUERY, JobQuery(tags=("eu",)), JobQuery(error_type="Timeout"), JobQuery(statuses=ENDED)):
        assert not query.matches(unlabelled)


def test_a_cursor_continues_its_query() -> None:
    """The next page begins after the position, whatever its size."""
    cursor = QUERY.cursor_after(POSITION)
    assert replace(QUERY, cursor=cursor, limit=7).start() == POSITION
    assert set(cursor) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")


@pytest.mark.parametrize(
    "change",
    [
        {"filter": JobFilter(owner="bob")},
        {"tags": ("eu",)},
        {"statuses": frozenset({"failed", "succeeded"})},
        {"since": None},
        {"until": NOW.after(60)},
        {"attempts_min": 2},
        {"error_type": "Timeout"},
    ],
)
def test_the_cursor_of_another_query_is_refused(change: dict[str, Any]) -> None:
    """A cursor shows nothing of the jobs that another query selects."""
    with pytest.raises(InvalidCursor, match="`cursor`"):
        replace(QUERY, cursor=QUERY.cursor_after(POSITION), **change).start()


def test_an_altered_cursor_is_refused() -> None:
    """So is one with a changed, missing or additional character, and a text that is no cursor."""
    cursor = QUERY.cursor_after(POSITION)
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_=+/! é"
    changed = [cursor[:at] + other + cursor[at + 1 :] for at in range(len(cursor)) for other in alphabet]
    longer = [cursor[:at] + other + cursor[at:] for at in range(len(cursor) + 1) for other in alphabet]
    others = [
        "",
        "A",
        "AAAA",
        cursor * 2,
        cursor[:-1],
        cursor[1:],
        "\ud800",
        "é" * 43,
        random.Random(1).randbytes(40).hex(),
    ]
    for text in {*changed, *longer, *others} - {cursor}:
        with pytest.raises(InvalidCursor):
            replace(QUERY, cursor=text).start()
