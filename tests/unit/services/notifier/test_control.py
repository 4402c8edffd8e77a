"""Control messages: how requests for reports are published, and the streams that workers receive them on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, cast

import pytest
from aiohttp import ClientResponse, web
from redis.exceptions import ConnectionError as RedisConnectionError

from services.notifier import metrics
from services.notifier.control import MAX_JOB_IDS, ControlHandler, ControlStream, JobSet, ReportRequests
from services.runtime.settings import ReloadingFile, read_keys
from tests.unit.services.runtime.http_app import Client, read_problem, serve
from tests.waiting import PATIENCE_S, wait_until

AUTHORIZED = {"Authorization": "Bearer the-key"}
CHANNEL = "headway:worker:{host-1}"
ALL = b'data: {"report":"all"}\n\n'


class FakePubSub:
    """Publish and subscribe without Redis; a test confirms the subscriptions."""

    def __init__(self) -> None:
        self.ready = self.available = self.confirmed = True
        self.channels: list[str] = []
        self.published: list[tuple[str, bytes]] = []

    def subscribe(self, channel: str, _handler: ControlHandler) -> bool:
        if channel not in self.channels:
            self.channels.append(channel)
        return self.confirmed

    def unsubscribe(self, channel: str) -> None:
        self.channels.remove(channel)

    async def publish(self, channel: str, data: bytes) -> int:
        if not self.available:
            raise RedisConnectionError
        self.published.append((channel, data))
        return 1


class Replica:
    """The control streams of a notifier on a real server."""

    def __init__(self, handler: ControlHandler, pubsub: FakePubSub, client: Client) -> None:
        self.handler, self.pubsub, self._client = handler, pubsub, client

    async def open(self, query: str = "?worker=host-1", headers: dict[str, str] = AUTHORIZED) -> ClientResponse:
        return await self._client.get(f"/control{query}", headers=headers)


async def read_events(response: ClientResponse, count: int) -> list[bytes]:
    """Return the next events of a stream, comments included."""
    return [await response.content.readuntil(b"\n\n") for _ in range(count)]


@asynccontextmanager
async def running(folder: Path, ping_s: float = 60) -> AsyncIterator[Replica]:
    """Serve the streams until the block ends."""
    (folder / "keys").write_text("another\nthe-key\n")
    pubsub = FakePubSub()
    handler = ControlHandler(cast(Any, pubsub), ReloadingFile(folder / "keys", read_keys), ping_s)
    async with serve(*handler.routes()) as client:
        try:
            yield Replica(handler, pubsub, client)
        finally:
            handler.drain()


async def test_a_stream_begins_with_a_request_for_all_reports(tmp_path: Path) -> None:
    """It follows the confirmation of the subscription, each time: messages before it are lost."""
    async with running(tmp_path) as replica:
        replica.pubsub.confirmed = False
        response = await replica.open()
        assert (response.status, response.content_type) == (200, "text/event-stream")
        assert await read_events(response, 1) == [b":\n\n"]
        assert replica.pubsub.channels == [CHANNEL]
        for _ in range(2):
            replica.handler.on_subscribed(CHANNEL)
            assert await read_events(response, 1) == [ALL]
        replica.pubsub.confirmed = True
        assert await read_events(await replica.open(), 2) == [b":\n\n", ALL]


async def test_published_messages_reach_the_streams_of_their_worker(tmp_path: Path) -> None:
    """A worker that reconnects has two streams for a while. Other workers get nothing, and garbage is ignored."""
    async with running(tmp_path) as replica:
        streams = [await replica.open() for _ in range(2)]
        other = await replica.open("?worker=host-2")
        for response in (*streams, other):
            await read_events(response, 2)
        for data in (b"garbage", b'{"report":"none"}', b'{"report":["b"]}', b'{"report":["a"]}'):
            replica.handler.on_publication(CHANNEL, data)
        for response in streams:
            assert await read_events(response, 1) == [b'data: {"report":["a","b"]}\n\n']
        replica.handler.on_publication(CHANNEL, b'{"report":"all"}')
        replica.handler.on_publication("headway:worker:{host-2}", b'{"report":["c"]}')
        for response in streams:
            assert await read_events(response, 1) == [ALL]
        assert await read_events(other, 1) == [b'data: {"report":["c"]}\n\n']


async def test_the_last_stream_ends_the_subscription(tmp_path: Path) -> None:
    """A comment finds out that a worker has disconnected."""
    async with running(tmp_path, ping_s=0.01) as replica:
        first, second = await replica.open(), await replica.open()
        assert (await read_events(second, 4))[2:] == [b":\n\n"] * 2
        first.close()
        await wait_until(lambda: len(replica.handler._streams[CHANNEL]) == 1)
        assert replica.pubsub.channels == [CHANNEL]
        second.close()
        await wait_until(lambda: not replica.pubsub.channels)
        assert not replica.handler._streams


async def test_a_drain_ends_the_streams(tmp_path: Path) -> None:
    """The workers open others at another replica: this one refuses them."""
    async with running(tmp_path) as replica:
        response = await replica.open()
        replica.handler.drain()
        assert (await response.read()).startswith(b":\n\n")
        refused = await replica.open()
        assert (refused.status, refused.headers["Retry-After"]) == (503, "1")


async def test_a_stream_that_opens_during_a_drain_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise it would delay the stop of the replica."""
    async with running(tmp_path) as replica:
        prepare = web.StreamResponse.prepare

        async def prepare_during_drain(response: web.StreamResponse, request: web.BaseRequest) -> Any:
            replica.handler.drain()
            return await prepare(response, request)

        monkeypatch.setattr(web.StreamResponse, "prepare", prepare_during_drain)
        async with asyncio.timeout(PATIENCE_S):
            assert await (await replica.open()).read() == b":\n\n"
        assert not replica.handler._streams


