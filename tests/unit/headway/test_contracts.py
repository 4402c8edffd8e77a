"""The wire contracts: golden texts, round trips, and invalid input."""

from __future__ import annotations

import base64
import json
import string
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from uuid import UUID

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from dev.environment import ROOT
from headway.contracts import (
    JobError,
    JobMessage,
    JobReport,
    JobSnapshot,
    Json,
    Progress,
    ProgressSnapshot,
    SubmittedJob,
    Timestamp,
    Verdict,
    decode,
    encode,
    encode_snapshot,
    to_progress_snapshot,
)
from headway.labels import Labels
from headway.message_codec import decode_message, encode_message, extract_job_id, message_encoding

ID = UUID("6b3c2f9e-0f0a-4a57-9d0e-3d2a1f6a7b11")
NEW_YEAR = Timestamp.parse("2026-01-01T00:00:00Z")
WEEK_LATER = NEW_YEAR.after(7 * 86_400)

MESSAGE = (
    '{"id":"6b3c2f9e-0f0a-4a57-9d0e-3d2a1f6a7b11","kind":"countdown","payload":{},'
    '"submitted_at":"2026-01-01T00:00:00.000Z","expires_at":"2026-01-08T00:00:00.000Z","generation":0,'
    '"max_attempts":5,"timeout_s":null,"releases":0,"checkpoint":null}'
)  # as version 0.1 writes it
REPORT = (
    '{"job_id":"6b3c2f9e-0f0a-4a57-9d0e-3d2a1f6a7b11","kind":"countdown","generation":0,"message_id":"m-1",'
    '"delivery":1,"sequence":7,"attempt":1,"max_attempts":5,"status":"running",'
    '"progress":{"current":40,"total":100,"unit":"%","message":"Résumé 🎉"},"result":null,"error":null,'
    '"submitted_at":"2026-01-01T00:00:00.000Z","expires_at":"2026-01-08T00:00:00.000Z",'
    '"lease_until":"2026-01-01T00:01:00.500Z","due_at":null,"sent_at":"2026-01-01T00:00:01.007Z",'
    '"labels":{"owner":"user:7","tags":["march"]},"worker":"w-1","details":null}'
)
SUBMITTED_JOB = (
    '{"id":"6b3c2f9e-0f0a-4a57-9d0e-3d2a1f6a7b11","kind":"countdown","labels":{"owner":"user:7"},'
    '"submitted_at":"2026-01-01T00:00:00.000Z","due_at":"2026-01-01T00:01:30.000Z",'
    '"expires_at":"2026-01-08T00:00:00.000Z","max_attempts":5,"generation":0}'
)
VERDICT = (
    '{"job_id":"6b3c2f9e-0f0a-4a57-9d0e-3d2a1f6a7b11","accepted":true,"reason":null,"cancel_requested":false,'
    '"watched":true}'
)
SNAPSHOT = (
    '{"id":"6b3c2f9e-0f0a-4a57-9d0e-3d2a1f6a7b11","kind":"countdown","status":"running","version":1767225600123,'
    '"generation":0,"attempt":1,"max_attempts":5,'
    '"progress":{"current":40,"total":100,"percent":40.0,"unit":"%","message":"Résumé 🎉"},"result":null,'
    '"error":null,"cancel_requested":false,"submitted_at":"2026-01-01T00:00:00.000Z",'
    '"started_at":"2026-01-01T00:00:00.250Z","updated_at":"2026-01-01T00:00:01.000Z","finished_at":null,'
    '"due_at":null,"lease_until":"2026-01-01T00:01:00.500Z","expires_at":"2026-01-08T00:00:00.000Z"}'
)

