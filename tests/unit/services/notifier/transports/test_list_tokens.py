"""A list token in place of a job's token, over HTTP: it opens only the jobs whose record matches its filter."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any, cast
from uuid import UUID

import pytest

from headway.contracts import JobSnapshot, Timestamp, encode, encode_snapshot
from headway.grants import Grant, ListGrant
from headway.labels import JobFilter
from services.notifier.records.record_read import RecordRead
from services.notifier.transports.long_poll import LongPollHandler
from services.notifier.transports.sse import EventStreamHandler
from tests.unit.services.notifier.transports.notifier_parts import Replica, refusals
from tests.unit.services.runtime.http_app import Client, serve
from tests.waiting import PATIENCE_S

NOW = Timestamp.now()
ANNAS, BERTS, LOST = (UUID(int=number, version=4) for number in (1, 2, 3))
VERSION = 7


def record_of(job_id: UUID, owner: str) -> RecordRead:
    """Return the record of a job that has ended."""
    snapshot = JobSnapshot(
        id=job_id, kind="k", status="succeeded", version=VERSION, submitted_at=NOW, expires_at=NOW.after(86_400)
    )
    return RecordRead(encode_snapshot(snapshot), b'"k"', encode({"owner": owner}), None)


class FakeStore:
    """A store with one job of each owner."""

    def __init__(self) -> None:
        self.clock = self
        self.records = {str(ANNAS): record_of(ANNAS, "anna"), str(BERTS): record_of(BERTS, "bert")}
        self.cancelled: list[UUID] = []

    def now(self) -> Timestamp:
        """Return the time of the records' clock."""
        return NOW

    async def read(self, job_ids: Iterable[str]) -> list[RecordRead | None]:
        """Return the records of jobs."""
        return [self.records.get(job_id) for job_id in job_ids]

    async def cancel(self, grant: Grant, _record: RecordRead | None) -> bytes | None:
        """Record the job, unless it has no record and must have one."""
        record = self.records.get(str(grant.job_id))
        if record is None and grant.requires_record:
            return None
        self.cancelled.append(grant.job_id)
        return record.snapshot if record else b"{}"


class Notifier:
    """The served handlers of long polls and event streams."""

    def __init__(self, keys: Path) -> None:
        self.client: Client
        self.store, self.replica = FakeStore(), Replica(keys)
        parts: tuple[Any, Any, Any, Any] = (self.replica.registry, self.store, None, self.replica.auth)
        self.routes = [
            *LongPollHandler(*parts, lambda _worker_id, _job_id: None).routes(),
            *EventStreamHandler(*parts).routes(),
        ]

    def list_token(self, scope: str = "list watch cancel", **fields: Any) -> str:
        """Return a token for a list, of Anna's jobs by default."""
        job_filter = JobFilter(**(fields or {"owner": "anna"}))
        return self.replica.signer.sign(
            ListGrant(filter=job_filter, issued_at=NOW, expires_at=NOW.after(86_400), scope=frozenset(scope.split()))
        )

    def job_token(self, job_id: UUID) -> str:
        """Return a token for one job that must have a record."""
        return self.replica.token(job_id, requires_record=True)

    async def code(self, method: str, path: str, token: str, **options: Any) -> int | str:
        """Send a request; return the code of the problem, or the status."""
        headers = {"Authorization": f"Bearer {token}", **options.pop("headers", {})}
        async with self.client.request(method, path, headers=headers, **options) as response:
            if response.content_type == "application/problem+json":
                return cast(str, (await response.json())["code"])
            return response.status


@pytest.fixture
async def notifier(keys: Path) -> AsyncIterator[Notifier]:
    """Serve the handlers behind the middleware of every listener."""
    notifier = Notifier(keys)
    async with serve(*notifier.routes) as notifier.client:
        yield notifier


async def test_a_list_token_opens_only_the_jobs_that_match(notifier: Notifier) -> None:
    """On every route: a snapshot, an ended stream, a cancellation. Another owner's job is refused and counted."""
    token, before = notifier.list_token(), refusals("forbidden")
    last_seen = {"Last-Event-ID": str(VERSION)}
    for job_id, expected in ((ANNAS, [200, 204, 202]), (BERTS, ["forbidden"] * 3)):
        path = f"/live/jobs/{job_id}"
        assert [
            await notifier.code("GET", path, token),
            await notifier.code("GET", f"{path}/events", token, headers=last_seen),
            await notifier.code("POST", f"{path}/cancel", token),
        ] == expected
    assert notifier.store.cancelled == [ANNAS]
    assert refusals("forbidden") == before + 3


