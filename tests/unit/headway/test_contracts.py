"""The wire: golden texts, round trips, and everything that is not quite what was expected."""

from __future__ import annotations

import base64
import string
from datetime import UTC, datetime
from uuid import UUID

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headway.contracts import (
    JobError,
    JobMessage,
    JobReport,
    JobSnapshot,
    Json,
    Progress,
    ProgressSnapshot,
    Timestamp,
    Verdict,
    decode,
    decode_message,
    encode,
    encode_message,
    extract_job_id,
    to_progress_snapshot,
)

ID = UUID("6b3c2f9e-0f0a-4a57-9d0e-3d2a1f6a7b11")
NEW_YEAR = Timestamp.parse("2026-01-01T00:00:00Z")
WEEK_LATER = NEW_YEAR.after(7 * 86_400)

MESSAGE = (
    '{"id":"6b3c2f9e-0f0a-4a57-9d0e-3d2a1f6a7b11","kind":"countdown","payload":{},'
    '"submitted_at":"2026-01-01T00:00:00.000Z","expires_at":"2026-01-08T00:00:00.000Z","generation":0,'
    '"max_attempts":5,"timeout_s":null,"releases":0,"checkpoint":null}'
)
REPORT = (
    '{"job_id":"6b3c2f9e-0f0a-4a57-9d0e-3d2a1f6a7b11","kind":"countdown","generation":0,"message_id":"m-1",'
    '"delivery":1,"sequence":7,"attempt":1,"max_attempts":5,"status":"running",'
    '"progress":{"current":40,"total":100,"unit":"%","message":"Résumé 🎉"},"result":null,"error":null,'
    '"submitted_at":"2026-01-01T00:00:00.000Z","expires_at":"2026-01-08T00:00:00.000Z",'
    '"lease_until":"2026-01-01T00:01:00.500Z","due_at":null,"sent_at":"2026-01-01T00:00:01.007Z"}'
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

moments = st.datetimes(
    min_value=datetime(1970, 1, 1),
    max_value=datetime(2199, 1, 1),
).map(lambda moment: Timestamp(moment.replace(tzinfo=UTC).timestamp() * 1000))
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
    submitted_at=st.none() | moments,
    expires_at=st.none() | moments,
    generation=naturals,
    max_attempts=st.integers(1, 1000),
    timeout_s=st.none() | st.floats(0.001, 604_800),
    releases=naturals,
    checkpoint=json_texts,
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
    submitted_at=moments,
    expires_at=moments,
    lease_until=st.none() | moments,
    due_at=st.none() | moments,
    sent_at=st.none() | moments,
)


def test_a_message_is_spelt_as_the_contract_says() -> None:
    """A queue message has the contract's fields in the contract's order, and every one of them, also by default."""
    assert encode(JobMessage(id=ID, submitted_at=NEW_YEAR, expires_at=WEEK_LATER)).decode() == MESSAGE


def test_a_report_is_spelt_as_the_contract_says() -> None:
    """A report has the contract's fields in the contract's order, its times with milliseconds."""
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
    )
    assert encode([report]).decode() == f"[{REPORT}]"
    assert encode(decode(REPORT, JobReport)).decode() == REPORT


def test_a_verdict_is_spelt_as_the_contract_says() -> None:
    """A verdict has the contract's fields in the contract's order."""
    assert encode(Verdict(ID, accepted=True, watched=True)).decode() == VERDICT


def test_a_snapshot_is_spelt_as_the_contract_says() -> None:
    """A snapshot has the contract's fields in the contract's order, status and version side by side."""
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
    assert encode(snapshot).decode() == SNAPSHOT
    assert encode(decode(SNAPSHOT, JobSnapshot)).decode() == SNAPSHOT


@given(messages)
def test_any_message_comes_back_as_it_went(message: JobMessage) -> None:
    """Whatever a message says survives the queue, and so do the texts that it carries."""
    back = decode_message(encode_message(message))
    assert encode(back) == encode(message)
    assert (back.id, back.kind, back.submitted_at) == (message.id, message.kind, message.submitted_at)
    assert (bytes(back.payload), bytes(back.checkpoint)) == (bytes(message.payload), bytes(message.checkpoint))


@given(st.lists(reports, max_size=3))
def test_any_batch_of_reports_comes_back_as_it_went(batch: list[JobReport]) -> None:
    """Whatever reports say survives the way to the notifier."""
    back = decode(encode(batch), list[JobReport])
    assert encode(back) == encode(batch)
    assert [report.progress for report in back] == [report.progress for report in batch]
    assert [report.lease_until for report in back] == [report.lease_until for report in batch]


@given(moments)
def test_any_time_comes_back_to_the_millisecond(moment: Timestamp) -> None:
    """A time is RFC 3339 in UTC with three digits and a Z, and loses nothing."""
    text = str(moment)
    assert Timestamp.parse(text) == moment
    assert len(text) == len("2026-01-01T00:00:00.000Z")
    assert text.endswith("Z")


@given(progresses)
def test_any_progress_has_a_percentage_of_0_to_100(progress: Progress) -> None:
    """The percentage is None without a total, and otherwise never leaves the bar."""
    shown = to_progress_snapshot(progress)
    assert shown is not None
    assert shown.percent is None if progress.total is None else 0 <= (shown.percent or 0) <= 100
    assert decode(encode(shown), ProgressSnapshot) == shown


