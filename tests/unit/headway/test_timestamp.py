"""The clock of another machine, by readings that arrive with or without a delay."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from headway import timestamp
from headway.timestamp import MAX_READINGS, RemoteClock, Timestamp

START = Timestamp.parse("2026-01-01T00:00:00.000Z")


class Server:
    """A machine whose clock is an hour ahead, and the clock of this machine."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.elapsed_s = 1000.0
        self.ahead_s = 3600.0
        self.clock = RemoteClock()
        monkeypatch.setattr(timestamp, "time", SimpleNamespace(monotonic=lambda: self.elapsed_s))

    @property
    def now(self) -> Timestamp:
        """The server's time."""
        return START.after(self.elapsed_s + self.ahead_s)

    def send(self, delay_s: float = 0.0) -> None:
        """Send the time, which arrives after a delay."""
        sent = self.now
        self.elapsed_s += delay_s
        self.clock.receive(sent, self.elapsed_s)

    @property
    def error_s(self) -> float:
        """How far the estimate is behind the server's clock."""
        return (self.now - self.clock.now()) / 1000


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    """Return a server whose time is not known yet."""
    return Server(monkeypatch)


def test_a_time_that_arrives_at_once_is_exact(server: Server) -> None:
    """The clock of this machine does not matter, and neither does the time since the message."""
    server.send()
    server.elapsed_s += 500
    assert server.error_s == pytest.approx(0, abs=0.002)


def test_a_delayed_time_does_not_make_the_clock_worse(server: Server) -> None:
    """It is older than what the client knows already."""
    server.send(delay_s=0.05)
    for delay_s in (5.0, 0.3, 40.0):
        server.send(delay_s)
        assert server.error_s == pytest.approx(0.05, abs=0.002)


def test_a_faster_message_makes_the_clock_better(server: Server) -> None:
    """The first message may be delayed."""
    server.send(delay_s=4.0)
    assert server.error_s == pytest.approx(4.0, abs=0.002)
    server.send(delay_s=0.01)
    assert server.error_s == pytest.approx(0.01, abs=0.002)


@pytest.mark.parametrize("moved_s", [600.0, -600.0])
def test_a_clock_that_was_set_is_followed(server: Server, moved_s: float) -> None:
    """A clock that was set back looks like a delay at first, until the older readings are forgotten."""
    server.send()
    server.ahead_s += moved_s
    for _ in range(MAX_READINGS):
        server.send()
    assert server.error_s == pytest.approx(0, abs=0.002)


def test_the_last_time_that_was_sent_is_confirmed(server: Server) -> None:
    """A server that sends its time once confirms nothing later, so its clock is the best guess."""
    server.clock.receive(server.now, server.elapsed_s, repeated=False)
    server.elapsed_s += 30
    assert abs(server.clock.confirmed() - server.now) <= 2
    server.send()
    sent = server.now
    server.elapsed_s += 30
    assert server.clock.confirmed() == sent
    server.clock.confirm()
    assert abs(server.clock.confirmed() - server.now) <= 2


def test_a_time_after_a_lost_connection_is_no_confirmation(server: Server) -> None:
    """What was missed arrives after the time, so a worker is not called lost between the two."""
    server.send()
    server.elapsed_s += 1
    server.clock.confirm()
    last_sign = server.clock.confirmed()
    server.elapsed_s += 60  # the connection is lost
    server.send()
    assert server.clock.confirmed() == last_sign
    server.clock.confirm()
    assert abs(server.clock.confirmed() - server.now) <= 2
