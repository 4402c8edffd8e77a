"""Parsing and validation of submissions, and the jobs that they become."""

from __future__ import annotations

import base64
import math
from typing import Any
from urllib.parse import urlencode
from uuid import UUID

import msgspec
import pytest

from headway.contracts import MAX_PAYLOAD_BYTES, Timestamp
from headway.labels import MAX_LABELS_BYTES, Labels
from headway.message_codec import decode_message, encode_message
from headway.trace_context import TraceContext
from services.runtime.errors import BadRequest, HTTPProblem, PayloadTooLarge, UnprocessableContent
from services.submitter.submission import (
    MAX_BODY_BYTES,
    AcceptedJob,
    Submission,
    accept_submission,
    submission_from_form,
    submission_from_json,
)

WEEK_S = 7 * 86_400
ID = UUID("d4c0ffee-0000-4000-8000-000000000001")


LARGEST_LABELS = {"name": "😀" * 200, "owner": "o" * 128, "tags": ["ü" * 64] * 8}


def submit(**fields: Any) -> AcceptedJob:
    """Accept a JSON submission."""
    return accept_submission(submission_from_json(msgspec.json.encode({"kind": "test", **fields})), WEEK_S, ID)


def test_only_the_kind_is_required() -> None:
    """All other fields have defaults, and the message can be encoded for the queue."""
    before = Timestamp.now()
    accepted = submit()
    message = decode_message(encode_message(accepted.message))
    assert (message.kind, bytes(message.payload), message.max_attempts, message.timeout_s) == (
        "test",
        b"{}",
        None,
        None,
    )
    assert (message.generation, message.releases, bytes(message.checkpoint)) == (0, 0, b"null")
    assert message.submitted_at is not None
    assert before <= message.submitted_at <= Timestamp.now()
    assert message.expires_at == message.submitted_at.after(WEEK_S)
    assert (accepted.delay_s, message.due_at) == (0, None)


def test_five_attempts_can_be_asked_for() -> None:
    """5 is not the same as no number, even where the kind has another one; null is."""
    for number in (5, None, 7):
        message = submit(max_attempts=number).message
        assert decode_message(encode_message(message)).max_attempts == number
    form = submission_from_form(b"kind=test&max_attempts=5")
    assert accept_submission(form, WEEK_S, ID).message.max_attempts == 5


def test_the_grant_is_for_the_job() -> None:
    """The grant allows watching and cancelling this job, for as long as the job lives."""
    accepted = submit()
    grant, message = accepted.grant, accepted.message
    assert (grant.job_id, grant.kind, grant.due_at) == (message.id, "test", None)
    assert (grant.submitted_at, grant.expires_at) == (message.submitted_at, message.expires_at)
    assert grant.scope == {"watch", "cancel"}


def test_all_fields_are_accepted() -> None:
    """Attempts, timeout, delay and follow-up job are kept, and the payload stays the same text."""
    text = b'{"kind":"k","payload": [ 1.0, 12345678901234567 ] ,"delay_s":90,"max_attempts":2,"timeout_s":0.5}'
    accepted = accept_submission(submission_from_json(text[:-1] + b',"on_end":"mail"}'), WEEK_S, ID)
    message = accepted.message
    assert bytes(message.payload).strip() == b"[ 1.0, 12345678901234567 ]"
    assert (message.max_attempts, message.timeout_s, message.on_end, accepted.delay_s) == (2, 0.5, "mail", 90)
    assert message.submitted_at is not None
    assert accepted.grant.due_at == message.due_at == message.submitted_at.after(90)


