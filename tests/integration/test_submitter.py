"""The submitter: API keys, rate limits, idempotency keys, watch tokens, origins, and the files that it serves."""

from __future__ import annotations

import asyncio
import itertools
import os
import sys
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import pytest

from dev.environment import ROOT
from headway.contracts import Timestamp
from headway.tokens import Grant, TokenSigner, TokenVerifier
from tests.documents import Document
from tests.integration.test_one_job import history
from tests.stack import JOBS, Stack, running
from tests.waiting import PATIENCE_S, free_ports, is_ready, wait_until

FOREIGN_ORIGIN = "https://evil.example"
UNKNOWN_ID = "b1f6a6a0-7b7e-4c7f-9d0a-3c1c5a0e6f11"  # of a job that was never submitted
Problem = dict[str, Any]


class Submitter(NamedTuple):
    """The URLs of a submitter that a test runs with its own settings."""

    url: str
    internal: str

    async def submit(self, session: aiohttp.ClientSession, **headers: str) -> tuple[int, Problem]:
        """Submit a job; return the status and the body of the response."""
        async with session.post(f"{self.url}/jobs", json={"kind": "echo"}, headers=headers) as response:
            return response.status, await response.json(content_type=None)


@pytest.fixture(scope="module")
async def stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    """Run the system for this module."""
    env = {"WORKER_JOBS": JOBS, "GRACE_S": "0"}
    async with running(tmp_path_factory.mktemp("submitter"), **env) as stack:
        yield stack


@asynccontextmanager
async def running_submitter(stack: Stack, **env: str) -> AsyncIterator[Submitter]:
    """Run another submitter with other settings until the block ends."""
    port, internal = map(str, free_ports(2))
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "services.submitter",
        cwd=ROOT,
        env={**os.environ, **stack.env, "SUBMITTER_PORT": port, "SUBMITTER_INTERNAL_PORT": internal, **env},
    )
    submitter = Submitter(f"http://127.0.0.1:{port}", f"http://127.0.0.1:{internal}")

    try:
        await wait_until(lambda: is_ready(stack.session, f"{submitter.internal}/readyz"))
        yield submitter
    finally:
        process.terminate()
        assert await asyncio.wait_for(process.wait(), PATIENCE_S) == 0


async def read_problem(response: aiohttp.ClientResponse) -> Problem:
    """Return the body of an error response, which must be problem+json with the status of the response."""
    assert response.content_type == "application/problem+json", await response.text()
    body: Problem = await response.json(content_type=None)
    assert body["status"] == response.status
    return body


def changed_token(stack: Stack, token: str, **claims: Any) -> str:
    """Return a copy of a token with some claims replaced."""
    grant = verify(stack, token)
    fields = {name: getattr(grant, name) for name in grant.__struct_fields__}
    return TokenSigner((stack.folder / "keys" / "token.pem").read_text()).sign(Grant(**fields | claims))


def verify(stack: Stack, token: str) -> Grant:
    """Verify a token and return its grant."""
    return TokenVerifier((stack.folder / "keys" / "token.pub.pem").read_text()).verify(token)


async def test_same_idempotency_key_is_one_job(stack: Stack) -> None:
    """Submissions with the same key and body are one job, whose handler starts once; another body is another job."""

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
    (number_of_calls,) = {(await history(stack, receipt["token"]))[-1]["result"] for receipt in receipts}
    await wait_until(all_delivered)
    other_job = await submit({"a": 1, "b": 3})
    assert other_job["id"] != receipts[0]["id"]
    assert (await history(stack, other_job["token"]))[-1]["result"] == number_of_calls + 1


async def test_form_is_the_same_job_as_json(stack: Stack) -> None:
    """A form and a JSON body with the same fields and idempotency key are one job."""
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


async def test_watch_token_can_watch_but_not_cancel(stack: Stack) -> None:
    """It has the job and the expiry of the original token; a request with it returns the same watch token."""
    receipt = await stack.submit("echo", delay_s=3600)
    token, watch_token = receipt["token"], None
    for _ in range(2):
        headers = {"Authorization": f"Bearer {watch_token or token}", "Content-Type": "application/json; charset=utf-8"}
        url = f"{stack.url}/jobs/{receipt['id']}/token"
        async with stack.session.post(url, data=b'{"scope": "watch"}', headers=headers) as response:
            assert (response.status, response.headers["Cache-Control"]) == (200, "no-store")
            body = await response.json()
        watch_token = body["token"]
        assert (body["id"], body["scope"]) == (receipt["id"], "watch")
        links = {name: link.replace(token, watch_token) for name, link in receipt["links"].items() if name != "cancel"}
        assert body["links"] == links
    assert watch_token == changed_token(stack, token, scope=frozenset({"watch"}))
    assert (await stack.snapshot(receipt["id"], watch_token))["status"] == "queued"
    headers = {"Authorization": f"Bearer {watch_token}"}
    async with stack.session.post(receipt["links"]["cancel"], headers=headers) as response:
        assert response.status == 403


