"""The submitter as it runs: who may submit, how often, what is the same job, what is shared, which files it serves."""

from __future__ import annotations

import asyncio
import os
import sys
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import pytest

from dev.environment import ROOT
from headway.contracts import Timestamp
from headway.tokens import Grant, TokenSigner, TokenVerifier
from tests.integration.test_one_job import history
from tests.stack import JOBS, Stack, running
from tests.waiting import free_ports, wait_until

EVIL = "https://evil.example"
ANOTHER = "b1f6a6a0-7b7e-4c7f-9d0a-3c1c5a0e6f11"  # the id of a job that nobody has submitted
Problem = dict[str, Any]


class Submitter(NamedTuple):
    """A submitter beside the one of the stack."""

    url: str
    internal: str

    async def submit(self, session: aiohttp.ClientSession, **headers: str) -> tuple[int, Problem]:
        """Submit a job; return the status and the body."""
        async with session.post(f"{self.url}/jobs", json={"kind": "echo"}, headers=headers) as response:
            return response.status, await response.json(content_type=None)


@pytest.fixture(scope="module")
async def stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    """Run the system for this module."""
    env = {"WORKER_JOBS": JOBS, "GRACE_S": "0"}
    async with running(tmp_path_factory.mktemp("submitter"), **env) as stack:
        yield stack


@asynccontextmanager
async def submitter(stack: Stack, **env: str) -> AsyncIterator[Submitter]:
    """Run another submitter, with other settings, until the block ends."""
    port, internal = map(str, free_ports(2))
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "services.submitter",
        cwd=ROOT,
        env={**os.environ, **stack.env, "SUBMITTER_PORT": port, "SUBMITTER_INTERNAL_PORT": internal, **env},
    )
    running = Submitter(f"http://127.0.0.1:{port}", f"http://127.0.0.1:{internal}")

    async def ready() -> bool:
        try:
            async with stack.session.get(f"{running.internal}/readyz") as response:
                return response.status == 200
        except aiohttp.ClientError:
            return False

    try:
        await wait_until(ready)
        yield running
    finally:
        process.terminate()
        assert await asyncio.wait_for(process.wait(), 20) == 0


async def problem(response: aiohttp.ClientResponse) -> Problem:
    """Return the problem that a response is."""
    assert response.content_type == "application/problem+json", await response.text()
    body: Problem = await response.json(content_type=None)
    assert body["status"] == response.status
    return body


def changed(stack: Stack, token: str, **claims: Any) -> str:
    """Return a token like another one, but for what is changed."""
    granted = verified(stack, token)
    fields = {name: getattr(granted, name) for name in granted.__struct_fields__}
    return TokenSigner((stack.folder / "keys" / "token.pem").read_text()).sign(Grant(**fields | claims))


def verified(stack: Stack, token: str) -> Grant:
    """Return what a token grants."""
    return TokenVerifier((stack.folder / "keys" / "token.pub.pem").read_text()).verify(token)


async def test_one_key_is_one_job_that_runs_once(stack: Stack) -> None:
    """Twenty submissions at once with one key are one job, whose handler starts once; another body is another job."""

    async def submit(payload: Any) -> dict[str, Any]:
        body, headers = {"kind": "count-calls", "payload": payload}, {"Idempotency-Key": "order 4711"}
        async with stack.session.post(f"{stack.url}/jobs", json=body, headers=headers) as response:
            assert response.status == 202
            receipt: dict[str, Any] = await response.json()
            return receipt

    async def all_delivered() -> bool:
        async with stack.session.get(f"http://127.0.0.1:{stack.env['WORKER_INTERNAL_PORT']}/metrics") as response:
            lines = (await response.text()).splitlines()
        counts = [line for line in lines if line.startswith('jobs_finished_total{kind="count-calls"')]
        return sum(float(line.split()[-1]) for line in counts) == len(receipts)

    receipts = await asyncio.gather(*(submit({"a": 1, "b": 2}) for _ in range(20)))
    receipts.append(await submit({"b": 2, "a": 1}))
    assert len({receipt["id"] for receipt in receipts}) == 1
    (calls,) = {(await history(stack, receipt["token"]))[-1]["result"] for receipt in receipts}
    await wait_until(all_delivered)
    other = await submit({"a": 1, "b": 3})
    assert other["id"] != receipts[0]["id"]
    assert (await history(stack, other["token"]))[-1]["result"] == calls + 1


