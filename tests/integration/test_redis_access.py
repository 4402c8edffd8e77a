"""Redis over TLS, with a user who has only the permissions that docs/run-in-production.md lists."""

from __future__ import annotations

import asyncio
import shlex
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from redis.exceptions import RedisError

from services.notifier.redis_client.pubsub import PubSub
from services.notifier.redis_client.url import redis_from_url
from tests.certificates import self_signed_certificate
from tests.documents import Document
from tests.integration.conftest import Notifier, new_id, report, running_notifier
from tests.integration.hub_client import HubClient
from tests.integration.redis_servers import HOST, PERSISTENT, RedisCluster, RedisServer
from tests.waiting import wait_until

USER = "headway"


def acl_rules() -> list[str]:
    """Return the ACL rules of the user in docs/run-in-production.md."""
    (rules,) = [text for _, text in Document("docs/run-in-production.md").examples("text") if text.startswith("user ")]
    return shlex.split(rules)[2:]


@asynccontextmanager
async def tls_proxy(server: RedisServer, folder: Path) -> AsyncIterator[str]:
    """Run a proxy that terminates TLS in front of a server until the block ends; yield the proxy's address."""
    files = self_signed_certificate(folder)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*files)
    writers: list[asyncio.StreamWriter] = []

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65_536):
            writer.write(data)
        writer.close()

    async def connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream_reader, upstream_writer = await asyncio.open_connection(HOST, server.port)
        writers.extend((writer, upstream_writer))
        await asyncio.gather(copy(reader, upstream_writer), copy(upstream_reader, writer), return_exceptions=True)

    listener = await asyncio.start_server(connect, HOST, 0, ssl=context)
    try:
        yield f"{HOST}:{listener.sockets[0].getsockname()[1]}"
    finally:
        listener.close()
        for writer in writers:
            writer.transport.abort()


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[RedisServer]:
    """Run a server with the documented user."""
    async with RedisServer.running(tmp_path, *PERSISTENT) as server:
        await server.execute("ACL", "SETUSER", USER, *acl_rules())
        yield server


async def test_documented_permissions_suffice(server: RedisServer, tmp_path: Path) -> None:
    """A job is reported, watched and cancelled over TLS, and Redis denies none of the notifier's commands."""
    async with tls_proxy(server, tmp_path) as address:
        url = f"rediss://{USER}:password@{address}/0?ssl_ca_certs={tmp_path}/cert.pem"
        async with running_notifier({"REDIS_URL": url}, tmp_path) as notifier, notifier.socket() as socket:
            job_id = new_id()
            await notifier.report(report(job_id, 1))
            await socket.send_json({"watch": notifier.token(job_id)})
            assert (await socket.receive_json())["job"]["status"] == "running"
            for start, text in ((0, "first\n" * 5_000), (30_000, "second\n" * 4_000)):
                await notifier.append_log(job_id, text, start, watchers=True)
            await socket.send_json({"watch": notifier.token(job_id), "log": 0})
            assert {name for _ in range(2) for name in await socket.receive_json()} == {"job", "log"}
            await notifier.report(report(job_id, 2, progress={"current": 7}))
            assert (await socket.receive_json())["job"]["progress"]["current"] == 7
            await socket.send_json({"cancel": job_id})
            assert (await socket.receive_json())["job"]["cancel_requested"]
            async with notifier.session.post(f"{notifier.internal}/wake") as response:
                assert response.status == 204
            await notifier.submit(job_id, generation=1)  # as of a redrive
            assert (await socket.receive_json())["job"]["status"] == "queued"
            await _poll_hub(notifier, job_id)
            await socket.send_json({"unwatch": job_id})
            await wait_until(lambda: _is_unsubscribed(server))
    assert await server.admin.acl_log() == []


async def _poll_hub(notifier: Notifier, job_id: str) -> None:
    """Watch a job with a SignalR client that polls, and stop."""
    async with HubClient.connected(notifier, "poll") as client:
        await client.call("0", "Watch", notifier.token(job_id))
        assert {message["type"] for _ in range(2) if (message := await client.next_message())} == {1, 3}
        assert await client.request("DELETE") == (202, b"")


async def _is_unsubscribed(server: RedisServer) -> bool:
    return await server.admin.pubsub_channels() == ["headway:wake"]


