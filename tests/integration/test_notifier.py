"""The notifier without the other services: reports, subscriptions, invalid input and failures of Redis."""

from __future__ import annotations

import asyncio
import itertools
import json
from contextlib import AsyncExitStack, suppress
from functools import partial
from io import BytesIO
from typing import Any

import aiohttp
import pytest
from redis.asyncio import Redis

from services.notifier.records.keys import job_key
from services.notifier.redis_client.pubsub import PubSub
from services.notifier.redis_client.url import redis_from_url
from tests.channels import RecordingHandler
from tests.integration.conftest import Notifier, new_id, report
from tests.integration.replicas import Replica
from tests.waiting import PATIENCE_S, metric, wait_until

REDIS_PAUSE_MS = 100


async def next_job(socket: aiohttp.ClientWebSocketResponse) -> dict[str, Any]:
    """Return the next snapshot that a WebSocket receives."""
    message = await asyncio.wait_for(socket.receive_json(), PATIENCE_S)
    job: dict[str, Any] = message["job"]
    return job


async def error_of(socket: aiohttp.ClientWebSocketResponse, message: Any) -> dict[str, Any]:
    """Send a message; return the error in the response."""
    await socket.send_str(message if isinstance(message, str) else json.dumps(message))
    error: dict[str, Any] = (await asyncio.wait_for(socket.receive_json(), PATIENCE_S))["error"]
    return error


async def test_watcher_receives_reports_in_order(notifier: Notifier) -> None:
    """A watcher of an unknown job gets it as `queued`, then a snapshot per report, with increasing versions."""
    job_id = new_id()
    async with notifier.socket() as socket:
        await socket.send_json({"watch": notifier.token(job_id)})
        first = await next_job(socket)
        assert (first["id"], first["status"], first["version"]) == (job_id, "queued", 0)
        (verdict,) = await notifier.report(report(job_id, 1))
        assert verdict == {
            "job_id": job_id,
            "accepted": True,
            "reason": None,
            "cancel_requested": False,
            "watched": True,
        }
        running = await next_job(socket)
        await notifier.report(report(job_id, 2, status="succeeded", result=[]))
        ended = await next_job(socket)
        assert 0 < running["version"] < ended["version"]
        assert (ended["status"], ended["result"]) == ("succeeded", [])


async def has_watched_jobs(notifier: Notifier, internal: str, count: int) -> bool:
    """Return whether the replica with this internal listener has watchers of so many jobs."""
    return await metric(notifier.session, internal, "notifier_watched_jobs") == count


async def test_a_job_is_watched_until_its_last_watcher_leaves(
    notifier: Notifier, stores: dict[str, str], admin: Redis
) -> None:
    """A client leaves and joins again before any reply of Redis, and closes; the other client's replica is killed."""
    jobs, sequences = [new_id() for _ in range(20)], itertools.count(1)

    async def watched() -> list[bool]:
        sequence = next(sequences)
        verdicts = await notifier.report(*(report(job_id, sequence) for job_id in jobs))
        return sorted({verdict["watched"] for verdict in verdicts})

    async def is_unwatched() -> bool:
        return await watched() == [False]

    async def is_watched() -> bool:
        return await watched() == [True]

    replica = Replica(stores["REDIS_URL"], notifier.log.parent, notifier.session)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(replica.stop)
        await replica.start()
        assert await is_unwatched()
        url = f"http://127.0.0.1:{replica.port}/live"
        other_socket = await stack.enter_async_context(notifier.session.ws_connect(url))
        async with notifier.socket() as socket:
            for each in (socket, other_socket):
                for job_id in jobs:
                    await each.send_json({"watch": notifier.token(job_id)})
            for internal in (notifier.internal, replica.internal):
                await wait_until(partial(has_watched_jobs, notifier, internal, len(jobs)))
            await wait_until(is_watched)
            for _ in range(2):
                await admin.client_pause(REDIS_PAUSE_MS)
                for job_id in jobs:
                    await socket.send_json({"unwatch": job_id})
                for job_id in jobs:
                    await socket.send_json({"watch": notifier.token(job_id)})
                await wait_until(is_watched)
        await wait_until(partial(has_watched_jobs, notifier, notifier.internal, 0))
        assert await is_watched()
        await replica.kill()
    await wait_until(is_unwatched)


