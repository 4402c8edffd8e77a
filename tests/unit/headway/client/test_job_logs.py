"""The log of a job against a fake notifier: each byte once, whatever happens to the requests."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import UUID, uuid4

import pytest
from aiohttp import web

from headway.client import Client, InvalidToken, RequestFailed, SyncClient, job_logs
from tests.unit.headway.client.fake_services import HELLO, Services, respond_with, snapshot_json, token_for
from tests.waiting import wait_until

EXPIRED = {"code": "token_expired", "detail": "The token has expired."}
GREETING = "Grüße\n".encode()


class FakeLog:
    """A notifier with one job and its log, which has dropped the text before `base`."""

    def __init__(self, services: Services, job_id: UUID) -> None:
        self.services = services
        self.job_id = job_id
        self.base = 0
        self.text = b""
        self.ended = asyncio.Event()
        self.has_record = True
        self.offsets: list[int] = []
        self.authorizations: set[str | None] = set()
        self.failures: list[int] = []  # the next statuses of the log's responses
        self.issued_count = 0
        self.expired_count = 0  # the first ones of the issued tokens
        self.expired = asyncio.Event()
        self._changed = asyncio.Condition()
        services.responses = [self.respond]
        services.socket_handlers = [self.watch]

    async def write(self, text: bytes) -> None:
        """Append to the log."""
        async with self._changed:
            self.text += text
            self._changed.notify_all()

    async def respond(self, request: web.Request) -> web.StreamResponse:
        """Answer a request for a token, the job's page, its snapshot or its log."""
        if self.has_expired(request.headers.get("Authorization", "").removeprefix("Bearer ")):
            return web.json_response(EXPIRED, status=401)
        if request.path == "/tokens":
            self.issued_count += 1
        if request.path.endswith("/log"):
            return await self._respond_log(request)
        live = f"{self.services.url}/live/jobs/{self.job_id}"
        bodies: dict[str, Any] = {
            "/tokens": {"token": self.issued, "expires_at": "2026-01-01T01:00:00Z"},
            f"/live/jobs/{self.job_id}": snapshot_json(self.job_id, 1),
        }
        return web.json_response(bodies.get(request.path, {"links": {"live": live}}))

    @property
    def issued(self) -> str:
        """The token that the submitter has issued last."""
        return token_for(self.job_id, record=True, number=self.issued_count)

    def has_expired(self, token: str) -> bool:
        """Return whether a token has expired."""
        numbers = range(1, self.expired_count + 1)
        return token in {token_for(self.job_id, record=True, number=number) for number in numbers}

    async def expire_tokens(self) -> None:
        """Expire the tokens that were issued so far, and end the requests and the watches with them."""
        self.expired_count = self.issued_count
        self.expired.set()
        async with self._changed:
            self._changed.notify_all()

    async def _respond_log(self, request: web.Request) -> web.StreamResponse:
        self.offsets.append(int(request.headers["Range"].removeprefix("bytes=").removesuffix("-")))
        self.authorizations.add(request.headers.get("Authorization"))
        if self.failures:
            return web.json_response({"code": "unavailable", "detail": "no"}, status=self.failures.pop(0))
        if not self.has_record:
            return web.json_response({"code": "unknown", "detail": "This job has no record."}, status=404)
        if "Prefer" in request.headers and not self.ended.is_set():
            async with self._changed:
                token = request.headers.get("Authorization", "").removeprefix("Bearer ")
                await self._changed.wait_for(
                    lambda: self.end > self.offsets[-1] or self.ended.is_set() or self.has_expired(token)
                )
                if self.has_expired(token):
                    return web.json_response(EXPIRED, status=401)
        start = max(self.offsets[-1], self.base)
        if start >= self.end:
            problem = {"code": "range", "detail": "The log has no more text."}
            return web.json_response(problem, status=416, headers={"Content-Range": f"bytes */{self.end}"})
        headers = {"Content-Range": f"bytes {start}-{self.end - 1}/*"}
        return web.Response(status=206, body=self.text[start:], headers=headers, content_type="text/plain")

    @property
    def end(self) -> int:
        """The offset after the last byte."""
        return len(self.text)

    async def watch(self, socket: web.WebSocketResponse, received: list[dict[str, Any]]) -> None:
        """Serve a watch of the job, which ends with `ended`."""
        await socket.send_json(HELLO)
        request = await socket.receive_json()
        received.append(request)
        await socket.send_json({"job": snapshot_json(self.job_id, 2)})
        if self.issued_count == 1 and self.issued == request["watch"]:
            ends = [asyncio.create_task(event.wait()) for event in (self.ended, self.expired)]
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            for end in ends:
                end.cancel()
        if self.has_expired(request["watch"]):
            error = {"job_id": str(self.job_id), "code": "token_expired", "message": "The token has expired."}
            await socket.send_json({"error": error})
            received.append(await socket.receive_json())
        await self.ended.wait()
        await socket.send_json({"job": snapshot_json(self.job_id, 3, "succeeded")})
        async for message in socket:
            received.append(message.json())  # noqa: PERF401 - visible while the socket is open

    async def end_job(self) -> None:
        """End the job, and release the held requests."""
        self.ended.set()
        async with self._changed:
            self._changed.notify_all()


def new_log(services: Services) -> FakeLog:
    """Return the log of a job that runs."""
    return FakeLog(services, uuid4())


log = pytest.fixture(new_log)


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_logs, "EMPTY_READ_DELAY_S", 0.01)