@pytest.mark.parametrize(
    ("current", "total", "percent"),
    [(1, 3, 33.33), (2, 3, 66.67), (5, 4, 100.0), (0, 0, 100.0), (0, 10, 0.0), (0.5, 1, 50.0), (3, None, None)],
)
def test_the_percentage_has_two_digits(current: float, total: float | None, percent: float | None) -> None:
    """An empty total counts as done, and more than everything as everything."""
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
def test_opaque_text_stays_as_its_author_wrote_it(text: str) -> None:
    """Payload, checkpoint and result are carried byte for byte, numbers and spaces included."""
    message = decode_message(f'{{"id":"{ID}","payload":{text},"checkpoint":{text}}}')
    again = decode_message(encode_message(message))
    assert bytes(again.payload).decode().strip() == text.strip()
    assert bytes(again.checkpoint) == bytes(message.checkpoint)
    report = decode(REPORT.replace('"result":null', f'"result":{text}'), JobReport)
    assert text.strip().encode() in encode([report])


def encoded(text: str) -> str:
    """Write base64, as most senders do."""
    return base64.b64encode(text.encode()).decode()


@pytest.mark.parametrize("form", [str, encoded], ids=["plain", "base64"])
def test_a_message_may_be_plain_or_base64(form: type[str]) -> None:
    """Both spellings of a message are read alike."""
    message = decode_message(form(f'{{"id":"{ID}","kind":"résumé","payload":{{"n":1}}}}'))
    assert (message.id, message.kind, bytes(message.payload)) == (ID, "résumé", b'{"n":1}')
    assert (message.max_attempts, message.submitted_at, bytes(message.checkpoint)) == (5, None, b"null")


@pytest.mark.parametrize("form", [str, encoded], ids=["plain", "base64"])
@pytest.mark.parametrize("text", [f'"{ID}"', f' "{ID}"\n'])
def test_a_bare_uuid_is_a_countdown(form: type[str], text: str) -> None:
    """What the web site of 2015 sends is a `countdown` job with an empty payload."""
    assert encode(decode_message(form(text))) == encode(JobMessage(id=ID))


def test_unknown_fields_are_ignored() -> None:
    """What a newer sender adds is no reason to refuse, in a message, a report or inside its progress."""
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
    """Whoever sent a message that does not fit learns which field it is."""
    fields = {"id": f'"{ID}"', field: text}
    body = "{" + ",".join(f'"{name}":{value}' for name, value in fields.items()) + "}"
    with pytest.raises(msgspec.ValidationError, match=rf"\$\.{field}"):
        decode_message(body)


def test_an_error_in_a_batch_names_element_and_field() -> None:
    """A report is found among others by its position."""
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
        b"\xef\xbb\xbf" + MESSAGE.encode(),
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
def test_what_is_no_json_is_an_error_and_no_crash(data: bytes) -> None:
    """Broken UTF-8, control characters and endless nesting are refused, also inside what is not decoded."""
    with pytest.raises(msgspec.DecodeError) as refused:
        decode_message(base64.b64encode(data).decode())
    assert not isinstance(refused.value, msgspec.ValidationError)


@given(st.text() | st.binary().map(lambda data: base64.b64encode(data).decode()) | st.text(string.hexdigits + '-"{}:'))
def test_no_text_crashes_the_reader(text: str) -> None:
    """Any text is a message or a `DecodeError`, and asking for its id never raises."""
    try:
        assert decode_message(text).kind
    except msgspec.DecodeError:
        extract_job_id(text)


@pytest.mark.parametrize(
    ("text", "found"),
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
def test_the_id_is_found_in_a_message_that_does_not_fit(text: str, *, found: bool) -> None:
    """A job whose message can be read that far can be reported as failed."""
    assert extract_job_id(text) == (ID if found else None)


@pytest.mark.parametrize(
    ("delivery", "releases", "attempt"), [(1, 0, 1), (3, 0, 3), (3, 2, 1), (3, 1, 2), (1, 4, 1), (2, 2, 1)]
)
def test_a_release_costs_no_attempt(delivery: int, releases: int, attempt: int) -> None:
    """The attempt is the delivery without the releases, and at least the first."""
    assert JobMessage(id=ID, releases=releases).attempt(delivery) == attempt


@pytest.mark.parametrize(
    "text", ["2026-01-01T01:30:00.0004+01:30", "2026-01-01T00:00:00Z", "2025-12-31T19:00:00.000-05:00"]
)
def test_times_are_read_with_any_offset(text: str) -> None:
    """Offsets and fractions of any length come down to UTC and milliseconds."""
    assert str(Timestamp.parse(text)) == "2026-01-01T00:00:00.000Z"


@pytest.mark.parametrize(
    "text", ["0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59.9999Z", "9999-12-31T23:59:59-23:59"]
)
def test_a_time_that_can_be_read_can_be_written(text: str) -> None:
    """A message with a time beyond the calendar is refused when it is read, and no service falls over it later."""
    try:
        message = decode_message(f'{{"id":"{ID}","submitted_at":"{text}"}}')
    except msgspec.ValidationError:
        return
    assert encode(message)


def test_the_moment_after_the_last_can_be_written() -> None:
    """A sum that leaves the calendar ends at its last moment."""
    assert str(Timestamp.parse("9999-12-31T00:00:00Z").after(7 * 86_400)).startswith("9999-12-31T")


def test_a_far_time_keeps_its_milliseconds() -> None:
    """A time in the year 9999 is as exact as one of today."""
    assert str(Timestamp.parse("9999-12-31T23:59:59.123Z")) == "9999-12-31T23:59:59.123Z"


def test_a_number_too_large_for_a_float_is_no_crash() -> None:
    """A progress of four hundred digits is refused when it is read, or has a percentage."""
    try:
        progress = decode(f'{{"current":{"9" * 400},"total":{"9" * 401}}}', Progress)
    except msgspec.ValidationError:
        return
    assert to_progress_snapshot(progress) is not None
