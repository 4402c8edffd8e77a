"""`REDIS_URL`: the servers that a URL names, and the errors about an invalid one."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from redis.exceptions import RedisError

from services.notifier.redis_client.connector import ConnectionOptions, NodeAddress
from services.notifier.redis_client.topology import DEFAULT_NODE, ClusterRedis, SentinelRedis, StandaloneRedis
from services.notifier.redis_client.url import redis_from_url
from services.notifier.settings import NotifierSettings
from services.runtime.settings import Secret, SettingsError, load
from tests.unit.services.notifier.redis_client.fake_redis import FakeRedis
from tests.waiting import free_ports

REQUIRED = {"REPORT_KEY_FILE": "r", "TOKEN_PUBLIC_KEY_FILE": "p"}
PASSWORD = Secret("p@ss")
SECRETS = ("hunter2", PASSWORD)


@pytest.fixture
async def fake() -> AsyncIterator[FakeRedis]:
    """Run a fake server."""
    async with FakeRedis.running() as fake:
        yield fake


def options(url: str) -> ConnectionOptions:
    """Return the options of a URL's connections."""
    return redis_from_url(url)._connector._options


@pytest.mark.parametrize(
    ("url", "host", "port"),
    [
        ("redis://redis", "redis", 6379),
        ("redis://redis:7000/3", "redis", 7000),
        ("redis://[::1]:7000", "::1", 7000),
        ("redis://[::1]", "::1", 6379),
        ("redis://redis:/", "redis", 6379),
        ("redis://user:p%40ss@redis", "redis", 6379),
    ],
)
def test_the_url_of_a_standalone_server(url: str, host: str, port: int) -> None:
    """The host is a name or an address; port and database are optional."""
    redis = redis_from_url(url)
    assert isinstance(redis, StandaloneRedis)
    assert redis._address == NodeAddress(host, port)
    assert options(url).db == (3 if url.endswith("/3") else 0)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://user:p%40ss@redis", ConnectionOptions("user", PASSWORD)),
        ("redis://:hunter2@redis/1", ConnectionOptions(password=Secret("hunter2"), db=1)),
        ("redis://redis/1?db=2&client_name=mine", ConnectionOptions(db=2, client_name="mine")),
        ("redis://user@redis?username=other&password=p%40ss", ConnectionOptions("user", PASSWORD)),
        ("redis+cluster://user:p@ss@one,two/0", ConnectionOptions("user", PASSWORD)),
        ("redis://redis?socket_timeout=5&max_connections=9&decode_responses=True", ConnectionOptions()),
    ],
)
def test_options_apply_to_every_connection(url: str, expected: ConnectionOptions) -> None:
    """Credentials and database stand in their usual places, or after the `?` as for redis-py."""
    assert options(url) == expected
    assert not any(secret in repr(options(url)) for secret in SECRETS)


def test_tls_options_need_a_tls_url(tmp_path: Path) -> None:
    """The options have redis-py's names, and certificates are verified unless the URL says otherwise."""
    assert redis_from_url("redis://redis")._connector._tls is None
    tls = redis_from_url("rediss+cluster://one?ssl_check_hostname=false&ssl_min_version=771")._connector._tls
    assert tls
    assert (tls.ssl_check_hostname, tls.ssl_min_version, tls.ssl_cert_reqs) == (False, 771, "required")
    default = redis_from_url("rediss://redis")._connector._tls
    assert default
    assert (default.ssl_check_hostname, default.ssl_cert_reqs) == (True, "required")


def test_a_cluster_starts_without_slots() -> None:
    """The nodes of a cluster are unknown until its slots have been read."""
    cluster = redis_from_url("redis+cluster://one:1,two")
    assert isinstance(cluster, ClusterRedis)
    assert cluster.nodes() == set()
    assert cluster.slots_stale


