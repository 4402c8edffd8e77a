"""`Idempotency-Key`: a repeated request is the same job, because the job's id is computed from the request.

Nothing is stored. A repeated request puts another message on the queue; the fence answers it `duplicate` or `finished`,
so the job runs once. This has consequences:

- The same key with another value of any field is another job, never a conflict. The order of tags does not matter.
- White space and the order of keys do not change a payload. Numbers are compared as they are written: 1, 1.0 and 1e0
  are three payloads, since a handler may distinguish them.
- A caller is an API key, so after a rotation the same request is another job. In open mode all requests have the same
  caller: a client that repeats another client's request gets a token for that job. Use long random keys.
- A repeated request gets a new token with a new lifetime. A job that has ended or was cancelled stays so for as long as
  its record lives; after that, the same request runs it again.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any
from uuid import UUID, uuid4, uuid5

from aiohttp import web

from headway.contracts import DEFAULT_ATTEMPTS, Json, nesting_depth

from ..runtime.errors import UnprocessableContent
from .submission import Submission

HEADER = "Idempotency-Key"
MAX_KEY_LENGTH = 255
MAX_FAST_DEPTH = 200  # each object of a payload becomes two levels; Python's encoder writes at most a thousand
dump = partial(json.dumps, sort_keys=True)
JOB_NAMESPACE = UUID("126fc5e9-c2fb-425a-873b-75c8cad6d05b")


def idempotency_key(request: web.Request) -> str | None:
    """Return the request's idempotency key, or None if it has none; raise UnprocessableContent if it is not valid."""
    key = request.headers.get(HEADER)
    if key is not None and not (0 < len(key) <= MAX_KEY_LENGTH and key.isprintable()):
        raise UnprocessableContent(f"Expected 1 to {MAX_KEY_LENGTH} printable characters.", field=HEADER)
    return key


def job_id_for(submission: Submission, caller: str, key: str | None) -> UUID:
    """Return the job's id: the same id for a repeated request with a key, a random id without a key."""
    if key is None:
        return uuid4()
    fields: list[Any] = [
        float(submission.delay_s),
        submission.max_attempts or DEFAULT_ATTEMPTS,  # as in version 0.1, which knows no unset number
        submission.timeout_s,
        canonical_json(submission.payload),
    ]
    if (labels := submission.labels) is not None:  # only then, so that the id of another job is as in version 0.1
        fields.append([labels.name, labels.owner, sorted(set(labels.tags))])
    if submission.on_end is not None:
        fields.append(submission.on_end)  # a text, which no labels are
    return uuid5(JOB_NAMESPACE, json.dumps([caller, key, submission.kind, *fields]))


def rerun_id(job_id: UUID, payload: Json | None, caller: str, key: str | None) -> UUID:
    """Return the id of a job that repeats another one: the same id for a repeated request with a key.

    Args:
        job_id: the id of the job that is repeated.
        payload: another payload, None for that of the job.
        caller: the name of the operator.
        key: the idempotency key.
    """
    if key is None:
        return uuid4()
    return uuid5(JOB_NAMESPACE, json.dumps(["rerun", caller, key, str(job_id), payload and canonical_json(payload)]))


def canonical_json(payload: Json) -> str:
    """Return JSON in a canonical form: equal forms mean the same to every reader.

    Numbers stay as they are written, and a repeated key keeps all its values in their order.
    """
    text = bytes(payload)
    parsed = json.loads(text, parse_int=_number, parse_float=_number, object_pairs_hook=_object)
    return dump_deep(parsed) if nesting_depth(text, MAX_FAST_DEPTH) > MAX_FAST_DEPTH else dump(parsed)


def dump_deep(value: Any) -> str:
    """Return `dump(value)` for a value of any depth, several times as slowly."""
    parts: list[str] = []
    pending: list[Any] = [value]  # values, and texts that are written as they are
    while pending:
        item = pending.pop()
        if isinstance(item, _Verbatim):
            parts.append(item)
        elif isinstance(item, dict):
            members = [(_Verbatim(f"{json.dumps(name)}: "), item[name]) for name in sorted(item)]
            pending += reversed([_Verbatim("{"), *_joined(members), _Verbatim("}")])
        elif isinstance(item, list):
            pending += reversed([_Verbatim("["), *_joined([(child,) for child in item]), _Verbatim("]")])
        else:
            parts.append(json.dumps(item))
    return "".join(parts)


class _Verbatim(str):
    """A text that is written as it is."""

    __slots__ = ()


def _joined(groups: Sequence[tuple[Any, ...]]) -> Iterator[Any]:
    """Yield the items of all groups, with a comma between two groups."""
    for index, group in enumerate(groups):
        if index:
            yield _Verbatim(", ")
        yield from group


def _number(literal: str) -> dict[str, str]:
    return {"number": literal}  # not a list, which marks the values of an object


def _object(members: list[tuple[str, Any]]) -> dict[str, list[Any]]:
    values: dict[str, list[Any]] = {}
    for name, value in members:
        values.setdefault(name, []).append(value)
    return values
