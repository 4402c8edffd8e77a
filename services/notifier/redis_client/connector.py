"""Opens connections to Redis: TCP, TLS and the handshake."""

from __future__ import annotations

import asyncio
from typing import Any, NamedTuple

from msgspec import Struct
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ReadOnlyError, RedisError

from headway.contracts import Natural

from ...runtime.settings import Secret
from .connection import Command, OpenConnection, RespProtocol
from .tls import TlsOptions

CONNECT_TIMEOUT_S = 2.0  # for TCP and TLS; callers limit the time of the whole handshake
REPLICA_ROLES = (b"replica", b"slave")
RESP_VERSION = 2  # publications arrive as ordinary replies, and there are no push messages


class NodeAddress(NamedTuple):
    """The address of a server."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


class ConnectionOptions(Struct, frozen=True):
    """The options of a connection apart from TLS, with the names that they have in a URL of redis-py."""

    username: str = ""  # without it, a password is that of the user `default`
    password: Secret = Secret()
    db: Natural = 0
    client_name: str = "headway-notifier"  # in the reply to CLIENT LIST


class Connector:
    """Opens connections with the same options.

    Args:
        options: the options apart from TLS.
        tls: the TLS options; None for connections without TLS.
        primary_only: whether to refuse connections to a replica, such as an old primary after a failover.
    """

    def __init__(self, options: ConnectionOptions, tls: TlsOptions | None, *, primary_only: bool) -> None:
        self._options = options
        self._tls = tls
        self._primary_only = primary_only

    async def connect(self, address: NodeAddress) -> RespProtocol:
        """Open a connection.

        Raises:
            RedisError: the server is unavailable, refuses the credentials or the database, or is a replica.
        """
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                # In a thread: it takes tens of milliseconds to load the certificate authorities of a machine.
                context = None if self._tls is None else await asyncio.to_thread(self._tls.context)
                connecting = asyncio.get_running_loop().create_connection(RespProtocol, *address, ssl=context)
                _, protocol = await connecting
        except (OSError, ValueError, OverflowError) as error:  # the last two: the address is not valid
            reason = str(error) or type(error).__name__
            raise RedisConnectionError(f"Cannot connect to Redis at {address}: {reason}") from error
        try:
            self._check(address, await OpenConnection(protocol).send(self._handshake()))
        except BaseException:
            protocol.close()
            raise
        return protocol

    def _handshake(self) -> list[Command]:
        """Return the commands of the handshake. Redis accepts HELLO from every user, whatever its permissions are."""
        options = self._options
        has_credentials = options.username or options.password
        authentication = ("AUTH", options.username or "default", options.password) if has_credentials else ()
        hello = ("HELLO", RESP_VERSION, *authentication, "SETNAME", options.client_name)
        return [hello, ("SELECT", options.db)] if options.db else [hello]

    def _check(self, address: NodeAddress, replies: list[Any]) -> None:
        """Raise RedisError if the replies to the handshake do not allow to use the connection."""
        for reply in replies:
            if isinstance(reply, RedisError):
                raise reply
        if self._primary_only and _role(replies[0]) in REPLICA_ROLES:
            raise ReadOnlyError(f"Redis at {address} is a replica.")


def _role(hello: Any) -> Any:
    """Return the role of the server from its reply to HELLO, a list of names and values."""
    pairs = zip(hello[::2], hello[1::2], strict=False) if isinstance(hello, list) else ()
    return next((value for name, value in pairs if name == b"role"), None)
