"""Invalid requests to the notifier: each is answered with its reason, and other watchers are not disturbed."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import AsyncIterator
from pathlib import Path

import jwt
import pytest
from redis.asyncio import Redis

from headway.tokens import make_keys
from tests.integration.conftest import ORIGIN, Notifier, new_id, report, running_notifier
from tests.integration.test_limits import unaffected_watcher
from tests.waiting import PATIENCE_S

EXPIRED, INVALID = "token_expired", "invalid_token"


@pytest.fixture(scope="module")
async def keys_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder for the notifier's keys."""
    return tmp_path_factory.mktemp("keys")


@pytest.fixture(scope="module")
async def notifier(stores: dict[str, str], keys_dir: Path) -> AsyncIterator[Notifier]:
    """Run a notifier for this module; no rejected request may be logged as an error."""
    async with running_notifier(stores, keys_dir) as notifier:
        yield notifier
    log = notifier.log.read_text()
    assert "Traceback" not in log
    assert '"level": "error"' not in log


def base64url(data: bytes) -> str:
    """Encode one part of a token."""
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def forged(notifier: Notifier, keys: Path, job_id: str, kind: str) -> str:
    """Return an invalid token of some kind for a job."""
    valid = notifier.token(job_id)
    head, claims, signature = valid.split(".")
    kid = jwt.get_unverified_header(valid)["kid"]
    if kind == "expired":
        return notifier.token(job_id, ttl_s=-3600)
    if kind == "foreign":
        make_keys(keys / "foreign")
        claimed = jwt.decode(valid, options={"verify_signature": False})
        return jwt.encode(claimed, (keys / "foreign" / "token.pem").read_text(), "EdDSA", headers={"kid": kid})
    if kind == "altered":
        claimed = jwt.decode(valid, options={"verify_signature": False}) | {"exp": 32_000_000_000}
        return f"{head}.{base64url(json.dumps(claimed).encode())}.{signature}"
    if kind == "unsigned":
        return f"{base64url(json.dumps({'alg': 'none', 'kid': kid}).encode())}.{claims}."
    signed = f"{base64url(json.dumps({'alg': 'HS256', 'kid': kid}).encode())}.{claims}"
    secret = (keys / "token.pub.pem").read_bytes()
    return f"{signed}.{base64url(hmac.new(secret, signed.encode(), hashlib.sha256).digest())}"


KINDS = [("expired", EXPIRED), *((kind, INVALID) for kind in ("foreign", "altered", "unsigned", "hs256"))]
BY_PATH = [("GET", "/live/jobs/{id}"), ("GET", "/live/jobs/{id}/events"), ("POST", "/live/jobs/{id}/cancel")]
BY_BODY = ["/live/jobs", "/live/events"]


@pytest.mark.parametrize(("kind", "code"), KINDS)
async def test_invalid_token_is_rejected(
    notifier: Notifier, keys_dir: Path, redis: Redis, kind: str, code: str
) -> None:
    """Requests with the token in the path, in the body or in a message get its error code, and no record is created."""
    job_id = new_id()
    token = forged(notifier, keys_dir, job_id, kind)
    async with unaffected_watcher(notifier):
        for method, path in BY_PATH:
            url = notifier.public + path.format(id=job_id)
            for where in ({"headers": {"Authorization": f"Bearer {token}"}}, {"params": {"access_token": token}}):
                async with notifier.session.request(method, url, **where) as response:  # type: ignore[arg-type]
                    assert (response.status, (await response.json())["code"]) == (401, code)
                    assert response.headers["WWW-Authenticate"] == "Bearer"
        for path in BY_BODY:
            async with notifier.session.post(notifier.public + path, json={"watch": [token]}) as response:
                assert (response.status, (await response.json())["code"]) == (401, code)
        async with notifier.socket() as socket:
            for _ in range(2):
                await socket.send_json({"watch": token})
                error = (await socket.receive_json(timeout=PATIENCE_S))["error"]
                assert (error["code"], error["job_id"]) == (code, job_id)
            await socket.send_json({"cancel": job_id})
            assert (await socket.receive_json(timeout=PATIENCE_S))["error"]["code"] == "not_watched"
    assert not await redis.exists(f"headway:job:{{{job_id}}}")


@pytest.mark.parametrize(("method", "path"), BY_PATH)
async def test_token_of_another_job_is_forbidden(notifier: Notifier, method: str, path: str) -> None:
    """A valid token allows only its own job; a path without a job id is answered 404."""
    headers = {"Authorization": f"Bearer {notifier.token(new_id())}"}
    for job_id, status, code in ((new_id(), 403, "forbidden"), ("7", 404, "not_found")):
        url = notifier.public + path.format(id=job_id)
        async with notifier.session.request(method, url, headers=headers) as response:
            problem = await response.json()
            assert (response.status, problem["code"]) == (status, code)
            assert problem.get("field") == ("id" if status == 404 else None)


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("DELETE", "/live/jobs/{id}", "GET,HEAD"),
        ("PUT", "/live/events", "POST"),
        ("GET", "/live/events", "POST"),
        ("GET", "/live/jobs/{id}/cancel", "POST"),
        ("POST", "/live", "GET"),
        ("HEAD", "/live", "GET"),
    ],
)
async def test_wrong_method_gets_the_allowed_ones(notifier: Notifier, method: str, path: str, allowed: str) -> None:
    """A 405 response lists the allowed methods."""
    async with notifier.session.request(method, notifier.public + path.format(id=new_id())) as response:
        assert (response.status, response.headers["Allow"]) == (405, allowed)
        assert response.content_type == "application/problem+json"


