"""Redis over TLS, entered by a user who may do no more than the document says."""

from __future__ import annotations

import asyncio
import re
import shlex
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from redis.exceptions import RedisError

from dev.environment import ROOT
from services.notifier.redis_client.pubsub import PubSub
from services.notifier.redis_client.url import redis_from_url
from tests.integration.certificates import self_signed_certificate
from tests.integration.conftest import new_id, report, running_notifier
from tests.integration.redis_servers import HOST, PERSISTENT, RedisCluster, RedisServer
from tests.waiting import wait_until

USER = "headway"


def rules() -> list[str]:
    """Return the words of the user that the document shows."""
    (found,) = re.findall(
        r"^user headway on (.+?)^```", (ROOT / "docs/operations.md").read_text(), re.MULTILINE | re.DOTALL
    )
    return ["on", *shlex.split(found)]


@asynccontextmanager
async def tls_before(server: RedisServer, folder: Path) -> AsyncIterator[str]:
    """Stand before a server with TLS until the block ends; yield the way to it."""
    files = self_signed_certificate(folder)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*files)
    writers: list[asyncio.StreamWriter] = []

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65_536):
            writer.write(data)
        writer.close()

    async def connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner_reader, inner_writer = await asyncio.open_connection(HOST, server.port)
        writers.extend((writer, inner_writer))
        await asyncio.gather(copy(reader, inner_writer), copy(inner_reader, writer), return_exceptions=True)

    listener = await asyncio.start_server(connect, HOST, 0, ssl=context)
    try:
        yield f"{HOST}:{listener.sockets[0].getsockname()[1]}"
    finally:
        listener.close()
        for writer in writers:
            writer.transport.abort()


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[RedisServer]:
    """Run a server that nobody enters without a name."""
    async with RedisServer.running(tmp_path, *PERSISTENT) as server:
        await server.execute("ACL", "SETUSER", USER, *rules())
        yield server


async def test_a_job_is_reported_watched_and_cancelled(server: RedisServer, tmp_path: Path) -> None:
    """Over TLS, with the certificate checked, and with the rights that the document lists."""
    async with tls_before(server, tmp_path) as address:
        url = f"rediss://{USER}:password@{address}/0?ssl_ca_certs={tmp_path}/cert.pem"
        async with running_notifier({"REDIS_URL": url}, tmp_path) as notifier, notifier.socket() as socket:
            job_id = new_id()
            await notifier.report(report(job_id, 1))
            await socket.send_json({"watch": notifier.token(job_id)})
            assert (await socket.receive_json())["job"]["status"] == "running"
            await notifier.report(report(job_id, 2, progress={"current": 7}))
            assert (await socket.receive_json())["job"]["progress"]["current"] == 7
            await socket.send_json({"cancel": job_id})
            assert (await socket.receive_json())["job"]["cancel_requested"]
            async with notifier.session.post(f"{notifier.internal}/wake") as response:
                assert response.status == 204
            await socket.send_json({"unwatch": job_id})
            await wait_until(lambda: _left(server))
    assert await server.admin.acl_log() == []


async def _left(server: RedisServer) -> bool:
    return await server.admin.pubsub_channels() == ["headway:wake"]


@pytest.mark.parametrize("wrong", ["rediss://headway:password@{tls}", "rediss://headway:wrong@{tls}?ssl_ca_certs={ca}"])
async def test_who_may_not_enter_is_not_ready(wrong: str, server: RedisServer, tmp_path: Path) -> None:
    """A certificate that nobody vouches for and a wrong password are lost connections, not crashes."""
    async with (
        tls_before(server, tmp_path) as address,
        redis_from_url(wrong.format(tls=address, ca=tmp_path / "cert.pem")) as servers,
    ):
        bus = PubSub(servers)
        running = asyncio.create_task(bus.run())
        with pytest.raises(RedisError, match=r"CERTIFICATE_VERIFY_FAILED|invalid username-password"):
            await servers.execute([("key", ("PING",))])
        assert not bus.ready
        assert not running.done()
        running.cancel()


async def test_the_same_user_enters_a_cluster(tmp_path: Path) -> None:
    """With the same rights every node is entered."""
    async with RedisCluster.running(tmp_path) as cluster:
        for one in (*cluster.primaries, cluster.replica):
            await one.execute("ACL", "SETUSER", USER, *rules())
        url = cluster.url.replace("://", f"://{USER}:password@")
        async with running_notifier({"REDIS_URL": url}, tmp_path) as notifier, notifier.socket() as socket:
            for job_id in [new_id() for _ in range(12)]:
                await socket.send_json({"watch": notifier.token(job_id)})
                assert (await socket.receive_json())["job"]["status"] == "queued"
                told = report(job_id, 1)
                (verdict,) = await notifier.report(told)
                assert verdict["watched"]
                assert (await socket.receive_json())["job"]["status"] == "running"
                (verdict,) = await notifier.report({**told, "sequence": 2})  # nothing new, nothing published
                assert verdict["watched"]
            async with notifier.session.post(f"{notifier.internal}/wake") as response:
                assert response.status == 204
        assert [await one.admin.acl_log() for one in cluster.primaries] == [[], [], []]