async def test_a_form_has_keys_and_numbers_too(stack: Stack) -> None:
    """A form's key and fields mean the same as JSON's."""
    url, headers = f"{stack.url}/jobs", {"Origin": stack.url, "Idempotency-Key": str(uuid.uuid4())}
    form = {"kind": "echo", "payload": "[1.0]", "delay_s": "3600", "max_attempts": "2"}
    async with stack.session.post(url, data=form, headers=headers, allow_redirects=False) as response:
        assert response.status == 303
        path, token = response.headers["Location"].split("#")
    body = {"kind": "echo", "payload": [1.0], "delay_s": 3600, "max_attempts": 2}
    async with stack.session.post(url, json=body, headers=headers) as response:
        assert (await response.json())["id"] == path.removeprefix("/jobs/")
    snapshot = await stack.snapshot(path.removeprefix("/jobs/"), token)
    assert Timestamp.parse(snapshot["due_at"]) - Timestamp.parse(snapshot["submitted_at"]) == 3_600_000


async def test_a_shared_token_may_watch_and_nothing_else(stack: Stack) -> None:
    """It is for the same job and time; it watches, does not cancel, and can be shared on."""
    receipt = await stack.submit("echo", delay_s=3600)
    token, shared = receipt["token"], None
    for _ in range(2):
        headers = {"Authorization": f"Bearer {shared or token}", "Content-Type": "application/json; charset=utf-8"}
        url = f"{stack.url}/jobs/{receipt['id']}/token"
        async with stack.session.post(url, data=b'{"scope": "watch"}', headers=headers) as response:
            assert (response.status, response.headers["Cache-Control"]) == (200, "no-store")
            answer = await response.json()
        shared = answer["token"]
        assert (answer["id"], answer["scope"]) == (receipt["id"], "watch")
        links = {name: link.replace(token, shared) for name, link in receipt["links"].items() if name != "cancel"}
        assert answer["links"] == links
    assert shared == changed(stack, token, scope=frozenset({"watch"}))
    assert (await stack.snapshot(receipt["id"], shared))["status"] == "queued"
    async with stack.session.post(
        receipt["links"]["cancel"], headers={"Authorization": f"Bearer {shared}"}
    ) as response:
        assert response.status == 403


@pytest.mark.parametrize(
    ("status", "code", "field", "sent"),
    [
        (401, "unauthorized", None, {"token": None}),
        (401, "invalid_token", None, {"token": "a.b.c"}),
        (401, "token_expired", None, {"claims": {"expires_at": Timestamp.at(0)}}),
        (401, "invalid_token", None, {"claims": {"scope": frozenset({"cancel"})}}),
        (403, "forbidden", None, {"id": ANOTHER}),
        (404, "not_found", "id", {"id": "no-uuid"}),
        (400, "malformed", None, {"body": b"scope=watch"}),
        (413, "too_large", None, {"body": b"x" * 1025}),
        (415, "unsupported_media_type", None, {"type": "text/plain"}),
        (422, "invalid", "scope", {"body": b"{}"}),
        (422, "invalid", "scope", {"body": b'{"scope":"watch cancel"}'}),
        (422, "invalid", "scope", {"body": b'{"scope":["watch"]}'}),
        (422, "invalid", "ttl", {"body": b'{"scope":"watch","ttl":1}'}),
    ],
    ids=str,
)
async def test_what_shares_nothing_is_a_problem(
    stack: Stack, status: int, code: str, field: str | None, sent: dict[str, Any]
) -> None:
    """Each wrong token, path and body is told apart."""
    receipt = await stack.submit("echo", delay_s=3600)
    token = sent.get("token", changed(stack, receipt["token"], **sent.get("claims", {})))
    headers = {"Content-Type": sent.get("type", "application/json")}
    headers |= {} if token is None else {"Authorization": f"Bearer {token}"}
    url, body = f"{stack.url}/jobs/{sent.get('id', receipt['id'])}/token", sent.get("body", b'{"scope":"watch"}')
    async with stack.session.post(url, data=body, headers=headers) as response:
        told = await problem(response)
    assert (told["status"], told["code"], told.get("field")) == (status, code, field)


