"""The notifier alone: what it takes, what it refuses, and what its watchers see when Redis fails them."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
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
from tests.waiting import wait_until


async def next_job(socket: aiohttp.ClientWebSocketResponse) -> dict[str, Any]:
    """Return the next snapshot of a socket."""
    message = await asyncio.wait_for(socket.receive_json(), 10)
    job: dict[str, Any] = message["job"]
    return job


async def error_of(socket: aiohttp.ClientWebSocketResponse, message: Any) -> dict[str, Any]:
    """Send a message and return the error that answers it."""
    await socket.send_str(message if isinstance(message, str) else json.dumps(message))
    error: dict[str, Any] = (await asyncio.wait_for(socket.receive_json(), 10))["error"]
    return error


async def test_watcher_sees_reports_in_order(notifier: Notifier) -> None:
    """A watcher of an unknown job sees it queued, then each accepted report, with versions that rise."""
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


async def test_many_jobs_share_a_socket(notifier: Notifier) -> None:
    """One socket watches many jobs; one that is left is heard of no more."""
    first, second = new_id(), new_id()
    async with notifier.socket() as socket:
        for job_id in (first, second):
            await socket.send_json({"watch": notifier.token(job_id)})
            assert (await next_job(socket))["id"] == job_id
        await socket.send_json({"unwatch": first})
        await socket.send_json({"watch": "x"})  # answered in order: what was asked before is done
        assert (await socket.receive_json())["error"]["code"] == "invalid_token"
        await notifier.report(report(first, 1), report(second, 1))
        assert (await next_job(socket))["id"] == second


async def test_absence_never_replaces_presence(notifier: Notifier) -> None:
    """A watcher that names a version of a job without a record is told `unknown`, and its watch stays."""
    job_id = new_id()
    async with notifier.socket() as socket:
        error = await error_of(socket, {"watch": notifier.token(job_id), "version": 5})
        assert (error["code"], error["job_id"]) == ("unknown", job_id)
        await notifier.report(report(job_id, 1))
        assert (await next_job(socket))["status"] == "running"


async def test_known_version_is_not_sent_again(notifier: Notifier) -> None:
    """A watcher that names the current version gets only what is newer."""
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
        ("not json", "invalid"),
        ({"watch": 5}, "invalid"),
        ({}, "invalid"),
        ({"watch": "a", "cancel": "00000000-0000-0000-0000-000000000000"}, "invalid"),
        ({"watch": "a", "misspelt": 1}, "invalid"),
        ({"unwatch": "no uuid"}, "invalid"),
        ({"watch": "a.b.c"}, "invalid_token"),
        ({"cancel": "00000000-0000-0000-0000-000000000000"}, "not_watched"),
    ],
)
async def test_bad_message_is_answered_clearly(notifier: Notifier, message: Any, code: str) -> None:
    """A message that does not fit is answered with an error, and the connection goes on."""
    job_id = new_id()
    async with notifier.socket() as socket:
        assert (await error_of(socket, message))["code"] == code
        await socket.send_json({"watch": notifier.token(job_id)})
        assert (await next_job(socket))["id"] == job_id


async def test_expired_token_ends_its_job_alone(notifier: Notifier) -> None:
    """An expired token is told for its job, and other watches go on."""
    expired, other = new_id(), new_id()
    async with notifier.socket() as socket:
        error = await error_of(socket, {"watch": notifier.token(expired, ttl_s=-60)})
        assert (error["code"], error["job_id"]) == ("token_expired", expired)
        await socket.send_json({"watch": notifier.token(other)})
        assert (await next_job(socket))["id"] == other


async def test_watch_token_may_not_cancel(notifier: Notifier) -> None:
    """A token that may only watch is refused a cancel, by socket and by HTTP."""
    job_id = new_id()
    token = notifier.token(job_id, scope="watch")
    async with notifier.socket() as socket:
        await socket.send_json({"watch": token})
        await next_job(socket)
        assert (await error_of(socket, {"cancel": job_id}))["code"] == "forbidden"
    url = f"{notifier.public}/live/jobs/{job_id}/cancel"
    async with notifier.session.post(url, headers={"Authorization": f"Bearer {token}"}) as response:
        assert response.status == 403


async def test_foreign_origin_is_refused(notifier: Notifier) -> None:
    """A foreign Origin is refused on every route; none is fine."""
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
async def test_bad_report_names_element_and_field(notifier: Notifier, change: dict[str, Any], field: str) -> None:
    """A report that does not fit is a 422 that names element and field, and nothing of its batch is applied."""
    good = new_id()
    headers = {"Authorization": f"Bearer {notifier.report_key}"}
    batch = [report(good, 1), report(new_id(), 1) | change]
    async with notifier.session.post(f"{notifier.internal}/reports", json=batch, headers=headers) as response:
        assert response.status == 422
        assert response.content_type == "application/problem+json"
        assert (await response.json())["field"] == field
    headers = {"Authorization": f"Bearer {notifier.token(good)}"}
    async with notifier.session.get(f"{notifier.public}/live/jobs/{good}", headers=headers) as response:
        assert (await response.json())["version"] == 0


async def test_reports_need_a_key(notifier: Notifier) -> None:
    """Nobody reports without a report key; a batch over a mebibyte or 500 elements is refused."""
    url = f"{notifier.internal}/reports"
    for headers in ({}, {"Authorization": "Bearer wrong"}):
        async with notifier.session.post(url, json=[], headers=headers) as response:
            assert response.status == 401
    headers = {"Authorization": f"Bearer {notifier.report_key}"}
    for body, status in ((b"[", 400), (b"[]", 422), (BytesIO(b" " * (1 << 20) + b"[]"), 413)):
        async with notifier.session.post(url, data=body, headers=headers) as response:
            assert response.status == status
    many = [report(new_id(), 1) for _ in range(501)]
    async with notifier.session.post(url, json=many, headers=headers) as response:
        assert response.status == 422


async def test_lost_publication_is_found_by_silence(notifier: Notifier, admin: Redis) -> None:
    """A change whose publication is lost reaches the watcher all the same: silence makes the replica read."""
    job_id = new_id()
    await notifier.report(report(job_id, 1))
    async with notifier.socket() as socket:
        await socket.send_json({"watch": notifier.token(job_id)})
        version = (await next_job(socket))["version"]
        await admin.hset(job_key(job_id), mapping={"version": str(version + 1), "status": '"failed"'})
        assert (await next_job(socket))["status"] == "failed"


async def test_garbage_in_redis_is_as_good_as_nothing(notifier: Notifier, admin: Redis) -> None:
    """A key that holds something else, or a publication that is no snapshot, neither harms nor is shown."""
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


async def test_watchers_survive_killed_subscriptions(notifier: Notifier, admin: Redis) -> None:
    """When Redis drops the subscription again and again, every watcher ends up with the last version."""
    jobs = [new_id() for _ in range(20)]
    async with notifier.socket() as socket:
        for job_id in jobs:
            await socket.send_json({"watch": notifier.token(job_id)})
        last: dict[str, dict[str, Any]] = {}
        for round_ in range(1, 7):
            await notifier.report(*(report(job_id, round_, progress={"current": round_}) for job_id in jobs))
            await admin.client_kill_filter(_type="pubsub")
        await notifier.report(*(report(job_id, 9, status="succeeded") for job_id in jobs))
        while {job["status"] for job in last.values()} != {"succeeded"} or len(last) < len(jobs):
            job = await next_job(socket)
            assert job["version"] > last.get(job["id"], {"version": -1})["version"]
            last[job["id"]] = job


async def test_bus_hears_what_it_wants_through_kills(stores: dict[str, str], admin: Redis) -> None:
    """Through churn and kills the bus ends up subscribed to exactly what is wanted, and each job is confirmed."""
    handler = RecordingHandler()
    wanted = [job_key(new_id()) for _ in range(60)]

    async def subscribed() -> bool:
        return bool(await admin.client_list(_type="pubsub"))

    async with redis_from_url(stores["REDIS_URL"]) as servers:
        bus = PubSub(servers)
        running = asyncio.create_task(bus.run())
        for index, channel in enumerate(wanted):
            bus.subscribe(channel, handler)
            if index % 3 == 0:
                bus.unsubscribe(wanted[index // 2])
                bus.subscribe(wanted[index // 2], handler)
            if index % 10 == 9:
                await wait_until(subscribed)
                await admin.client_kill_filter(_type="pubsub")
        for channel in wanted[40:]:
            bus.unsubscribe(channel)

        async def all_heard() -> bool:
            for channel in wanted:
                await admin.publish(channel, "x")
            return handler.published >= set(wanted[:40])

        await wait_until(all_heard)
        assert handler.subscribed >= set(wanted[:40])

        async def left() -> bool:
            counts = await admin.pubsub_numsub(*wanted)
            return [count for _, count in counts] == [1] * 40 + [0] * 20

        await wait_until(left)
        running.cancel()
        await asyncio.wait({running})


async def test_full_redis_is_a_503_and_changes_nothing(notifier: Notifier, admin: Redis) -> None:
    """While Redis takes no more, reports are answered 503 to be sent again, and later accepted."""
    job_id = new_id()
    await notifier.report(report(job_id, 1))
    headers = {"Authorization": f"Bearer {notifier.report_key}"}
    await admin.config_set("maxmemory", "1mb")
    try:
        for sequence, more in ((2, {}), (3, {"status": "succeeded"})):
            batch = [report(job_id, sequence, **more)]
            async with notifier.session.post(f"{notifier.internal}/reports", json=batch, headers=headers) as response:
                assert response.status == 503
                assert int(response.headers["Retry-After"]) > 0
    finally:
        await admin.config_set("maxmemory", "0")
    (verdict,) = await notifier.report(report(job_id, 4, status="succeeded"))
    assert verdict["accepted"]


async def test_hostile_headers_and_bodies_are_refused(notifier: Notifier) -> None:
    """Bytes that are no text, a body that is not what its headers say, and endless digits get a clear answer."""
    url = f"{notifier.internal}/reports"
    async with notifier.session.post(url, data=b"[]", headers={"Authorization": "Bearer \udcff"}) as response:
        assert response.status == 401
    key = {"Authorization": f"Bearer {notifier.report_key}"}
    async with notifier.session.post(url, data=b"garbage", headers={**key, "Content-Encoding": "gzip"}) as response:
        assert response.status == 400
    job_id = new_id()
    known = {"Authorization": f"Bearer {notifier.token(job_id)}", "If-None-Match": f'"{"9" * 5000}"'}
    async with notifier.session.get(f"{notifier.public}/live/jobs/{job_id}", headers=known) as response:
        assert (response.status, (await response.json())["version"]) == (200, 0)  # no version of ours


async def test_who_asks_much_and_reads_nothing_is_cut_off(notifier: Notifier) -> None:
    """Errors do not pile up for a client that never reads: its connection ends."""
    host, port = notifier.public.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port), limit=1024)
    writer.write(
        b"GET /live HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    assert b"101" in await reader.readline()
    frame = b"\x81\x81\x00\x00\x00\x00x"  # the text "x"

    async def cut_off() -> bool:
        try:
            writer.write(frame * 1000)
            await writer.drain()
        except ConnectionError:
            return True
        return False

    try:
        await wait_until(cut_off)
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()
