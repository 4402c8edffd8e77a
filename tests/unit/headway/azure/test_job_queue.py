"""The time of the queue, whatever this machine's clock shows."""

from __future__ import annotations

from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest

from headway.azure.job_queue import JobQueue, service_time
from headway.timestamp import Timestamp


@pytest.mark.parametrize(
    ("local_s", "expected_s"),
    [(100.25, 100.25), (99.9, 100), (101.2, 101), (-1e6, 100), (1e6, 101)],
    ids=["right", "early", "late", "far too early", "far too late"],
)
def test_local_clock_counts_only_within_the_second_of_the_service(local_s: float, expected_s: float) -> None:
    """A worker's clock can be wrong by any amount, and a right one is more precise than the service's answer."""
    assert service_time(100, Timestamp.at(local_s)) == Timestamp.at(expected_s)


class FakeQueueClient:
    """A queue of one message; its service's clock shows 9 s past midnight of a day in 2001."""

    def __init__(self, headers: dict[str, str]) -> None:
        self._headers = headers

    async def peek_messages(self, _count: int, *, raw_response_hook: Any) -> list[Any]:
        """Return a message of 00:00:02."""
        raw_response_hook(SimpleNamespace(http_response=SimpleNamespace(headers=self._headers)))
        inserted_on = datetime(2001, 1, 1, 0, 0, 2, tzinfo=UTC)
        return [SimpleNamespace(id="m1", content="{}", inserted_on=inserted_on)]

    async def get_queue_properties(self) -> Any:
        """Return the number of messages."""
        return SimpleNamespace(approximate_message_count=1)


def fake_queue(headers: dict[str, str]) -> JobQueue:
    """Return a queue whose peeks are answered with these headers."""
    service: Any = SimpleNamespace(get_queue_client=lambda _name: FakeQueueClient(headers))
    return JobQueue(service, "jobs")


@pytest.mark.parametrize("local_s", [-1e9, 0.5, 1e9], ids=["early", "right", "late"])
async def test_age_of_a_message_is_that_of_the_queues_clock(local_s: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """The age is right to a second, although this machine's clock is wrong."""
    local_time = Timestamp.parse("2001-01-01T00:00:09Z").after(local_s)
    monkeypatch.setattr(Timestamp, "now", lambda: local_time)
    queue = fake_queue({"Date": "Mon, 01 Jan 2001 00:00:09 GMT"})
    assert 7 <= (await queue.depth()).oldest_age_s <= 8
    (message,) = await queue.peek()
    assert 7000 <= message.queue_time() - message.inserted_at <= 8000


@pytest.mark.parametrize("headers", [{}, {"Date": "yesterday"}, {"Date": "Mon, 41 Jan 2001 00:00:09 GMT"}])
async def test_answer_without_a_valid_date_counts_by_the_local_clock(headers: dict[str, str]) -> None:
    """A proxy may remove or change the header."""
    now = Timestamp.now()
    assert 0 <= (await fake_queue(headers).peek())[0].queue_time() - now < 60_000