times = st.datetimes(
    min_value=datetime(1970, 1, 1),
    max_value=datetime(2199, 1, 1),
).map(lambda time: Timestamp(time.replace(tzinfo=UTC).timestamp() * 1000))
naturals = st.integers(0, 2**53 - 1)
names = st.text(min_size=1, max_size=128)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
json_texts = json_values.map(lambda value: Json(msgspec.json.encode(value)))
amounts = st.integers(0, 2**63 - 1) | st.floats(0, allow_nan=False, allow_infinity=False)
progresses = st.builds(
    Progress, amounts, st.none() | amounts, st.none() | st.text(max_size=32), st.none() | st.text(max_size=1000)
)
messages = st.builds(
    JobMessage,
    id=st.uuids(),
    kind=names,
    payload=json_texts,
    submitted_at=st.none() | times,
    expires_at=st.none() | times,
    generation=naturals,
    max_attempts=st.none() | st.integers(1, 1000),
    timeout_s=st.none() | st.floats(0.001, 604_800),
    releases=naturals,
    checkpoint=json_texts,
    drains=naturals,
    progress=st.none() | progresses,
    progress_attempt=st.none() | st.integers(1, 2**53 - 1),
)
reports = st.builds(
    JobReport,
    job_id=st.uuids(),
    kind=names,
    generation=naturals,
    message_id=names,
    delivery=st.integers(1, 2**53 - 1),
    sequence=naturals,
    attempt=st.integers(1, 2**53 - 1),
    max_attempts=st.integers(1, 1000),
    status=st.sampled_from(["queued", "running", "retrying", "succeeded", "failed", "cancelled"]),
    progress=st.none() | progresses,
    result=json_texts,
    error=st.none() | st.builds(JobError, names, st.text(max_size=4000)),
    submitted_at=times,
    expires_at=times,
    lease_until=st.none() | times,
    due_at=st.none() | times,
    sent_at=st.none() | times,
)


def test_a_queue_message_matches_its_golden_text() -> None:
    """A queue message has the contract's fields in the contract's order, without those that have their defaults."""
    message = JobMessage(id=ID, kind="letters", submitted_at=NEW_YEAR, expires_at=WEEK_LATER)
    assert encode(message).decode() == (
        f'{{"id":"{ID}","kind":"letters","submitted_at":"2026-01-01T00:00:00.000Z",'
        '"expires_at":"2026-01-08T00:00:00.000Z"}'
    )
    assert encode(JobMessage(id=ID)).decode() == f'{{"id":"{ID}"}}'
    assert json.loads(encode(replace(message, max_attempts=5, timeout_s=2))) == {
        "id": str(ID),
        "kind": "letters",
        "submitted_at": "2026-01-01T00:00:00.000Z",
        "expires_at": "2026-01-08T00:00:00.000Z",
        "max_attempts": 5,
        "timeout_s": 2,
    }


@pytest.mark.parametrize(
    ("change", "max_attempts"),
    [
        ("", None),
        ('"releases":0 -> "releases":2,"drains":1', None),
        ('"generation":0 -> "generation":3', None),
        ('"max_attempts":5 -> "max_attempts":7', 7),
        ('"checkpoint":null -> "new":null', 5),
        ('"releases":0, -> ', 5),
    ],
)
def test_five_attempts_are_unset_in_a_message_of_0_1(change: str, max_attempts: int | None) -> None:
    """Version 0.1 writes all fields, and 5 attempts where none are asked for. Everywhere else, 5 means 5."""
    before, _, after = change.partition(" -> ")
    text = MESSAGE.replace(before, after)
    assert decode_message(encoded(text)).max_attempts == max_attempts


@pytest.mark.parametrize("max_attempts", [None, 1, 5, 1000])
def test_the_number_of_attempts_survives_a_round_trip(max_attempts: int | None) -> None:
    """A missing number stays missing, and 5 stays 5; the number is never written as null."""
    text = encode_message(JobMessage(id=ID, max_attempts=max_attempts))
    assert decode_message(text).max_attempts == max_attempts
    assert b"null" not in base64.b64decode(text)


def test_a_report_matches_its_golden_text() -> None:
    """A report has the contract's fields in the contract's order, and times with milliseconds."""
    report = JobReport(
        job_id=ID,
        kind="countdown",
        message_id="m-1",
        delivery=1,
        sequence=7,
        status="running",
        progress=Progress(40, 100, "%", "Résumé 🎉"),
        submitted_at=NEW_YEAR,
        expires_at=WEEK_LATER,
        lease_until=NEW_YEAR.after(60.5),
        sent_at=NEW_YEAR.after(1.007),
        labels=Labels(owner="user:7", tags=("march",)),
        worker="w-1",
    )
    assert encode([report]).decode() == f"[{REPORT}]"
    assert encode(decode(REPORT, JobReport)).decode() == REPORT


