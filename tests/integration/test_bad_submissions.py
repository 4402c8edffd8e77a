"""Invalid submissions: each is answered with a problem that names the error, and later valid ones are accepted."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from tests.integration.test_bad_connections import hang_up
from tests.stack import Stack, running
from tests.waiting import PATIENCE_S, wait_until

JSON = "application/json"
FORM = "application/x-www-form-urlencoded"


@pytest.fixture(scope="module")
async def stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    """Run the system for this module; no rejected request may be logged as a failure."""
    async with running(tmp_path_factory.mktemp("bad"), GRACE_S="0") as stack:
        yield stack
        await stack.submit()
        log = (stack.folder / "logs" / "submitter.log").read_text()
        assert "request_failed" not in log
        assert "Traceback" not in log


async def send(stack: Stack, request: bytes) -> tuple[int, dict[str, str], Any]:
    """Send raw bytes to the submitter; return the status, the headers and the decoded body of the response."""
    port = int(stack.env["SUBMITTER_PORT"])
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    head = (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), PATIENCE_S)).decode()
    first, *lines = head.strip().split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    body = await reader.readexactly(int(headers["content-length"]))
    writer.close()
    return int(first.split()[1]), headers, msgspec.json.decode(body)


def encode_post(body: bytes, *lines: str, media_type: str = JSON, path: str = "/jobs") -> bytes:
    """Encode a POST request with further header lines."""
    content_type = [f"Content-Type: {media_type}"] if media_type else []
    length = [] if any(line.startswith("Content-Length") for line in lines) else [f"Content-Length: {len(body)}"]
    head = [f"POST {path} HTTP/1.1", "Host: localhost", *content_type, *length, *lines, "", ""]
    return "\r\n".join(head).encode("latin-1") + body


BODIES: list[tuple[bytes, int, str | None]] = [
    (b"", 400, None),
    (b"not json", 400, None),
    (b"\xff\xfe", 400, None),
    (b'\xef\xbb\xbf{"kind":"k"}', 400, None),
    (b'{"kind":"k","payload":"\xff"}', 400, None),
    (b'{"kind":"k","payload":"\\ud800"}', 400, None),
    (b'{"kind":"k\\udfff and more"}', 400, None),
    (b'{"kind":"k","payload":NaN}', 400, None),
    (b'{"kind":"k","delay_s":-Infinity}', 400, None),
    (b'{"kind":"k","payload":' + b"[" * 30_000 + b"]" * 30_000 + b"}", 400, None),
    (b'{"kind":' + b"[" * 60_000, 422, "kind"),
    (b"null", 422, None),
    (b"[]", 422, None),
    (b'"k"', 422, None),
    (b"{}", 422, "kind"),
    (b'{"kind":""}', 422, "kind"),
    (b'{"kind":7}', 422, "kind"),
    (b'{"kind":["k"]}', 422, "kind"),
    (b'{"kind":"%s"}' % (b"k" * 129), 422, "kind"),
    (b'{"kind":"k","colour":"red"}', 422, "colour"),
    (b'{"kind":"k","id":"00000000-0000-0000-0000-000000000000"}', 422, "id"),
    (b'{"kind":"k","delay_s":"5"}', 422, "delay_s"),
    (b'{"kind":"k","delay_s":-1}', 422, "delay_s"),
    (b'{"kind":"k","delay_s":1e400}', 422, "delay_s"),
    (b'{"kind":"k","delay_s":1%s}' % (b"0" * 30), 422, "delay_s"),
    (b'{"kind":"k","delay_s":604800}', 422, "delay_s"),
    (b'{"kind":"k","delay_s":null}', 422, "delay_s"),
    (b'{"kind":"k","max_attempts":0}', 422, "max_attempts"),
    (b'{"kind":"k","max_attempts":-5}', 422, "max_attempts"),
    (b'{"kind":"k","max_attempts":2.5}', 422, "max_attempts"),
    (b'{"kind":"k","max_attempts":true}', 422, "max_attempts"),
    (b'{"kind":"k","max_attempts":1%s}' % (b"0" * 30), 422, "max_attempts"),
    (b'{"kind":"k","timeout_s":0}', 422, "timeout_s"),
    (b'{"kind":"k","timeout_s":-0.5}', 422, "timeout_s"),
    (b'{"kind":"k","timeout_s":1e400}', 422, "timeout_s"),
    (b'{"kind":"k","payload":"%s"}' % (b"x" * 33 * 1024), 413, "payload"),
    (b'{"kind":"k","payload":"%s"}' % (b"x" * 65 * 1024), 413, None),
]


@pytest.mark.parametrize(("body", "status", "field"), BODIES, ids=lambda value: str(value)[:40])
async def test_invalid_json_names_the_field(stack: Stack, body: bytes, status: int, field: str | None) -> None:
    """An invalid JSON body is answered with its status, and the problem names the field."""
    actual, headers, problem = await send(stack, encode_post(body))
    assert (actual, headers["content-type"]) == (status, "application/problem+json")
    assert (problem["status"], problem.get("field")) == (status, field)
    assert problem["code"] in ("malformed", "invalid", "too_large")


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        (b"", 422, "kind"),
        (b"kind", 400, None),
        (b"\xff=1", 400, None),
        (b"kind=k&colour=red", 422, "colour"),
        (b"kind=k&payload=%7Bnot+json", 422, "payload"),
        (b"kind=k&payload=%22%5Cud800%22", 422, "payload"),
        (b"kind=k&delay_s=soon", 422, "delay_s"),
        (b"kind=k&delay_s=-1", 422, "delay_s"),
        (b"kind=k&max_attempts=1e400", 422, "max_attempts"),
        (b"kind=k&timeout_s=NaN", 422, "timeout_s"),
        (b"kind=%FF", 400, None),
        (b"kind=k&payload=%s" % (b"1" * 33 * 1024), 413, "payload"),
    ],
    ids=lambda value: str(value)[:40],
)
async def test_invalid_form_names_the_field(stack: Stack, body: bytes, status: int, field: str | None) -> None:
    """An invalid form is answered like invalid JSON."""
    actual, _, problem = await send(stack, encode_post(body, f"Origin: {stack.url}", media_type=FORM))
    assert (actual, problem["status"], problem.get("field")) == (status, status, field)


GOOD = b'{"kind":"countdown","delay_s":3600}'


@pytest.mark.parametrize(
    ("request_bytes", "status", "code"),
    [
        (encode_post(GOOD, media_type="text/plain"), 415, "unsupported_media_type"),
        (encode_post(GOOD, media_type="multipart/form-data; boundary=x"), 415, "unsupported_media_type"),
        (encode_post(GOOD, media_type="application/json-patch+json"), 415, "unsupported_media_type"),
        (encode_post(GOOD, media_type=""), 415, "unsupported_media_type"),
        (encode_post(b"kind=k", media_type=FORM), 403, "origin_not_allowed"),
        (encode_post(b"kind=k", "Origin: null", media_type=FORM), 403, "origin_not_allowed"),
        (encode_post(GOOD, "Origin: https://evil.example"), 403, "origin_not_allowed"),
        (encode_post(GOOD, "Idempotency-Key: "), 422, "invalid"),
        (encode_post(GOOD, "Idempotency-Key: a\tb"), 422, "invalid"),
        (encode_post(GOOD, "Idempotency-Key: \xff"), 422, "invalid"),
        (encode_post(GOOD, f"Idempotency-Key: {'k' * 256}"), 422, "invalid"),
        (encode_post(GOOD[:-1], f"Content-Length: {len(GOOD) - 1}"), 400, "malformed"),
        (encode_post(GOOD, "Content-Length: 1000000000000"), 413, "too_large"),
    ],
    ids=lambda value: str(value)[:40],
)
async def test_invalid_headers_are_rejected(stack: Stack, request_bytes: bytes, status: int, code: str) -> None:
    """Invalid headers are answered with a problem, like invalid bodies."""
    actual, headers, problem = await send(stack, request_bytes)
    assert (actual, problem["code"]) == (status, code)
    assert headers["content-type"] == "application/problem+json"
    assert problem.get("field") == ("Idempotency-Key" if code == "invalid" else None)


async def test_hang_up_in_a_body_is_no_error(stack: Stack) -> None:
    """A client that closes or resets its connection in the middle of a body, without a token, is counted as 499."""
    counter = 'http_requests_total{code="499",method="POST",route="/jobs"}'
    for reset in (False, True):
        await hang_up(int(stack.env["SUBMITTER_PORT"]), encode_post(b"{", "Content-Length: 99"), reset=reset)

    async def counted() -> bool:
        return await stack.metric(counter, "submitter") == 2

    await wait_until(counted)


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/jobs", "POST"),
        ("DELETE", "/jobs", "POST"),
        ("PUT", "/jobs/x", "DELETE,GET,HEAD"),
        ("GET", "/jobs/x/redrive", "POST"),
        ("GET", "/jobs/x/token", "POST"),
        ("POST", "/", "GET,HEAD"),
        ("POST", "/assets/headway.js", "GET,HEAD"),
    ],
)
async def test_wrong_method_gets_the_allowed_ones(stack: Stack, method: str, path: str, allowed: str) -> None:
    """A 405 response lists the allowed methods."""
    request = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n".encode()
    status, headers, problem = await send(stack, request)
    assert (status, headers["allow"], problem["code"]) == (405, allowed, "method_not_allowed")


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"garbage\r\n\r\n",
        encode_post(GOOD, "Content-Length: many"),
        encode_post(GOOD, "Content-Length: -1"),
        encode_post(b"zz\r\n", "Transfer-Encoding: chunked", "Content-Length: 5"),
        b"GET /%s HTTP/1.1\r\n\r\n" % (b"a" * 9000),
    ],
    ids=lambda value: str(value)[:40],
)
async def test_malformed_http_is_answered_400(stack: Stack, request_bytes: bytes) -> None:
    """Bytes that are not a valid HTTP request are answered before any route, and the connection is closed."""
    reader, writer = await asyncio.open_connection("127.0.0.1", int(stack.env["SUBMITTER_PORT"]))
    writer.write(request_bytes)
    assert (await asyncio.wait_for(reader.read(), PATIENCE_S)).split()[1] == b"400"
    writer.close()


@pytest.mark.parametrize("media_type", [JSON, "application/json; charset=utf-8", "Application/JSON;charset=UTF-8"])
async def test_json_may_name_its_charset(stack: Stack, media_type: str) -> None:
    """The media type is compared without its parameters and without regard to case."""
    status, _, receipt = await send(stack, encode_post(GOOD, media_type=media_type))
    assert (status, receipt["status"]) == (202, "queued")