@pytest.mark.parametrize(
    ("body", "problem_type", "field"),
    [
        (b"", BadRequest, None),
        (b"kind=test", BadRequest, None),
        (b'{"kind":"test"', BadRequest, None),
        (b'{"kind":"test"}}', BadRequest, None),
        (b'{"kind":"\xff"}', BadRequest, None),
        (b'{"kind":"test","payload":"a\x01b"}', BadRequest, None),
        (b'{"kind":"test","payload":NaN}', BadRequest, None),
        (b'{"kind":"test","payload":' + b"[" * 9000 + b"]" * 9000 + b"}", BadRequest, None),
        (b"[]", UnprocessableContent, None),
        (b"null", UnprocessableContent, None),
        (b"{}", UnprocessableContent, "kind"),
        (b'{"kind":""}', UnprocessableContent, "kind"),
        (b'{"kind":null}', UnprocessableContent, "kind"),
        (b'{"kind":"%s"}' % (b"k" * 129), UnprocessableContent, "kind"),
        (b'{"kind":"test","colour":1}', UnprocessableContent, "colour"),
        (b'{"kind":"test","id":"x"}', UnprocessableContent, "id"),
        (b'{"kind":"test","delay_s":-1}', UnprocessableContent, "delay_s"),
        (b'{"kind":"test","delay_s":"5"}', UnprocessableContent, "delay_s"),
        (b'{"kind":"test","delay_s":604800}', UnprocessableContent, "delay_s"),
        (b'{"kind":"test","delay_s":1e300}', UnprocessableContent, "delay_s"),
        (b'{"kind":"test","delay_s":1e999}', UnprocessableContent, "delay_s"),
        (b'{"kind":"test","delay_s":%s}' % (b"9" * 400), UnprocessableContent, "delay_s"),
        (b'{"kind":"test","max_attempts":0}', UnprocessableContent, "max_attempts"),
        (b'{"kind":"test","max_attempts":1.5}', UnprocessableContent, "max_attempts"),
        (b'{"kind":"test","max_attempts":%s}' % (b"9" * 400), UnprocessableContent, "max_attempts"),
        (b'{"kind":"test","timeout_s":0}', UnprocessableContent, "timeout_s"),
        (b'{"kind":"test","timeout_s":1e300}', UnprocessableContent, "timeout_s"),
        (b'{"kind":"test","name":""}', UnprocessableContent, "name"),
        (b'{"kind":"test","name":"%s"}' % (b"n" * 201), UnprocessableContent, "name"),
        (b'{"kind":"test","name":["n"]}', UnprocessableContent, "name"),
        (b'{"kind":"test","name":" "}', UnprocessableContent, "name"),
        (b'{"kind":"test","name":"a\\nb"}', UnprocessableContent, "name"),
        (b'{"kind":"test","owner":""}', UnprocessableContent, "owner"),
        (b'{"kind":"test","owner":"%s"}' % (b"o" * 129), UnprocessableContent, "owner"),
        (b'{"kind":"test","owner":"user 7"}', UnprocessableContent, "owner"),
        (b'{"kind":"test","owner":"{7}"}', UnprocessableContent, "owner"),
        (b'{"kind":"test","tags":"march"}', UnprocessableContent, "tags"),
        (b'{"kind":"test","tags":null}', UnprocessableContent, "tags"),
        (b'{"kind":"test","tags":[""]}', UnprocessableContent, "tags[0]"),
        (b'{"kind":"test","tags":["a","%s"]}' % (b"t" * 65), UnprocessableContent, "tags[1]"),
        (b'{"kind":"test","tags":["{a}"]}', UnprocessableContent, "tags[0]"),
        (b'{"kind":"test","tags":["a,b"]}', UnprocessableContent, "tags[0]"),
        (b'{"kind":"test","tags":["a","b","c","d","e","f","g","h","i"]}', UnprocessableContent, "tags"),
        (b'{"kind":"test","tags":[%s"a"]}' % (b'"a",' * 16_000), UnprocessableContent, "tags"),
        (b'{"kind":"test","payload":"%s"}' % (b"x" * (33 * 1024)), PayloadTooLarge, "payload"),
        (b'{"kind":"test","on_end":"test"}', UnprocessableContent, "on_end"),
        (b'{"kind":"test","on_end":"headway.bulk"}', UnprocessableContent, "on_end"),
        (b'{"kind":"test","on_end":""}', UnprocessableContent, "on_end"),
        (b'{"kind":"test","on_end":["mail"]}', UnprocessableContent, "on_end"),
        (b'{"kind":"test","on_end":"%s"}' % (b"k" * 129), UnprocessableContent, "on_end"),
    ],
    ids=lambda value: repr(value[:40]) if isinstance(value, bytes) else None,
)
def test_an_invalid_submission_names_the_field(body: bytes, problem_type: type[HTTPProblem], field: str | None) -> None:
    """An invalid submission is rejected with its status, and with the invalid field if there is one."""
    with pytest.raises(HTTPProblem) as raised:
        accept_submission(submission_from_json(body), WEEK_S, ID)
    assert (type(raised.value), raised.value.field) == (problem_type, field)