async def test_websocket_watches_several_jobs(notifier: Notifier) -> None:
    """A client watches several jobs over one WebSocket, and gets no updates of a job after `unwatch`."""
    first, second = new_id(), new_id()
    async with notifier.socket() as socket:
        for job_id in (first, second):
            await socket.send_json({"watch": notifier.token(job_id)})
            assert (await next_job(socket))["id"] == job_id
        await socket.send_json({"unwatch": first})
        await socket.send_json({"watch": "x"})  # messages are handled in order, so its error confirms the `unwatch`
        assert (await socket.receive_json())["error"]["code"] == "invalid_token"
        await notifier.report(report(first, 1), report(second, 1))
        assert (await next_job(socket))["id"] == second


async def test_missing_record_does_not_replace_a_known_version(notifier: Notifier) -> None:
    """A client that knows a version of a job without a record gets the error `unknown` and stays subscribed."""
    job_id = new_id()
    async with notifier.socket() as socket:
        error = await error_of(socket, {"watch": notifier.token(job_id), "version": 5})
        assert (error["code"], error["job_id"]) == ("unknown", job_id)
        await notifier.report(report(job_id, 1))
        assert (await next_job(socket))["status"] == "running"


async def test_known_version_is_not_sent_again(notifier: Notifier) -> None:
    """A client that subscribes with the current version gets only newer snapshots."""
    job_id = new_id()
    await notifier.report(report(job_id, 1))
    async with notifier.socket() as socket:
        await socket.send_json({"watch": notifier.token(job_id)})
        version = (await next_job(socket))["version"]
    async with notifier.socket() as socket:
        await socket.send_json({"watch": notifier.token(job_id), "version": version})
        await notifier.report(report(job_id, 2, status="failed"))
        assert (await next_job(socket))["status"] == "failed"


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ("not JSON", "invalid"),
        ({"watch": 5}, "invalid"),
        ({}, "invalid"),
        ({"watch": "a", "cancel": "00000000-0000-0000-0000-000000000000"}, "invalid"),
        ({"watch": "a", "misspelled": 1}, "invalid"),
        ({"unwatch": "not a UUID"}, "invalid"),
        ({"watch": "a.b.c"}, "invalid_token"),
        ({"cancel": "00000000-0000-0000-0000-000000000000"}, "not_watched"),
    ],
)
async def test_invalid_message_is_answered_with_an_error(notifier: Notifier, message: Any, code: str) -> None:
    """The client gets an error with a code, and can still use the connection."""
    job_id = new_id()
    async with notifier.socket() as socket:
        assert (await error_of(socket, message))["code"] == code
        await socket.send_json({"watch": notifier.token(job_id)})
        assert (await next_job(socket))["id"] == job_id


async def test_expired_token_affects_only_its_job(notifier: Notifier) -> None:
    """The error contains the job's id, and the client can watch other jobs over the same connection."""
    expired, other = new_id(), new_id()
    async with notifier.socket() as socket:
        error = await error_of(socket, {"watch": notifier.token(expired, ttl_s=-60)})
        assert (error["code"], error["job_id"]) == ("token_expired", expired)
        await socket.send_json({"watch": notifier.token(other)})
        assert (await next_job(socket))["id"] == other


async def test_watch_token_cannot_cancel(notifier: Notifier) -> None:
    """A cancellation with a token of scope `watch` is forbidden, over a WebSocket and over HTTP."""
    job_id = new_id()
    token = notifier.token(job_id, scope="watch")
    async with notifier.socket() as socket:
        await socket.send_json({"watch": token})
        await next_job(socket)
        assert (await error_of(socket, {"cancel": job_id}))["code"] == "forbidden"
    url = f"{notifier.public}/live/jobs/{job_id}/cancel"
    async with notifier.session.post(url, headers={"Authorization": f"Bearer {token}"}) as response:
        assert response.status == 403


async def test_frames_are_not_compressed(notifier: Notifier) -> None:
    """A client that offers compression gets none, so that no small frame can become a large message."""
    async with notifier.session.ws_connect(f"{notifier.public}/live", compress=15) as socket:
        assert "hello" in await socket.receive_json()
        assert socket.compress == 0


