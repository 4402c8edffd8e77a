"""Refused tokens over real connections: they are counted and limited, and a removed key ends what it had allowed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path

import aiohttp
import pytest

from headway.tokens import TokenSigner, make_keys
from tests.integration.conftest import ORIGIN, Notifier, new_id, report, running_notifier
from tests.integration.event_stream import Event, read_events
from tests.integration.test_limits import unaffected_watcher, wait_for_close
from tests.key_files import replace_file
from tests.waiting import PATIENCE_S, wait_until

MAX_FORGED = 21  # the last one ends the connection or request


@pytest.fixture(scope="module")
async def keys_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder for the notifier's keys."""
    return tmp_path_factory.mktemp("keys")


@pytest.fixture(scope="module")
async def notifier(stores: dict[str, str], keys_dir: Path) -> AsyncIterator[Notifier]:
    """Run a notifier whose keys this module changes."""
    async with running_notifier(stores, keys_dir) as notifier:
        yield notifier


def forged(notifier: Notifier, job_id: str) -> str:
    """Return a token with an invalid signature."""
    return f"{notifier.token(job_id)[:-20]}{'A' * 20}"


async def refusals(notifier: Notifier, code: str, origin: str | None = None) -> float:
    """Return how many tokens were refused with a code, of one origin or of all."""
    origin_label = "" if origin is None else f',origin="{origin}"'
    return await notifier.metric(f'notifier_watch_refused_total{{code="{code}"{origin_label}}}')


async def closed(notifier: Notifier, transport: str, code: int) -> float:
    """Return how many connections of a transport were closed with a code."""
    return await notifier.metric(f'notifier_connections_closed_total{{code="{code}",transport="{transport}"}}')


async def test_refused_tokens_are_counted_on_every_transport(notifier: Notifier) -> None:
    """Each watch and cancellation that is refused raises the counter of its code and its page's origin by one."""
    job_id, page = new_id(), {"Origin": ORIGIN}
    for code, token in (
        ("invalid_token", forged(notifier, job_id)),
        ("token_expired", notifier.token(job_id, ttl_s=-3600)),
        ("forbidden", notifier.token(new_id())),
    ):
        before, sent = await refusals(notifier, code, ORIGIN), 3
        for method, path in (("GET", ""), ("GET", "/events"), ("POST", "/cancel")):
            headers = {"Authorization": f"Bearer {token}", **page}
            url = f"{notifier.public}/live/jobs/{job_id}{path}"
            async with notifier.session.request(method, url, headers=headers) as response:
                assert (await response.json())["code"] == code
        if code != "forbidden":
            for path in ("/live/jobs", "/live/events"):
                body = {"watch": [token, {"watch": token, "version": 1}]}
                async with notifier.session.post(notifier.public + path, json=body, headers=page) as response:
                    assert (response.status, (await response.json())["code"]) == (401, code)
            url = f"{notifier.public}/live?access_token={token}"
            async with notifier.session.ws_connect(url, headers=page) as socket:
                await socket.send_json({"watch": token})
                messages = [await socket.receive_json(timeout=PATIENCE_S) for _ in range(3)]
                assert [message["error"]["code"] for message in messages[1:]] == [code] * 2
            sent += 6
        assert await refusals(notifier, code, ORIGIN) == before + sent


async def test_forged_tokens_are_limited(notifier: Notifier) -> None:
    """A socket that sends them is closed, and a request with a thousand is refused before most are verified."""
    token, valid = forged(notifier, new_id()), notifier.token(new_id())
    before = await refusals(notifier, "invalid_token")
    async with unaffected_watcher(notifier):
        async with notifier.socket() as socket:
            for _ in range(200):
                await socket.send_json({"watch": token})
            assert await wait_for_close(socket) == 1008
        for path in ("/live/jobs", "/live/events"):
            body = {"watch": [valid, *[token] * 1_000]}
            async with notifier.session.post(notifier.public + path, json=body) as response:
                assert (response.status, (await response.json())["code"]) == (401, "invalid_token")
    assert await refusals(notifier, "invalid_token") == before + 3 * MAX_FORGED
    assert notifier.log.read_text().count("token_rejected") < 30 + MAX_FORGED


@pytest.mark.parametrize("path", ["/live/jobs", "/live/events"])
async def test_one_job_too_many_does_not_refuse_the_others(notifier: Notifier, path: str) -> None:
    """Of 1,001 jobs and a bad token in one request, 1,000 are served; the others get an error each."""
    ids = [new_id() for _ in range(1_001)]
    body = {"watch": ["a.b.c", *map(notifier.token, ids)]}
    async with notifier.session.post(notifier.public + path, json=body) as response:
        assert response.status == 200
        if path == "/live/jobs":
            answer = await response.json()
            jobs, errors = answer["jobs"], answer["errors"]
        else:
            async with aclosing(read_events(response)) as stream:
                events = [event async for event in _first(stream, 1_003)]
            jobs = [event.data for event in events if event.name == "job"]
            errors = [event.data for event in events if event.name == "error"]
    assert {job["id"] for job in jobs} == set(ids[:-1])
    assert [(error["code"], error.get("job_id")) for error in errors] == [
        ("invalid_token", None),
        ("too_many_watches", ids[-1]),
    ]


