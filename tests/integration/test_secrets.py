"""No token, key or payload is logged: this sends them all ways, and the fixture of the whole run looks at every log."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest

from headway.contracts import Timestamp
from headway.tokens import Grant, TokenSigner, make_keys
from tests.integration.test_cancel import wait_for
from tests.leaks import MARKER, find_secrets, find_secrets_in_logs
from tests.stack import JOBS, running


async def test_what_is_secret_is_in_no_log(tmp_path: Path) -> None:
    """Payloads that succeed, fail, do not fit or are malformed, and tokens and keys in all places, leave no trace."""
    async with running(tmp_path, WORKER_JOBS=JOBS, GRACE_S="0", DRAIN_S="0", LOG_LEVEL="debug") as stack:
        post, get, live = stack.session.post, stack.session.get, stack.env["LIVE_URL"]
        for kind in ("echo", "broken", "countdown"):
            receipt = await stack.submit(kind, {"steps": MARKER}, max_attempts=1)
            await wait_for(stack, receipt, "succeeded", "failed", "retrying")
        bad = f'{{"kind": "echo", "payload": "{MARKER}", "x": 1'.encode()
        for body in (bad, bad + b"}", bad + b', "kind": 1}'):
            async with post(f"{stack.url}/jobs", data=body, headers={"Content-Type": "application/json"}) as response:
                assert response.status in (400, 422)
        token, job = receipt["token"], receipt["links"]["live"]
        for url in (f"{job}?access_token={token}", f"{job}/events?access_token={token}", f"{live}/{token}"):
            async with get(url) as response:
                assert response.status in (200, 404)
        async with stack.session.ws_connect(f"{live}/live?access_token={token}") as socket:
            await socket.send_json({"watch": token, "no": token})
            await socket.send_str(f"{token} {MARKER}")
            await socket.receive()
        key = (stack.folder / "keys" / "report.key").read_text().strip()
        line = f"{stack.env['NOTIFIER_INTERNAL_URL']}/progress/{key}?jobId={uuid.uuid4()}&message={MARKER}"
        for progress in ("1", "no"):
            async with get(f"{line}&progress={progress}") as response:
                assert response.status in (200, 422)
        logs = sorted(path.name for path in (stack.folder / "logs").iterdir())
    assert {"submitter.log", "worker.log", "notifier.log"} <= set(logs)
    assert all((tmp_path / "logs" / name).read_text() for name in ("submitter.log", "worker.log", "notifier.log"))
    assert find_secrets_in_logs(tmp_path) == []
    assert find_secrets("".join(stack.output)) == []


@pytest.mark.parametrize("kind", ["token", "key", "payload"])
def test_a_secret_in_a_log_is_found(tmp_path: Path, kind: str) -> None:
    """What looks for leaks finds each kind of them."""
    make_keys(tmp_path / "keys")
    now = Timestamp.now()
    granted = Grant(job_id=uuid.uuid4(), kind="k", submitted_at=now, expires_at=now)
    secret = {
        "token": TokenSigner((tmp_path / "keys" / "token.pem").read_text()).sign(granted),
        "key": (tmp_path / "keys" / "report.key").read_text().strip(),
        "payload": MARKER,
    }[kind]
    log = tmp_path / "logs" / "worker.log"
    log.parent.mkdir()
    log.write_text(f"nothing here\nbut {secret} there\n")
    assert len(find_secrets_in_logs(tmp_path)) == 1
    log.write_text("nothing here\n")
    assert find_secrets_in_logs(tmp_path) == []
