"""`Idempotency-Key`: the same request again is the same job, since its id is computed from what is asked, and by whom.

Nothing is stored here: a repeated request puts another message on the queue, and the gate answers it `duplicate` or
`finished`, so that the job runs once. What follows from that:

- The same key with another kind, payload, delay, number of attempts or time-out is another job, never a conflict.
- Spaces and the order of keys make no other payload. A number is what is written: 1, 1.0 and 1e0 are three payloads,
  since a handler may tell them apart.
- A caller is an API key, so after its rotation the same request is another job. In open mode all are one caller:
  whoever repeats a request of somebody else is handed a token for that job, so keys are better long and random.
- A repeated request is answered with a new token, of a new lifetime. But a job that has ended stays ended, cancelled
  ones too, for as long as its record lives; after that the same request runs it anew.
"""

from __future__ import annotations

import json
from typing import Any
from uuid import UUID, uuid4, uuid5

from aiohttp import web

from headway.contracts import Json

from ..runtime.errors import BadRequest, UnprocessableContent
from .submission import Submission

HEADER = "Idempotency-Key"
MAX_KEY_LENGTH = 255
JOB_NAMESPACE = UUID("126fc5e9-c2fb-425a-873b-75c8cad6d05b")


def idempotency_key(request: web.Request) -> str | None:
    """Return the request's key, if it has one."""
    key = request.headers.get(HEADER)
    if key is not None and not (0 < len(key) <= MAX_KEY_LENGTH and key.isprintable()):
        raise UnprocessableContent(f"Expected 1 to {MAX_KEY_LENGTH} printable characters.", field=HEADER)
    return key


def job_id_for(submission: Submission, caller: str, key: str | None) -> UUID:
    """Return the id of the job that a caller asks for: with a key always the same, without one a new one."""
    if key is None:
        return uuid4()
    asked = [
        float(submission.delay_s),
        submission.max_attempts,
        submission.timeout_s,
        canonical_json(submission.payload),
    ]
    return uuid5(JOB_NAMESPACE, json.dumps([caller, key, submission.kind, *asked]))


def canonical_json(payload: Json) -> str:
    """Spell a JSON text so that two with the same spelling mean the same to every reader.

    Numbers stay as they are written, and a key that occurs twice keeps all its values, in their order.
    """
    text = bytes(payload).decode()
    try:
        read = json.loads(text, parse_int=_number, parse_float=_number, object_pairs_hook=_object)
        return json.dumps(read, sort_keys=True)
    except RecursionError as error:
        raise BadRequest("JSON is malformed: nested too deep", field="payload") from error


def _number(literal: str) -> dict[str, str]:
    return {"number": literal}  # no list, as the values of an object are


def _object(members: list[tuple[str, Any]]) -> dict[str, list[Any]]:
    values: dict[str, list[Any]] = {}
    for name, value in members:
        values.setdefault(name, []).append(value)
    return values
