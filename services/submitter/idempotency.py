"""`Idempotency-Key`: a repeated request is the same job, because the job's id is computed from the request.

Nothing is stored. A repeated request puts another message on the queue; the fence answers it `duplicate` or `finished`,
so the job runs once. This has consequences:

- The same key with another kind, payload, delay, number of attempts or timeout is another job, never a conflict.
- White space and the order of keys do not change a payload. Numbers are compared as they are written: 1, 1.0 and 1e0
  are three payloads, since a handler may distinguish them.
- A caller is an API key, so after a rotation the same request is another job. In open mode all requests have the same
  caller: a client that repeats another client's request gets a token for that job. Use long random keys.
- A repeated request gets a new token with a new lifetime. A job that has ended or was cancelled stays so for as long as
  its record lives; after that, the same request runs it again.
"""

from __future__ import annotations

import json
from typing import Any
from uuid import UUID, uuid4, uuid5

from aiohttp import web

from headway.contracts import DEFAULT_ATTEMPTS, Json

from ..runtime.errors import BadRequest, UnprocessableContent
from .submission import Submission

HEADER = "Idempotency-Key"
MAX_KEY_LENGTH = 255
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
    fields = [
        float(submission.delay_s),
        submission.max_attempts or DEFAULT_ATTEMPTS,  # as in version 0.1, which knows no unset number
        submission.timeout_s,
        canonical_json(submission.payload),
    ]
    return uuid5(JOB_NAMESPACE, json.dumps([caller, key, submission.kind, *fields]))


def canonical_json(payload: Json) -> str:
    """Return JSON in a canonical form: equal forms mean the same to every reader.

    Numbers stay as they are written, and a repeated key keeps all its values in their order.
    """
    text = bytes(payload).decode()
    try:
        parsed = json.loads(text, parse_int=_number, parse_float=_number, object_pairs_hook=_object)
        return json.dumps(parsed, sort_keys=True)
    except RecursionError as error:
        raise BadRequest("JSON is malformed: nested too deep", field="payload") from error


def _number(literal: str) -> dict[str, str]:
    return {"number": literal}  # not a list, which marks the values of an object


def _object(members: list[tuple[str, Any]]) -> dict[str, list[Any]]:
    values: dict[str, list[Any]] = {}
    for name, value in members:
        values.setdefault(name, []).append(value)
    return values
