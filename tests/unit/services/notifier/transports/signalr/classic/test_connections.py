"""The connections of the classic hub."""

from __future__ import annotations

import asyncio
import json
from typing import cast

import pytest

from services.notifier.transports.signalr.classic.connections import ClassicEventStream, ClassicPoll, Position
from services.notifier.transports.signalr.classic.envelopes import Cursor

from .test_envelopes import snapshot


class ClosedTransport:
    """A connection that the client has closed; as that of uvloop, it raises an error when something is written."""

    def is_closing(self) -> bool:
        """Return that it is."""
        return True

    def get_write_buffer_size(self) -> int:
        """Return that nothing waits."""
        return 0

    def write(self, _data: bytes) -> None:
        """Raise an error."""
        raise RuntimeError("the handler is closed")


def test_a_poll_answers_with_what_its_client_lacks() -> None:
    """A later snapshot replaces the answer, so it is compared with what the client has, not with that answer."""
    poll = ClassicPoll(cast(asyncio.Transport, ClosedTransport()), Position(Cursor(1, b"80"), True, False))
    poll.send_snapshot("one", snapshot(2, percent=100))
    poll.send_snapshot("one", snapshot(3, "succeeded", percent=100))
    assert poll.answer is not None
    answer = json.loads(poll.answer)
    assert (answer["C"], [call["M"] for call in answer["M"]]) == ("3-100", ["updateProgress", "jobChanged"])


@pytest.mark.parametrize("chunked", [True, False])
async def test_a_closed_stream_takes_nothing(*, chunked: bool) -> None:
    """A client that has left must not disturb the others, until its connection is reaped."""
    stream = ClassicEventStream(
        cast(asyncio.Transport, ClosedTransport()),
        None,
        set(),
        Position(Cursor(), True, True),
        chunked=chunked,
    )
    stream.send_snapshot("one", snapshot(2))
    stream.send_error("one", "token_expired", "no")
    stream.reap()
    assert stream.done.is_set()
