"""A record has exactly the entries by which the lists find it."""

from __future__ import annotations

from msgspec.structs import replace

from headway.contracts import Timestamp, encode
from headway.labels import Labels
from services.notifier.records.index import keys
from services.notifier.records.index.entries import (
    INDEXED_FIELDS,
    Entry,
    ErrorType,
    IndexedRecord,
    entries_of,
    parse_record,
)
from services.notifier.records.index.query import JobQuery

HOUR = 500_000
SUBMITTED_AT = Timestamp(HOUR * keys.HOUR_MS)
RECORD = IndexedRecord(
    status="queued",
    kind="letters",
    submitted_at=SUBMITTED_AT,
    attempt=1,
    labels=Labels(owner="ann", tags=("eu", "red"), name="Invoices"),
)
MEMBER = bytes(15) + b"\x23"


def test_a_waiting_job_has_entries() -> None:
    """By kind and hour, as a job that waits, and by owner and tags; with one more after a failed attempt."""
    names = ["k:letters:500000", "waiting:3", "o:ann", "t:eu", "t:red"]
    assert entries_of(RECORD, MEMBER) == [Entry(name, SUBMITTED_AT) for name in names]
    retrying = replace(RECORD, status="retrying")
    assert set(entries_of(retrying, MEMBER)) == {*entries_of(RECORD, MEMBER), Entry("retrying:3", SUBMITTED_AT)}


def test_a_running_job_has_other_entries() -> None:
    """It does not wait."""
    names = {entry.name for entry in entries_of(replace(RECORD, status="running"), MEMBER)}
    assert {"running:3", "k:letters:500000"} < names
    assert "waiting:3" not in names


def test_an_ended_job_has_an_entry_for_its_end() -> None:
    """By status and hour, with the time of the end."""
    ended = replace(RECORD, status="failed", finished_at=SUBMITTED_AT.after(3_600), labels=None)
    entries = [Entry("k:letters:500000", SUBMITTED_AT), Entry("end:failed:letters:500001", SUBMITTED_AT.after(3_600))]
    assert entries_of(ended, MEMBER) == entries


def test_a_job_without_a_record_has_no_entries() -> None:
    """Nothing is listed that has no record."""
    assert entries_of(None, MEMBER) == []


def test_a_record_is_parsed() -> None:
    """Fields that are missing or empty have no value, and an error is known by its type."""
    record = replace(RECORD, error=ErrorType("Timeout"))
    values = {name: encode(getattr(record, name)) for name in INDEXED_FIELDS} | {
        "error": b'{"type":"Timeout","message":""}'
    }
    assert parse_record(list(values.values())) == record
    without = [values[name] for name in INDEXED_FIELDS[:4]]
    assert parse_record([*without, b"null", b"null", b"", b"null"]) == replace(RECORD, labels=None)
    assert parse_record([*without, None, None, None, None]) == replace(RECORD, labels=None)


def test_true_type_of_an_error_may_be_hidden() -> None:
    """An older replica that replaces the error leaves the hidden type behind; without an error it means nothing."""
    record = replace(RECORD, error=ErrorType("InternalError"), error_type="KeyError")
    assert record.true_error_type == "KeyError"
    assert replace(record, error_type=None).true_error_type == "InternalError"
    assert replace(record, error=None).true_error_type is None
    query = JobQuery(error_type="KeyError", statuses=frozenset({RECORD.status}))
    assert [query.matches(one) for one in (record, replace(record, error_type=None))] == [True, False]


def test_a_record_that_is_not_valid_is_none() -> None:
    """Another program may have changed it."""
    values = [encode(getattr(RECORD, name)) for name in INDEXED_FIELDS]
    assert parse_record([None] * len(values)) is None
    for index, value in enumerate([b'"paused"', b"\xff", b'"yesterday"', b"x", b"{", b"[", b'{"tags":["{"]}', b"[]"]):
        assert parse_record([*values[:index], value, *values[index + 1 :]]) is None
    assert parse_record([None, *values[1:]]) is None


def test_ids_are_members_of_16_bytes() -> None:
    """A member leads back to its job, and a record's key to its id."""
    job_id = "6b3c2f9e-0f0a-4a57-9d0e-3d2a1f6a7b11"
    assert keys.job_id_of(keys.member_of(job_id)) == job_id
    assert keys.job_id_of_record(f"headway:job:{{{job_id}}}".encode()) == job_id
    for other in (
        b"headway:job:{x}",
        b"headway:job:{6b3c}",
        f"headway:job:{{{job_id.upper()}}}".encode(),
        b"\xff",
        b"",
    ):
        assert keys.job_id_of_record(other) is None


def test_a_list_shares_its_slot_with_its_channel() -> None:
    """So that the channel's subscribers are on the node that has the set."""
    name = keys.owner_name("user:7")
    assert (keys.index_key(name), keys.list_channel(name)) == ("headway:ix:{o:user:7}", "headway:list:{o:user:7}")
    assert keys.index_name(keys.index_key(name)) == name