async def test_unknown_origin_is_rejected(notifier: Notifier) -> None:
    """Both routes reject an origin that is not allowed, and accept a request without an `Origin` header."""
    token = notifier.token(new_id())
    for path in ("/live", f"/live/jobs/{new_id()}"):
        headers = {"Origin": "http://evil.example", "Authorization": f"Bearer {token}"}
        async with notifier.session.get(notifier.public + path, headers=headers) as response:
            assert response.status == 403
    async with notifier.session.ws_connect(f"{notifier.public}/live") as socket:
        assert "hello" in await socket.receive_json()


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"delivery": 0}, "[1].delivery"),
        ({"job_id": "x"}, "[1].job_id"),
        ({"status": "done"}, "[1].status"),
        ({"expires_at": "2026-02-30T00:00:00.000Z"}, "[1].expires_at"),
        ({"progress": {"current": -1}}, "[1].progress.current"),
        ({"result": "x" * 33_000}, "[1].result"),
        ({"sequence": 1e30}, "[1].sequence"),
    ],
)
async def test_error_names_the_invalid_report_and_field(notifier: Notifier, change: dict[str, Any], field: str) -> None:
    """A request with an invalid report is answered 422 with element and field, and none of its reports is applied."""
    valid_job_id = new_id()
    headers = {"Authorization": f"Bearer {notifier.report_key}"}
    reports = [report(valid_job_id, 1), report(new_id(), 1) | change]
    async with notifier.session.post(f"{notifier.internal}/reports", json=reports, headers=headers) as response:
        assert response.status == 422
        assert response.content_type == "application/problem+json"
        assert (await response.json())["field"] == field
    headers = {"Authorization": f"Bearer {notifier.token(valid_job_id)}"}
    async with notifier.session.get(f"{notifier.public}/live/jobs/{valid_job_id}", headers=headers) as response:
        assert (await response.json())["version"] == 0


async def test_reports_need_a_key_and_have_a_maximum_size(notifier: Notifier) -> None:
    """Requests without the report key, with an invalid body, over 1 MiB or over 500 reports are rejected."""
    url = f"{notifier.internal}/reports"
    for headers in ({}, {"Authorization": "Bearer wrong"}):
        async with notifier.session.post(url, json=[], headers=headers) as response:
            assert response.status == 401
    headers = {"Authorization": f"Bearer {notifier.report_key}"}
    for body, status in ((b"[", 400), (b"[]", 422), (BytesIO(b" " * (1 << 20) + b"[]"), 413)):
        async with notifier.session.post(url, data=body, headers=headers) as response:
            assert response.status == status
    too_many = [report(new_id(), 1) for _ in range(501)]
    async with notifier.session.post(url, json=too_many, headers=headers) as response:
        assert response.status == 422


async def test_watcher_gets_a_change_whose_publication_was_lost(notifier: Notifier, admin: Redis) -> None:
    """After `SILENCE_S` without a publication, the notifier reads the record and sends the change."""
    job_id = new_id()
    await notifier.report(report(job_id, 1))
    async with notifier.socket() as socket:
        await socket.send_json({"watch": notifier.token(job_id)})
        version = (await next_job(socket))["version"]
        await admin.hset(job_key(job_id), mapping={"version": str(version + 1), "status": '"failed"'})
        assert (await next_job(socket))["status"] == "failed"


async def test_invalid_data_in_redis_is_ignored(notifier: Notifier, admin: Redis) -> None:
    """A key with an invalid value counts as a missing record, and an invalid publication is not sent to watchers."""
    job_id = new_id()
    await notifier.report(report(job_id, 1))
    await admin.hset(job_key(job_id), "status", "garbage")
    async with notifier.socket() as socket:
        await socket.send_json({"watch": notifier.token(job_id)})
        assert (await next_job(socket))["version"] == 0
        await admin.publish(job_key(job_id), "garbage")
        await admin.set(job_key(job_id), "garbage", px=60_000)
        headers = {"Authorization": f"Bearer {notifier.token(job_id)}"}
        async with notifier.session.get(f"{notifier.public}/live/jobs/{job_id}", headers=headers) as response:
            assert (await response.json())["version"] == 0
        await notifier.report(report(job_id, 2))
        assert (await next_job(socket))["status"] == "running"


async def test_watchers_get_the_last_version_after_lost_subscriptions(notifier: Notifier, admin: Redis) -> None:
    """Redis closes the notifier's subscriber connections repeatedly; the watcher still gets each job's last version."""
    jobs = [new_id() for _ in range(20)]
    async with notifier.socket() as socket:
        for job_id in jobs:
            await socket.send_json({"watch": notifier.token(job_id)})
        last: dict[str, dict[str, Any]] = {}
        for step in range(1, 7):
            await notifier.report(*(report(job_id, step, progress={"current": step}) for job_id in jobs))
            await admin.client_kill_filter(_type="pubsub")
        await notifier.report(*(report(job_id, 9, status="succeeded") for job_id in jobs))
        while {job["status"] for job in last.values()} != {"succeeded"} or len(last) < len(jobs):
            job = await next_job(socket)
            assert job["version"] > last.get(job["id"], {"version": -1})["version"]
            last[job["id"]] = job