@pytest.mark.parametrize("headers", [{}, {"If-None-Match": f'"{VERSION}"'}, {"Prefer": "wait=30"}])
async def test_a_request_for_another_owners_job_does_not_wait(notifier: Notifier, headers: dict[str, str]) -> None:
    """It does not tell either whether the version that it names is the newest."""
    assert await notifier.code("GET", f"/live/jobs/{BERTS}", notifier.list_token(), headers=headers) == "forbidden"


async def test_a_token_that_requires_a_record_creates_none(notifier: Notifier) -> None:
    """Neither a list token nor a job's token of that kind shows a placeholder or cancels a job without a record."""
    for token in (notifier.list_token(), notifier.job_token(LOST)):
        for method, path in (("GET", f"/live/jobs/{LOST}"), ("POST", f"/live/jobs/{LOST}/cancel")):
            assert await notifier.code(method, path, token) == "unknown"
    assert await notifier.code("GET", f"/live/jobs/{ANNAS}", notifier.job_token(ANNAS)) == 200
    assert notifier.store.cancelled == []


@pytest.mark.parametrize(("scope", "method", "path"), [("list", "GET", ""), ("list watch", "POST", "/cancel")])
async def test_a_list_token_needs_the_scope(notifier: Notifier, scope: str, method: str, path: str) -> None:
    """A token that only lists opens no job, and one that may not cancel does not."""
    assert await notifier.code(method, f"/live/jobs/{ANNAS}{path}", notifier.list_token(scope)) == "forbidden"


async def test_many_jobs_by_list_token(notifier: Notifier) -> None:
    """Each entry names its job; what the token does not open is an error beside the others."""
    token = notifier.list_token()
    entries = [{"watch": token, "job_id": str(job_id)} for job_id in (ANNAS, BERTS, LOST)]
    entries += [{"watch": token}, {"watch": notifier.job_token(ANNAS), "job_id": str(BERTS)}]
    headers = {"Prefer": "wait=30"}
    async with notifier.client.post("/live/jobs", json={"watch": entries}, headers=headers) as response:
        body = await response.json()
    assert [job["id"] for job in body["jobs"]] == [str(ANNAS)]
    assert [(error["code"], error.get("job_id")) for error in body["errors"]] == [
        ("invalid", None),
        ("forbidden", str(BERTS)),
        ("forbidden", str(BERTS)),
        ("unknown", str(LOST)),
    ]
    only_lists = {"watch": notifier.list_token("list"), "job_id": str(ANNAS)}
    for entry, code in ((entries[-2], "invalid"), (entries[-1], "forbidden"), (only_lists, "forbidden")):
        async with notifier.client.post("/live/jobs", json={"watch": [entry]}) as response:
            assert (await response.json())["code"] == code


async def test_the_filter_may_name_tag_and_kind(notifier: Notifier) -> None:
    """All parts of the filter must match; an empty filter matches all jobs."""
    path = f"/live/jobs/{ANNAS}"
    codes = [
        await notifier.code("GET", path, notifier.list_token(**fields))
        for fields in ({"owner": "anna", "kind": "k"}, {"kind": "other"}, {"tag": "t"}, {"owner": "anna", "tag": "t"})
    ]
    assert codes == [200, "forbidden", "forbidden", "forbidden"]
    everything = ListGrant(
        filter=JobFilter(), issued_at=NOW, expires_at=NOW.after(86_400), scope=frozenset({"list", "watch"})
    )
    assert await notifier.code("GET", path, notifier.replica.signer.sign(everything)) == 200


async def test_a_stream_of_another_owners_job_is_refused(notifier: Notifier) -> None:
    """An EventSource would reconnect after a stream that ends, but not after a 403."""
    async with asyncio.timeout(PATIENCE_S):
        assert await notifier.code("GET", f"/live/jobs/{BERTS}/events", notifier.list_token()) == "forbidden"
