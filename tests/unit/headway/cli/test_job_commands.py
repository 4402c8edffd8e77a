"""The display of jobs counts by the server's clock, not by the terminal's."""

from __future__ import annotations

import argparse
from uuid import uuid4

import pytest

from headway.cli import job_commands
from headway.cli.progress_bars import elapsed_text, waiting_text
from headway.client.links import Link
from headway.contracts import JobSnapshot, Timestamp
from headway.timestamp import RemoteClock
from tests.unit.headway.client.conftest import services as services
from tests.unit.headway.client.fake_services import Services, respond_with, send_messages, snapshot_json

SERVER_TIME = Timestamp.parse("2026-01-01T00:00:00.000Z")  # that of the fake services' hello


class RecordedBars:
    """Records what a bar shows with each snapshot."""

    def __init__(self, clock: RemoteClock) -> None:
        self._clock = clock
        self.shown: list[tuple[str, str]] = []

    def __enter__(self) -> RecordedBars:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def update(self, job: JobSnapshot) -> None:
        """Record the texts of a bar that depend on the time."""
        now = self._clock.now()
        self.shown.append((waiting_text(job, now, self._clock.confirmed()), elapsed_text(job, now)))


@pytest.mark.parametrize("polls", [False, True], ids=["socket", "polls"])
@pytest.mark.parametrize("error_s", [-120, 120], ids=["early", "late"])
async def test_bars_use_the_clock_of_the_server(
    services: Services, monkeypatch: pytest.MonkeyPatch, *, polls: bool, error_s: int
) -> None:
    """A terminal whose clock is two minutes wrong shows the elapsed time, and no lost worker."""
    receipt = services.receipt(uuid4())
    link = Link.parse(receipt.links["live"], receipt.token)
    times = {"started_at": str(SERVER_TIME.after(-3600)), "lease_until": str(SERVER_TIME.after(60))}
    running, ended = snapshot_json(link.id, 1, **times), snapshot_json(link.id, 2, "succeeded", **times)
    services.upgrade_status = 403 if polls else 101
    services.socket_handlers = [send_messages({"job": running}, {"job": ended})]
    date = "Thu, 01 Jan 2026 00:00:00 GMT"
    services.responses = [respond_with(200, running, Date=date), respond_with(200, ended, Date=date)]
    bars: list[RecordedBars] = []

    def open_bars(clock: RemoteClock) -> RecordedBars:
        bars.append(RecordedBars(clock))
        return bars[0]

    monkeypatch.setattr(job_commands, "_progress_bars", open_bars)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setattr(Timestamp, "now", lambda: SERVER_TIME.after(error_s))
    assert await job_commands.watch(argparse.Namespace(links=[link], json=False)) == 0
    assert bars[0].shown[-1] == ("", "1:00:00")
    assert set(bars[0].shown) == {("", "1:00:00")}


async def test_a_lost_worker_is_shown_while_polling(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each response to a poll is a sign of life of the server, so a lease that ended before it is a lost worker's."""
    receipt = services.receipt(uuid4())
    link = Link.parse(receipt.links["live"], receipt.token)
    times = {"started_at": str(SERVER_TIME), "lease_until": str(SERVER_TIME.after(60))}
    running = [snapshot_json(link.id, version, **times) for version in (1, 2)]
    dates = ["Thu, 01 Jan 2026 00:00:00 GMT", "Thu, 01 Jan 2026 00:10:00 GMT"]
    services.upgrade_status = 403
    services.responses = [
        *(respond_with(200, snapshot, Date=date) for snapshot, date in zip(running, dates, strict=True)),
        respond_with(200, snapshot_json(link.id, 3, "succeeded", **times), Date=dates[1]),
    ]
    bars: list[RecordedBars] = []

    def open_bars(clock: RemoteClock) -> RecordedBars:
        bars.append(RecordedBars(clock))
        return bars[0]

    monkeypatch.setattr(job_commands, "_progress_bars", open_bars)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    assert await job_commands.watch(argparse.Namespace(links=[link], json=False)) == 0
    assert [waiting for waiting, _ in bars[0].shown] == ["", "worker lost", ""]
