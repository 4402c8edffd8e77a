"""Logs of jobs over every transport of a real notifier; the tests play the worker and the clients."""

from __future__ import annotations

import asyncio
import json
from contextlib import aclosing

import pytest

from tests.integration.conftest import ORIGIN, Notifier
from tests.integration.event_stream import Event, read_events
from tests.integration.log_clients import Answer, LoggingJob, follow_polls, follow_socket, follow_stream, next_log
from tests.waiting import wait_until

HOSTILE = "\0\x1b[31mred\x1b[0m</script>é\r\n"


@pytest.fixture
async def job(notifier: Notifier) -> LoggingJob:
    """Return a running job that has logged nothing."""
    job = LoggingJob(notifier)
    await job.report()
    return job


def problem(answer: Answer) -> tuple[int, str, str | None]:
    """Return the status, the code and the field of an error."""
    body = json.loads(answer.body)
    return answer.status, body["code"], body.get("field")


async def test_a_log_is_read_from_any_offset(job: LoggingJob) -> None:
    """Its bytes are sent unchanged, as a text that no browser takes for a page."""
    assert (await job.get()).status == 200
    assert problem(await job.get(0)) == (416, "range_not_satisfiable", "Range")
    await job.write(HOSTILE)
    await job.write("second\n")
    whole = await job.get()
    assert (whole.status, whole.body) == (200, job.data)
    assert whole.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert (whole.headers["X-Content-Type-Options"], whole.headers["Cache-Control"]) == ("nosniff", "no-store")
    rest = await job.get(len(job.data) - 7)
    assert (rest.status, rest.body) == (206, b"second\n")
    assert rest.headers["Content-Range"] == f"bytes {len(job.data) - 7}-{len(job.data) - 1}/*"
    for offset in (len(job.data), len(job.data) + 1, 10**15):
        beyond = await job.get(offset)
        assert problem(beyond) == (416, "range_not_satisfiable", "Range")
        assert beyond.headers["Content-Range"] == f"bytes */{len(job.data)}"
    for ignored in ("bytes=-5", "bytes=1-3", "lines=2-", "bytes=x-", "bytes=1-,3-"):
        assert (await job.get(ignored)).status == 200


async def test_a_long_poll_waits_for_more(job: LoggingJob) -> None:
    """From the end of the log; at the end of the wait it gets 204. Beyond the end it gets 416 at once."""
    await job.write("first\n")
    waiting = asyncio.create_task(job.get(6, wait_s=30))
    await wait_until(lambda: job.notifier.metric("notifier_log_subscriptions"))
    await job.write("second\n")
    more = await waiting
    assert (more.status, more.body, more.headers["Content-Range"]) == (206, b"second\n", "bytes 6-12/*")
    assert more.headers["Preference-Applied"] == "wait=30"
    nothing = await job.get(13, wait_s=1)
    assert (nothing.status, nothing.headers["Content-Range"]) == (204, "bytes */13")
    assert (await job.get(14, wait_s=30)).status == 416
    assert (await job.get(0, wait_s=30)).status == 206
    assert await job.notifier.metric("notifier_log_subscriptions") == 0


async def test_a_log_whose_beginning_is_gone(job: LoggingJob) -> None:
    """The response says where the text begins, and so does the piece on a socket."""
    for number in range(4):
        await job.write(f"{number} a line\n" * 2_000)
    response = await job.get(5)
    text = response.body
    base = len(job.data) - len(text)
    assert base > 5
    assert job.data[base:] == text
    assert response.headers["Content-Range"] == f"bytes {base}-{len(job.data) - 1}/*"
    async with job.notifier.socket() as socket:
        await socket.send_json({"watch": job.token(), "log": 5})
        piece = await next_log(socket)
        assert (piece["from"], piece["to"], piece["text"].encode()) == (base, len(job.data), text)


async def test_an_erased_log_is_empty(job: LoggingJob) -> None:
    """Its end stays, from which it goes on if the job does."""
    await job.write("Dear Ann\n")
    await job.report(status="failed")
    url, headers = f"{job.notifier.internal}/jobs/{job.id}", {"Authorization": f"Bearer {job.notifier.report_key}"}
    async with job.notifier.session.delete(url, headers=headers) as response:
        assert response.status == 204
    assert (await job.get())[::2] == (200, b"")
    for offset in (0, 5, 9):
        answer = await job.get(offset)
        assert (answer.status, answer.headers["Content-Range"]) == (416, "bytes */9")


async def test_the_log_is_closed_to_watchers(job: LoggingJob) -> None:
    """Unless the kind opens it: without the scope `details` every transport refuses it, and goes on with the job."""
    watcher, operator = job.token("watch cancel"), job.token("watch details")
    assert (await job.get(token=watcher)).status == 200  # there is nothing to hide yet
    url, session = job.notifier.public, job.notifier.session
    async with job.notifier.socket() as socket, job.notifier.socket() as early:
        await early.send_json({"watch": watcher, "log": 0})
        await early.receive_json()
        await job.write("secret\n")
        await socket.send_json({"watch": watcher, "log": 0})
        for each in (socket, early):
            messages = [await each.receive_json() for _ in range(2 if each is socket else 1)]
            (error,) = [message["error"] for message in messages if "error" in message]
            assert (error["code"], error["job_id"], error["log"]) == ("forbidden", job.id, True)
        await job.report(progress={"current": 1})
        assert (await socket.receive_json())["job"]["progress"]["current"] == 1
    assert problem(await job.get(token=watcher)) == (403, "forbidden", None)
    assert (await job.get(token=operator)).status == 200
    async with session.get(f"{url}/live/jobs/{job.id}/events?log=0&access_token={watcher}") as response:
        assert (response.status, (await response.json(content_type=None))["code"]) == (403, "forbidden")
    async with session.post(f"{url}/live/jobs", json={"watch": [{"watch": watcher, "log": 0}]}) as response:
        body = await response.json()
        assert ([error["code"] for error in body["errors"]], body["logs"]) == (["forbidden"], [])
        assert len(body["jobs"]) == 1
    opened = LoggingJob(job.notifier)
    await opened.report()
    await opened.write("for all\n", watchers=True)
    assert (await opened.get(token=opened.token("watch"))).body == b"for all\n"


