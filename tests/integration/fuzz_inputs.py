"""Inputs that are good, nearly good and senseless: the larger part is good, so that it gets past decoding."""

from __future__ import annotations

import json
import uuid
from datetime import UTC, timedelta, timezone
from typing import Any

from hypothesis import strategies as st

from headway.contracts import MAX_DEPTH

IDS = [str(uuid.UUID(int=number)) for number in range(1, 5)]
JOBS = ["<first job>", "<second job>"]  # who sends puts ids of jobs that nobody has heard of in their place
TOP = 2**53 - 1

texts = st.text(max_size=40)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts | st.sampled_from(IDS),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)


def mostly(good: st.SearchStrategy[Any], bad: st.SearchStrategy[Any], share: int) -> st.SearchStrategy[Any]:
    """Draw a bad one once in so many times."""
    return st.integers(1, share).flatmap(lambda drawn: bad if drawn == share else good)


# JSON as it may be written, too: with spaces and breaks, escapes, names twice, and numbers that no program can hold.
written = st.builds(
    lambda value, plain, indent: json.dumps(value, ensure_ascii=plain, indent=indent, allow_nan=False),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
        max_leaves=8,
    ),
    st.booleans(),
    st.sampled_from([None, 1]),
)
odd = st.sampled_from([
    "-0", "1E+2", "1e400", "-" + "9" * 400, "0.1e-400", '"\\ud800"', '"\\u0000"', '"\u2028\u2029"', '{"a":1,"a":2}',
    "[" * MAX_DEPTH + "]" * MAX_DEPTH, "[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1), '"' + "x" * 32_000 + '"',
    '"' + "x" * 33_000 + '"', " \r\n\t1 ", '"]}"', "}", "", "NaN", "\x001", '"\x01"',
])  # fmt: skip


def text(most: int, least: int = 0) -> st.SearchStrategy[str]:
    """Write a text of some length, often the longest or the shortest that may be."""
    shortest_and_longest = [character * size for character in "x\u00e9\0" for size in (max(least, 1), most)]
    return (st.text(min_size=least, max_size=min(most, 60)) | st.sampled_from(shortest_and_longest)).map(json.dumps)


def whole(least: int, most: int) -> st.SearchStrategy[str]:
    """Write a number of a range, often a small one, or one at its end."""
    return (st.integers(least, min(most, least + 4)) | st.sampled_from([least, most]) | st.integers(least, most)).map(
        str
    )


zones = st.integers(-14 * 60, 14 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))
times = (st.datetimes(timezones=zones) | st.datetimes(timezones=st.just(UTC))).map(
    lambda moment: json.dumps(moment.isoformat())
) | st.sampled_from(["0001-01-01T00:00:00Z", "9999-12-31T23:59:59.999Z", "2026-02-28T00:00:00Z"]).map(json.dumps)
null = st.just("null")
amounts = (
    whole(0, TOP) | st.floats(0, allow_nan=False, allow_infinity=False).map(repr) | st.sampled_from(["1e308", "0"])
)


def written_object(parts: dict[str, str]) -> str:
    """Write an object of parts that are written already."""
    return "{" + ",".join(f"{json.dumps(name)}:{part}" for name, part in parts.items()) + "}"


progress = st.fixed_dictionaries(
    {"current": amounts}, optional={"total": amounts | null, "unit": text(32) | null, "message": text(1_000) | null}
).map(written_object)
errors = st.fixed_dictionaries({"type": text(128, 1), "message": text(4_000)}).map(written_object)
statuses = st.sampled_from(["queued", "running", "retrying", "succeeded", "failed", "cancelled"]).map(json.dumps)
fields = {
    "job_id": st.sampled_from(JOBS).map(json.dumps), "kind": text(128, 1), "message_id": text(128, 1),
    "delivery": whole(1, TOP), "sequence": whole(0, TOP), "status": statuses,
    "submitted_at": times, "expires_at": times,
}  # fmt: skip
more = {
    "generation": whole(0, TOP), "attempt": whole(1, TOP), "max_attempts": whole(1, 1_000), "progress": progress | null,
    "result": written | odd.filter(lambda one: one not in {"}", "", "NaN", "\x001", '"\x01"'}), "error": errors | null,
    "lease_until": times | null, "due_at": times | null, "sent_at": times | null, "unheard_of": written,
}  # fmt: skip
good_reports = st.fixed_dictionaries(fields, optional=more)
spoilt_reports = st.builds(
    lambda report, name, part: report | {name: part},
    good_reports, st.sampled_from([*fields, *more]), written | odd | values.map(json.dumps),
)  # fmt: skip
lacking_reports = st.builds(
    lambda report, name: {key: part for key, part in report.items() if key != name},
    good_reports,
    st.sampled_from([*fields]),
)
bodies = st.lists(mostly(good_reports, spoilt_reports | lacking_reports, 12), min_size=1, max_size=4).map(
    lambda reports: "[" + ",".join(written_object(report) for report in reports) + "]"
)


def broken(body: str, place: int, put: bytes) -> bytes:
    """Put some bytes in the place of one."""
    data = body.encode(errors="surrogatepass")
    return data[: place % len(data)] + put + data[place % len(data) + 1 :]


batches = mostly(
    bodies.map(lambda body: body.encode(errors="surrogatepass")),
    st.builds(broken, bodies, st.integers(0, 10_000), st.binary(max_size=3))
    | st.binary(max_size=60)
    | odd.map(str.encode),
    12,
)

tokens = st.tuples(st.just("token"), st.sampled_from(IDS), st.sampled_from(["watch", "watch cancel", "cancel", ""]),
                   st.sampled_from([60, -3600, 10**9]))  # fmt: skip
names = st.sampled_from(["watch", "version", "unwatch", "cancel", "hello", "job", "watch ", ""])
good_messages = st.one_of(
    st.builds(lambda token, version: {"watch": token, "version": version}, tokens, st.integers(0, TOP)),
    st.builds(lambda token: {"watch": token}, tokens),
    st.builds(lambda name, job_id: {name: job_id}, st.sampled_from(["unwatch", "cancel"]), st.sampled_from(IDS)),
    st.builds(lambda token: {"watch": token}, st.text(min_size=1, max_size=40)),
)
bad_messages = st.one_of(
    st.builds(lambda name, value: {name: value}, names, values),
    st.dictionaries(names, values, max_size=3),
    st.builds(lambda token, version: {"watch": token, "version": version}, tokens, values),
    texts,
    st.binary(max_size=60),
    st.just("[" * 10_000),
    st.just("x" * 70_000),
)
messages = mostly(good_messages, bad_messages, 4)
frames = st.binary(max_size=80) | st.builds(
    lambda head, size, rest: bytes([head, size]) + rest,
    st.integers(0, 255), st.integers(0, 255), st.binary(max_size=40),
)  # fmt: skip
