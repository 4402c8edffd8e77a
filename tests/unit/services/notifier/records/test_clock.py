"""The clock of Redis, read from a fake client."""

from __future__ import annotations

from typing import Any, cast

import pytest
from redis.exceptions import RedisError

from headway.contracts import Timestamp
from services.notifier.records.clock import RedisClock
from services.notifier.redis_client.topology import RedisClient


class FakeClient:
    """A Redis whose clock is wrong by some seconds, or that answers every command with an error."""

    def __init__(self, error_s: float) -> None:
        self.error_s = error_s
        self.reply: Exception | None = None

    async def execute(self, commands: list[tuple[str, tuple[str, ...]]]) -> list[Any]:
        assert [command for _key, command in commands] == [("TIME",)]
        seconds, milliseconds = divmod(Timestamp.now().after(self.error_s), 1000)
        return [self.reply or [b"%d" % seconds, b"%d" % (milliseconds * 1000 + 999)]]


def clock_of(client: FakeClient) -> RedisClock:
    """Return the clock that is read from a client."""
    return RedisClock(cast(RedisClient, client))


@pytest.mark.parametrize("error_s", [-120, 0, 120, 864_000])
async def test_time_is_that_of_redis(error_s: float) -> None:
    """The clock of this machine does not matter, even when it is changed after the reading."""
    clock, before = clock_of(FakeClient(error_s)), Timestamp.now()
    await clock.read()
    doubt_s = (Timestamp.now() - before + 1) / 1000  # Redis may have read its clock at any time during the round trip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Timestamp, "now", lambda: Timestamp(0))
        now = clock.now()
    assert before.after(error_s - doubt_s) <= now <= Timestamp.now().after(error_s + doubt_s)


async def test_without_redis_the_last_reading_is_valid() -> None:
    """Until the first one, the time is that of this machine; an error does not change it."""
    client = FakeClient(3600)
    clock, before = clock_of(client), Timestamp.now()
    assert before <= clock.now() <= Timestamp.now()
    await clock.read()
    client.reply = RedisError("LOADING")
    with pytest.raises(RedisError):
        await clock.read()
    assert clock.now() >= before.after(3600)
