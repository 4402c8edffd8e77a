"""Services log no token, key or payload. A session fixture also searches the logs of all other tests."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest

from headway.contracts import Timestamp
from headway.tokens import Grant, TokenSigner, make_keys
from tests.integration.test_cancel import wait_for
from tests.leaks import MARKER, find_secrets, find_secrets_in_logs
from tests.stack import JOBS, running


async def test_secrets_are_not_logged(tmp_path: Path) -> None:
    """The logs contain no payload of a job or an invalid submission, and no token or key of any part of a request."""
    async with running(tmp_path, WORKER_JOBS=JOBS, GRACE_S="0", DRAIN_S="0", LOG_LEVEL="debug") as stack:
        post, get, live_url = stack.session.post, stack.session.get, stack.env["LIVE_URL"]
        for kind in ("echo", "broken", "countdown"):
            receipt = await stack.submit(kind, {"steps": MARKER}, max_attempts=1)
            await wait_for(stack, receipt, "succeeded", "failed", "retrying")
        unclosed = f'{{"kind": "echo", "payload": "{MARKER}", "x": 1'.encode()
        for body in (unclosed, unclosed + b"}", unclosed + b', "kind": 1}'):
            async with post(f"{stack.url}/jobs", data=body, headers={"Content-Type": "application/json"}) as response:
                assert response.status in (400, 422)
        token, job_url = receipt["token"], receipt["links"]["live"]
        for url in (f"{job_url}?access_token={token}", f"{job_url}/events?access_token={token}", f"{live_url}/{token}"):
            async with get(url) as response:
                assert response.status in (200, 404)
        async with stack.session.ws_connect(f"{live_url}/live?access_token={token}") as socket:
            await socket.send_json({"watch": token, "no": token})
            await socket.send_str(f"{token} {MARKER}")
            await socket.receive()
        key = (stack.folder / "keys" / "report.key").read_text().strip()
        progress_url = f"{stack.env['NOTIFIER_INTERNAL_URL']}/progress/{key}?jobId={uuid.uuid4()}&message={MARKER}"
        for progress in ("1", "no"):
            async with get(f"{progress_url}&progress={progress}") as response:
                assert response.status in (200, 422)
        logs = sorted(path.name for path in (stack.folder / "logs").iterdir())
    assert {"submitter.log", "worker.log", "notifier.log"} <= set(logs)
    assert all((tmp_path / "logs" / name).read_text() for name in ("submitter.log", "worker.log", "notifier.log"))
    assert find_secrets_in_logs(tmp_path) == []
    assert find_secrets("".join(stack.output)) == []


@pytest.mark.parametrize("kind", ["token", "key", "payload"])
def test_secret_in_a_log_is_found(tmp_path: Path, kind: str) -> None:
    """The search finds a token, a key and a payload, and nothing in a log without secrets."""
    make_keys(tmp_path / "keys")
    now = Timestamp.now()
    grant = Grant(job_id=uuid.uuid4(), kind="k", submitted_at=now, expires_at=now)
    secret = {
        "token": TokenSigner((tmp_path / "keys" / "token.pem").read_text()).sign(grant),
        "key": (tmp_path / "keys" / "report.key").read_text().strip(),
        "payload": MARKER,
    }[kind]
    log = tmp_path / "logs" / "worker.log"
    log.parent.mkdir()
    log.write_text(f"first line\nsecond line with {secret}\n")
    assert len(find_secrets_in_logs(tmp_path)) == 1
    log.write_text("first line\n")
    assert find_secrets_in_logs(tmp_path) == []
