"""Reads the problems that other services of Headway answer; an answer of a proxy, for example, is none."""

from __future__ import annotations

import aiohttp
import msgspec
from msgspec import Struct

from headway.contracts import decode

from .errors import PROBLEM_JSON, BadRequest, PayloadTooLarge, UnprocessableContent

# The status and the code with which a service rejects a body. Other errors do not concern the body itself.
_REJECTIONS = frozenset((error.status, error.code) for error in (BadRequest, PayloadTooLarge, UnprocessableContent))


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


def rejection_of(response: aiohttp.ClientResponse, body: bytes) -> str | None:
    """Return why a service rejects the body of the request, which it would reject again; None for any other answer."""
    problem = read_problem(response, body)
    return None if problem is None or (response.status, problem.code) not in _REJECTIONS else problem.detail
