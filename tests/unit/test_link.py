"""A link over a connection that answers, fails or says nothing when it is told to."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from redis.exceptions import ConnectionError as Disconnected
from redis.exceptions import ResponseError

from services.notifier import link as link_module
from services.notifier.link import Link
from tests.waiting import wait_until


class FakeConnection:
    """A connection."""

    def __init__(self) -> None:
        self.answers: asyncio.Queue[Any] = asyncio.Queue()
        self.sent: list[bytes] = []
        self.failure: Exception | None = None
        self.open = False

    async def connect(self) -> None:
        """Connect."""
        self.open = True

    async def send_packed_command(self, commands: list[bytes], **_options: Any) -> None:
        """Take commands as they go over the wire."""
        if self.failure is not None:
            raise self.failure
        self.sent += [command.split()[2] for command in commands]

    async def read_response(self, **_options: Any) -> Any:
        """Wait for what the test answers."""
        answer = await self.answers.get()
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def disconnect(self, **_options: Any) -> None:
        """Disconnect."""
        self.open = False


class Made:
    """A link, and the connections that it has made."""

    def __init__(self) -> None:
        self.connections: list[FakeConnection] = []
        self.link = Link(self._make)

    def _make(self) -> Any:
        self.connections.append(FakeConnection())
        return self.connections[-1]

    def ask(self, *names: str) -> asyncio.Task[list[Any]]:
        """Ask something in a task of its own."""
        return asyncio.create_task(self.link.call([(name,) for name in names]))

    async def asked(self, count: int) -> FakeConnection:
        """Wait until so many commands were sent over the newest connection."""
        await wait_until(lambda: self.connections and len(self.connections[-1].sent) == count)
        return self.connections[-1]


@pytest.fixture
async def made() -> AsyncIterator[Made]:
    """Make a link."""
    made = Made()
    yield made
    await made.link.aclose()
    assert not any(connection.open for connection in made.connections)


async def test_answers_find_who_asked(made: Made) -> None:
    """Whoever asks at once shares one connection; answers come in the order of the questions, refusals among them."""
    one, other = made.ask("A", "B"), made.ask("C")
    connection = await made.asked(3)
    for answer in (1, ResponseError("no"), 3):
        connection.answers.put_nowait(answer)
    first, second = await one
    assert (first, str(second)) == (1, "no")
    assert await other == [3]
    assert connection.sent == [b"A", b"B", b"C"]
    assert len(made.connections) == 1


async def test_who_gives_up_shifts_nobodys_answer(made: Made) -> None:
    """The answer to a question that nobody waits for any more is nobody else's."""
    one, other = made.ask("A"), made.ask("B")
    connection = await made.asked(2)
    one.cancel()
    connection.answers.put_nowait("to A")
    connection.answers.put_nowait("to B")
    assert await other == ["to B"]


async def test_a_lost_connection_fails_all_who_wait_and_is_opened_anew(made: Made) -> None:
    """Nobody knows what was done of what they asked, and the next question is asked elsewhere."""
    waiting = [made.ask("A"), made.ask("B", "C")]
    connection = await made.asked(3)
    connection.answers.put_nowait("to A")
    connection.answers.put_nowait(Disconnected("gone"))
    assert await waiting[0] == ["to A"]
    with pytest.raises(Disconnected):
        await waiting[1]
    again = made.ask("D")
    connection = await made.asked(1)
    connection.answers.put_nowait("to D")
    assert await again == ["to D"]
    assert len(made.connections) == 2


@pytest.mark.parametrize(
    "failure", [RuntimeError("the handler is closed"), AttributeError("writelines"), Disconnected("gone")]
)
async def test_a_writer_that_meets_a_closed_connection_is_told_so(made: Made, failure: Exception) -> None:
    """The reader closes a connection first, and its writer is told in odd ways."""
    one = made.ask("A")
    connection = await made.asked(1)
    connection.answers.put_nowait(1)
    await one
    connection.failure = failure
    with pytest.raises(Disconnected):
        await made.link.call([("B",)])


async def test_a_server_that_says_nothing_is_gone(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever waits for an answer too long learns that it is in doubt, and the connection is closed."""
    monkeypatch.setattr(link_module, "ANSWER_S", 0.05)
    monkeypatch.setattr(link_module, "WATCH_S", 0.01)
    with pytest.raises(Disconnected):
        await made.link.call([("A",)])
    assert not made.connections[0].open


async def test_more_than_a_server_can_take_is_refused_at_once(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    """What waits is bounded, and whoever is refused has asked nothing."""
    monkeypatch.setattr(link_module, "MOST", 2)
    one = made.ask("A", "B")
    connection = await made.asked(2)
    with pytest.raises(Disconnected, match="Too much waits"):
        await made.link.call([("C",)])
    connection.answers.put_nowait(1)
    connection.answers.put_nowait(2)
    assert await one == [1, 2]
    assert connection.sent == [b"A", b"B"]
