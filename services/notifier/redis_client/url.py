"""The URL of Redis (`REDIS_URL`) and its three forms.

    redis://user:password@host:6379/0                                 one server
    redis+sentinel://host:26379,host:26379/0?sentinel_name=mymaster   the primary that these sentinels know by this name
    redis+cluster://host:6379,host:6379                               a cluster; these nodes are asked for the others

`rediss` is the same over TLS. The options after the `?` have the names that redis-py gives them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TypeVar
from urllib.parse import parse_qsl, unquote, urlsplit

import msgspec
from msgspec import Struct
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff

from ...runtime.settings import Secret
from .connector import ConnectionOptions, Connector, NodeAddress
from .tls import TlsOptions
from .topology import ClusterRedis, RedisClient, SentinelRedis, StandaloneRedis

SENTINEL_TIMEOUT_S = 1.0  # to connect, and for each reply; then the next sentinel is asked
DEFAULT_PORTS = {"": 6_379, "cluster": 6_379, "sentinel": 26_379}
ADDRESS = re.compile(r"(?:\[(?P<ipv6>[^]]+)\]|(?P<host>[^]:[]+))(?::(?P<port>\d*))?")
MAX_PORT = 65_535
T = TypeVar("T", bound=Struct)


class SentinelOptions(Struct):
    """The options of connections to the sentinels."""

    sentinel_name: str = ""
    sentinel_username: str | None = None
    sentinel_password: Secret | None = None


class IgnoredOptions(Struct):
    """Options of redis-py that version 0.1 accepted, and that have no effect."""

    socket_timeout: float = 0
    socket_connect_timeout: float = 0
    socket_keepalive: bool = True
    health_check_interval: float = 0
    max_connections: int = 0
    retry_on_timeout: bool = False
    protocol: int = 0
    decode_responses: bool = False


OPTION_NAMES = [
    field.name
    for struct in (ConnectionOptions, SentinelOptions, TlsOptions)
    for field in msgspec.structs.fields(struct)
]


def redis_from_url(url: str) -> RedisClient:
    """Return a client for a URL. No connection is opened yet.

    Raises:
        ValueError: the URL is not valid. The message does not quote the URL, which may contain a password.
    """
    scheme, _, rest = url.partition("://")
    protocol, plus, topology = scheme.partition("+")
    if protocol not in {"redis", "rediss"} or topology not in DEFAULT_PORTS or bool(plus) != bool(topology):
        raise ValueError("Expected redis:// or rediss://, optionally with +sentinel or +cluster before the ://")
    hosts, options = _split(f"{protocol}://{rest}")
    addresses = [_parse_address(host, DEFAULT_PORTS[topology]) for host in hosts.split(",")]
    if not topology and len(addresses) > 1:
        raise ValueError("Expected a single host, or +sentinel or +cluster before the ://")
    if topology != "sentinel" and any(name.startswith("sentinel_") for name in options):
        raise ValueError("Expected +sentinel before the ://, because the URL has options for Sentinel")
    if protocol != "rediss" and any(name.startswith("ssl_") for name in options):
        raise ValueError("Expected rediss before the ://, because the URL has options for TLS")
    tls = _tls(options) if protocol == "rediss" else None
    connector = Connector(_pop_options(options, ConnectionOptions), tls, primary_only=topology != "cluster")
    sentinel_options = _pop_options(options, SentinelOptions)
    _pop_options(options, IgnoredOptions)
    if options:
        raise ValueError(f"Expected only these options after the ?: {', '.join(OPTION_NAMES)}")
    if topology == "sentinel":
        return SentinelRedis(connector, _sentinel(addresses, sentinel_options, tls), sentinel_options.sentinel_name)
    return ClusterRedis(connector, addresses) if topology == "cluster" else StandaloneRedis(connector, addresses[0])


def _split(url: str) -> tuple[str, dict[str, str]]:
    """Return the hosts of a URL, and its options: user, password and database, and those after the `?`."""
    try:
        parts = urlsplit(url)
    except ValueError:  # its message may quote a password
        raise ValueError("Expected a URL such as redis://user:password@host:6379/0") from None
    credentials, _, hosts = parts.netloc.rpartition("@")
    username, _, password = credentials.partition(":")
    groups = (  # of which later ones win
        {"db": parts.path.strip("/")},
        dict(parse_qsl(parts.query)),
        {"username": unquote(username), "password": unquote(password)},
    )
    return hosts, {name: text for group in groups for name, text in group.items() if text}


def _parse_address(text: str, default_port: int) -> NodeAddress:
    """Parse a host with an optional port. An IPv6 address is written in brackets."""
    match = ADDRESS.fullmatch(text)
    if match is None or int(match["port"] or 0) > MAX_PORT:
        raise ValueError("Expected hosts with optional ports, such as redis-0:6379,redis-1:6379")
    return NodeAddress(match["ipv6"] or match["host"], int(match["port"] or default_port))


def _pop_options(options: dict[str, str], struct: type[T]) -> T:
    """Remove the fields of a struct from the options and return them as that struct."""
    values = {}
    for field in msgspec.structs.fields(struct):
        if (text := options.pop(field.name, None)) is not None:
            try:
                values[field.name] = msgspec.convert(
                    text, field.type, strict=False, dec_hook=lambda kind, text: kind(text)
                )
            except msgspec.ValidationError:  # its message may quote the value
                raise ValueError(f"Expected another value of {field.name}") from None
    return struct(**values)


def _tls(options: dict[str, str]) -> TlsOptions:
    tls = _pop_options(options, TlsOptions)
    try:
        tls.context()
    except (OSError, ValueError) as error:
        raise ValueError("Expected TLS options that can be used, with files that can be read") from error
    return tls


def _sentinel(sentinels: Sequence[NodeAddress], options: SentinelOptions, tls: TlsOptions | None) -> Sentinel:
    if not options.sentinel_name:
        raise ValueError("Expected ?sentinel_name=, the name of the primary")
    sentinel_kwargs = {
        "username": options.sentinel_username,
        "password": options.sentinel_password,
        "socket_timeout": SENTINEL_TIMEOUT_S,
        "socket_connect_timeout": SENTINEL_TIMEOUT_S,
        "retry": Retry(NoBackoff(), 0),
        **(tls.redis_py_options() if tls else {}),
    }
    return Sentinel(sentinels, sentinel_kwargs=sentinel_kwargs)  # type: ignore[no-untyped-call]