async def test_a_program_learns_the_links_of_a_page(stack: Stack) -> None:
    """At a page's address, whoever takes JSON and no HTML gets the links; everyone else gets the page."""
    receipt = await stack.submit("echo", delay_s=3600)
    url = f"{stack.url}/jobs/{receipt['id']}"
    links = {**receipt["links"], "page": url}
    async with stack.session.get(url, headers={"Accept": "application/json"}) as response:
        assert "Accept" in response.headers.getall("Vary")
        assert await response.json() == {"id": receipt["id"], "links": links}
    for accept in ("*/*", "text/html,application/xhtml+xml", "application/json, text/html"):
        async with stack.session.get(url, headers={"Accept": accept}) as response:
            assert (response.status, response.content_type) == (200, "text/html")
            assert "Accept" in response.headers.getall("Vary")
    async with stack.session.get(f"{stack.url}/jobs/no-uuid", headers={"Accept": "application/json"}) as response:
        assert (await problem(response))["field"] == "id"


@pytest.mark.parametrize("encoding", ["gzip", "identity"])
@pytest.mark.parametrize("path", ["/assets/headway.js", "/assets/live-url.js", "/assets/style.css", "/", "/jobs/x"])
async def test_a_file_that_has_not_changed_is_not_sent_again(stack: Stack, path: str, encoding: str) -> None:
    """Stable URLs are asked for each time, and answered 304 by the tag of either encoding, or any."""
    headers = {"Accept-Encoding": encoding}
    async with stack.session.get(stack.url + path, headers=headers) as response:
        assert (response.status, response.headers["Cache-Control"]) == (200, "no-cache")
        assert response.headers.get("Content-Encoding", "identity") == encoding
        tag = response.headers["ETag"]
    assert not tag.startswith("W/")
    for known, status in ((tag, 304), (f'"other", {tag}', 304), ("*", 304), ('"other"', 200)):
        async with stack.session.get(stack.url + path, headers={**headers, "If-None-Match": known}) as response:
            assert (response.status, response.headers["ETag"]) == (status, tag)
            assert "Accept-Encoding" in response.headers.getall("Vary")


async def test_the_client_s_files_stay_together_for_a_year(stack: Stack) -> None:
    """Below the digest of all files each one stays as it is; under another digest there is none."""
    async with stack.session.get(f"{stack.url}/assets/headway.js") as response:
        pinned, text = stack.url + response.headers["Content-Location"], await response.text()
    async with stack.session.get(pinned) as response:
        assert response.headers["Cache-Control"] == "public, max-age=31536000, immutable"
        assert await response.text() == text
    async with stack.session.get(pinned.replace("headway.js", "live-url.js")) as response:
        assert stack.env["LIVE_URL"] in await response.text()
    wrong = ("/assets/0123456789abcdef/headway.js", "/assets/job.html", "/assets/..%2fapi.py", "/assets/nothing.js")
    for path in (*wrong, pinned.removeprefix(stack.url).replace("headway.js", "index.html")):
        async with stack.session.get(stack.url + path) as response:
            assert (await problem(response))["code"] == "not_found", path


async def test_any_page_loads_the_client_but_submits_nothing(stack: Stack) -> None:
    """The files that pages load are for all origins; everything else is refused to a foreign one."""
    foreign = {"Origin": EVIL}
    async with stack.session.get(f"{stack.url}/assets/headway.js", headers=foreign) as response:
        assert response.headers["Access-Control-Allow-Origin"] == "*"
        assert response.headers["Cross-Origin-Resource-Policy"] == "cross-origin"
        pinned = response.headers["Content-Location"]
    async with stack.session.get(stack.url + pinned, headers=foreign) as response:
        assert (response.status, response.headers["Access-Control-Allow-Origin"]) == (200, "*")
    asked = [("GET", "/"), ("GET", "/jobs/x"), ("POST", "/jobs"), ("POST", "/jobs/x/token"), ("GET", "/openapi.yaml")]
    for (method, path), origin in [(one, origin) for one in asked for origin in (EVIL, "null")]:
        async with stack.session.request(method, stack.url + path, headers={"Origin": origin}) as response:
            assert (await problem(response))["code"] == "origin_not_allowed"
            assert "Access-Control-Allow-Origin" not in response.headers