async def _first(stream: AsyncIterator[Event], count: int) -> AsyncIterator[Event]:
    for _ in range(count):
        yield await anext(stream)


async def _poll(notifier: Notifier, method: str, path: str, **request: object) -> tuple[int, str]:
    """Send a request that waits; return the status, and the code of its error."""
    headers = {"Prefer": "wait=60", "If-None-Match": '"0"', "Authorization": str(request.pop("token", ""))}
    async with notifier.session.request(method, notifier.public + path, headers=headers, **request) as response:  # type: ignore[arg-type]
        answer = await response.json()
        return response.status, answer["code"] if "code" in answer else answer["errors"][0]["code"]


async def _stream(notifier: Notifier, method: str, path: str, **request: object) -> list[str]:
    """Read a stream to its end; return the codes of its errors."""
    headers = {"Authorization": str(request.pop("token", ""))}
    async with notifier.session.request(method, notifier.public + path, headers=headers, **request) as response:  # type: ignore[arg-type]
        return [event.data["code"] async for event in read_events(response) if event.name == "error"]


async def test_a_removed_key_ends_what_it_had_allowed(notifier: Notifier, keys_dir: Path) -> None:
    """Open watches and waiting requests of every transport end with an error, and a cancellation is refused."""
    make_keys(keys_dir / "new")
    new = replace(notifier, signer=TokenSigner((keys_dir / "new/token.pem").read_text()))
    public_keys = keys_dir / "token.pub.pem"
    old_key, new_key = public_keys.read_text(), (keys_dir / "new/token.pub.pem").read_text()
    job_id, kept_id = new_id(), new_id()
    token, bearer = notifier.token(job_id), f"Bearer {notifier.token(job_id)}"
    sse_closed, poll_closed = await closed(notifier, "sse", 1000), await closed(notifier, "poll", 1000)
    replace_file(public_keys, old_key + new_key)
    async with notifier.socket() as socket, asyncio.TaskGroup() as tasks:
        body = {"watch": [{"watch": token, "version": 0}]}
        ended: list[asyncio.Task[object]] = [
            tasks.create_task(_poll(notifier, "GET", f"/live/jobs/{job_id}", token=bearer)),
            tasks.create_task(_poll(notifier, "POST", "/live/jobs", json=body)),
            tasks.create_task(_stream(notifier, "GET", f"/live/jobs/{job_id}/events", token=bearer)),
            tasks.create_task(_stream(notifier, "POST", "/live/events", json=body)),
        ]
        for each in (token, new.token(kept_id)):
            await socket.send_json({"watch": each})
            assert (await socket.receive_json(timeout=PATIENCE_S))["job"]["version"] == 0
        await wait_until(lambda: _has_subscriptions(notifier, 6))
        replace_file(public_keys, new_key)
        error = (await socket.receive_json(timeout=PATIENCE_S))["error"]
        assert (error["code"], error["job_id"]) == ("invalid_token", job_id)
        await socket.send_json({"cancel": job_id})
        assert (await socket.receive_json(timeout=PATIENCE_S))["error"]["code"] == "not_watched"
        await notifier.report(report(kept_id, 1))
        assert (await socket.receive_json(timeout=PATIENCE_S))["job"]["id"] == kept_id
    invalid = "invalid_token"
    assert [task.result() for task in ended] == [(401, invalid), (200, invalid), [invalid], [invalid]]
    assert await closed(notifier, "sse", 1000) == sse_closed + 2
    assert await closed(notifier, "poll", 1000) == poll_closed + 2
    replace_file(public_keys, old_key)


async def _has_subscriptions(notifier: Notifier, count: int) -> bool:
    return await notifier.metric("notifier_subscriptions") == count


async def test_a_stream_has_a_close_code(notifier: Notifier) -> None:
    """It tells a stream whose jobs have ended from a client that has left."""
    left_id, ended_id = new_id(), new_id()
    url = f"{notifier.public}/live/jobs/{{}}/events?access_token={{}}"
    await wait_until(lambda: _has_subscriptions(notifier, 0))
    left, ended = await closed(notifier, "sse", 1006), await closed(notifier, "sse", 1000)
    async with (
        aiohttp.ClientSession() as leaving,
        leaving.get(url.format(left_id, notifier.token(left_id))),
    ):
        await wait_until(lambda: _has_subscriptions(notifier, 1))
    await wait_until(lambda: _has_subscriptions(notifier, 0))
    await notifier.report(report(ended_id, 1, status="succeeded"))
    async with notifier.session.get(url.format(ended_id, notifier.token(ended_id))) as response:
        assert b"succeeded" in await response.read()
    await wait_until(lambda: _has_subscriptions(notifier, 0))
    assert (await closed(notifier, "sse", 1006), await closed(notifier, "sse", 1000)) == (left + 1, ended + 1)
