"""Outcomes: which errors were written for users, and which contain the text of an unexpected exception."""

from __future__ import annotations

import json
from typing import Any, Literal

import pytest
from msgspec import Struct

from headway import Fail, Job, JobContext, Retry, job
from headway.contracts import MAX_RESULT_BYTES, Json
from services.worker.outcomes import InvalidPayload, decode_payload, outcome_from_exception, outcome_from_result

TEXT = "the card 4711 was refused"


class Picky(Struct):
    """A payload type that raises an exception of the type that the payload names."""

    error: str

    def __post_init__(self) -> None:
        """Raise the exception."""
        raise {"ValueError": ValueError, "TypeError": TypeError, "KeyError": KeyError}[self.error](TEXT)


@job("picky")
async def picky(_ctx: JobContext, payload: Picky) -> None:
    """Never run."""


class Choice(Struct):
    """A payload type with a choice."""

    size: Literal["small", "large"]


@job("choose")
async def choose(_ctx: JobContext, payload: Choice) -> None:
    """Never run."""


@pytest.mark.parametrize("value", ["4711", "it's", "' - at `$.size`"])
def test_wrong_choice_is_named_without_its_value(value: str) -> None:
    """Users see which field is wrong, but nothing of the payload."""
    error = payload_error(choose, json.dumps({"size": value}).encode())
    assert str(error) == "Invalid enum value - at `$.size`"


def payload_error(tested: Job[Any, Any], payload: bytes) -> InvalidPayload:
    """Return the exception for a payload that does not fit."""
    with pytest.raises(InvalidPayload) as raised:
        decode_payload(tested, Json(payload))
    return raised.value


@pytest.mark.parametrize(
    ("error", "error_type", "is_public"),
    [
        (Fail(TEXT), "Fail", True),
        (Retry(TEXT), "Retry", True),
        (ExceptionGroup("g", [ValueError("x"), Fail(TEXT)]), "Fail", True),
        (ValueError(TEXT), "ValueError", False),
        (ExceptionGroup(TEXT, [ValueError("x"), KeyError("y")]), "ExceptionGroup", False),
        (SystemExit(TEXT), "SystemExit", False),
        (payload_error(picky, b'{"error": "ValueError"}'), "InvalidPayload", True),
        (payload_error(picky, b'{"error": "TypeError"}'), "TypeError", False),
        (payload_error(picky, b'{"error": "KeyError"}'), "KeyError", False),
    ],
)
def test_only_errors_for_users_are_public(error: BaseException, error_type: str, is_public: bool) -> None:
    """`Fail`, `Retry` and what is wrong with a payload are written for users; no other exception is."""
    failure = outcome_from_exception(error).failure
    assert failure is not None
    assert (failure.error.type, failure.is_public) == (error_type, is_public)
    assert TEXT in failure.error.message
    assert (failure.traceback is None) == (is_public and not isinstance(error, ExceptionGroup))


class Unreadable(ValueError):
    """An exception without a readable attribute."""

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        """Fail."""
        raise RuntimeError(TEXT)


def test_unreadable_exception_is_not_public() -> None:
    """An exception that cannot be read is a bug, too."""
    failure = outcome_from_exception(Unreadable()).failure
    assert failure is not None
    assert not failure.is_public
    assert failure.traceback is not None


@pytest.mark.parametrize(
    ("result", "error_type", "is_public"),
    [
        (object(), "InvalidResult", False),
        ({"loss": float("nan")}, "InvalidResult", True),
        ("x" * MAX_RESULT_BYTES, "ResultTooLarge", True),
    ],
)
def test_result_that_quotes_an_exception_is_not_public(result: Any, error_type: str, is_public: bool) -> None:
    """Headway's own texts about a result are shown."""
    failure = outcome_from_result(result).failure
    assert failure is not None
    assert (failure.error.type, failure.is_public) == (error_type, is_public)
