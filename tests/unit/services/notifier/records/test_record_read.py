"""Records as they are read: snapshot, labels and worker."""

from __future__ import annotations

import json

import pytest

from headway.labels import NO_LABELS, JobFilter, Labels
from services.notifier.records.record_read import READ_FIELDS, SNAPSHOT_FIELDS, RecordRead, record_from_reply


def reply(**fields: bytes | None) -> list[bytes | None]:
    """Return the reply of HMGET for a record with some fields."""
    values: dict[str, bytes | None] = {**dict.fromkeys(SNAPSHOT_FIELDS, b"1"), "kind": b'"letters"', **fields}
    return [values.get(name) for name in READ_FIELDS]


def record(**fields: bytes | None) -> RecordRead:
    """Return a record with some fields."""
    found = record_from_reply(reply(**fields))
    assert found is not None
    return found


def test_record_without_a_field_of_every_snapshot_is_missing() -> None:
    """Such a record has lost fields, or was not written by Headway."""
    assert [record_from_reply(reply(**{name: None})) for name in SNAPSHOT_FIELDS] == [None] * len(SNAPSHOT_FIELDS)


@pytest.mark.parametrize("empty", [None, b"null"])
def test_empty_optional_fields_are_left_out(empty: bytes | None) -> None:
    """A snapshot has `name`, `advanced_at` and `earlier_attempts` only if they are not empty."""
    snapshot = json.loads(record(name=empty, advanced_at=empty, earlier_attempts=empty).snapshot)
    assert tuple(snapshot) == SNAPSHOT_FIELDS
    snapshot = json.loads(record(name=b'"May"', advanced_at=empty, earlier_attempts=b"[2]").snapshot)
    assert tuple(snapshot) == (*SNAPSHOT_FIELDS, "name", "earlier_attempts")
    assert (snapshot["name"], snapshot["earlier_attempts"]) == ("May", [2])


def test_snapshot_contains_neither_labels_nor_worker() -> None:
    """They are for the owner of the job, and a snapshot for everyone who may watch it."""
    found = record(labels=b'{"name":"May","owner":"ann","tags":["a","b"]}', worker=b"host-1")
    assert b"ann" not in found.snapshot
    assert b"host-1" not in found.snapshot
    assert (found.kind, found.worker) == ("letters", "host-1")
    assert found.labels == Labels(name="May", owner="ann", tags=("a", "b"))


@pytest.mark.parametrize("labels", [None, b"null", b"{", b'{"owner":7}', b"\xff"])
def test_missing_or_invalid_labels_match_no_filter_by_owner(labels: bytes | None) -> None:
    """A damaged record is not opened by the token of an owner."""
    found = record(labels=labels)
    assert (found.labels, found.worker) == (NO_LABELS, None)
    assert not found.matches(JobFilter(owner="ann"))
    assert found.matches(JobFilter(kind="letters"))
    assert not record(kind=labels or b"x").matches(JobFilter(kind="letters"))


def test_filter_matches_by_the_labels_of_the_record() -> None:
    """Owner, tag and kind must all match."""
    found = record(labels=b'{"owner":"ann","tags":["a","b"]}')
    assert found.matches(JobFilter(owner="ann", tag="b", kind="letters"))
    assert not found.matches(JobFilter(owner="bob", tag="b", kind="letters"))
    assert not found.matches(JobFilter(owner="ann", tag="c"))
    assert not found.matches(JobFilter(kind="mail"))
