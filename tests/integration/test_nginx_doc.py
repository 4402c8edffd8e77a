"""The configuration of nginx in docs/run-in-production.md, run with nginx if it is installed."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import pytest
from redis.asyncio import Redis

from tests.documents import Document
from tests.integration.conftest import Notifier, new_id, report
from tests.integration.event_stream import read_events
from tests.waiting import PATIENCE_S, free_ports, is_ready, wait_until

NGINX = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
pytestmark = pytest.mark.skipif(NGINX is None, reason="nginx is not installed")

((_, SNIPPET),) = Document("docs/run-in-production.md").examples("nginx")
CONFIG = """
daemon off;
worker_processes 1;
pid nginx.pid;
error_log error.log;
events {{}}
http {{
    access_log access.log;
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    {snippet}
}}
"""


class Nginx(NamedTuple):
    """A running nginx."""

    url: str
    access_log: Path


@pytest.fixture
async def nginx(notifier: Notifier, tmp_path: Path) -> AsyncIterator[Nginx]:
    """Run nginx with the page's configuration in front of the notifier."""
    assert NGINX is not None
    (port,) = free_ports(1)
    snippet = SNIPPET.replace("127.0.0.1:8081", urlsplit(notifier.public).netloc)
    snippet = snippet.replace("server {", f"server {{ listen 127.0.0.1:{port}; location = /ready {{ return 200; }}")
    (tmp_path / "nginx.conf").write_text(CONFIG.format(snippet=snippet))
    process = await asyncio.create_subprocess_exec(
        NGINX, "-e", "error.log", "-p", str(tmp_path), "-c", "nginx.conf", cwd=tmp_path
    )
    url = f"http://127.0.0.1:{port}"

    try:
        await wait_until(lambda: is_ready(notifier.session, f"{url}/ready"))
        yield Nginx(url, tmp_path / "access.log")
    finally:
        process.terminate()
        assert await process.wait() == 0, (tmp_path / "error.log").read_text()


async def test_sockets_and_streams_pass_through_nginx(notifier: Notifier, redis: Redis, nginx: Nginx) -> None:
    """A WebSocket and a stream deliver each snapshot at once, and no token is in the log."""
    job_id = new_id()
    token = notifier.token(job_id)
    query = {"access_token": token}
    async with (
        notifier.session.ws_connect(f"{nginx.url}/live", params=query) as socket,
        notifier.session.get(f"{nginx.url}/live/jobs/{job_id}/events", params=query) as stream,
    ):
        events = read_events(stream)
        assert (await asyncio.wait_for(anext(events), PATIENCE_S)).comment is not None
        assert "hello" in await socket.receive_json(timeout=PATIENCE_S)
        for sequence, status in enumerate(("running", "succeeded"), 1):
            await notifier.report(report(job_id, sequence, status=status))
            message = await socket.receive_json(timeout=PATIENCE_S)
            while message.get("job", {}).get("status") != status:
                message = await socket.receive_json(timeout=PATIENCE_S)
            async with asyncio.timeout(PATIENCE_S):
                while (event := await anext(events)).name != "job" or event.data["status"] != status:
                    pass
    log = nginx.access_log.read_text()
    assert "/ready" in log
    assert token not in log