@pytest.mark.parametrize("url", ["rediss://headway:password@{tls}", "rediss://headway:wrong@{tls}?ssl_ca_certs={ca}"])
async def test_failed_authentication_is_unready(url: str, server: RedisServer, tmp_path: Path) -> None:
    """With an untrusted certificate or a wrong password commands raise; the subscriber retries and is not ready."""
    async with (
        tls_proxy(server, tmp_path) as address,
        redis_from_url(url.format(tls=address, ca=tmp_path / "cert.pem")) as client,
    ):
        pubsub = PubSub(client)
        running = asyncio.create_task(pubsub.run())
        with pytest.raises(RedisError, match=r"CERTIFICATE_VERIFY_FAILED|invalid username-password"):
            await client.execute([("key", ("PING",))])
        assert not pubsub.ready
        assert not running.done()
        running.cancel()


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("redis://headway:wrong@{address}", "WRONGPASS"),
        ("redis://headway:password@{address}/1", "NOPERM"),  # its permissions are those for database 0
        ("redis://{address}/99", "DB index is out of range"),
        ("redis://{replica}", "is a replica"),
    ],
)
async def test_a_refused_connection_raises_the_reason(
    url: str, reason: str, server: RedisServer, tmp_path: Path
) -> None:
    """The credentials, the database and the role of the server are checked when a connection is opened."""
    settings = ("--replicaof", f"{HOST} {server.port}")
    async with RedisServer.running(tmp_path, *settings) as replica:
        address = url.format(address=server.address, replica=replica.address)
        async with redis_from_url(address) as client:
            with pytest.raises(RedisError, match=reason):
                await client.execute([("key", ("PING",))])


async def test_connections_have_a_name(server: RedisServer) -> None:
    """Operators find the notifier's connections in the list of clients."""
    async with redis_from_url(f"redis://{USER}:password@{server.address}") as client:
        await client.execute([("key", ("PING",))])
        (found,) = [entry for entry in await server.admin.client_list() if entry["user"] == USER]
        assert (found["name"], found["resp"]) == ("headway-notifier", "2")


async def keep_and_erase(notifier: Notifier, last_report: dict[str, Any]) -> None:
    """Report a failure with details, read the kept message, and erase the job."""
    details = {"message": "kept", "error": {"type": "KeyError", "message": "zip"}}
    error = {"type": "InternalError", "message": "It failed."}
    await notifier.report({**last_report, "status": "failed", "error": error, "result": 7, "details": details})
    url, headers = (
        f"{notifier.internal}/jobs/{last_report['job_id']}",
        {"Authorization": f"Bearer {notifier.report_key}"},
    )
    async with notifier.session.get(url, headers=headers) as response:
        assert (await response.json())["message"] == "kept"
    async with notifier.session.delete(url, headers=headers) as response:
        assert response.status == 204


async def test_documented_permissions_suffice_in_a_cluster(tmp_path: Path) -> None:
    """Jobs on all primaries are reported and watched, and no primary denies a command of the notifier."""
    async with RedisCluster.running(tmp_path) as cluster:
        for server in (*cluster.primaries, cluster.replica):
            await server.execute("ACL", "SETUSER", USER, *acl_rules())
        url = cluster.url.replace("://", f"://{USER}:password@")
        async with running_notifier({"REDIS_URL": url}, tmp_path) as notifier, notifier.socket() as socket:
            for job_id in [new_id() for _ in range(12)]:
                await socket.send_json({"watch": notifier.token(job_id)})
                assert (await socket.receive_json())["job"]["status"] == "queued"
                first = report(job_id, 1)
                (verdict,) = await notifier.report(first)
                assert verdict["watched"]
                assert (await socket.receive_json())["job"]["status"] == "running"
                (verdict,) = await notifier.report({**first, "sequence": 2})  # no change: Redis publishes nothing
                assert verdict["watched"]
                await notifier.append_log(job_id, "stored\n", watchers=True)
                await socket.send_json({"watch": notifier.token(job_id), "log": 0})
                assert {name for _ in range(2) for name in await socket.receive_json()} == {"job", "log"}
                await notifier.append_log(job_id, "live\n", 7, watchers=True)
                assert (await socket.receive_json())["log"]["text"] == "live\n"
                await keep_and_erase(notifier, {**first, "sequence": 3})
                assert (await socket.receive_json())["job"]["status"] == "failed"
                assert (await socket.receive_json())["job"]["result"] is None
            for _ in range(3):
                await _poll_hub(notifier, new_id())
            async with notifier.session.post(f"{notifier.internal}/wake") as response:
                assert response.status == 204
        assert [await server.admin.acl_log() for server in cluster.primaries] == [[], [], []]
