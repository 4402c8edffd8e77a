"""Workload identity: a pod opens the queue with a token instead of an account key.

Azurite runs over TLS and checks the token, which a fake of Microsoft Entra ID has issued.
"""

from __future__ import annotations

import asyncio
import os
import ssl
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import jwt
import pytest
from aiohttp import web

from dev.environment import ACCOUNT, AZURITE, ROOT, programs, service_environment, state_dir
from tests.certificates import self_signed_certificate
from tests.waiting import PATIENCE_S, free_ports, wait_until

TENANT = "7e5c1a0e-0000-4000-8000-000000000000"
CODE = """
import asyncio, sys
from headway.azure.job_queue import JobQueue

async def main():
    async with JobQueue.connect(sys.argv[1], "identified") as queue:
        await queue.send("aGVsbG8=")
        (received,) = await queue.receive(1, 30)
        await queue.delete(received.id, received.pop_receipt)
        print(received.text)

asyncio.run(main())
"""


@pytest.fixture
def tls(tmp_path: Path) -> tuple[Path, Path]:
    """Create a certificate for this machine; return the files of the certificate and of its key."""
    return self_signed_certificate(tmp_path)


@pytest.fixture
async def authority(tls: tuple[Path, Path]) -> AsyncIterator[tuple[str, list[str]]]:
    """Run a fake authority, which issues an access token for a pod's token; yield its URL and the pods' tokens."""
    pod_tokens: list[str] = []

    async def token(request: web.Request) -> web.Response:
        form = await request.post()
        pod_tokens.append(str(form["client_assertion"]))
        now = datetime.now(UTC)
        claims = {
            "iss": f"https://sts.windows.net/{TENANT}/",
            "aud": "https://storage.azure.com",
            "iat": now,
            "nbf": now - timedelta(minutes=1),
            "exp": now + timedelta(hours=1),
        }
        access = jwt.encode(claims, "x" * 32, "HS256")
        return web.json_response({"token_type": "Bearer", "expires_in": 3600, "access_token": access})

    app = web.Application()
    app.router.add_post(f"/{TENANT}/oauth2/v2.0/token", token)
    runner = web.AppRunner(app)
    await runner.setup()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*tls)
    (port,) = free_ports(1)
    await web.TCPSite(runner, "127.0.0.1", port, ssl_context=context).start()
    yield f"https://127.0.0.1:{port}/", pod_tokens
    await runner.cleanup()


@pytest.fixture
async def account(tls: tuple[Path, Path], tmp_path: Path) -> AsyncIterator[str]:
    """Run Azurite with TLS and OAuth; yield the account's URL."""
    (port,) = free_ports(1)
    env = service_environment(state_dir({"HEADWAY_DIR": str(tmp_path)}), {"AZURITE_PORT": str(port)})
    (azurite,) = [program for program in programs(env, tmp_path)[0] if program.name == "azurite"]
    assert str(AZURITE) in azurite.command
    (tmp_path / "azurite").mkdir()
    options = ("--cert", str(tls[0]), "--key", str(tls[1]), "--oauth", "basic")
    process = await asyncio.create_subprocess_exec(*azurite.command, *options)
    await wait_until(azurite.is_ready)
    yield f"https://127.0.0.1:{port}/{ACCOUNT}"
    process.terminate()
    await process.wait()


async def test_workload_identity_opens_the_queue(
    account: str, authority: tuple[str, list[str]], tls: tuple[Path, Path], tmp_path: Path
) -> None:
    """The client needs only the account's URL and the variables that Kubernetes' workload identity sets in a pod."""
    authority_url, pod_tokens = authority
    (tmp_path / "pod-token").write_text("of-the-pod")
    env = {
        **os.environ,
        "SSL_CERT_FILE": str(tls[0]),
        "AZURE_AUTHORITY_HOST": authority_url,
        "AZURE_TENANT_ID": TENANT,
        "AZURE_CLIENT_ID": "worker",
        "AZURE_FEDERATED_TOKEN_FILE": str(tmp_path / "pod-token"),
        "AZURE_TOKEN_CREDENTIALS": "WorkloadIdentityCredential",
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", CODE, account, cwd=ROOT, env=env, stdout=asyncio.subprocess.PIPE
    )
    output, _ = await asyncio.wait_for(process.communicate(), PATIENCE_S)
    assert output.decode().split() == ["aGVsbG8="]
    assert set(pod_tokens) == {"of-the-pod"}
