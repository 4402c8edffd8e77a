"""Requests to the internal listeners of other services: the report key, and the problems that they answer.

The answer of a proxy, for example, is no problem of a service.
"""

from __future__ import annotations

import aiohttp
import msgspec
from msgspec import Struct

from headway.contracts import decode

from .errors import PROBLEM_JSON, BadRequest, PayloadTooLarge, UnprocessableContent
from .settings import ReloadingFile

# The status and the code with which a service rejects a body. Other errors do not concern the body itself.
_REJECTIONS = frozenset((error.status, error.code) for error in (BadRequest, PayloadTooLarge, UnprocessableContent))


def report_key_headers(keys: ReloadingFile[tuple[str, ...]]) -> dict[str, str]:
    """Return the header of a request with the first report key."""
    return {"Authorization": f"Bearer {keys.value[0]}"}


class Problem(Struct, frozen=True):
    """The fields of a problem that services read."""

    code: str
    detail: str = "no detail"
    field: str | None = None


def read_problem(response: aiohttp.ClientResponse, body: bytes) -> Problem | None:
    """Return the problem of a response, None if its body is none."""
    if response.content_type != PROBLEM_JSON:
        return None
    try:
        return decode(body, Problem)
    except msgspec.DecodeError:
        return None


def is_unknown_job(response: aiohttp.ClientResponse, body: bytes) -> bool:
    """Return whether a service says that it does not know the job; one without the route answers 404, too."""
    problem = read_problem(response, body)
    return problem is not None and (response.status, problem.code) == (404, "unknown")


def rejection_of(response: aiohttp.ClientResponse, body: bytes) -> str | None:
    """Return why a service rejects the body of the request, which it would reject again; None for any other answer."""
    problem = read_problem(response, body)
    return None if problem is None or (response.status, problem.code) not in _REJECTIONS else problem.detail
