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

from services.notifier.servers import Cluster, Guarded, Server, Servers

CONNECT_S = 2.0
SENTINEL_S = 1.0  # for each step of asking one: the next one may know
PORTS = {"": 6_379, "cluster": 6_379, "sentinel": 26_379}


def open_servers(url: str) -> Servers:
    """Return the servers that a URL names, none of which needs to be there yet.

    Raises:
        ValueError: it names none; the message shows nothing of it.
    """
    scheme, _, rest = url.partition("://")
    protocol, plus, kind = scheme.partition("+")
    if protocol not in {"redis", "rediss"} or kind not in PORTS or bool(plus) != bool(kind):
        raise ValueError("Expected redis:// or rediss://, or one of these with +sentinel or +cluster in front of ://")
    parts = urlsplit(f"{protocol}://{rest}")
    signed, at, hosts = parts.netloc.rpartition("@")
    addresses = [_address(host, PORTS[kind]) for host in hosts.split(",")]
    if not kind and len(addresses) > 1:
        raise ValueError("Expected one host, or +sentinel or +cluster in front of ://")
    query = dict(parse_qsl(parts.query))
    of_sentinels = {name: query.pop(name) for name in list(query) if name.startswith("sentinel_")}
    if of_sentinels and kind != "sentinel":
        raise ValueError("Expected +sentinel in front of :// where sentinel_name and the like are told")
    pool = _pool(parts._replace(netloc=f"{signed}{at}localhost", query=urlencode(query)).geturl(), addresses[0])
    if kind == "sentinel":
        return _guarded(pool, addresses, of_sentinels)
    return Cluster(pool, addresses) if kind == "cluster" else Servers(pool)


def _address(text: str, port: int) -> Server:
    """Read a host with or without a port; an IPv6 address stands in brackets."""
    host, colon, given = text.rpartition(":")
    if not colon or given.endswith("]"):
        host, given = text, ""
    if (given and not given.isdecimal()) or not host.strip("[]"):
        raise ValueError("Expected hosts with or without a port: redis-0:6379,redis-1:6379")
    return Server(host.strip("[]"), int(given or port))


def _pool(url: str, address: Server) -> ConnectionPool:
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
        socket_connect_timeout=CONNECT_S,
        health_check_interval=0,
    )
    return pool


def _guarded(pool: ConnectionPool, sentinels: Sequence[Server], told: dict[str, str]) -> Guarded:
    name = told.pop("sentinel_name", None)
    if not name or not told.keys() <= {"sentinel_username", "sentinel_password"}:
        raise ValueError("Expected ?sentinel_name=, and beside it no more than sentinel_username and sentinel_password")
    settings = {key: value for key, value in pool.connection_kwargs.items() if key not in Server._fields}
    secure = issubclass(pool.connection_class, SSLConnection)
    tls = {key: value for key, value in settings.items() if key.startswith("ssl")} if secure else {}
    signed = {key.removeprefix("sentinel_"): value for key, value in told.items()}
    waits = {"socket_timeout": SENTINEL_S, "socket_connect_timeout": SENTINEL_S, "retry": _once()}
    sentinel = Sentinel(sentinels, sentinel_kwargs={"ssl": secure, **waits, **tls, **signed})  # type: ignore[no-untyped-call]
    return Guarded(SentinelConnectionPool(name, sentinel, ssl=secure, **settings), sentinel)  # type: ignore[no-untyped-call]


def _once() -> Retry:
    return Retry(NoBackoff(), 0)