async def test_subscriptions_are_restored_after_lost_connections(stores: dict[str, str], admin: Redis) -> None:
    """Channels are subscribed and unsubscribed while Redis closes connections; exactly the right ones remain.

    The last connection stays open, so that channels end by UNSUBSCRIBE, and some of them before any reply of Redis.
    """
    handler = RecordingHandler()
    channels = [job_key(new_id()) for _ in range(60)]
    kept, removed = channels[:40], channels[40:]

    async def connections() -> list[str]:
        clients = await admin.client_list(_type="pubsub")
        return [client["id"] for client in clients if client["name"] == "subscriptions"]

    async with redis_from_url(f"{stores['REDIS_URL']}?client_name=subscriptions") as client:
        pubsub = PubSub(client)
        running = asyncio.create_task(pubsub.run())
        for index, channel in enumerate(channels):
            pubsub.subscribe(channel, handler)
            if index % 3 == 0:
                pubsub.unsubscribe(channels[index // 2])
                pubsub.subscribe(channels[index // 2], handler)
            if index % 10 == 9:
                await wait_until(connections)
                await admin.client_kill_filter(_type="pubsub")

        async def has_subscribed(channels: list[str], *others: str) -> bool:
            counts = await admin.pubsub_numsub(*channels, *others)
            return [count for _, count in counts] == [1] * len(channels) + [0] * len(others)

        await wait_until(lambda: has_subscribed(channels))
        last_connection = await connections()
        for index, channel in enumerate(removed):
            pubsub.unsubscribe(channel)
            if index % 2 == 0:  # left, joined again and left within one round trip
                await asyncio.sleep(0)
                pubsub.subscribe(channel, handler)
                await asyncio.sleep(0)
                pubsub.unsubscribe(channel)

        async def all_received() -> bool:
            for channel in channels:
                await admin.publish(channel, "x")
            return handler.published >= set(kept)

        await wait_until(all_received)
        assert handler.subscribed >= set(kept)

        await wait_until(lambda: has_subscribed(kept, *removed))
        assert await connections() == last_connection
        running.cancel()
        await asyncio.wait({running})


async def test_reports_are_answered_503_while_redis_is_full(notifier: Notifier, admin: Redis) -> None:
    """The response has a `Retry-After` header, and the notifier accepts reports again when Redis has memory."""
    job_id = new_id()
    await notifier.report(report(job_id, 1))
    headers = {"Authorization": f"Bearer {notifier.report_key}"}
    await admin.config_set("maxmemory", "1mb")
    try:
        for sequence, fields in ((2, {}), (3, {"status": "succeeded"})):
            reports = [report(job_id, sequence, **fields)]
            async with notifier.session.post(f"{notifier.internal}/reports", json=reports, headers=headers) as response:
                assert response.status == 503
                assert int(response.headers["Retry-After"]) > 0
    finally:
        await admin.config_set("maxmemory", "0")
    (verdict,) = await notifier.report(report(job_id, 4, status="succeeded"))
    assert verdict["accepted"]


async def test_malformed_headers_do_not_cause_a_server_error(notifier: Notifier) -> None:
    """A key that is not UTF-8, a wrong `Content-Encoding` and a version with 5,000 digits are handled as invalid."""
    url = f"{notifier.internal}/reports"
    async with notifier.session.post(url, data=b"[]", headers={"Authorization": "Bearer \udcff"}) as response:
        assert response.status == 401
    key = {"Authorization": f"Bearer {notifier.report_key}"}
    async with notifier.session.post(url, data=b"garbage", headers={**key, "Content-Encoding": "gzip"}) as response:
        assert response.status == 400
    job_id = new_id()
    conditional = {"Authorization": f"Bearer {notifier.token(job_id)}", "If-None-Match": f'"{"9" * 5000}"'}
    async with notifier.session.get(f"{notifier.public}/live/jobs/{job_id}", headers=conditional) as response:
        assert (response.status, (await response.json())["version"]) == (200, 0)  # the invalid ETag is ignored


async def test_client_that_never_reads_is_disconnected(notifier: Notifier) -> None:
    """The notifier closes the connection of a client that sends messages and does not read the errors."""
    host, port = notifier.public.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port), limit=1024)
    writer.write(
        b"GET /live HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    assert b"101" in await reader.readline()
    frame = b"\x81\x81\x00\x00\x00\x00x"  # the text "x"

    async def disconnected() -> bool:
        try:
            writer.write(frame * 1000)
            await writer.drain()
        except ConnectionError:
            return True
        return False

    try:
        await wait_until(disconnected)
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()