def test_a_submitted_job_matches_its_golden_text() -> None:
    """A submitted job has the contract's fields in the contract's order."""
    job = SubmittedJob(
        id=ID,
        kind="countdown",
        labels=Labels(owner="user:7"),
        submitted_at=NEW_YEAR,
        due_at=NEW_YEAR.after(90),
        expires_at=WEEK_LATER,
    )
    assert encode(job).decode() == SUBMITTED_JOB
    assert decode(SUBMITTED_JOB, SubmittedJob) == job


def test_a_verdict_matches_its_golden_text() -> None:
    """A verdict has the contract's fields in the contract's order."""
    assert encode(Verdict(ID, accepted=True, watched=True)).decode() == VERDICT


def test_a_snapshot_matches_its_golden_text() -> None:
    """A snapshot has the contract's fields in the contract's order, with status and version side by side."""
    snapshot = JobSnapshot(
        id=ID,
        kind="countdown",
        status="running",
        version=1767225600123,
        progress=to_progress_snapshot(Progress(40, 100, "%", "Résumé 🎉")),
        submitted_at=NEW_YEAR,
        expires_at=WEEK_LATER,
        started_at=NEW_YEAR.after(0.25),
        updated_at=NEW_YEAR.after(1),
        lease_until=NEW_YEAR.after(60.5),
    )
    assert encode_snapshot(snapshot).decode() == SNAPSHOT
    assert encode_snapshot(decode(SNAPSHOT, JobSnapshot)).decode() == SNAPSHOT
    named = SNAPSHOT[:-1] + ',"name":"Invoices"}'
    assert encode_snapshot(decode(named, JobSnapshot)).decode() == named


@given(messages)
def test_queue_messages_survive_a_round_trip(message: JobMessage) -> None:
    """Encoding and decoding a queue message changes no field, and no byte of its opaque texts."""
    decoded = decode_message(encode_message(message))
    assert encode(decoded) == encode(message)
    assert (decoded.id, decoded.kind, decoded.submitted_at) == (message.id, message.kind, message.submitted_at)
    assert (bytes(decoded.payload), bytes(decoded.checkpoint)) == (bytes(message.payload), bytes(message.checkpoint))


@given(st.lists(reports, max_size=3))
def test_reports_survive_a_round_trip(group: list[JobReport]) -> None:
    """Encoding and decoding a list of reports changes no field."""
    decoded = decode(encode(group), list[JobReport])
    assert encode(decoded) == encode(group)
    assert [report.progress for report in decoded] == [report.progress for report in group]
    assert [report.lease_until for report in decoded] == [report.lease_until for report in group]


@given(times)
def test_times_survive_a_round_trip_to_the_millisecond(time: Timestamp) -> None:
    """A time is RFC 3339 in UTC with three decimals and a Z."""
    text = str(time)
    assert Timestamp.parse(text) == time
    assert len(text) == len("2026-01-01T00:00:00.000Z")
    assert text.endswith("Z")


@given(progresses)
def test_the_percentage_is_between_0_and_100(progress: Progress) -> None:
    """The percentage is None if the total is unknown, and otherwise 0 to 100."""
    snapshot = to_progress_snapshot(progress)
    assert snapshot is not None
    assert snapshot.percent is None if progress.total is None else 0 <= (snapshot.percent or 0) <= 100
    assert decode(encode(snapshot), ProgressSnapshot) == snapshot


@pytest.mark.parametrize(
    ("current", "total", "percent"),
    [
        (99_996, 100_000, 99.99),
        (0.99999, 1, 99.99),
        (99.99999999999999, 100, 99.99),
        (2**53, 2**53 + 1, 99.99),
        (2**63 - 2, 2**63 - 1, 99.99),
        (float(2**53), 2**53 + 1, 99.99),
        (99_994, 100_000, 99.99),
        (99_984, 100_000, 99.98),
        (100_000, 100_000, 100.0),
        (1e300, 1e300, 100.0),
        (5e-324, 1e308, 0.0),
        (1, 10**6, 0.0),
        (0.06, 1000, 0.01),
    ],
)
def test_the_percentage_is_100_only_at_the_total(current: float, total: float, percent: float) -> None:
    """Rounding never completes a job, whatever the kind and the size of the numbers."""
    assert Progress(current, total).percent == percent


@given(amounts, amounts)
def test_no_rounding_reaches_100(current: float, total: float) -> None:
    """The percentage is 100 exactly if the amount has reached the total."""
    percent = Progress(current, total).percent
    assert (percent == 100.0) is (current >= total)
    assert percent is not None
    assert percent == round(percent, 2)


