"""The tokens of a watched job: which one is sent, and which one takes over."""

from __future__ import annotations

from uuid import uuid4

from headway.client.job_subscription import JobSubscription
from headway.contracts import JobSnapshot, decode, encode
from tests.unit.headway.client.fake_services import snapshot_json, token_for

JOB = uuid4()
SHORT, LONG, WATCH_ONLY = (
    token_for(JOB, exp=exp, scope=scope)
    for exp, scope in ((100, "watch cancel"), (200, "watch cancel"), (900, "watch"))
)


def subscription(*tokens: str) -> JobSubscription:
    """Return a subscription with these tokens."""
    job = JobSubscription(JOB)
    for token in tokens:
        job.add_token(token)
    return job


def snapshot(version: int) -> JobSnapshot:
    """Return a snapshot of the job."""
    return decode(encode(snapshot_json(JOB, version)), JobSnapshot)


def test_the_token_that_permits_more_or_lives_longer_is_sent() -> None:
    """As in the browser: the scope counts first, and then the expiry."""
    assert subscription(SHORT, LONG, WATCH_ONLY).token == LONG
    assert subscription(WATCH_ONLY, SHORT).token == SHORT
    assert subscription("not a token", WATCH_ONLY).token == WATCH_ONLY


def test_a_better_token_replaces_the_one_that_was_sent() -> None:
    """It waits for the first snapshot, because an error would not say which of two tokens was rejected."""
    job = subscription(SHORT)
    assert job.next_request() == {"watch": SHORT}
    job.add_token(LONG)
    assert job.next_request() is None
    job.update(snapshot(7))
    assert job.next_request() == {"watch": LONG, "version": 7}
    job.add_token(WATCH_ONLY)
    job.update(snapshot(8))
    assert job.next_request() is None


def test_the_next_token_takes_over() -> None:
    """A rejected token is not sent again; without a further one the subscription has none."""
    job = subscription(SHORT, LONG)
    assert job.next_request() == {"watch": LONG}
    assert job.reject_token(LONG)
    job.forget_request()
    assert job.next_request() == {"watch": SHORT}
    assert not job.reject_token(SHORT)


def test_a_new_connection_requests_the_job_again() -> None:
    """The request has the newest version; 0 stands for none."""
    job = subscription(LONG)
    for version, request in ((0, {"watch": LONG}), (5, {"watch": LONG, "version": 5})):
        job.update(snapshot(version))
        job.forget_request()
        assert job.next_request() == request
