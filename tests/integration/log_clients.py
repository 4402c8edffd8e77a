"""A job that logs, as its worker sends it to a notifier, and clients that follow the log over each transport."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import aclosing
from typing import Any, NamedTuple

from aiohttp import ClientWebSocketResponse

from headway.contracts import Timestamp
from headway.grants import ListGrant
from headway.labels import JobFilter
from tests.integration.conftest import Notifier, new_id, report
from tests.integration.event_stream import read_events

DETAILS = "watch cancel details"


class Answer(NamedTuple):
    """A response."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class LoggingJob:
    """A job of a worker that logs."""

    def __init__(self, notifier: Notifier) -> None:
        self.notifier = notifier
        self.id = new_id()
        self.data = b""  # what its delivery has logged
        self._sequence = 0

    async def report(self, **fields: Any) -> None:
        """Report the job, whose record then exists."""
        self._sequence += 1
        (verdict,) = await self.notifier.report(report(self.id, self._sequence, **fields))
        assert verdict["accepted"], verdict

    async def write(self, text: str, *, watchers: bool = False, **fields: Any) -> None:
        """Append to the log."""
        verdict = await self.notifier.append_log(self.id, text, len(self.data), watchers=watchers, **fields)
        assert verdict == {"job_id": self.id, "accepted": True, "reason": None}
        self.data += text.encode()

    def token(self, scope: str = DETAILS) -> str:
        """Return a token for the job."""
        return self.notifier.token(self.id, scope=scope)

    def list_token(self, owner: str, scope: str = "list watch details") -> str:
        """Return a list token for the jobs of an owner."""
        now = Timestamp.now()
        grant = ListGrant(
            filter=JobFilter(owner=owner), issued_at=now, expires_at=now.after(600), scope=frozenset(scope.split())
        )
        return self.notifier.signer.sign(grant)

    async def get(self, offset: int | str | None = None, wait_s: int = 0, token: str | None = None) -> Answer:
        """Return the answer to a request for the log."""
        headers = {"Authorization": f"Bearer {token or self.token()}"}
        headers |= {} if offset is None else {"Range": f"bytes={offset}-" if isinstance(offset, int) else offset}
        headers |= {"Prefer": f"wait={wait_s}"} if wait_s else {}
        url = f"{self.notifier.public}/live/jobs/{self.id}/log"
        async with self.notifier.session.get(url, headers=headers) as response:
            return Answer(response.status, response.headers, await response.read())


async def next_log(socket: ClientWebSocketResponse) -> dict[str, Any]:
    """Return the next piece of a log on a socket, after any snapshots."""
    while True:
        message = await socket.receive_json()
        if "job" not in message:
            piece: dict[str, Any] = message["log"]
            return piece


class Reader:
    """What a client has of a log."""

    def __init__(self, job: LoggingJob) -> None:
        self.job = job
        self.text = ""
        self.offset = 0

    def add(self, piece: dict[str, Any]) -> None:
        """Add a piece, which must follow the last one."""
        assert (piece["job_id"], piece["from"], piece["attempt"]) == (self.job.id, self.offset, 1)
        assert piece["to"] - piece["from"] == len(piece["text"].encode())
        self.text, self.offset = self.text + piece["text"], piece["to"]


async def follow_socket(job: LoggingJob, *ends: int) -> str:
    """Return the log up to the last end; open a new socket after each end."""
    reader = Reader(job)
    for end in ends:
        async with job.notifier.socket() as socket:
            await socket.send_json({"watch": job.token(), "log": reader.offset})
            while reader.offset < end:
                reader.add(await next_log(socket))
    return reader.text


async def follow_stream(job: LoggingJob, *ends: int) -> str:
    """Return the log up to the last end; open a new stream after each end, as an EventSource does."""
    reader, last_id = Reader(job), ""
    url = f"{job.notifier.public}/live/jobs/{job.id}/events?log=0"
    for end in ends:
        headers = {"Authorization": f"Bearer {job.token()}"} | ({"Last-Event-ID": last_id} if last_id else {})
        async with (
            job.notifier.session.get(url, headers=headers) as response,
            aclosing(read_events(response)) as events,
        ):
            while reader.offset < end:
                event = await anext(events)
                last_id = event.id or last_id
                if event.name == "log":
                    reader.add(event.data)
                    assert last_id.endswith(f".{reader.offset}")
    return reader.text


async def follow_polls(job: LoggingJob, end: int) -> str:
    """Return the log up to an offset by long polls for many jobs."""
    reader, version = Reader(job), 0
    while reader.offset < end:
        entry = {"watch": job.token(), "log": reader.offset, "version": version}
        async with job.notifier.session.post(
            f"{job.notifier.public}/live/jobs", json={"watch": [entry]}, headers={"Prefer": "wait=30"}
        ) as response:
            body = await response.json()
        version = max([version, *(snapshot["version"] for snapshot in body["jobs"])])
        for piece in body["logs"]:
            reader.add(piece)
    return reader.text
