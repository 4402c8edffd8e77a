"""The hub: the methods that clients call, and what they need."""

from __future__ import annotations

from typing import Any, NamedTuple, TypeVar
from uuid import UUID

import msgspec
import structlog
from msgspec import Struct

from headway.contracts import Natural

from ....records.store import JobStore
from ....settings import NotifierSettings
from ...auth import Token, TokenAuth
from ...cancellation import cancel_watched
from ...refusals import RejectedToken, TokenAllowance
from ...registry import ConnectionRegistry
from .connection import HubConnection
from .protocols import STREAM_INVOCATION, ClientMessage
from .watched_jobs import WatchedJobs

A = TypeVar("A")
WATCH_JOB = "watchjob"


class _WatchArguments(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The arguments of `Watch` and `WatchJob`; a list token needs the id of the job."""

    token: Token
    version: Natural | None = None
    job_id: UUID | None = None


class _JobArguments(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The arguments of `Unwatch` and `Cancel`."""

    job_id: UUID


class MethodFailed(Exception):
    """The error with which a method of the hub answers."""


class Hub(NamedTuple):
    """What all sessions use."""

    registry: ConnectionRegistry
    store: JobStore
    auth: TokenAuth
    settings: NotifierSettings

    @property
    def message_burst(self) -> float:
        """How many messages a client may send at once: it may watch all its jobs, and then cancel and unwatch them."""
        return self.settings.messages_per_s + 2 * self.settings.max_watches


class HubMethods:
    """The methods of the hub, on one connection.

    Args:
        hub: what all sessions use.
        connection: the connection.
        jobs: the jobs that it watches.
        allowance: its allowance for rejected tokens.
    """

    def __init__(self, hub: Hub, connection: HubConnection, jobs: WatchedJobs, allowance: TokenAllowance) -> None:
        self._hub = hub
        self._connection = connection
        self._jobs = jobs
        self._allowance = allowance
        self._methods = {"watch": self._watch_calls, "unwatch": self._unwatch, "cancel": self._cancel}

    async def call(self, message: ClientMessage) -> None:
        """Call the method that a message names, in any case, as in .NET.

        Raises:
            MethodFailed: there is no such method, its arguments are not valid, or its token was rejected.
        """
        name, streams = message.target.lower(), message.type == STREAM_INVOCATION
        if name not in (*self._methods, WATCH_JOB):
            raise MethodFailed(f"The hub has no method '{message.target}'.")
        if streams != (name == WATCH_JOB):
            raise MethodFailed(f"Call '{message.target}' with `{'invoke' if streams else 'stream'}`.")
        if streams:
            self._watch(message.arguments, message.invocation_id)
        else:
            await self._methods[name](message.arguments)

    async def _watch_calls(self, arguments: tuple[Any, ...]) -> None:
        self._watch(arguments, None)

    def _watch(self, arguments: tuple[Any, ...], stream: str | None) -> None:
        watch = _convert(arguments, _WatchArguments)
        request = self._hub.auth.verify(watch.token, watch.version, self._allowance, watch.job_id)
        if isinstance(request, RejectedToken):
            raise MethodFailed(f"{request.code}: {request.message}")
        if not self._jobs.add(request, stream):
            raise MethodFailed("too_many_watches: The connection watches too many jobs.")

    async def _unwatch(self, arguments: tuple[Any, ...]) -> None:
        self._jobs.stop_calls(str(_convert(arguments, _JobArguments).job_id))

    async def _cancel(self, arguments: tuple[Any, ...]) -> None:
        job_id = str(_convert(arguments, _JobArguments).job_id)
        hub = self._hub
        with structlog.contextvars.bound_contextvars(job_id=job_id):
            rejected = await cancel_watched(self._connection, job_id, hub.registry, hub.store, hub.auth)
        if rejected is None:
            return
        if job_id not in self._connection.subscriptions:
            self._jobs.on_error(job_id, rejected.code, rejected.message)  # its token is no longer accepted
        raise MethodFailed(f"{rejected.code}: {rejected.message}")


def _convert(arguments: tuple[Any, ...], arguments_type: type[A]) -> A:
    try:
        return msgspec.convert(arguments, arguments_type)
    except msgspec.ValidationError as error:
        raise MethodFailed(f"invalid: {error}") from error
