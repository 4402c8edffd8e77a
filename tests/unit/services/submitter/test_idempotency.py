"""Which submissions are the same job."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from aiohttp.test_utils import make_mocked_request
from hypothesis import given
from hypothesis import strategies as st

from headway.contracts import Json
from services.runtime.errors import BadRequest, UnprocessableContent
from services.submitter.idempotency import canonical_json, idempotency_key, job_id_for
from services.submitter.submission import submission_from_form, submission_from_json

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
)


def identified(body: str, caller: str = "me", key: str | None = "k") -> str:
    """Return the id of the job that a JSON body asks for."""
    return str(job_id_for(submission_from_json(body.encode()), caller, key))


def with_payload(text: str) -> str:
    """Return the id of the job that has this payload."""
    return identified(f'{{"kind":"test","payload":{text}}}')


def reordered(value: Any, order: random.Random) -> Any:
    """Return the same JSON with the keys of its objects in another order."""
    if isinstance(value, list):
        return [reordered(one, order) for one in value]
    if isinstance(value, dict):
        return {key: reordered(value[key], order) for key in order.sample(sorted(value), len(value))}
    return value


ORDERS = st.randoms(use_true_random=False)
ORDERS.validate()  # imports its module now: compiling one after a RecursionError can fail in CPython 3.11


@given(JSON, ORDERS)
def test_spaces_and_the_order_of_keys_make_no_other_job(value: Any, order: random.Random) -> None:
    """However a payload is laid out, it is the same job."""
    other = json.dumps(reordered(value, order), indent=1, ensure_ascii=False)
    assert with_payload(json.dumps(value)) == with_payload(other)


@given(JSON, JSON)
def test_another_payload_is_another_job(first: Any, second: Any) -> None:
    """Two payloads are the same job only when they are the same JSON."""
    one, other = (json.dumps(value, sort_keys=True) for value in (first, second))
    assert (with_payload(one) == with_payload(other)) is (one == other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("1", "1.0"),
        ("1", "1e0"),
        ("0", "-0"),
        ("12345678901234567890123456789", "12345678901234567890123456788"),
        ("0.1", "0.1000000000000000055511151231257827"),
        ("1e400", "1e401"),
        ("9" * 5000, "9" * 5001),
        ('"1"', "1"),
        ('{"number":"1"}', "1"),
        ('{"a":1,"a":2}', '{"a":2,"a":1}'),
        ('{"a":1,"a":2}', '{"a":2}'),
        ('{"a":[1,2]}', '{"a":1,"a":2}'),
        ("null", "{}"),
        ("[]", "{}"),
    ],
)
def test_what_a_handler_may_tell_apart_is_not_the_same(one: str, other: str) -> None:
    """Long numbers are told apart by their last digit, and neither kinds of numbers nor double keys are mixed up."""
    assert with_payload(one) != with_payload(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ('"\\u00fc\\ud83d\\ude80"', '"ü🚀"'),
        ('{"b":1,"a":2,"b":3}', '{"a":2,"b":1,"b":3}'),
        ('{"\\u0061": [ ] }', '{"a":[]}'),
    ],
)
def test_what_reads_the_same_is_the_same(one: str, other: str) -> None:
    """How a character is escaped is no difference, nor is the place of a double key among the others."""
    assert with_payload(one) == with_payload(other)


def test_everything_asked_for_counts() -> None:
    """Kind, payload, delay, attempts, time-out, key and caller each make another job."""
    bodies = [
        '{"kind":"test"}',
        '{"kind":"other"}',
        '{"kind":"test","payload":1}',
        '{"kind":"test","delay_s":1}',
        '{"kind":"test","max_attempts":2}',
        '{"kind":"test","timeout_s":1}',
    ]
    ids = [*map(identified, bodies), identified(bodies[0], key="l"), identified(bodies[0], caller="you")]
    assert len(set(ids)) == len(ids)


def test_defaults_are_filled_in_and_a_form_is_the_same() -> None:
    """Whether a default is written out does not matter, nor whether it is a form that says so."""
    whole = '{"timeout_s":null,"max_attempts":5,"delay_s":0,"payload":{},"kind":"test"}'
    form = submission_from_form(b"kind=test&payload=%7B%20%7D&delay_s=0&max_attempts=5&timeout_s=")
    assert identified('{"kind":"test"}') == identified(whole) == str(job_id_for(form, "me", "k"))
    assert identified('{"kind":"test","delay_s":5}') == identified('{"kind":"test","delay_s":5.0}')


def test_the_id_of_a_key_stays_what_it_is() -> None:
    """Another version of the submitter computes the same id, so that a rollout runs nothing twice."""
    assert with_payload('{"a":[1,2.50,"ü"]}') == "38c8abcf-2e88-5e1b-bfe7-a01436ba0f8e"


def test_without_a_key_each_submission_is_a_job() -> None:
    """Nothing is taken for the same by itself."""
    assert identified('{"kind":"test"}', key=None) != identified('{"kind":"test"}', key=None)


def test_what_is_nested_too_deep_is_a_problem() -> None:
    """A payload at the edge of what can be read is refused, not failed on."""
    with pytest.raises(BadRequest):
        canonical_json(Json(b'{"a":' * 900 + b"1" + b"}" * 900))


@pytest.mark.parametrize("key", ["x", "order 4711", "~" * 255, "schlüssel"])
def test_a_key_is_printable(key: str) -> None:
    """Any 1 to 255 printable characters are a key."""
    assert idempotency_key(make_mocked_request("POST", "/jobs", headers={"Idempotency-Key": key})) == key


@pytest.mark.parametrize("key", ["", "x" * 256, "a\tb", "\x7f"])
def test_another_key_is_a_problem(key: str) -> None:
    """Anything else is refused, naming the header."""
    with pytest.raises(UnprocessableContent) as refused:
        idempotency_key(make_mocked_request("POST", "/jobs", headers={"Idempotency-Key": key}))
    assert refused.value.field == "Idempotency-Key"


def test_no_header_is_no_key() -> None:
    """Whoever sends none is asked for none."""
    assert idempotency_key(make_mocked_request("POST", "/jobs")) is None
