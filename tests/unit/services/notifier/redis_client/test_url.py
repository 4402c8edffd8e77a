"""`REDIS_URL`: the servers that a URL names, and the errors about an invalid one."""

from __future__ import annotations

import ssl
from typing import Any

import pytest

from services.notifier.redis_client.topology import ClusterRedis, NodeAddress, SentinelRedis, StandaloneRedis
from services.notifier.redis_client.url import redis_from_url
from services.notifier.settings import NotifierSettings
from services.runtime.settings import SettingsError, load

REQUIRED = {"REPORT_KEY_FILE": "r", "TOKEN_PUBLIC_KEY_FILE": "p"}


def connection_to(url: str, node: NodeAddress = NodeAddress()) -> Any:  # noqa: B008 - immutable
    """Return an unopened connection to a node of a URL's servers."""
    return redis_from_url(url).new_connection(node)


@pytest.mark.parametrize(
    ("url", "host", "port"),
    [
        ("redis://redis", "redis", 6379),
        ("redis://redis:7000/3", "redis", 7000),
        ("redis://[::1]:7000", "::1", 7000),
        ("redis://[::1]", "::1", 6379),
        ("redis://user:p%40ss@redis", "redis", 6379),
    ],
)
def test_the_url_of_a_standalone_server(url: str, host: str, port: int) -> None:
    """The host is a name or an address; port and database are optional."""
    connection = connection_to(url)
    assert (type(redis_from_url(url)), connection.host, connection.port) == (StandaloneRedis, host, port)
    assert connection.db == (3 if url.endswith("/3") else 0)


def test_credentials_apply_to_every_server() -> None:
    """The URL's user, password and TLS options apply to the connections to all servers."""
    for url in ("rediss://user:p%40ss@redis", "rediss+cluster://user:p%40ss@one:1,two:2"):
        connection = connection_to(f"{url}?ssl_cert_reqs=none", NodeAddress("three", 3))
        assert (connection.username, connection.password) == ("user", "p@ss")
        assert connection.ssl_context.cert_reqs == ssl.CERT_NONE
    assert connection_to("rediss+cluster://one", NodeAddress("three", 3)).host == "three"
    assert connection_to("rediss://redis").ssl_context.cert_reqs == ssl.CERT_REQUIRED


def test_a_cluster_starts_without_slots() -> None:
    """The nodes of a cluster are unknown until its slots have been read."""
    cluster = redis_from_url("redis+cluster://one:1,two")
    assert isinstance(cluster, ClusterRedis)
    assert cluster.nodes() == set()
    assert cluster.slots_stale


def test_sentinels_have_their_own_credentials() -> None:
    """The URL's user is for the Redis server; the query has the credentials for the sentinels."""
    url = "redis+sentinel://user:p@one:1,two/2?sentinel_name=mine&sentinel_username=s&sentinel_password=q"
    redis = redis_from_url(url)
    assert isinstance(redis, SentinelRedis)
    connection: Any = redis.new_connection(NodeAddress())
    assert (connection.username, connection.password, connection.db) == ("user", "p", 2)
    options = [sentinel.connection_pool.connection_kwargs for sentinel in redis._sentinel.sentinels]
    assert [(each["host"], each["port"]) for each in options] == [("one", 1), ("two", 26_379)]
    assert {(each["username"], each["password"]) for each in options} == {("s", "q")}


@pytest.mark.parametrize(
    "url",
    [
        "http://redis",
        "redis+magic://redis",
        "redis+://redis",
        "redis",
        "redis://",
        "redis://one,two",
        "redis://redis:port",
        "redis://redis?sentinel_name=x",
        "redis+sentinel://one",
        "redis+sentinel://one?sentinel_name=x&sentinel_colour=y",
        "redis://redis?hunter2=1",
        "redis+cluster://user:hunter2@one,,two",
        "redis://redis?socket_timeout=hunter2",
    ],
)
def test_an_invalid_url_is_rejected_without_its_secrets(url: str) -> None:
    """The error names the setting and the expected form, but not the value."""
    with pytest.raises(SettingsError) as raised:
        load(NotifierSettings, {"REDIS_URL": url, **REQUIRED})
    assert str(raised.value).startswith("REDIS_URL: Expected ")
    assert "hunter2" not in str(raised.value)
