"""Which submissions are the same job, and which keys are valid."""

from __future__ import annotations

import itertools
import json
import random
from typing import Any

import pytest
from aiohttp.test_utils import make_mocked_request
from hypothesis import given
from hypothesis import strategies as st

from headway.contracts import MAX_NESTING_DEPTH
from services.runtime.errors import UnprocessableContent
from services.submitter.idempotency import dump, dump_deep, idempotency_key, job_id_for
from services.submitter.submission import submission_from_form, submission_from_json

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
)


def job_id_of(body: str, caller: str = "me", key: str | None = "k") -> str:
    """Return the job id of a JSON submission."""
    return str(job_id_for(submission_from_json(body.encode()), caller, key))


def job_id_with_payload(text: str) -> str:
    """Return the job id of a submission with this payload."""
    return job_id_of(f'{{"kind":"test","payload":{text}}}')


def reordered(value: Any, order: random.Random) -> Any:
    """Return the same JSON with the keys of its objects in another order."""
    if isinstance(value, list):
        return [reordered(item, order) for item in value]
    if isinstance(value, dict):
        return {key: reordered(value[key], order) for key in order.sample(sorted(value), len(value))}
    return value


ORDERS = st.randoms(use_true_random=False)
ORDERS.validate()  # imports its module now: compiling one after a RecursionError can fail in CPython 3.11


def test_ids_of_version_0_1_stay() -> None:
    """A retry across an upgrade is the same job: a submission without labels has the id of version 0.1."""
    assert (
        job_id_of('{"kind":"test","payload":{"b":1.0,"a":[2]},"delay_s":5}') == "895ba60b-363f-53a7-b078-18a44dba46c2"
    )


LABELLED = '{"kind":"test","name":"March","owner":"user:7","tags":["a","b"]}'


def test_labels_are_part_of_the_request() -> None:
    """Another name, owner or tag is another job; the order of tags does not matter, and an empty label is none."""
    others = [
        LABELLED.replace(*change)
        for change in (("March", "April"), ("user:7", "user:8"), ('"b"', '"c"'), (',"b"', ""), ('"name":"March",', ""))
    ]
    ids = [job_id_of(body) for body in (*others, LABELLED, '{"kind":"test"}')]
    assert len(set(ids)) == len(ids)
    assert job_id_of(LABELLED.replace('"a","b"', '"b","a","b"')) == job_id_of(LABELLED)
    assert job_id_of('{"kind":"test","name":null,"owner":null,"tags":[]}') == job_id_of('{"kind":"test"}')


@given(JSON, ORDERS)
def test_whitespace_and_the_order_of_keys_do_not_matter(value: Any, order: random.Random) -> None:
    """A payload that is formatted in another way is the same job."""
    formatted = json.dumps(reordered(value, order), indent=1, ensure_ascii=False)
    assert job_id_with_payload(json.dumps(value)) == job_id_with_payload(formatted)


@given(JSON, JSON)
def test_another_payload_is_another_job(first: Any, second: Any) -> None:
    """Two payloads are the same job only if they are the same JSON."""
    texts = [json.dumps(value, sort_keys=True) for value in (first, second)]
    assert (job_id_with_payload(texts[0]) == job_id_with_payload(texts[1])) is (texts[0] == texts[1])


@pytest.mark.parametrize(
    ("first", "second"),
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
def test_payloads_that_a_handler_may_distinguish_are_different_jobs(first: str, second: str) -> None:
    """Long numbers, types of numbers and repeated keys are distinguished."""
    assert job_id_with_payload(first) != job_id_with_payload(second)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ('"\\u00fc\\ud83d\\ude80"', '"ü🚀"'),
        ('{"b":1,"a":2,"b":3}', '{"a":2,"b":1,"b":3}'),
        ('{"\\u0061": [ ] }', '{"a":[]}'),
    ],
)
def test_equivalent_json_is_the_same_job(first: str, second: str) -> None:
    """Escapes do not matter, nor does the position of a repeated key among other keys."""
    assert job_id_with_payload(first) == job_id_with_payload(second)