async def test_a_log_is_followed_until_the_job_has_ended(client: Client, log: FakeLog) -> None:
    """A character that is split between two responses is whole, and what is sent after the end is read, too."""
    await log.write(GREETING[:3])
    log.failures = [503]
    texts: list[str] = []

    async def follow() -> None:
        async for text in client.log(log.job_id):
            texts.append(text)  # noqa: PERF401 - visible while the log is followed

    following = asyncio.create_task(follow())
    await wait_until(lambda: texts)
    await log.write(GREETING[3:])
    await wait_until(lambda: len(texts) > 1)
    await log.write(b"last")
    await log.end_job()
    await following
    assert "".join(texts) == "Grüße\nlast"
    assert log.authorizations == {f"Bearer {log.issued}"}
    assert sorted(set(log.offsets)) == [0, 3, len(GREETING), len(GREETING) + 4]


async def test_an_expired_token_is_replaced(client: Client, log: FakeLog) -> None:
    """The client gets another one with its API key, for the log and to learn of the end, and goes on where it was."""
    await log.write(b"first ")
    texts: list[str] = []

    async def follow() -> None:
        async for text in client.log(log.job_id):
            texts.append(text)  # noqa: PERF401 - visible while the log is followed

    following = asyncio.create_task(follow())
    await wait_until(lambda: log.services.received and len(log.offsets) > 1)
    await log.expire_tokens()
    await wait_until(lambda: log.issued_count == 2 and len(log.services.received) > 1)
    await log.write(b"second")
    await wait_until(lambda: len(texts) > 1)
    await log.end_job()
    await following
    assert texts == ["first ", "second"]


async def test_an_expired_token_of_the_caller_ends_the_log(client: Client, log: FakeLog) -> None:
    """The client cannot get another one that permits the same."""
    log.issued_count = log.expired_count = 1
    with pytest.raises(InvalidToken, match="expired"):
        [text async for text in client.log(log.job_id, token=log.issued)]


async def test_a_log_is_read_from_an_offset(client: Client, log: FakeLog) -> None:
    """Without `follow` the text that is there ends the iteration; what the notifier has dropped is skipped."""
    await log.write(b"0123456789")
    log.base = 4
    assert [text async for text in client.log(log.job_id, 6, follow=False)] == ["6789"]
    assert [text async for text in client.log(log.job_id, follow=False)] == ["456789"]
    assert [text async for text in client.log(log.job_id, 99, follow=False)] == []


async def test_a_log_that_was_lost_begins_again(client: Client, log: FakeLog) -> None:
    """After Redis has lost its data, the log has fewer bytes than the client has read."""
    await log.write(b"lost")
    pieces = client.log(log.job_id)
    assert await anext(pieces) == "lost"
    log.text = b"new"
    await log.end_job()
    assert [text async for text in pieces] == ["new"]


async def test_a_log_can_be_followed_before_there_is_a_record(services: Services, client: Client, log: FakeLog) -> None:
    """The watch uses the receipt's token, which opens a job without a record; the log follows when there is one."""
    log.has_record = False
    pieces = client.log(services.receipt(log.job_id))
    first = asyncio.ensure_future(anext(pieces))
    await wait_until(lambda: len(log.offsets) > 1)
    log.has_record = True
    await log.write(b"started")
    assert await first == "started"
    assert services.received[0]["watch"] == token_for(log.job_id)
    await log.end_job()
    assert [text async for text in pieces] == []


async def test_without_a_key_the_token_of_the_receipt_is_used(services: Services, client: Client, log: FakeLog) -> None:
    """It opens the log of a kind with `log="watchers"`; for other jobs the notifier refuses it."""
    await log.write(b"for all")
    respond = services.responses[0]

    async def refuse(request: web.Request) -> web.StreamResponse:
        return await (
            respond_with(403, {"code": "forbidden", "detail": "no"}) if request.path == "/tokens" else respond
        )(request)

    services.responses = [refuse]
    receipt = services.receipt(log.job_id)
    assert [text async for text in client.log(receipt, follow=False)] == ["for all"]
    assert log.authorizations == {f"Bearer {receipt.token}"}
    log.failures = [403, 403]
    for follow in (False, True):
        with pytest.raises(RequestFailed, match="no"):
            await anext(client.log(receipt, follow=follow))
    with pytest.raises(RequestFailed):  # an id has no token of its own
        await anext(client.log(log.job_id))


async def test_an_expired_token_of_the_receipt_is_replaced(services: Services, client: Client, log: FakeLog) -> None:
    """The job is watched with the token that the API key has given."""
    rejected = {"error": {"code": "token_expired", "message": "expired", "job_id": str(log.job_id)}}

    async def reject(socket: web.WebSocketResponse, received: list[dict[str, Any]]) -> None:
        await socket.send_json(HELLO)
        received.append(await socket.receive_json())
        await socket.send_json(rejected)
        async for message in socket:
            received.append(message.json())
            if "watch" in received[-1]:
                await socket.send_json({"job": snapshot_json(log.job_id, 3, "failed")})

    services.socket_handlers = [reject]
    log.ended.set()
    assert [text async for text in client.log(services.receipt(log.job_id))] == []
    assert [message["watch"] for message in services.received if "watch" in message][1:] == [log.issued]


async def test_a_rejected_token_ends_the_log(services: Services, client: Client, log: FakeLog) -> None:
    """The error is that of the watch."""
    services.socket_handlers = [
        lambda socket, _received: socket.send_json(
            {"error": {"code": "invalid_token", "message": "no", "job_id": str(log.job_id)}}
        )
    ]
    with pytest.raises(InvalidToken):
        await anext(client.log(log.job_id))


async def test_the_sync_client_reads_a_log(services: Services, log: FakeLog) -> None:
    """Its iterator ends with the job."""
    await log.write(b"all")
    log.ended.set()

    def use() -> list[str]:
        with SyncClient(services.url, api_key="the key") as client:
            return list(client.log(log.job_id))

    assert await asyncio.to_thread(use) == ["all"]