@pytest.mark.parametrize("path", ["/jobs", f"/jobs/{ANOTHER}/token"])
async def test_an_allowed_page_may_ask(stack: Stack, path: str) -> None:
    """A preflight lets an allowed page send its headers, and its answers can be read."""
    own = {"Origin": stack.url}
    asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "idempotency-key"}
    async with stack.session.options(stack.url + path, headers={**own, **asked}) as response:
        assert (response.status, response.headers["Access-Control-Allow-Origin"]) == (204, stack.url)
        assert "POST" in response.headers["Access-Control-Allow-Methods"]
        assert "Idempotency-Key" in response.headers["Access-Control-Allow-Headers"]
    async with stack.session.post(stack.url + path, headers=own) as response:
        assert response.headers["Access-Control-Allow-Origin"] == stack.url


async def test_keys_are_read_again_when_their_file_changes(stack: Stack, tmp_path: Path) -> None:
    """Any of the keys submits, a new one without a restart; without one, or with a wrong one, nobody does."""
    keys = tmp_path / "keys"
    keys.write_text("first\nsecond\n")
    async with submitter(stack, SUBMITTER_OPEN="", SUBMITTER_API_KEYS=str(keys)) as one:
        url, session = f"{one.url}/jobs", stack.session
        for sent in ({}, {"Authorization": "Bearer third"}, {"Authorization": "Basic Zmlyc3Q6"}):
            async with session.post(url, json={"kind": "echo"}, headers=sent) as response:
                assert response.headers["WWW-Authenticate"] == "Bearer"
                assert (await problem(response))["code"] == "unauthorized"
        status, first = await one.submit(session, **{"Authorization": "Bearer first", "Idempotency-Key": "k"})
        assert status == 202
        status, second = await one.submit(session, **{"Authorization": "Bearer second", "Idempotency-Key": "k"})
        assert (status, first["id"] == second["id"]) == (202, False)
        keys.write_text("third\n")
        assert (await one.submit(session, Authorization="Bearer third"))[0] == 202
        assert (await one.submit(session, Authorization="Bearer first"))[0] == 401


async def test_a_caller_is_held_to_its_rate(stack: Stack, tmp_path: Path) -> None:
    """Each key has a burst of its own, and so has an address that presents none; then it is told when to come again."""
    (tmp_path / "keys").write_text("first\nsecond\n")
    limits = {"SUBMIT_RATE": "0.01", "SUBMIT_BURST": "2", "FORWARDED_HOPS": "1"}
    async with submitter(stack, SUBMITTER_OPEN="", SUBMITTER_API_KEYS=str(tmp_path / "keys"), **limits) as one:
        for key, status in (("first", 202), ("second", 202), ("wrong", 401)):
            answers = [(await one.submit(stack.session, Authorization=f"Bearer {key}"))[0] for _ in range(3)]
            assert answers == [status, status, 429]
        elsewhere = {"X-Forwarded-For": "198.51.100.7", "Authorization": "Bearer wrong"}
        assert (await one.submit(stack.session, **elsewhere))[0] == 401
        first = {"Authorization": "Bearer first"}
        async with stack.session.post(f"{one.url}/jobs", json={"kind": "echo"}, headers=first) as response:
            assert 0 < int(response.headers["Retry-After"]) <= 100
            assert (await problem(response))["code"] == "too_many_requests"
        async with stack.session.get(f"{one.internal}/metrics") as response:
            assert 'jobs_submitted_total{outcome="limited"} 4.0' in await response.text()


async def test_without_public_keys_the_own_key_verifies(stack: Stack) -> None:
    """A submitter that is not given the notifier's public keys knows the tokens that it has signed."""
    receipt = await stack.submit("echo", delay_s=3600)
    headers = {"Authorization": f"Bearer {receipt['token']}"}
    async with submitter(stack, TOKEN_PUBLIC_KEY_FILE="") as one:
        url = f"{one.url}/jobs/{receipt['id']}/token"
        async with stack.session.post(url, json={"scope": "watch"}, headers=headers) as response:
            assert (await response.json())["scope"] == "watch"