def test_every_field_counts() -> None:
    """Another kind, payload, delay, number of attempts, timeout, follow-up job, key or caller is another job."""
    bodies = [
        '{"kind":"test"}',
        '{"kind":"other"}',
        '{"kind":"test","payload":1}',
        '{"kind":"test","delay_s":1}',
        '{"kind":"test","max_attempts":2}',
        '{"kind":"test","timeout_s":1}',
        '{"kind":"test","on_end":"mail"}',
        '{"kind":"test","on_end":"tell"}',
        '{"kind":"test","name":"mail"}',
        '{"kind":"test","name":"mail","on_end":"mail"}',
    ]
    ids = [*map(job_id_of, bodies), job_id_of(bodies[0], key="l"), job_id_of(bodies[0], caller="you")]
    assert len(set(ids)) == len(ids)


def test_explicit_defaults_and_forms_do_not_matter() -> None:
    """A submission with explicit defaults, as JSON or as a form, is the same job."""
    explicit = '{"timeout_s":null,"max_attempts":5,"delay_s":0,"payload":{},"kind":"test","on_end":null}'
    assert job_id_of(explicit.replace("5", "null", 1)) == job_id_of(explicit)
    form = submission_from_form(b"kind=test&payload=%7B%20%7D&delay_s=0&max_attempts=5&timeout_s=")
    assert job_id_of('{"kind":"test"}') == job_id_of(explicit) == str(job_id_for(form, "me", "k"))
    assert job_id_of('{"kind":"test","delay_s":5}') == job_id_of('{"kind":"test","delay_s":5.0}')


def test_the_id_never_changes() -> None:
    """Another version of the submitter computes the same id, so that a rollout runs no job twice."""
    assert job_id_with_payload('{"a":[1,2.50,"ü"]}') == "38c8abcf-2e88-5e1b-bfe7-a01436ba0f8e"


def test_without_a_key_each_submission_is_a_job() -> None:
    """Equal submissions without a key are different jobs."""
    assert job_id_of('{"kind":"test"}', key=None) != job_id_of('{"kind":"test"}', key=None)


@given(st.integers(1, MAX_NESTING_DEPTH), st.lists(st.sampled_from(['{"a":', '{"b":1,"c":', "[", "[0,"]), min_size=1))
def test_nesting_limit_is_the_same_with_a_key(depth: int, levels: list[str]) -> None:
    """A payload that is accepted without a key is accepted with one."""
    opening = [level for _, level in zip(range(depth), itertools.cycle(levels), strict=False)]
    closing = ["}" if level.startswith("{") else "]" for level in reversed(opening)]
    text = "".join([*opening, "1.50", *closing])
    assert job_id_with_payload(text) == job_id_with_payload(text.replace(":", " : "))
    with pytest.raises(UnprocessableContent, match="more than 500 levels"):
        job_id_with_payload("[" * (MAX_NESTING_DEPTH + 1 - depth) + text + "]" * (MAX_NESTING_DEPTH + 1 - depth))


@given(JSON | st.dictionaries(st.text(), st.text()))
def test_deep_and_flat_values_have_the_same_form(value: Any) -> None:
    """The id of a job does not depend on the encoder."""
    assert dump_deep(value) == dump(value)


@pytest.mark.parametrize("key", ["x", "order 4711", "~" * 255, "schlüssel"])
def test_a_key_is_printable(key: str) -> None:
    """A key is any text of 1 to 255 printable characters."""
    assert idempotency_key(make_mocked_request("POST", "/jobs", headers={"Idempotency-Key": key})) == key


@pytest.mark.parametrize("key", ["", "x" * 256, "a\tb", "\x7f"])
def test_an_invalid_key_is_rejected(key: str) -> None:
    """The error about an invalid key names the header."""
    with pytest.raises(UnprocessableContent) as raised:
        idempotency_key(make_mocked_request("POST", "/jobs", headers={"Idempotency-Key": key}))
    assert raised.value.field == "Idempotency-Key"


def test_a_key_is_optional() -> None:
    """A request without the header has no key."""
    assert idempotency_key(make_mocked_request("POST", "/jobs")) is None