def test_the_largest_payload_fits() -> None:
    """The limit applies to the payload's text, and the message still fits the queue with a checkpoint."""
    payload = "x" * (MAX_PAYLOAD_BYTES - 2)
    message = submit(kind="é" * 128, payload=payload, **LARGEST_LABELS).message
    assert len(message.payload) == MAX_PAYLOAD_BYTES
    largest = msgspec.structs.replace(message, checkpoint=msgspec.Raw(b'"' + b"c" * 8190 + b'"'), releases=2**53 - 1)
    assert len(encode_message(largest)) <= 64 * 1024
    assert len(msgspec.json.encode({"kind": "é" * 128, "payload": payload})) <= MAX_BODY_BYTES
    with pytest.raises(PayloadTooLarge):
        submit(payload=payload + "x")


def test_labels_are_part_of_the_message() -> None:
    """Name, owner and tags go with the message; a job without them has no labels."""
    labels = submit(name="March", owner="user:7", tags=["a", "b"]).message.labels
    assert labels == Labels(name="March", owner="user:7", tags=("a", "b"))
    assert submit(name=None, owner=None, tags=[]).message.labels is None
    assert b"labels" not in base64.b64decode(encode_message(submit().message))


def test_the_labels_of_a_job_have_a_limit() -> None:
    """All labels together may have 2 KiB as JSON, so that records and indexes stay small."""
    labels = submit(**LARGEST_LABELS).message.labels
    assert 2000 < len(msgspec.json.encode(labels)) <= MAX_LABELS_BYTES
    with pytest.raises(UnprocessableContent) as raised:
        submit(**LARGEST_LABELS | {"owner": "ö" * 128})
    assert raised.value.field == "tags"


def test_labels_at_their_limit_have_no_trace() -> None:
    """The notifier would refuse larger labels, and with them the other submissions of the same request."""
    submission = submission_from_json(msgspec.json.encode({"kind": "test", **LARGEST_LABELS}))
    assert (
        accept_submission(submission, WEEK_S, ID, TraceContext("1" * 32, "2" * 16, "01")).message.labels
        == submission.labels
    )


def test_a_delay_is_shorter_than_the_job_s_lifetime() -> None:
    """The limit of a delay is the configured lifetime of a job."""
    assert submit(delay_s=WEEK_S - 1).delay_s == WEEK_S - 1
    with pytest.raises(UnprocessableContent):
        accept_submission(submission_from_json(b'{"kind":"test","delay_s":60}'), 60, ID)


@pytest.mark.parametrize("delay_s", [0.2, 0.5, 1.4])
def test_a_job_never_starts_before_its_delay(delay_s: float) -> None:
    """The queue's unit is a second, so a fraction is rounded up."""
    assert submit(delay_s=delay_s).delay_s == math.ceil(delay_s)


@pytest.mark.parametrize(
    ("fields", "kind", "payload"),
    [
        ({"kind": "test"}, "test", b"{}"),
        ({"kind": "test", "payload": ""}, "test", b"{}"),
        ({"kind": "résumé & more", "payload": '{"a": [1.0]}'}, "résumé & more", b'{"a": [1.0]}'),
    ],
)
def test_a_form_s_payload_is_json_text(fields: dict[str, str], kind: str, payload: bytes) -> None:
    """The payload of a form is JSON, and stays the same text."""
    submission = submission_from_form(urlencode(fields).encode())
    assert (submission.kind, bytes(submission.payload)) == (kind, payload)