@pytest.mark.parametrize("path", BY_BODY)
@pytest.mark.parametrize("media_type", ["", "text/plain", "application/x-www-form-urlencoded", "application/jsonx"])
async def test_wrong_media_type_is_rejected(notifier: Notifier, path: str, media_type: str) -> None:
    """A body must be declared as JSON."""
    body = json.dumps({"watch": [notifier.token(new_id())]}).encode()
    headers = {"Content-Type": media_type}
    async with notifier.session.post(notifier.public + path, data=body, headers=headers) as response:
        assert (response.status, (await response.json())["code"]) == (415, "unsupported_media_type")


@pytest.mark.parametrize("version", ["-1", "1e400", "9" * 400, "1.5", "true", '"1"', "[]"])
async def test_invalid_version_is_rejected(notifier: Notifier, version: str) -> None:
    """A version is an integer from 0 to 2^53 - 1; errors in messages and in bodies name the field."""
    token = notifier.token(new_id())
    entry = f'{{"watch": "{token}", "version": {version}}}'
    async with unaffected_watcher(notifier), notifier.socket() as socket:
        await socket.send_str(entry)
        error = (await socket.receive_json(timeout=PATIENCE_S))["error"]
        assert error["code"] == "invalid"
        assert "version" in error["message"] or "Number out of range" in error["message"]
        for path in BY_BODY:
            headers = {"Content-Type": "application/json"}
            body = f'{{"watch": [{entry}]}}'
            async with notifier.session.post(notifier.public + path, data=body, headers=headers) as response:
                assert response.status in (400, 422)
                assert (await response.json())["code"] in ("malformed", "invalid")


@pytest.mark.parametrize("number", ["-5", "9" * 400, "x", "1.5", "٣", ""])
async def test_invalid_number_in_a_header_is_ignored(notifier: Notifier, number: str) -> None:
    """With an invalid wait or version in its headers, a request gets the snapshot at once."""
    job_id = new_id()
    await notifier.report(report(job_id, 1, status="succeeded"))
    headers = {
        "Authorization": f"Bearer {notifier.token(job_id)}",
        "Prefer": f"wait={number}",
        "If-None-Match": f'"{number}"',
        "Last-Event-ID": number,
    }
    for path in ("", "/events"):
        url = f"{notifier.public}/live/jobs/{job_id}{path}"
        async with notifier.session.get(url, headers=headers) as response:
            assert response.status == 200
            assert '"status":"succeeded"' in await response.text()


@pytest.mark.parametrize("value", ["-1", "1e400", "9" * 400, "NaN", '"1"', "null", "[]"])
@pytest.mark.parametrize("field", ["sequence", "delivery", "generation", "attempt", "max_attempts"])
async def test_invalid_number_in_a_report_is_rejected(notifier: Notifier, redis: Redis, field: str, value: str) -> None:
    """A negative, huge or non-numeric value is rejected, and no report of the request is applied."""
    good, bad = new_id(), new_id()
    text = json.dumps([report(good, 1), {key: other for key, other in report(bad, 1).items() if key != field}])
    body = f'{text[:-2]}, "{field}": {value}}}]'
    headers = {"Authorization": f"Bearer {notifier.report_key}", "Content-Type": "application/json"}
    async with unaffected_watcher(notifier):
        async with notifier.session.post(f"{notifier.internal}/reports", data=body, headers=headers) as response:
            problem = await response.json()
            assert (response.status, problem["code"]) in ((422, "invalid"), (400, "malformed"))
            assert problem.get("field") in (f"[1].{field}", None)
        assert not await redis.exists(f"headway:job:{{{good}}}", f"headway:job:{{{bad}}}")


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Upgrade": "websocket"},
        {"Upgrade": "h2c", "Connection": "Upgrade"},
        {"Upgrade": "websocket", "Connection": "Upgrade"},
        {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "7"},
        {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": "short"},
    ],
    ids=lambda headers: ",".join(headers.values()) or "none",
)
async def test_bad_websocket_handshake_is_rejected(notifier: Notifier, headers: dict[str, str]) -> None:
    """A request without a valid WebSocket handshake is answered with a problem, as any other bad request."""
    url, headers = f"{notifier.public}/live", {"Origin": ORIGIN, **headers}
    async with unaffected_watcher(notifier), notifier.session.get(url, headers=headers) as response:
        assert response.status in (400, 426)
        assert response.content_type == "application/problem+json"