async def test_only_a_cluster_connects_to_replicas(fake: FakeRedis) -> None:
    """Any node of a cluster knows its slots, but elsewhere a replica would refuse every report."""
    fake.handshake_replies[b"HELLO"] = b"*2\r\n+role\r\n+replica"
    async with redis_from_url(f"redis+cluster://{fake.address}") as cluster:
        (await cluster.connect(fake.address)).close()
    async with redis_from_url(f"redis://{fake.address}") as redis:
        with pytest.raises(RedisError, match="is a replica"):
            await redis.connect(DEFAULT_NODE)


def test_sentinels_have_their_own_credentials() -> None:
    """The URL's user is for the Redis server; the query has the credentials for the sentinels."""
    url = "redis+sentinel://user:p@one:1,two/2?sentinel_name=mine&sentinel_username=s&sentinel_password=q"
    redis = redis_from_url(url)
    assert isinstance(redis, SentinelRedis)
    assert options(url) == ConnectionOptions("user", Secret("p"), 2)
    kwargs = [sentinel.connection_pool.connection_kwargs for sentinel in redis._sentinel.sentinels]
    assert [(each["host"], each["port"]) for each in kwargs] == [("one", 1), ("two", 26_379)]
    assert {(each["username"], each["password"]) for each in kwargs} == {("s", "q")}


async def test_unreachable_sentinels_are_reported_without_their_secrets() -> None:
    """The error names the sentinels that were asked."""
    port = free_ports(1)[0]
    url = f"redis+sentinel://:p%40ss@127.0.0.1:{port}?sentinel_name=mine&sentinel_password=hunter2"
    async with redis_from_url(url) as redis:
        with pytest.raises(RedisError, match=f"No master found for 'mine'.*{port}") as raised:
            await redis.connect(DEFAULT_NODE)
    assert not any(secret in repr(raised.value) for secret in SECRETS)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://redis", "redis:// or rediss://"),
        ("redis+magic://redis", "redis:// or rediss://"),
        ("redis+://redis", "redis:// or rediss://"),
        ("redis", "hosts"),
        ("redis://", "hosts"),
        ("redis://one,two", "a single host"),
        ("redis://redis:port", "hosts"),
        ("redis://redis:65536", "hosts"),
        ("redis://::1", "hosts"),
        ("redis://[redis", "a URL such as"),
        ("redis://:hunter2@redis\uff0fexample", "a URL such as"),
        ("redis://redis/hunter2", "another value of db"),
        ("redis://redis?db=-1", "another value of db"),
        ("redis://redis?sentinel_name=x", "+sentinel"),
        ("redis+sentinel://one", "?sentinel_name="),
        (
            "redis+sentinel://one?sentinel_name=x&sentinel_colour=y",
            "only these options after the ?: username, password, db",
        ),
        ("redis://redis?hunter2=1", "only these options after the ?: username, password, db"),
        ("redis+cluster://user:hunter2@one,,two", "hosts"),
        ("redis://redis?socket_timeout=hunter2", "another value of socket_timeout"),
        ("redis://redis?ssl_ca_certs=ca.pem", "rediss"),
        ("rediss://redis?ssl_cert_reqs=hunter2", "another value of ssl_cert_reqs"),
        ("rediss://redis?ssl_check_hostname=hunter2", "another value of ssl_check_hostname"),
        ("rediss://redis?ssl_ca_certs=/hunter2", "TLS options that can be used"),
        ("rediss://redis?ssl_keyfile=/hunter2", "TLS options that can be used"),
        ("rediss://redis?ssl_ciphers=hunter2", "TLS options that can be used"),
        ("rediss://redis?ssl_min_version=9", "TLS options that can be used"),
        ("rediss://redis?ssl_exclude_verify_flags=hunter2", "TLS options that can be used"),
    ],
)
def test_an_invalid_url_is_rejected_without_its_secrets(url: str, expected: str) -> None:
    """The error names the setting and the expected form, but not the value."""
    with pytest.raises(SettingsError) as raised:
        load(NotifierSettings, {"REDIS_URL": url, **REQUIRED})
    assert str(raised.value).startswith("REDIS_URL: Expected ")
    assert expected in str(raised.value)
    assert "hunter2" not in str(raised.value)
