"""Counting, logging and limiting of refused tokens."""

from __future__ import annotations

import pytest
from structlog.testing import capture_logs

from headway.tokens import ForgedToken, InvalidToken, UnknownKey
from services.notifier.transports import refusals as module
from services.notifier.transports.refusals import LOGGED_BURST, RefusalLog, RejectedToken, TokenAllowance
from tests.unit.services.notifier.transports.notifier_parts import refusals

EXPIRED = InvalidToken("token_expired", "expired")
INVALID = InvalidToken("invalid_token", "invalid")
UNKNOWN = UnknownKey("invalid_token", "unknown key")
FORGED = ForgedToken("invalid_token", "forged")


def accepted_errors(allowance: TokenAllowance, error: InvalidToken) -> int:
    """Return how many tokens may be rejected with an error until the allowance is exceeded."""
    count = 0
    while True:
        allowance.spend(error)
        if allowance.is_exceeded:
            return count
        count += 1


@pytest.mark.parametrize(("error", "count"), [(EXPIRED, 1_000), (UNKNOWN, 500), (INVALID, 100), (FORGED, 20)])
def test_the_allowance_depends_on_the_cost(error: InvalidToken, count: int) -> None:
    """A forged token costs a signature check, an expired one is common."""
    assert accepted_errors(TokenAllowance(3, None), error) == count


def test_a_page_may_have_as_many_expired_tokens_as_jobs() -> None:
    """A higher MAX_WATCHES raises the allowance."""
    assert accepted_errors(TokenAllowance(5_000, None), EXPIRED) == 5_000


def test_accepted_tokens_restore_no_more_than_the_limit() -> None:
    """A client cannot save up an allowance for forged tokens, and each of them costs five accepted ones."""
    allowance = TokenAllowance(3, None)
    for _ in range(10_000):
        allowance.restore()
    assert accepted_errors(allowance, FORGED) == 20
    for _ in range(10):
        allowance.restore()
    assert accepted_errors(allowance, FORGED) == 1


class Clock:
    """Replaces `time.monotonic`."""

    now = 0.0

    def monotonic(self) -> float:
        """Return the time."""
        return self.now


def test_refused_tokens_are_logged_at_a_limited_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    """All of them are counted; a line says how many lines before it are missing."""
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    refusal_log, before = RefusalLog([]), refusals("invalid_token")
    with capture_logs() as lines:
        for _ in range(1_000):
            refusal_log.add_token("invalid_token", "a job", None)
        clock.now = 1.0
        for _ in range(1_000):
            refusal_log.add_token("invalid_token", None, None)
    assert refusals("invalid_token") == before + 2_000
    line = {"event": "token_rejected", "code": "invalid_token", "origin": None, "log_level": "info"}
    assert lines == [
        *[{**line, "job_id": "a job"}] * LOGGED_BURST,
        {**line, "job_id": None, "suppressed": 1_000 - LOGGED_BURST},
    ]


def test_refusals_are_counted_by_origin() -> None:
    """The metric names the allowed origins; every other value that a client makes up is counted as one."""
    refusal_log = RefusalLog(["https://page.example"])
    for origin, label in ((None, "none"), ("https://page.example", "https://page.example"), ("made up", "other")):
        before = refusals("forbidden", label)
        refusal_log.add_token("forbidden", None, origin)
        assert refusals("forbidden", label) == before + 1


def test_a_rejected_origin_is_counted_and_logged() -> None:
    """The line names the origin, cut to a length; the lines about tokens and origins have one limit."""
    before, origin = refusals("origin_not_allowed", "other"), "https://" + "a" * 1_000
    with capture_logs() as lines:
        refusal_log = RefusalLog(["https://page.example"])
        for _ in range(100):
            refusal_log.add_origin(origin)
    assert refusals("origin_not_allowed", "other") == before + 100
    assert lines == [{"event": "origin_rejected", "origin": origin[:200], "log_level": "info"}] * LOGGED_BURST


def test_no_part_of_a_token_in_an_origin_is_logged() -> None:
    """A token is longer than what is logged of an origin, so it is hidden before that is cut."""
    with capture_logs() as lines:
        RefusalLog([]).add_origin(f"https://eyJ{'a' * 90}.{'b' * 150}.{'c' * 86}")
    assert [line["origin"] for line in lines] == ["https://[hidden]"]


def test_an_error_names_the_job_of_its_token_if_it_can_be_read() -> None:
    """A token that cannot be decoded has an error without a job."""
    assert RejectedToken.from_error(INVALID, "a.b.c").error == {"code": "invalid_token", "message": "invalid"}
