"""What `REDIS_URL` names.

    redis://user:password@host:6379/0                                 one server
    redis+sentinel://host:26379,host:26379/0?sentinel_name=mymaster   the server that these sentinels call so
    redis+cluster://host:6379,host:6379                               a cluster, some of whose nodes these are

`rediss` is the same over TLS. What else a URL may say is redis-py's own: `?ssl_ca_certs=/etc/redis/ca.pem`.
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
SENTINEL_TIMEOUT_S = 1.0  # for each step of asking one: the next one may know
DEFAULT_PORTS = {"": 6_379, "cluster": 6_379, "sentinel": 26_379}


def redis_from_url(url: str) -> RedisClient:
    """Return the servers that a URL names, none of which needs to be there yet.

    Raises:
        ValueError: it names none; the message shows nothing of it.
    """
    scheme, _, rest = url.partition("://")
    protocol, has_topology, topology = scheme.partition("+")
    if protocol not in {"redis", "rediss"} or topology not in DEFAULT_PORTS or bool(has_topology) != bool(topology):
        raise ValueError("Expected redis:// or rediss://, or one of these with +sentinel or +cluster in front of ://")
    parts = urlsplit(f"{protocol}://{rest}")
    credentials, at, hosts = parts.netloc.rpartition("@")
    addresses = [_parse_address(host, DEFAULT_PORTS[topology]) for host in hosts.split(",")]
    if not topology and len(addresses) > 1:
        raise ValueError("Expected one host, or +sentinel or +cluster in front of ://")
    query = dict(parse_qsl(parts.query))
    sentinel_options = {name: query.pop(name) for name in list(query) if name.startswith("sentinel_")}
    if sentinel_options and topology != "sentinel":
        raise ValueError("Expected +sentinel in front of :// with sentinel_name and other sentinel options")
    pool = _pool(parts._replace(netloc=f"{credentials}{at}localhost", query=urlencode(query)).geturl(), addresses[0])
    if topology == "sentinel":
        return _sentinel(pool, addresses, sentinel_options)
    return ClusterRedis(pool, addresses) if topology == "cluster" else StandaloneRedis(pool)


def _parse_address(text: str, default_port: int) -> NodeAddress:
    """Read a host with or without a port; an IPv6 address stands in brackets."""
    host, colon, port_text = text.rpartition(":")
    if not colon or port_text.endswith("]"):
        host, port_text = text, ""
    if (port_text and not port_text.isdecimal()) or not host.strip("[]"):
        raise ValueError("Expected hosts with or without a port: redis-0:6379,redis-1:6379")
    return NodeAddress(host.strip("[]"), int(port_text or default_port))


def _pool(url: str, address: NodeAddress) -> ConnectionPool:
    """Make what makes connections, all with the same settings."""
    try:
        pool = ConnectionPool.from_url(url)
        pool.make_connection()  # type: ignore[no-untyped-call] # only now it is seen whether the settings are any
    except (ValueError, TypeError) as error:
        raise ValueError("Expected settings behind the ? that redis-py knows") from error
    # No retries: a report sent twice would be refused as stale though it was accepted. RESP2 has what is published
    # come as an answer, and no notices of maintenance.
    pool.connection_kwargs.update(
        address._asdict(),
        protocol=2,
        retry=_once(),
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
        raise ValueError("Expected ?sentinel_name=, and beside it no more than sentinel_username and sentinel_password")
    options = {key: value for key, value in pool.connection_kwargs.items() if key not in NodeAddress._fields}
    uses_tls = issubclass(pool.connection_class, SSLConnection)
    tls = {key: value for key, value in options.items() if key.startswith("ssl")} if uses_tls else {}
    credentials = {key.removeprefix("sentinel_"): value for key, value in sentinel_options.items()}
    timeouts = {"socket_timeout": SENTINEL_TIMEOUT_S, "socket_connect_timeout": SENTINEL_TIMEOUT_S, "retry": _once()}
    sentinel = Sentinel(sentinels, sentinel_kwargs={"ssl": uses_tls, **timeouts, **tls, **credentials})  # type: ignore[no-untyped-call]
    return SentinelRedis(SentinelConnectionPool(name, sentinel, ssl=uses_tls, **options), sentinel)  # type: ignore[no-untyped-call]


def _once() -> Retry:
    return Retry(NoBackoff(), 0)