def test_a_form_has_the_fields_of_json() -> None:
    """Numbers are text in a form; an empty field counts as missing, and so does a blank name."""
    submission = submission_from_form(b"kind=test&delay_s=1.5&max_attempts=2&timeout_s=60&on_end=mail")
    assert submission == Submission(kind="test", delay_s=1.5, max_attempts=2, timeout_s=60, on_end="mail")
    empty = b"kind=test&payload=&delay_s=&max_attempts=&timeout_s=&name=&owner=&tags=&on_end="
    assert submission_from_form(empty) == Submission(kind="test")
    assert submission_from_form(b"kind=test&name=+%C2%A0+") == Submission(kind="test")


@pytest.mark.parametrize(
    "tags", [b"tags=a&tags=b&tags=c", b"tags=a,b&tags=c", b"tags=+a+,%2C+b,c,", b"tags=&tags=a,b,c"]
)
def test_a_form_repeats_tags_or_separates_them_with_commas(tags: bytes) -> None:
    """Browsers send a field for each checked box, and one text for a text field."""
    submission = submission_from_form(b"kind=test&name=March+%26+April&owner=user:7&" + tags)
    assert (submission.name, submission.owner, submission.tags) == ("March & April", "user:7", ("a", "b", "c"))


@pytest.mark.parametrize(
    ("body", "problem_type", "field"),
    [
        (b"", UnprocessableContent, "kind"),
        (b"payload=1", UnprocessableContent, "kind"),
        (b"kind=", UnprocessableContent, "kind"),
        (b"kind=test&colour=red", UnprocessableContent, "colour"),
        (b"kind=test&delay_s=soon", UnprocessableContent, "delay_s"),
        (b"kind=test&delay_s=-1", UnprocessableContent, "delay_s"),
        (b"kind=test&delay_s=nan", UnprocessableContent, "delay_s"),
        (b"kind=test&delay_s=inf", UnprocessableContent, "delay_s"),
        (b"kind=test&delay_s=1e400", UnprocessableContent, "delay_s"),
        (b"kind=test&delay_s=1_000", UnprocessableContent, "delay_s"),
        (b"kind=test&max_attempts=1.5", UnprocessableContent, "max_attempts"),
        (b"kind=test&max_attempts=%s" % (b"9" * 5000), UnprocessableContent, "max_attempts"),
        (b"kind=test&timeout_s=0", UnprocessableContent, "timeout_s"),
        (b"kind=test&on_end=test", UnprocessableContent, "on_end"),
        (b"kind=test&owner=user+7", UnprocessableContent, "owner"),
        (b"kind=test&name=" + b"n" * 201, UnprocessableContent, "name"),
        (b"kind=test&name=a%0Ab", UnprocessableContent, "name"),
        (b"kind=test&tags=a,%7B", UnprocessableContent, "tags[1]"),
        (b"kind=test" + b"&tags=a" * 9, UnprocessableContent, "tags"),
        (b"kind=test&tags=" + b"a," * 30_000, UnprocessableContent, "tags"),
        (b"kind=test&payload=%7B", UnprocessableContent, "payload"),
        (b"kind=test&payload=%22%01%22", UnprocessableContent, "payload"),
        (b"kind=test&payload=" + b"1" * (33 * 1024), PayloadTooLarge, "payload"),
        (b"kind", BadRequest, None),
        (b"\xff\xfe", BadRequest, None),
        (b'{"kind":"test"}', BadRequest, None),
        (b"&".join(b"f%d=1" % n for n in range(33)), BadRequest, None),
    ],
    ids=lambda value: repr(value[:40]) if isinstance(value, bytes) else None,
)
def test_an_invalid_form_is_rejected_like_json(body: bytes, problem_type: type[HTTPProblem], field: str | None) -> None:
    """The same error is the same problem in a form and in JSON."""
    with pytest.raises(HTTPProblem) as raised:
        submission_from_form(body)
    assert (type(raised.value), raised.value.field) == (problem_type, field)


def test_a_form_field_cannot_inject_json() -> None:
    """The text of the payload field cannot set another field."""
    body = urlencode({"kind": "test", "payload": '{},"max_attempts":9'}).encode()
    with pytest.raises(UnprocessableContent) as raised:
        submission_from_form(body)
    assert raised.value.field == "payload"
