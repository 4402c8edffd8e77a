"""What a worker posts about itself, against a fake notifier over HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from msgspec import Struct

from headway import JobContext, job
from headway.contracts import decode
from headway.details import KindInfo, WorkerInfo
from services.runtime.settings import ReloadingFile, load, read_keys
from services.worker import presence as module
from services.worker.presence import PresencePoster, worker_info
from services.worker.registry import Registry
from services.worker.settings import WorkerSettings
from tests.unit.services.runtime.test_settings import WORKER
from tests.waiting import wait_until


class Letters(Struct):
    """A payload."""

    count: int


@job("letters")
async def letters(_ctx: JobContext, payload: Letters) -> None:
    """Do nothing."""


@job("anything")
async def anything(_ctx: JobContext, payload: Any) -> None:
    """Do nothing."""


REGISTRY: Registry = {"letters": letters, "anything": anything}


def info_of(registry: Registry = REGISTRY) -> WorkerInfo:
    """Return a worker of some kinds."""
    return worker_info("w-1", load(WorkerSettings, {**WORKER, "WORKER_CONCURRENCY": "7"}), registry)


class FakeNotifier:
    """Records the workers that are posted, and answers as a test says."""

    def __init__(self) -> None:
        self.url = ""
        self.status: int | None = 204  # None: the connection is closed without an answer
        self.posted: list[WorkerInfo] = []

    async def post(self, request: web.Request) -> web.Response:
        """Serve `POST /workers`."""
        assert request.headers["Authorization"] == "Bearer key"
        self.posted.append(decode(await request.read(), WorkerInfo))
        if self.status is None:
            assert request.transport is not None
            request.transport.abort()
        return web.Response(status=self.status or 204)


@pytest.fixture
async def notifier() -> AsyncIterator[FakeNotifier]:
    """Run a fake notifier."""
    fake, app = FakeNotifier(), web.Application()
    app.add_routes([web.post("/workers", fake.post)])
    async with TestServer(app) as server:
        fake.url = str(server.make_url(""))
        yield fake


@asynccontextmanager
async def posting(notifier: FakeNotifier, folder: Path, running: list[int]) -> AsyncIterator[PresencePoster]:
    """Post a worker in the background."""
    (folder / "keys").write_text("key\n")
    keys = ReloadingFile(folder / "keys", read_keys)
    async with PresencePoster.connect(notifier.url, keys, info_of()) as presence:
        task = asyncio.create_task(presence.run(lambda: running[-1]))
        yield presence
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def test_worker_has_its_kinds_with_schemas() -> None:
    """A kind whose payload may be anything has no schema."""
    info = info_of()
    assert (info.id, info.queue, info.slots, info.queue_depth) == ("w-1", "jobs", 7, None)
    assert [kind.kind for kind in info.kinds] == ["anything", "letters"]
    assert bytes(info.kinds[0].schema) == b"null"
    assert b'"count"' in bytes(info.kinds[1].schema)


@pytest.mark.parametrize("limit", ["MAX_SCHEMA_BYTES", "MAX_WORKER_BYTES"])
def test_large_schemas_are_left_out(monkeypatch: pytest.MonkeyPatch, limit: str) -> None:
    """One schema, and all of a worker, are limited: the others stay."""
    monkeypatch.setattr(module, limit, 10)
    assert info_of().kinds == (KindInfo("anything"), KindInfo("letters"))


async def test_what_changes_is_posted(notifier: FakeNotifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each post has the number of running jobs and the length of the queue as they are; errors do not end it."""
    monkeypatch.setattr(module, "INTERVAL_S", 0.01)
    monkeypatch.setattr(module, "RETRY_INTERVAL_S", 0.01)
    running = [3]
    async with posting(notifier, tmp_path, running) as presence:
        await wait_until(lambda: [each.running for each in notifier.posted[-1:]] == [3])
        running.append(4)
        presence.on_queue_measured(40)
        await wait_until(lambda: (notifier.posted[-1].running, notifier.posted[-1].queue_depth) == (4, 40))
        notifier.status = 503
        count = len(notifier.posted)
        await wait_until(lambda: len(notifier.posted) > count + 2)
        presence.on_queue_measured(None)
        await wait_until(lambda: notifier.posted[-1].queue_depth is None)


async def test_older_notifier_has_an_interval_of_its_own(
    notifier: FakeNotifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A notifier without the list answers 404; it is asked less often."""
    assert module.UNKNOWN_INTERVAL_S > module.INTERVAL_S
    monkeypatch.setattr(module, "INTERVAL_S", 3600)
    monkeypatch.setattr(module, "UNKNOWN_INTERVAL_S", 0.01)
    notifier.status = 404
    async with posting(notifier, tmp_path, [0]):
        await wait_until(lambda: len(notifier.posted) > 2)


@pytest.mark.parametrize("status", [None, 503])
async def test_unavailable_notifier_is_asked_again_soon(
    notifier: FakeNotifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int | None
) -> None:
    """A worker that starts before its notifier, or while Redis is unavailable, is known as soon as they are there."""
    assert module.RETRY_INTERVAL_S < module.INTERVAL_S
    monkeypatch.setattr(module, "INTERVAL_S", 3600)
    monkeypatch.setattr(module, "RETRY_INTERVAL_S", 0.01)
    notifier.status = status
    async with posting(notifier, tmp_path, [0]):
        await wait_until(lambda: len(notifier.posted) > 1)
        notifier.status = 204
        count = len(notifier.posted)
        await wait_until(lambda: len(notifier.posted) > count)