async def test_a_list_token_opens_only_logs_that_match(job: LoggingJob) -> None:
    """The record is checked before anything is sent, stored or live."""
    mine = LoggingJob(job.notifier)
    await mine.report(labels={"owner": "anna"})
    await mine.write("mine\n")
    await job.write("not hers\n")
    token = mine.list_token("anna")
    assert (await mine.get(token=token)).body == b"mine\n"
    assert problem(await job.get(token=token)) == (403, "forbidden", None)
    async with job.notifier.socket() as socket:
        for each in (job, mine):
            await socket.send_json({"watch": token, "job_id": each.id, "log": 0})
        messages = [await socket.receive_json() for _ in range(3)]
        assert {message["error"]["job_id"] for message in messages if "error" in message} == {job.id}
        assert [message["log"]["text"] for message in messages if "log" in message] == ["mine\n"]
        await mine.write("live\n")
        await job.write("not hers\n")
        assert (await next_log(socket))["text"] == "live\n"


async def test_every_client_gets_each_byte_once(job: LoggingJob) -> None:
    """Over sockets, streams and polls that join early, late, and again with their offset, while the job logs."""
    lines = [f"{number} {HOSTILE}" for number in range(40)]
    size, clients = len("".join(lines).encode()), list[asyncio.Task[str]]()
    for number, line in enumerate(lines):
        if number % 8 == 0:
            ends = (number * 10 + 50, 500, size)  # where the client closes its connection and opens another
            clients += [asyncio.create_task(follow(job, *ends)) for follow in (follow_socket, follow_stream)]
        if number == 20:
            clients.append(asyncio.create_task(follow_polls(job, size)))
        await job.write(line)
    assert await asyncio.gather(*clients) == ["".join(lines)] * len(clients)


async def test_a_stream_outlives_its_job_for_the_rest_of_the_log(job: LoggingJob) -> None:
    """It ends shortly after the job; with the last id the client gets 204, and with an earlier one what it lacks."""
    url, session, headers = job.notifier.public, job.notifier.session, {"Authorization": f"Bearer {job.token()}"}
    events: list[Event] = []
    await job.write("first\n")
    async with (
        session.get(f"{url}/live/jobs/{job.id}/events?log=0", headers=headers) as response,
        aclosing(read_events(response)) as stream,
    ):
        async for event in stream:
            events.append(event)
            if event.name == "log" and event.data["to"] == 6:
                await job.report(status="failed", error={"type": "Fail", "message": "x"})
                await job.write("last\n")
    assert "".join(event.data["text"] for event in events if event.name == "log") == "first\nlast\n"
    last_id = events[-1].id or ""
    assert last_id.endswith(".11")
    for seen, status in ((last_id, 204), (last_id.removesuffix("11") + "6", 200)):
        async with session.get(
            f"{url}/live/jobs/{job.id}/events?log=0", headers={**headers, "Last-Event-ID": seen}
        ) as response:
            assert response.status == status
            if status == 200:
                async with aclosing(read_events(response)) as stream:
                    assert await anext(event.data["text"] async for event in stream if event.name == "log") == "last\n"


@pytest.mark.parametrize("offset", ["-1", "x", "1.5", str(2**53), "9" * 17, ""])
async def test_an_invalid_offset_is_refused(job: LoggingJob, offset: str) -> None:
    """In the query of a stream with the field, and in a message on a socket."""
    url = f"{job.notifier.public}/live/jobs/{job.id}/events?log={offset}&access_token={job.token()}"
    async with job.notifier.session.get(url) as response:
        assert problem(Answer(response.status, response.headers, await response.read())) == (422, "invalid", "log")
    async with job.notifier.socket() as socket:
        await socket.send_json({"watch": job.token(), "log": offset})
        assert (await socket.receive_json())["error"]["code"] == "invalid"
        await socket.send_json({"unwatch": job.id, "log": 0})
        assert "log" in (await socket.receive_json())["error"]["message"]


async def test_watching_again_without_an_offset_ends_the_log(job: LoggingJob) -> None:
    """The new token may not open it. An offset beyond the end of the log starts from its beginning."""
    await job.write("first\n")
    async with job.notifier.socket() as socket:
        await socket.send_json({"watch": job.token(), "log": 10**9})
        assert (await next_log(socket))["text"] == "first\n"
        await socket.send_json({"watch": job.token("watch")})
        await wait_until(lambda: _has_no_log_subscription(job))
        await job.write("second\n")
        await job.report(progress={"current": 5})
        while (await socket.receive_json())["job"]["progress"] is None:
            pass


async def _has_no_log_subscription(job: LoggingJob) -> bool:
    return await job.notifier.metric("notifier_log_subscriptions") == 0


async def test_pages_of_allowed_origins_may_request_ranges(job: LoggingJob) -> None:
    """The preflight permits the header, and scripts may read where the text begins."""
    url = f"{job.notifier.public}/live/jobs/{job.id}/log"
    headers = {"Origin": ORIGIN, "Access-Control-Request-Method": "GET", "Access-Control-Request-Headers": "range"}
    async with job.notifier.session.options(url, headers=headers) as response:
        assert "Range" in response.headers["Access-Control-Allow-Headers"]
        assert "Content-Range" in response.headers["Access-Control-Expose-Headers"]
