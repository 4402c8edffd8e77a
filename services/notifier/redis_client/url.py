"""The URL of Redis (`REDIS_URL`) and its three forms.

    redis://user:password@host:6379/0                                 one server
    redis+sentinel://host:26379,host:26379/0?sentinel_name=mymaster   the primary that these sentinels know by this name
    redis+cluster://host:6379,host:6379                               a cluster; these nodes are asked for the others

`rediss` is the same over TLS. The query may contain any option of redis-py, such as `?ssl_ca_certs=/etc/redis/ca.pem`.
"""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import parse_qsl, urlencode, urlsplit

from redis.asyncio import ConnectionPool
from redis.asyncio.connection import SSLConnection
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel, SentinelConnectionPool
from redis.backoff import NoBackoff

from .topology import (
    ClusterRedis,
    NodeAddress,
    RedisClient,
    SentinelRedis,
    StandaloneRedis,
)

CONNECT_TIMEOUT_S = 2.0
SENTINEL_TIMEOUT_S = 1.0  # to connect, and for each reply; then the next sentinel is asked
DEFAULT_PORTS = {"": 6_379, "cluster": 6_379, "sentinel": 26_379}


def redis_from_url(url: str) -> RedisClient:
    """Return a client for a URL. No connection is opened yet.

    Raises:
        ValueError: the URL is not valid. The message does not quote the URL, which may contain a password.
    """
    scheme, _, rest = url.partition("://")
    protocol, plus, topology = scheme.partition("+")
    if protocol not in {"redis", "rediss"} or topology not in DEFAULT_PORTS or bool(plus) != bool(topology):
        raise ValueError("Expected redis:// or rediss://, optionally with +sentinel or +cluster before the ://")
    parts = urlsplit(f"{protocol}://{rest}")
    credentials, at, hosts = parts.netloc.rpartition("@")
    addresses = [_parse_address(host, DEFAULT_PORTS[topology]) for host in hosts.split(",")]
    if not topology and len(addresses) > 1:
        raise ValueError("Expected a single host, or +sentinel or +cluster before the ://")
    query = dict(parse_qsl(parts.query))
    sentinel_options = {name: query.pop(name) for name in list(query) if name.startswith("sentinel_")}
    if sentinel_options and topology != "sentinel":
        raise ValueError("Expected +sentinel before the ://, because the URL has options for Sentinel")
    pool = _pool(parts._replace(netloc=f"{credentials}{at}localhost", query=urlencode(query)).geturl(), addresses[0])
    if topology == "sentinel":
        return _sentinel(pool, addresses, sentinel_options)
    return ClusterRedis(pool, addresses) if topology == "cluster" else StandaloneRedis(pool)


def _parse_address(text: str, default_port: int) -> NodeAddress:
    """Parse a host with an optional port. An IPv6 address is written in brackets."""
    host, colon, port_text = text.rpartition(":")
    if not colon or port_text.endswith("]"):
        host, port_text = text, ""
    if (port_text and not port_text.isdecimal()) or not host.strip("[]"):
        raise ValueError("Expected hosts with optional ports, such as redis-0:6379,redis-1:6379")
    return NodeAddress(host.strip("[]"), int(port_text or default_port))


def _pool(url: str, address: NodeAddress) -> ConnectionPool:
    """Return a pool that creates connections, all with the same options."""
    try:
        pool = ConnectionPool.from_url(url)
        pool.make_connection()  # type: ignore[no-untyped-call] # redis-py checks the options only here
    except (ValueError, TypeError) as error:
        raise ValueError("Expected only options that redis-py knows after the ?") from error
    # No retries: a repeated report would be rejected as stale although the first one was accepted. RESP2: published
    # messages arrive as ordinary replies, and there are no maintenance notices.
    pool.connection_kwargs.update(
        address._asdict(),
        protocol=2,
        retry=_no_retry(),
        socket_timeout=None,
        socket_connect_timeout=CONNECT_TIMEOUT_S,
        health_check_interval=0,
    )
    return pool


def _sentinel(
    pool: ConnectionPool, sentinels: Sequence[NodeAddress], sentinel_options: dict[str, str]
) -> SentinelRedis:
    name = sentinel_options.pop("sentinel_name", None)
    if not name or not sentinel_options.keys() <= {"sentinel_username", "sentinel_password"}:
        raise ValueError("Expected ?sentinel_name=, optionally with sentinel_username and sentinel_password")
    options = {key: value for key, value in pool.connection_kwargs.items() if key not in NodeAddress._fields}
    uses_tls = issubclass(pool.connection_class, SSLConnection)
    tls_options = {key: value for key, value in options.items() if key.startswith("ssl")} if uses_tls else {}
    credentials = {key.removeprefix("sentinel_"): value for key, value in sentinel_options.items()}
    timeouts = {
        "socket_timeout": SENTINEL_TIMEOUT_S,
        "socket_connect_timeout": SENTINEL_TIMEOUT_S,
        "retry": _no_retry(),
    }
    sentinel = Sentinel(sentinels, sentinel_kwargs={"ssl": uses_tls, **timeouts, **tls_options, **credentials})  # type: ignore[no-untyped-call]
    return SentinelRedis(SentinelConnectionPool(name, sentinel, ssl=uses_tls, **options), sentinel)  # type: ignore[no-untyped-call]


def _no_retry() -> Retry:
    return Retry(NoBackoff(), 0)
