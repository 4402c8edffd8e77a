"""What `REDIS_URL` names, and what is said when it names nothing."""

from __future__ import annotations

import ssl
from typing import Any

import pytest

from services.notifier.redis_client.topology import ClusterRedis, NodeAddress, SentinelRedis, StandaloneRedis
from services.notifier.redis_client.url import redis_from_url
from services.notifier.settings import NotifierSettings
from services.runtime.settings import SettingsError, load

REQUIRED = {"REPORT_KEY_FILE": "r", "TOKEN_PUBLIC_KEY_FILE": "p"}


def reached(url: str, server: NodeAddress = NodeAddress()) -> Any:  # noqa: B008 - it cannot be changed
    """Return a connection to what a URL names."""
    return redis_from_url(url).new_connection(server)


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
def test_one_server(url: str, host: str, port: int) -> None:
    """A host with or without a port, by name or number."""
    connection = reached(url)
    assert (type(redis_from_url(url)), connection.host, connection.port) == (StandaloneRedis, host, port)
    assert connection.db == (3 if url.endswith("/3") else 0)


def test_a_user_a_password_and_a_certificate() -> None:
    """They hold for every connection, to whichever server."""
    for url in ("rediss://user:p%40ss@redis", "rediss+cluster://user:p%40ss@one:1,two:2"):
        connection = reached(f"{url}?ssl_cert_reqs=none", NodeAddress("three", 3))
        assert (connection.username, connection.password) == ("user", "p@ss")
        assert connection.ssl_context.cert_reqs == ssl.CERT_NONE
    assert reached("rediss+cluster://one", NodeAddress("three", 3)).host == "three"
    assert reached("rediss://redis").ssl_context.cert_reqs == ssl.CERT_REQUIRED


def test_a_cluster_is_unknown_at_first() -> None:
    """Who keeps what has to be asked."""
    cluster = redis_from_url("redis+cluster://one:1,two")
    assert isinstance(cluster, ClusterRedis)
    assert cluster.nodes() == set()
    assert cluster.slots_stale


def test_sentinels_have_names_and_passwords_of_their_own() -> None:
    """The URL's user is the server's."""
    url = "redis+sentinel://user:p@one:1,two/2?sentinel_name=mine&sentinel_username=s&sentinel_password=q"
    guarded = redis_from_url(url)
    assert isinstance(guarded, SentinelRedis)
    connection: Any = guarded.new_connection(NodeAddress())
    assert (connection.username, connection.password, connection.db) == ("user", "p", 2)
    asked = [one.connection_pool.connection_kwargs for one in guarded._sentinel.sentinels]
    assert [(one["host"], one["port"]) for one in asked] == [("one", 1), ("two", 26_379)]
    assert {(one["username"], one["password"]) for one in asked} == {("s", "q")}


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
def test_what_names_nothing_is_told_without_its_secrets(url: str) -> None:
    """The setting is named at start, and what it should be; not what it is."""
    with pytest.raises(SettingsError) as raised:
        load(NotifierSettings, {"REDIS_URL": url, **REQUIRED})
    assert str(raised.value).startswith("REDIS_URL: Expected ")
    assert "hunter2" not in str(raised.value)
