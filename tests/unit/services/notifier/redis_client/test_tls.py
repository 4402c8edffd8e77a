"""TLS connections to Redis: trust, host names, client certificates and the options' limits."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

from services.notifier.redis_client.connector import ConnectionOptions, Connector, NodeAddress
from services.notifier.redis_client.tls import TlsOptions
from tests.certificates import self_signed_certificate
from tests.unit.services.notifier.redis_client.fake_redis import FakeRedis


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[str, str]:
    """Create a certificate for 127.0.0.1; return its path and that of its key."""
    certificate, key = self_signed_certificate(tmp_path)
    return str(certificate), str(key)


@pytest.fixture
async def server(certificate: tuple[str, str]) -> AsyncIterator[FakeRedis]:
    """Run a fake server with the certificate, which accepts the same one from clients."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=certificate[0])
    context.load_cert_chain(*certificate)
    context.verify_mode = ssl.CERT_OPTIONAL
    async with FakeRedis.running(context) as fake:
        yield fake


async def connect(server: FakeRedis, tls: TlsOptions, host: str = "127.0.0.1") -> None:
    """Open a connection to a host of the server, and close it."""
    connector = Connector(ConnectionOptions(), tls, primary_only=True)
    (await connector.connect(NodeAddress(host, server.address.port))).close()


async def test_a_trusted_certificate_is_accepted(server: FakeRedis, certificate: tuple[str, str]) -> None:
    """The certificate authorities come from a file or from the URL."""
    await connect(server, TlsOptions(ssl_ca_certs=certificate[0]))
    await connect(server, TlsOptions(ssl_ca_data=Path(certificate[0]).read_text()))
    assert len(server.handshake_commands) == 2


async def test_a_certificate_is_verified(server: FakeRedis, certificate: tuple[str, str]) -> None:
    """An untrusted certificate, or one for another host, is refused before the password is sent."""
    with pytest.raises(RedisConnectionError, match="CERTIFICATE_VERIFY_FAILED"):
        await connect(server, TlsOptions())
    with pytest.raises(RedisConnectionError, match="not valid for 'localhost'"):
        await connect(server, TlsOptions(ssl_ca_certs=certificate[0]), "localhost")
    assert server.handshake_commands == []


async def test_verification_can_be_relaxed(server: FakeRedis, certificate: tuple[str, str]) -> None:
    """Without the check of the host's name, or without any check."""
    await connect(server, TlsOptions(ssl_ca_certs=certificate[0], ssl_check_hostname=False), "localhost")
    await connect(server, TlsOptions(ssl_cert_reqs="none"), "localhost")


async def test_a_client_certificate_is_presented(server: FakeRedis, certificate: tuple[str, str]) -> None:
    """The server can verify the notifier."""
    tls = TlsOptions(ssl_ca_certs=certificate[0], ssl_certfile=certificate[0], ssl_keyfile=certificate[1])
    await connect(server, tls)
    assert all(server.client_certificates)


async def test_files_are_read_for_each_connection(server: FakeRedis, certificate: tuple[str, str]) -> None:
    """A renewed certificate is used without a restart."""
    tls = TlsOptions(ssl_ca_certs=certificate[0])
    await connect(server, tls)
    Path(certificate[0]).unlink()
    with pytest.raises(RedisConnectionError, match="No such file"):
        await connect(server, tls)


def test_limits_of_the_handshake() -> None:
    """Versions, ciphers and flags are those of Python's ssl module."""
    context = TlsOptions(
        ssl_min_version=ssl.TLSVersion.TLSv1_3,
        ssl_ciphers="ECDHE+AESGCM",
        ssl_include_verify_flags="[VERIFY_CRL_CHECK_LEAF, VERIFY_X509_STRICT]",
        ssl_exclude_verify_flags="VERIFY_X509_TRUSTED_FIRST",
    ).context()
    assert context.minimum_version == ssl.TLSVersion.TLSv1_3
    assert context.verify_flags & ssl.VERIFY_CRL_CHECK_LEAF
    assert context.verify_flags & ssl.VERIFY_X509_STRICT
    assert not context.verify_flags & ssl.VERIFY_X509_TRUSTED_FIRST
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)


async def test_redis_py_gets_the_same_options(server: FakeRedis, certificate: tuple[str, str]) -> None:
    """Sentinel's connections are redis-py's, and have the same options."""
    tls = TlsOptions(
        ssl_ca_certs=certificate[0],
        ssl_certfile=certificate[0],
        ssl_keyfile=certificate[1],
        ssl_min_version=771,
        ssl_include_verify_flags="VERIFY_X509_TRUSTED_FIRST",
        ssl_exclude_verify_flags="VERIFY_X509_STRICT",
    )
    server.handshake_replies |= {b"PING": b"+PONG", b"CLIENT": b"+OK"}
    async with Redis(host="127.0.0.1", port=server.address.port, protocol=2, **tls.redis_py_options()) as redis:
        assert await redis.ping()
    assert all(server.client_certificates)
    assert TlsOptions().redis_py_options() == {"ssl": True}