@pytest.mark.parametrize(
    ("current", "total", "percent"),
    [(1, 3, 33.33), (2, 3, 66.67), (5, 4, 100.0), (0, 0, 100.0), (0, 10, 0.0), (0.5, 1, 50.0), (3, None, None)],
)
def test_the_percentage_has_two_decimals(current: float, total: float | None, percent: float | None) -> None:
    """A total of 0 counts as done, and an amount above the total as the total."""
    assert Progress(current, total).percent == percent


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        "{}",
        "40.0",
        "12345678901234567",
        "123456789012345678901234567890",
        '"🎉"',
        '"\\u00e9"',
        ' { "a" :\t[ ] } ',
        "1e2",
    ],
)
def test_opaque_json_is_passed_on_unchanged(text: str) -> None:
    """Payload, checkpoint and result are passed on byte for byte, including numbers and whitespace."""
    message = decode_message(f'{{"id":"{ID}","payload":{text},"checkpoint":{text}}}')
    decoded = decode_message(encode_message(message))
    assert bytes(decoded.payload).decode().strip() == text.strip()
    assert bytes(decoded.checkpoint) == bytes(message.checkpoint)
    report = decode(REPORT.replace('"result":null', f'"result":{text}'), JobReport)
    assert text.strip().encode() in encode([report])


def encoded(text: str) -> str:
    """Return a text in base64, which most senders use."""
    return base64.b64encode(text.encode()).decode()


@pytest.mark.parametrize("form", [str, encoded], ids=["plain", "base64"])
def test_a_queue_message_may_be_plain_or_base64(form: type[str]) -> None:
    """Both encodings of a queue message are decoded alike."""
    message = decode_message(form(f'{{"id":"{ID}","kind":"résumé","payload":{{"n":1}}}}'))
    assert (message.id, message.kind, bytes(message.payload)) == (ID, "résumé", b'{"n":1}')
    assert (message.max_attempts, message.submitted_at, bytes(message.checkpoint)) == (None, None, b"null")


WRAPPERS: dict[str, Callable[[str], str]] = {
    "GNU base64": lambda text: "".join(f"{text[at : at + 76]}\n" for at in range(0, len(text), 76)),
    "MIME": lambda text: "\r\n".join(text[at : at + 64] for at in range(0, len(text), 64)),
    "unpadded": lambda text: text.rstrip("="),
    "URL-safe": lambda text: text.translate(str.maketrans("+/", "-_")),
    "white space": lambda text: f" \t\r\n{text}\n ",
    "BOM": lambda text: f"\ufeff{text}",
    "all": lambda text: f"\ufeff {text[:5]}\n{text[5:].rstrip('=')}\r\n",
}


@given(messages, st.sampled_from(list(WRAPPERS)), st.booleans(), st.booleans())
def test_a_message_is_read_whatever_base64_tool_wrote_it(
    message: JobMessage,
    wrapper: str,
    bom: bool,
    newline: bool,
) -> None:
    """Line breaks, missing padding, the URL-safe alphabet, white space and a BOM change nothing."""
    data = b"\xef\xbb\xbf" * bom + encode(message) + b"\n" * newline
    text = WRAPPERS[wrapper](base64.b64encode(data).decode())
    assert encode(decode_message(text)) == encode(message)
    assert extract_job_id(text) == message.id
    assert message_encoding(text) == "base64"


@given(messages, st.text("\ufeff \t\r\n", max_size=4), st.text("\ufeff \t\r\n", max_size=4))
def test_plain_json_may_have_white_space_and_a_bom(message: JobMessage, before: str, after: str) -> None:
    """They are ignored before and after plain JSON, and kept inside it."""
    text = before + encode(message).decode() + after
    assert encode(decode_message(text)) == encode(message)
    assert message_encoding(text) == "plain"


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ('{"id":7}', "plain"),
        ('\ufeff "no-uuid"', "plain"),
        ("[", "plain"),
        (encoded("{"), "base64"),
        (encoded("hello"), "base64"),
        (base64.b64encode(b'{"\xff').decode(), "base64"),
        ("hello", "neither"),
        ("helloyou", "neither"),
        ("<xml/>", "neither"),
        ("caf\udce9", "neither"),
    ],
)
def test_the_encoding_of_an_unreadable_message_has_a_name(text: str, encoding: str) -> None:
    """The log of a poisoned message has it, so that the sender can be found."""
    with pytest.raises(msgspec.DecodeError):
        decode_message(text)
    assert message_encoding(text) == encoding


