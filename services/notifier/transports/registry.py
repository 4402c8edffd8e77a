"""The open client connections of this replica: their limits, subscriptions and heartbeats, and how they are closed.

There is no task, timer or queue per connection; a few tasks serve them all.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import cast

import structlog

from headway.timestamp import RemoteClock, Timestamp

from ...runtime.errors import ServiceUnavailable
from .. import metrics
from ..isolation import isolated
from ..logs.feed import LogFeed, LogSubscription
from ..settings import NotifierSettings
from ..watching.hub import Subscription
from ..watching.synchronizer import SnapshotSynchronizer
from .auth import TokenAuth, WatchRequest
from .base import MIN_RECONNECT_SPREAD_S, RECONNECT_SPREAD_S, ClientConnection
from .refusals import RejectedToken, too_many_watches

log: structlog.stdlib.BoundLogger = structlog.get_logger()

FLUSH_INTERVAL_S = 0.1
SWEEP_INTERVAL_S = 1.0
MAX_CLOSED_PER_S = 0.02  # the share of its connections that a replica without Redis closes; it closes at least one
RETRY_AFTER_S = 2


class ConnectionRegistry:
    """The open connections.

    `backpressured` contains the connections to which a snapshot could not be sent and whose transport does not notify
    when they drain; `run` flushes them at regular intervals.

    Args:
        synchronizer: subscribes the connections to jobs.
        logs: subscribes the connections to the logs of jobs.
        settings: their limits.
        auth: verifies the tokens of their subscriptions again.
        clock: the clock of the records, whose time the heartbeats contain.
        is_unready: returns whether this replica has been without Redis for too long.
    """

    def __init__(
        self,
        synchronizer: SnapshotSynchronizer,
        logs: LogFeed,
        settings: NotifierSettings,
        auth: TokenAuth,
        clock: RemoteClock,
        is_unready: Callable[[], bool],
    ) -> None:
        self._synchronizer = synchronizer
        synchronizer.on_mismatch = self._end_mismatched
        self._logs = logs
        logs.on_forbidden = self._refuse_log
        self._settings = settings
        self._auth = auth
        self._clock = clock
        self.max_watches = settings.max_watches
        metrics.MAX_CONNECTIONS.set(settings.max_connections)
        self._is_unready = is_unready
        self._connections: set[ClientConnection] = set()
        self.backpressured: set[ClientConnection] = set()
        self.draining = False

    def tasks(self) -> dict[str, Callable[[], Awaitable[None]]]:
        """Return the background tasks by name."""
        return {"connections": self.run, "unready": self.close_while_unready}

    @property
    def sends_away(self) -> bool:
        """Whether clients should use another replica, because this one stops or has been without Redis for too long."""
        return self.draining or self._is_unready()

    def at_capacity(self) -> bool:
        """Return whether no further connection may open, and count it as refused in that case."""
        full = len(self._connections) >= self._settings.max_connections
        if full:
            metrics.LIMITS_EXCEEDED.labels("connections").inc()
        return full

    def ensure_available(self) -> None:
        """Raise ServiceUnavailable if clients should use another replica."""
        if self.sends_away:
            message = "This replica is stopping, or has lost Redis; connect again."
            raise ServiceUnavailable(message, retry_after_s=RETRY_AFTER_S)

    def ensure_capacity(self) -> None:
        """Raise ServiceUnavailable if no further connection may open."""
        if self._is_unready():
            raise ServiceUnavailable("This replica has lost Redis; try again.", retry_after_s=RETRY_AFTER_S)
        if self.at_capacity():
            raise ServiceUnavailable(
                "Too many connections are open; try again.", code="overloaded", retry_after_s=RETRY_AFTER_S
            )

    @contextmanager
    def serve(self, connection: ClientConnection) -> Iterator[None]:
        """Register a connection until the block ends."""
        self.register(connection)
        try:
            yield
        finally:
            self.unregister(connection)

    def register(self, connection: ClientConnection) -> None:
        """Add an open connection."""
        self._connections.add(connection)
        metrics.CONNECTIONS.labels(connection.transport).inc()
        metrics.CONNECTIONS_OPENED.labels(connection.transport).inc()
        if connection.logs_lifecycle:
            log.info("connection_opened", transport=connection.transport, origin=connection.origin)

    def unregister(self, connection: ClientConnection) -> None:
        """Remove a closed connection and end its subscriptions. Do nothing if it was never registered."""
        if connection not in self._connections:
            return
        self._connections.discard(connection)
        self.backpressured.discard(connection)
        self._logs.close(connection)
        for subscription in connection.subscriptions.values():
            self._synchronizer.unsubscribe(subscription)
        connection.subscriptions.clear()  # breaks a reference cycle, so that closed connections are freed immediately
        metrics.CONNECTIONS.labels(connection.transport).dec()
        metrics.CONNECTIONS_CLOSED.labels(connection.transport, connection.close_code).inc()
        duration_s = round(time.monotonic() - connection.opened_at, 3)
        metrics.CONNECTION_DURATION.labels(connection.transport).observe(duration_s)
        if connection.logs_lifecycle:
            log.info(
                "connection_closed",
                transport=connection.transport,
                origin=connection.origin,
                code=connection.close_code,
                duration_s=duration_s,
            )

    def subscribe(self, connection: ClientConnection, request: WatchRequest) -> bool:
        """Subscribe a connection to a job and return True, or send `too_many_watches` if it is at its limit.

        With an offset in the request, the connection also follows the log. Return False if it has closed: its client
        may disconnect while its last messages are handled.
        """
        if connection not in self._connections:
            return False
        subscription = Subscription(connection, request.grant, request.version, request.key_id)
        if subscription.job_id not in connection.subscriptions and len(connection.subscriptions) >= self.max_watches:
            self._send_rejection(connection, too_many_watches(subscription.job_id, self.max_watches))
            return False
        connection.subscriptions[subscription.job_id] = subscription
        self._synchronizer.subscribe(subscription)
        if request.log is not None:
            self._logs.subscribe(connection, request.grant, request.log)
        return True

    def stop_log(self, connection: ClientConnection, job_id: str) -> None:
        """End a connection's subscription to the log of a job, if it has one."""
        self._logs.unsubscribe(connection, job_id)

    def unsubscribe(self, connection: ClientConnection, job_id: str) -> None:
        """End a connection's subscription to a job, if it has one."""
        self._logs.unsubscribe(connection, job_id)
        subscription = connection.subscriptions.pop(job_id, None)
        if subscription is not None:
            self._synchronizer.unsubscribe(subscription)

    def end_if_rejected(self, connection: ClientConnection, subscription: Subscription) -> bool:
        """End a subscription with an error if its token is no longer accepted; return whether it is not."""
        rejected = self._auth.recheck(subscription.grant, subscription.key_id, connection.origin)
        if rejected is None:
            return False
        self.unsubscribe(connection, subscription.job_id)
        self._send_rejection(connection, rejected)
        return True

    def _end_mismatched(self, subscription: Subscription) -> None:
        """Called when a job's record does not match the filter of a subscription's token: end it with an error."""
        connection = cast(ClientConnection, subscription.watcher)
        rejected = self._auth.reject_job(subscription.job_id, connection.origin)
        if connection.subscriptions.get(subscription.job_id) is subscription:
            self.unsubscribe(connection, subscription.job_id)
            self._send_rejection(connection, rejected)

    def _refuse_log(self, subscription: LogSubscription) -> None:
        """Called when a token does not open the log of its job."""
        connection = cast(ClientConnection, subscription.watcher)
        self._auth.refusals.add_token("forbidden", subscription.job_id, connection.origin)
        connection.refuse_log(subscription.job_id)

    def _send_rejection(self, connection: ClientConnection, rejected: RejectedToken) -> None:
        connection.send_error(rejected.job_id, rejected.code, rejected.message)

    async def _end_rejected(self) -> None:
        """End the subscriptions whose token has expired, or was signed with a key that was removed since."""
        now, key_ids = Timestamp.now(), self._auth.key_ids
        rejected = [
            (connection, subscription)
            for connection in self._connections
            for subscription in connection.subscriptions.values()
            if subscription.valid_until < now or subscription.key_id not in key_ids
        ]
        for connection, subscription in rejected:
            if connection.subscriptions.get(subscription.job_id) is subscription:  # it may have ended meanwhile
                with isolated(connection):
                    self.end_if_rejected(connection, subscription)
                await asyncio.sleep(0)  # a removed key may end thousands

    def flush(self, connection: ClientConnection) -> None:
        """Send the pending snapshots and logs of a connection that may have drained."""
        self.backpressured.discard(connection)
        with isolated(connection):
            for subscription in list(connection.subscriptions.values()):
                self._synchronizer.flush(subscription)
            self._logs.flush(connection)

    async def run(self) -> None:
        """Flush, check, reap and ping the connections, until cancelled."""
        swept_at = pinged_at = time.monotonic()
        while True:
            await asyncio.sleep(FLUSH_INTERVAL_S)
            for connection in list(self.backpressured):
                self.flush(connection)
            now = time.monotonic()
            if now - swept_at >= SWEEP_INTERVAL_S:
                swept_at = now
                await self._sweep(now)
            if now - pinged_at >= self._settings.ping_s:
                pinged_at = now
                self._send_heartbeats()

    async def _sweep(self, now: float) -> None:
        await self._end_rejected()
        for connection in list(self._connections):
            try:  # as `isolated` does, at no cost for thousands of connections
                connection.reap()
                if connection.stalled_for(now) > self._settings.stuck_s:
                    connection.close_stalled()
            except Exception as error:  # noqa: BLE001 - the connection logs it
                connection.on_failure(error)

    def _send_heartbeats(self) -> None:
        now = self._clock.now()
        for connection in list(self._connections):
            try:
                connection.heartbeat(now)
            except Exception as error:  # noqa: BLE001 - the connection logs it
                connection.on_failure(error)

    async def close_while_unready(self) -> None:
        """Close the connections slowly while this replica is without Redis for too long, until cancelled.

        Their clients reconnect to the other replicas, which must not be flooded.
        """
        while True:
            await asyncio.sleep(SWEEP_INTERVAL_S)
            count = len(self._connections)
            if count and self._is_unready():
                log.warning("closing_connections_without_redis", count=count)
                await self._close_evenly(min(count, 1 / MAX_CLOSED_PER_S), self._send_away, self._is_unready)

    def _send_away(self, connection: ClientConnection) -> None:
        metrics.CONNECTIONS_SENT_AWAY.labels(connection.transport).inc()
        with isolated(connection):
            connection.send_away()

    async def drain(self) -> None:
        """Refuse new connections and close the open ones evenly over `drain_s`, to spread the reconnects."""
        self.draining = True
        async with asyncio.TaskGroup() as closing:
            await self._close_evenly(
                self._settings.drain_s, lambda connection: closing.create_task(self._close_for_restart(connection))
            )

    async def _close_for_restart(self, connection: ClientConnection) -> None:
        with isolated(connection):
            spread_s = max(MIN_RECONNECT_SPREAD_S, RECONNECT_SPREAD_S - self._settings.drain_s)
            connection.announce_restart(self._clock.now(), spread_s)
            await connection.close_for_restart()

    async def _close_evenly(
        self, over_s: float, close: Callable[[ClientConnection], object], goes_on: Callable[[], bool] = lambda: True
    ) -> None:
        """Close the open connections evenly over some seconds, while `goes_on` returns True."""
        connections, started_at = list(self._connections), time.monotonic()
        for number, connection in enumerate(connections, 1):
            due_at = started_at + over_s * number / len(connections)
            await asyncio.sleep(due_at - time.monotonic())
            if not goes_on():
                return
            if connection in self._connections:
                self.flush(connection)
                close(connection)