@pytest.mark.parametrize(
    ("status", "code", "field", "overrides"),
    [
        (401, "unauthorized", None, {"token": None}),
        (401, "invalid_token", None, {"token": "a.b.c"}),
        (401, "token_expired", None, {"claims": {"expires_at": Timestamp.at(0)}}),
        (401, "invalid_token", None, {"claims": {"scope": frozenset({"cancel"})}}),
        (403, "forbidden", None, {"id": UNKNOWN_ID}),
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
async def test_invalid_request_for_a_watch_token_is_rejected(
    stack: Stack, status: int, code: str, field: str | None, overrides: dict[str, Any]
) -> None:
    """Each invalid token, path and body gets the matching status, error code and field."""
    receipt = await stack.submit("echo", delay_s=3600)
    token = overrides.get("token", changed_token(stack, receipt["token"], **overrides.get("claims", {})))
    headers = {"Content-Type": overrides.get("type", "application/json")}
    headers |= {} if token is None else {"Authorization": f"Bearer {token}"}
    url = f"{stack.url}/jobs/{overrides.get('id', receipt['id'])}/token"
    body = overrides.get("body", b'{"scope":"watch"}')
    async with stack.session.post(url, data=body, headers=headers) as response:
        problem = await read_problem(response)
    assert (problem["status"], problem["code"], problem.get("field")) == (status, code, field)


async def test_job_page_returns_its_links_as_json(stack: Stack) -> None:
    """A client that accepts JSON but no HTML gets the job's links at the page's URL; other clients get the page."""
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
        assert (await read_problem(response))["field"] == "id"


async def test_browsers_get_a_page_that_says_that_there_is_none(stack: Stack) -> None:
    """At an address that does not exist, a browser gets a page, which it may keep, and other clients get a problem."""
    url = f"{stack.url}/nowhere"
    async with stack.session.get(url) as response:
        assert (await read_problem(response))["code"] == "not_found"
    async with stack.session.get(url, headers={"Accept": "text/html,*/*;q=0.8"}) as response:
        assert (response.status, response.content_type) == (404, "text/html")
        assert "There is no such page." in await response.text()
        conditional = {"Accept": "text/html", "If-None-Match": response.headers["ETag"]}
    async with stack.session.get(url, headers=conditional) as response:
        assert response.status == 304


@pytest.mark.parametrize("encoding", ["gzip", "identity"])
@pytest.mark.parametrize("path", ["/assets/headway.js", "/assets/live-url.js", "/assets/style.css", "/", "/jobs/x"])
async def test_unchanged_file_is_not_sent_again(stack: Stack, path: str, encoding: str) -> None:
    """Files without a digest in the URL are revalidated: a request with the ETag of the same encoding gets 304."""
    headers = {"Accept-Encoding": encoding}
    async with stack.session.get(stack.url + path, headers=headers) as response:
        assert (response.status, response.headers["Cache-Control"]) == (200, "no-cache")
        assert response.headers.get("Content-Encoding", "identity") == encoding
        etag = response.headers["ETag"]
    assert not etag.startswith("W/")
    for if_none_match, status in ((etag, 304), (f'"other", {etag}', 304), ("*", 304), ('"other"', 200)):
        conditional = {**headers, "If-None-Match": if_none_match}
        async with stack.session.get(stack.url + path, headers=conditional) as response:
            assert (response.status, response.headers["ETag"]) == (status, etag)
            assert "Accept-Encoding" in response.headers.getall("Vary")


async def test_versioned_files_are_cached_for_a_year(stack: Stack) -> None:
    """The URL of a versioned file contains the digest of all files; another digest gets 404."""
    async with stack.session.get(f"{stack.url}/assets/headway.js") as response:
        versioned, text = stack.url + response.headers["Content-Location"], await response.text()
    async with stack.session.get(versioned) as response:
        assert response.headers["Cache-Control"] == "public, max-age=31536000, immutable"
        assert await response.text() == text
    async with stack.session.get(versioned.replace("headway.js", "live-url.js")) as response:
        assert stack.env["LIVE_URL"] in await response.text()
    unknown = ("/assets/0123456789abcdef/headway.js", "/assets/job.html", "/assets/..%2fapi.py", "/assets/nothing.js")
    for path in (*unknown, versioned.removeprefix(stack.url).replace("headway.js", "index.html")):
        async with stack.session.get(stack.url + path) as response:
            assert (await read_problem(response))["code"] == "not_found", path


async def test_foreign_page_can_only_load_the_client(stack: Stack) -> None:
    """Pages of every origin may load the browser client's files; other requests of foreign origins get 403."""
    foreign = {"Origin": FOREIGN_ORIGIN}
    async with stack.session.get(f"{stack.url}/assets/headway.js", headers=foreign) as response:
        assert response.headers["Access-Control-Allow-Origin"] == "*"
        assert response.headers["Cross-Origin-Resource-Policy"] == "cross-origin"
        versioned = response.headers["Content-Location"]
    async with stack.session.get(stack.url + versioned, headers=foreign) as response:
        assert (response.status, response.headers["Access-Control-Allow-Origin"]) == (200, "*")
    routes = [("GET", "/"), ("GET", "/jobs/x"), ("POST", "/jobs"), ("POST", "/jobs/x/token"), ("GET", "/openapi.yaml")]
    for (method, path), origin in itertools.product(routes, (FOREIGN_ORIGIN, "null")):
        async with stack.session.request(method, stack.url + path, headers={"Origin": origin}) as response:
            assert (await read_problem(response))["code"] == "origin_not_allowed"
            assert "Access-Control-Allow-Origin" not in response.headers


@pytest.mark.parametrize("path", ["/jobs", f"/jobs/{UNKNOWN_ID}/token"])
async def test_allowed_page_can_send_requests(stack: Stack, path: str) -> None:
    """A preflight of an allowed origin permits the method and the headers, and the page can read the responses."""
    allowed = {"Origin": stack.url}
    preflight = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "idempotency-key"}
    async with stack.session.options(stack.url + path, headers={**allowed, **preflight}) as response:
        assert (response.status, response.headers["Access-Control-Allow-Origin"]) == (204, stack.url)
        assert "POST" in response.headers["Access-Control-Allow-Methods"]
        assert "Idempotency-Key" in response.headers["Access-Control-Allow-Headers"]
    async with stack.session.post(stack.url + path, headers=allowed) as response:
        assert response.headers["Access-Control-Allow-Origin"] == stack.url


async def test_api_keys_are_reloaded_when_their_file_changes(stack: Stack, tmp_path: Path) -> None:
    """Every key of the file can submit, a new one without a restart; a missing or unknown key gets 401."""
    keys = tmp_path / "keys"
    keys.write_text("first\nsecond\n")
    async with running_submitter(stack, SUBMITTER_OPEN="", SUBMITTER_API_KEYS=str(keys)) as submitter:
        url, session = f"{submitter.url}/jobs", stack.session
        for headers in ({}, {"Authorization": "Bearer third"}, {"Authorization": "Basic Zmlyc3Q6"}):
            async with session.post(url, json={"kind": "echo"}, headers=headers) as response:
                assert response.headers["WWW-Authenticate"] == "Bearer"
                assert (await read_problem(response))["code"] == "unauthorized"
        status, first = await submitter.submit(session, **{"Authorization": "Bearer first", "Idempotency-Key": "k"})
        assert status == 202
        status, second = await submitter.submit(session, **{"Authorization": "Bearer second", "Idempotency-Key": "k"})
        assert (status, first["id"] == second["id"]) == (202, False)
        keys.write_text("third\n")
        assert (await submitter.submit(session, Authorization="Bearer third"))[0] == 202
        assert (await submitter.submit(session, Authorization="Bearer first"))[0] == 401


async def test_rate_limit_is_per_caller(stack: Stack, tmp_path: Path) -> None:
    """Each API key and each address without a valid one has its own burst, then gets 429 with `Retry-After`."""
    (tmp_path / "keys").write_text("first\nsecond\n")
    limits = {"SUBMIT_RATE": "0.01", "SUBMIT_BURST": "2", "FORWARDED_HOPS": "1"}
    async with running_submitter(
        stack, SUBMITTER_OPEN="", SUBMITTER_API_KEYS=str(tmp_path / "keys"), **limits
    ) as submitter:
        submit = partial(submitter.submit, stack.session)
        for key, status in (("first", 202), ("second", 202), ("wrong", 401)):
            assert [(await submit(Authorization=f"Bearer {key}"))[0] for _ in range(3)] == [status, status, 429]
        other_address = {"X-Forwarded-For": "198.51.100.7", "Authorization": "Bearer wrong"}
        assert (await submit(**other_address))[0] == 401
        headers = {"Authorization": "Bearer first"}
        url = f"{submitter.url}/jobs"
        async with stack.session.post(url, json={"kind": "echo"}, headers=headers) as response:
            assert 0 < int(response.headers["Retry-After"]) <= 100
            assert (await read_problem(response))["code"] == "too_many_requests"
        async with stack.session.get(f"{submitter.internal}/metrics") as response:
            assert 'jobs_submitted_total{outcome="limited"} 4.0' in await response.text()


async def test_a_job_has_a_record_with_its_labels_while_it_waits(stack: Stack) -> None:
    """The submitter posts each job to the notifier, so that its owner's tokens open it before it starts."""
    receipt = await stack.submit("echo", delay_s=3600, name="March", owner="user:7", tags=["a"])
    opened = {"owner": "user:7"}, {"tag": "a", "kind": "echo"}
    refused = {"owner": "user:8"}, {"tag": "b"}, {"owner": "user:7", "kind": "countdown"}

    async def status(job_id: str, token: str) -> int:
        url, headers = f"{stack.env['LIVE_URL']}/live/jobs/{job_id}", {"Authorization": f"Bearer {token}"}
        async with stack.session.get(url, headers=headers) as response:
            return response.status

    async def token(**body: Any) -> str:
        async with stack.session.post(f"{stack.url}/tokens", json=body) as response:
            assert response.status == 200
            return str((await response.json())["token"])

    await wait_until(partial(has_record, stack, receipt))
    snapshot = await stack.snapshot(receipt["id"], await token(job=receipt["id"], scope="watch"))
    assert (snapshot["name"], snapshot["status"], "owner" in snapshot) == ("March", "queued", False)
    for filters, expected in ((opened, 200), (refused, 403)):
        tokens = [await token(filter=job_filter, scope="list watch") for job_filter in filters]
        assert [await status(receipt["id"], one) for one in tokens] == [expected] * len(filters)
    assert await status(UNKNOWN_ID, await token(job=UNKNOWN_ID)) == 404


async def has_record(stack: Stack, receipt: dict[str, Any]) -> bool:
    """Return whether a job has a record."""
    return bool((await stack.snapshot(receipt["id"], receipt["token"]))["version"])


async def test_submitter_verifies_its_own_tokens(stack: Stack) -> None:
    """Without `TOKEN_PUBLIC_KEY_FILE` the submitter verifies tokens with its own key."""
    receipt = await stack.submit("echo", delay_s=3600)
    headers = {"Authorization": f"Bearer {receipt['token']}"}
    async with running_submitter(stack, TOKEN_PUBLIC_KEY_FILE="") as submitter:
        url = f"{submitter.url}/jobs/{receipt['id']}/token"
        async with stack.session.post(url, json={"scope": "watch"}, headers=headers) as response:
            assert (await response.json())["scope"] == "watch"


@pytest.mark.parametrize("path", ["/", "/dashboard", "/jobs/00000000-0000-4000-8000-000000000000"])
async def test_pages_have_strict_headers(stack: Stack, path: str) -> None:
    """Each page has the headers of docs/security.md: nothing frames it, and it loads and runs only its own files."""
    async with stack.session.get(f"{stack.url}{path}", headers={"Accept": "text/html"}) as response:
        headers = response.headers
        assert response.status == 200
    policy = dict(directive.split(" ", 1) for directive in headers["Content-Security-Policy"].split("; "))
    own = {"script-src", "style-src", "img-src", "form-action"}
    assert {name for name, values in policy.items() if values == "'self'"} == own
    assert {name for name, values in policy.items() if values == "'none'"} == {
        "default-src",
        "base-uri",
        "frame-ancestors",
    }
    assert policy.keys() - own == {"default-src", "base-uri", "frame-ancestors", "connect-src"}
    expected = {
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cross-Origin-Resource-Policy": "same-origin",
        "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
        "Referrer-Policy": "same-origin",
        "X-Content-Type-Options": "nosniff",
    }
    assert {name: headers[name] for name in expected} == expected
    rows = Document("docs/security.md").table("Pages and their headers")
    documented = {name.strip("`") for cell, _ in rows for name in cell.split(", ")}
    assert documented == {"Content-Security-Policy", *expected}