async def test_a_replica_without_redis_refuses_streams(tmp_path: Path) -> None:
    """Another one may have Redis."""
    async with running(tmp_path) as replica:
        replica.pubsub.ready = False
        refused = await replica.open()
        assert (refused.status, (await read_problem(refused))["code"]) == (503, "unavailable")
        assert replica.pubsub.channels == []


@pytest.mark.parametrize("query", ["", "?worker=", f"?worker={129 * 'x'}"])
async def test_the_worker_must_have_an_id(tmp_path: Path, query: str) -> None:
    """The error names the parameter."""
    async with running(tmp_path) as replica:
        refused = await replica.open(query)
        assert (refused.status, (await read_problem(refused))["field"]) == (422, "worker")


@pytest.mark.parametrize("authorization", ["", "Bearer wrong", "Basic the-key"])
async def test_a_stream_needs_a_report_key(tmp_path: Path, authorization: str) -> None:
    """It tells which jobs run."""
    async with running(tmp_path) as replica:
        refused = await replica.open(headers={"Authorization": authorization} if authorization else {})
        assert (refused.status, (await read_problem(refused))["code"]) == (401, "unauthorized")


async def test_a_worker_that_reads_slowly_gets_one_message() -> None:
    """It asks for all jobs that were requested meanwhile."""
    stream = ControlStream()
    for number in range(3):
        stream.request([f"job-{number}"])
    assert await stream.next_event(60) == b'data: {"report":["job-0","job-1","job-2"]}\n\n'
    stream.request(["job-4"])
    stream.request_all()
    stream.request(["job-5"])
    assert await stream.next_event(60) == ALL
    assert await stream.next_event(0) == b":\n\n"


def test_more_jobs_than_a_worker_reports_in_one_request_are_all_jobs() -> None:
    """The size of a message is limited."""
    jobs = JobSet()
    jobs.add(str(number) for number in range(MAX_JOB_IDS))
    assert jobs.to_json().count(b",") == MAX_JOB_IDS - 1
    jobs.add(["one more"])
    assert jobs.to_json() == b'{"report":"all"}'


async def test_requests_are_collected_per_worker() -> None:
    """Requests within 50 ms are published as one message for each worker. A failure does not stop later ones."""
    pubsub = FakePubSub()
    requests = ReportRequests(cast(Any, pubsub), collect_s=0)
    task = asyncio.create_task(requests.run())
    for worker_id, job_id in (("a", "2"), ("b", "3"), ("a", "1"), ("a", "2")):
        requests.request(worker_id, job_id)
    await wait_until(lambda: len(pubsub.published) == 2)
    assert pubsub.published == [
        ("headway:worker:{a}", b'{"report":["1","2"]}'),
        ("headway:worker:{b}", b'{"report":["3"]}'),
    ]
    failed = metrics.CONTROL_MESSAGES.labels("failed")._value
    count = failed.get()
    pubsub.available = False
    requests.request("a", "4")
    await wait_until(lambda: failed.get() > count)
    pubsub.available = True
    requests.request("a", "5")
    await wait_until(lambda: len(pubsub.published) == 3)
    assert pubsub.published[-1] == ("headway:worker:{a}", b'{"report":["5"]}')
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def test_a_slow_node_of_redis_does_not_delay_other_workers() -> None:
    """Meanwhile the requests for the worker whose channel it has are collected for the next message."""
    pubsub, node = FakePubSub(), asyncio.Event()
    publish = pubsub.publish

    async def publish_slowly(channel: str, data: bytes) -> int:
        if channel.endswith("{slow}"):
            await node.wait()
        return await publish(channel, data)

    pubsub.publish = publish_slowly  # type: ignore[method-assign]
    requests = ReportRequests(cast(Any, pubsub), collect_s=0)
    task = asyncio.create_task(requests.run())
    requests.request("slow", "1")
    await wait_until(lambda: not requests._pending)
    for number in (2, 3):
        requests.request("slow", str(number))
        requests.request("fast", str(number))
        await wait_until(lambda: "fast" not in requests._pending)
    await wait_until(lambda: len(pubsub.published) == 2)
    assert pubsub.published == [("headway:worker:{fast}", b'{"report":["%d"]}' % number) for number in (2, 3)]
    node.set()
    await wait_until(lambda: len(pubsub.published) == 4)
    assert pubsub.published[2:] == [
        ("headway:worker:{slow}", b'{"report":["1"]}'),
        ("headway:worker:{slow}", b'{"report":["2","3"]}'),
    ]
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
