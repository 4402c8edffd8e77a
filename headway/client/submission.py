"""The request that submits a job."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypedDict
from uuid import uuid4

from headway.client.current_trace import trace_headers
from headway.contracts import encode, encode_value

JSON_BODY = {"Content-Type": "application/json"}


class SubmitOptions(TypedDict, total=False):
    """The options of a submission; those of the `job` decorator are the defaults of a kind."""

    delay_s: float  # for how many seconds to delay the start
    max_attempts: int | None  # the number of attempts; by default the kind's own
    timeout_s: float | None  # how many seconds one attempt may take; by default the kind's own
    name: str | None  # what people call the job; everyone who may watch it sees the name
    owner: str | None  # the user or customer whom the job belongs to, by whom you can list jobs; needs an API key
    tags: str | Iterable[str]  # up to eight words by which you can list jobs; they need an API key
    on_end: str | None  # the kind of the job to submit when this one has ended; by default the kind's own
    idempotency_key: str | None  # repeating a submission with it returns the same job; by default a random key


def submission_request(
    kind: str,
    payload: Any = None,
    *,
    delay_s: float = 0,
    tags: str | Iterable[str] = (),
    idempotency_key: str | None = None,
    max_attempts: int | None = None,
    timeout_s: float | None = None,
    name: str | None = None,
    owner: str | None = None,
    on_end: str | None = None,
) -> tuple[dict[str, str], bytes]:
    """Return the headers, with the current trace, and the body of a submission, without the options that are not set.

    Raises:
        ValueError, TypeError: the payload cannot be encoded as JSON.
    """
    fields = {
        "kind": kind,
        "payload": None if payload is None else encode_value("payload", payload),
        "delay_s": delay_s or None,
        "max_attempts": max_attempts,
        "timeout_s": timeout_s,
        "name": name,
        "owner": owner,
        "tags": one_or_more(tags) or None,
        "on_end": on_end,
    }
    body = encode({field: value for field, value in fields.items() if value is not None})
    return {**JSON_BODY, **trace_headers(), "Idempotency-Key": idempotency_key or str(uuid4())}, body


def one_or_more(texts: str | Iterable[str] | None) -> list[str]:
    """Return texts as a list; a single text is one of them."""
    return [texts] if isinstance(texts, str) else list(texts or ())