@pytest.mark.parametrize("form", [str, encoded], ids=["plain", "base64"])
@pytest.mark.parametrize("text", [f'"{ID}"', f' "{ID}"\n', f"{ID}", f"{ID}".upper(), f"\ufeff {ID}\r\n"])
def test_a_bare_uuid_is_a_countdown(form: type[str], text: str) -> None:
    """The message of a web site of 2015, a UUID with quotes or without, is a `countdown` job with an empty payload."""
    assert encode(decode_message(form(text))) == encode(JobMessage(id=ID))
    assert message_encoding(form(text)) == ("plain" if form is str else "base64")


@pytest.mark.parametrize("text", [f"{ID}0", f"{ID}"[:-1], f"{{{ID}}}", f"{ID} {ID}"])
def test_almost_a_uuid_is_not_a_message(text: str) -> None:
    """It is rejected with and without base64."""
    for form in (str, encoded):
        with pytest.raises(msgspec.DecodeError):
            decode_message(form(text))


def test_unknown_fields_are_ignored() -> None:
    """Fields that a newer sender adds are ignored in a queue message, a report and its progress."""
    assert decode_message(f'{{"id":"{ID}","colour":{{"r":[1]}}}}').id == ID
    newer = REPORT.replace('"unit":"%"', '"unit":"%","eta":null').replace('"sequence":7', '"sequence":7,"x":1')
    assert encode(decode(newer, JobReport)).decode() == REPORT


@pytest.mark.parametrize(
    ("field", "text"),
    [
        ("id", "null"),
        ("id", '"no-uuid"'),
        ("kind", '""'),
        ("kind", '"' + 129 * "k" + '"'),
        ("kind", "7"),
        ("submitted_at", '"yesterday"'),
        ("submitted_at", "1767225600"),
        ("submitted_at", '"2026-01-01T00:00:00"'),
        ("expires_at", '"2026-02-30T00:00:00Z"'),
        ("generation", "-1"),
        ("generation", str(2**53)),
        ("max_attempts", "0"),
        ("max_attempts", "9" * 400),
        ("timeout_s", "0"),
        ("timeout_s", "1e999"),
        ("releases", "0.5"),
    ],
)
def test_an_error_names_the_field(field: str, text: str) -> None:
    """The error about an invalid queue message names the field."""
    fields = {"id": f'"{ID}"', field: text}
    body = "{" + ",".join(f'"{name}":{value}' for name, value in fields.items()) + "}"
    with pytest.raises(msgspec.ValidationError, match=rf"\$\.{field}"):
        decode_message(body)


def test_an_error_in_a_list_names_element_and_field() -> None:
    """The error about one report in a list names its index and the field."""
    with pytest.raises(msgspec.ValidationError, match=r"\$\[1\]\.progress\.current"):
        decode(f"[{REPORT},{REPORT.replace('40', '-40')}]", list[JobReport])


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b'"',
        b"hello",
        b"NaN",
        b"\x00",
        *(
            MESSAGE.encode().replace(b"{}", payload)
            for payload in (
                b'"\xff"',
                b'"\xc3\x28"',
                b'"\xed\xa0\x80"',
                b'"a\x01b"',
                b'"\n"',
                b'"\\ud800"',
                b'"\\q"',
                b"NaN",
                b"01",
                b"[1,]",
                b"[" * 50_000 + b"]" * 50_000,
            )
        ),
    ],
    ids=lambda data: repr(data[:8] + data[56:90]),
)
def test_malformed_json_is_rejected(data: bytes) -> None:
    """Invalid UTF-8, control characters and deep nesting raise a DecodeError, even inside opaque fields."""
    with pytest.raises(msgspec.DecodeError) as raised:
        decode_message(base64.b64encode(data).decode())
    assert not isinstance(raised.value, msgspec.ValidationError)


@given(st.text() | st.binary().map(lambda data: base64.b64encode(data).decode()) | st.text(string.hexdigits + '-"{}:'))
def test_any_text_is_a_queue_message_or_a_decode_error(text: str) -> None:
    """Decoding raises nothing but `DecodeError`, and `extract_job_id` never raises."""
    try:
        assert decode_message(text).kind
    except msgspec.DecodeError:
        extract_job_id(text)


@pytest.mark.parametrize(
    ("text", "has_id"),
    [
        (f'{{"id":"{ID}","kind":7}}', True),
        (encoded(f'{{"max_attempts":0,"id":"{ID}"}}'), True),
        ('{"id":"no-uuid"}', False),
        ('{"kind":"countdown"}', False),
        (f'{{"id":"{ID}"', False),
        (f'["{ID}"]', False),
        ("", False),
    ],
)
def test_the_id_is_extracted_from_an_invalid_queue_message(text: str, *, has_id: bool) -> None:
    """With its id, the job of an invalid message can be reported as failed."""
    assert extract_job_id(text) == (ID if has_id else None)


@pytest.mark.parametrize(
    ("delivery", "releases", "attempt"), [(1, 0, 1), (3, 0, 3), (3, 2, 1), (3, 1, 2), (1, 4, 1), (2, 2, 1)]
)
def test_releases_cost_no_attempt(delivery: int, releases: int, attempt: int) -> None:
    """The attempt is the delivery count minus the releases, and at least 1."""
    assert JobMessage(id=ID, releases=releases).attempt(delivery) == attempt


@pytest.mark.parametrize(
    ("delivery", "releases", "drains", "attempt"),
    [(21, 20, 20, 1), (22, 21, 21, 2), (24, 23, 23, 4), (25, 22, 21, 4), (101, 100, 0, 1), (1, 0, 25, 6)],
)
def test_only_the_first_releases_of_draining_workers_are_free(
    delivery: int, releases: int, drains: int, attempt: int
) -> None:
    """Each further one costs an attempt; releases for other reasons are not limited."""
    assert JobMessage(id=ID, releases=releases, drains=drains).attempt(delivery) == attempt


@pytest.mark.parametrize(
    "text", ["2026-01-01T01:30:00.0004+01:30", "2026-01-01T00:00:00Z", "2025-12-31T19:00:00.000-05:00"]
)
def test_times_are_parsed_with_any_offset(text: str) -> None:
    """Offsets are converted to UTC, and fractions of any length to milliseconds."""
    assert str(Timestamp.parse(text)) == "2026-01-01T00:00:00.000Z"


@pytest.mark.parametrize(
    "text", ["0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59.9999Z", "9999-12-31T23:59:59-23:59"]
)
def test_a_time_that_can_be_parsed_can_be_formatted(text: str) -> None:
    """A time outside the years 1 to 9999 is rejected when it is parsed, so that it cannot fail later."""
    try:
        message = decode_message(f'{{"id":"{ID}","submitted_at":"{text}"}}')
    except msgspec.ValidationError:
        return
    assert encode(message)


def test_a_sum_is_limited_to_the_year_9999() -> None:
    """Adding seconds beyond the year 9999 returns the end of that year."""
    assert str(Timestamp.parse("9999-12-31T00:00:00Z").after(7 * 86_400)).startswith("9999-12-31T")


def test_a_far_time_keeps_its_milliseconds() -> None:
    """A time in the year 9999 is exact to the millisecond."""
    assert str(Timestamp.parse("9999-12-31T23:59:59.123Z")) == "9999-12-31T23:59:59.123Z"


def test_a_number_too_large_for_a_float_is_handled() -> None:
    """A progress of 400 digits is rejected when it is decoded, or has a percentage."""
    try:
        progress = decode(f'{{"current":{"9" * 400},"total":{"9" * 401}}}', Progress)
    except msgspec.ValidationError:
        return
    assert to_progress_snapshot(progress) is not None


FIRST_DECODING = """
import os, threading
from msgspec import Struct
from headway.contracts import decode

def slow_type():
    analyzing.set()
    never.wait(0.5)
    return int

class Inner(Struct):
    value: "slow_type()"

class Outer(Struct):
    inner: Inner

def decode_outer():
    return decode(b'{"inner":{"value":1}}', Outer)

analyzing, never = threading.Event(), threading.Event()
threading.Thread(target=decode_outer).start()
analyzing.wait()
"""


@pytest.mark.parametrize("program", ["print(decode_outer())", "os.fork() or print(decode_outer())"])
def test_a_type_is_analyzed_once(program: str) -> None:
    """A thread or a forked process that decodes a type during its analysis gets a complete one."""
    command = [sys.executable, "-c", FIRST_DECODING + program]
    output = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert output == "Outer(inner=Inner(value=1))\n"
