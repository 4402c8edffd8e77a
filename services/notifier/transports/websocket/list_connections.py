"""The live lists of WebSocket connections. A list subscribes its connection to the jobs that it shows."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any
from uuid import UUID

import msgspec
from redis.exceptions import RedisError
from websockets.frames import CloseCode

from headway.grants import ListGrant
from headway.timestamp import Timestamp

from ....runtime.errors import Forbidden, HTTPProblem
from ... import metrics
from ...records.index.query import JobQuery
from ...watching.hub import Subscription
from ...watching.live_lists import LiveList, LiveLists, TooManyLists
from ..auth import TokenAuth, WatchRequest
from ..base import error_payload
from ..list_queries import ListFilter
from ..refusals import UNAVAILABLE, RejectedToken, problem_for
from ..registry import ConnectionRegistry
from .connection import MAX_LISTS, WebSocketConnection
from .protocol import encode_text

SWEEP_INTERVAL_S = 1.0


class ListSubscription:
    """A live list on a connection; `shown` and `complete` are what its client knows of."""

    __slots__ = ("complete", "connection", "grant", "key_id", "list_id", "lists", "live_list", "query", "shown")

    def __init__(
        self,
        lists: ListConnections,
        connection: WebSocketConnection,
        list_id: str,
        verified: tuple[ListGrant, str],
        query: JobQuery,
    ) -> None:
        self.lists = lists
        self.connection = connection
        self.list_id = list_id
        self.grant, self.key_id = verified
        self.query = query
        self.live_list: LiveList | None = None  # before the first read
        self.shown: tuple[str, ...] = ()
        self.complete = False

    def start(self, live_list: LiveList) -> None:
        """Send the list, and then the snapshots of its jobs."""
        self.live_list, self.shown, self.complete = live_list, live_list.job_ids or (), live_list.complete
        self.send({"list": {"jobs": self.shown, "next": live_list.next, "complete": self.complete}})
        self.lists.replace_jobs(self, self.shown, ())

    def on_list_changed(self, live_list: LiveList) -> None:
        """Called when the list has changed; a backpressured connection gets the changes when it drains."""
        if self.live_list is not live_list or self.connection.is_backpressured():
            return
        before, self.shown = self.shown, live_list.job_ids or ()
        left = set(before).difference(self.shown)
        entered = set(self.shown).difference(before)
        has_changed, self.complete = self.complete != live_list.complete, live_list.complete
        if left or entered or has_changed:
            changes = {"entered": _in_order(self.shown, entered), "left": _in_order(before, left)}
            self.send({"list": changes | ({"complete": self.complete} if has_changed else {})})
            self.lists.replace_jobs(self, changes["entered"], changes["left"])

    def on_failure(self, error: Exception) -> None:
        """Called with an error of a change."""
        self.connection.on_failure(error)

    def send(self, message: dict[str, dict[str, Any]]) -> None:
        """Send a message about the list."""
        if self.list_id:
            message["list"]["id"] = self.list_id
        self.connection.send_reply(encode_text(msgspec.json.encode(message)))


def _in_order(job_ids: tuple[str, ...], selected: set[str]) -> list[str]:
    return [job_id for job_id in job_ids if job_id in selected]


class _ConnectionLists:
    """The lists of a connection by their ids, and its subscriptions that lists have opened, by job."""

    __slots__ = ("jobs", "lists")

    def __init__(self) -> None:
        self.lists: dict[str, ListSubscription] = {}
        self.jobs: dict[str, Subscription] = {}


class ListConnections:
    """Opens and closes the lists of all connections. A connection without lists costs nothing.

    Args:
        registry: subscribes the connections to the jobs that are shown.
        live_lists: the lists of this replica.
        auth: verifies the tokens.
    """

    def __init__(self, registry: ConnectionRegistry, live_lists: LiveLists, auth: TokenAuth) -> None:
        self._registry = registry
        self._live_lists = live_lists
        self._auth = auth
        self._connections: dict[WebSocketConnection, _ConnectionLists] = {}
        metrics.LIVE_LISTS.set_function(lambda: sum(len(each.lists) for each in self._connections.values()))

    async def open(
        self, connection: WebSocketConnection, list_id: str, token: str, live_filter: ListFilter, limit: int
    ) -> None:
        """Open a list in place of the one with the same id, or answer with an error."""
        try:
            verified = self._authorize(connection, token)
            query = live_filter.query(verified[0], limit)
            await self._open(ListSubscription(self, connection, list_id, verified, query))
        except HTTPProblem as problem:
            self._refuse(connection, list_id, problem.code, problem.detail)
            if connection.token_allowance.is_exceeded:
                connection.close_over_limit("tokens", CloseCode.POLICY_VIOLATION, "too many invalid tokens")
        except TooManyLists as error:
            metrics.LIMITS_EXCEEDED.labels("lists").inc()
            self._refuse(connection, list_id, "too_many_lists", str(error))
        except (RedisError, OSError):
            self._refuse(connection, list_id, "unavailable", UNAVAILABLE)

    def _authorize(self, connection: WebSocketConnection, token: str) -> tuple[ListGrant, str]:
        verified = self._auth.verify_any(token, connection.token_allowance)
        if isinstance(verified, RejectedToken):
            raise problem_for(verified.code, verified.message)
        grant, key_id = verified
        if not isinstance(grant, ListGrant):
            self._auth.refusals.add_token("forbidden", None, connection.origin)
            raise Forbidden("Send a list token; this one is for one job.")
        return grant, key_id

    def _refuse(self, connection: WebSocketConnection, list_id: str, code: str, message: str) -> None:
        error = error_payload(None, code, message) | ({"list_id": list_id} if list_id else {})
        connection.send_reply(connection.encode_error(error))

    async def _open(self, subscription: ListSubscription) -> None:
        """Read a list and send it. The connection handles one message at a time, so only its end can come between."""
        connection, list_id = subscription.connection, subscription.list_id
        state = self._connections.get(connection) or _ConnectionLists()
        if list_id not in state.lists and len(state.lists) >= MAX_LISTS:
            raise TooManyLists(f"One connection may show at most {MAX_LISTS} lists.")
        connection.has_subscribed = True
        live_list = await self._live_lists.open(subscription.query, subscription, subscription.grant.filter)
        if connection.is_closing:
            self._live_lists.close(subscription.query, subscription)
            return
        self._connections[connection] = state
        replaced = state.lists.get(list_id)
        state.lists[list_id] = subscription
        subscription.start(live_list)
        if replaced is not None:
            self._end(state, replaced)

    def close(self, connection: WebSocketConnection, list_id: str) -> None:
        """Close a list of a connection, if it has one with this id, and its subscriptions to the jobs."""
        state = self._connections.get(connection)
        if state is None or (subscription := state.lists.pop(list_id, None)) is None:
            return
        self._end(state, subscription)
        if not state.lists:
            del self._connections[connection]

    def close_all(self, connection: WebSocketConnection) -> None:
        """Close the lists of a connection that ends; the registry ends its subscriptions."""
        state = self._connections.pop(connection, None)
        for subscription in [] if state is None else state.lists.values():
            self._live_lists.close(subscription.query, subscription)

    def _end(self, state: _ConnectionLists, subscription: ListSubscription) -> None:
        self._live_lists.close(subscription.query, subscription)
        shown, subscription.shown = subscription.shown, ()
        for job_id in shown:
            self._hide(state, subscription.connection, job_id)

    def flush(self, connection: WebSocketConnection) -> None:
        """Send the changes of the lists of a connection that has drained."""
        state = self._connections.get(connection)
        for subscription in [] if state is None else list(state.lists.values()):
            if subscription.live_list is not None:
                subscription.on_list_changed(subscription.live_list)

    def replace_jobs(self, subscription: ListSubscription, entered: Sequence[str], left: Sequence[str]) -> None:
        """Subscribe the connection to the jobs that have entered a list, instead of those that have left it."""
        state = self._connections[subscription.connection]
        for job_id in left:
            self._hide(state, subscription.connection, job_id)
        for job_id in entered:
            self._show(state, subscription, job_id)

    def _show(self, state: _ConnectionLists, subscription: ListSubscription, job_id: str) -> None:
        """Subscribe a connection to a job, whose snapshot it gets even if it watches the job already."""
        connection = subscription.connection
        current = connection.subscriptions.get(job_id)
        if current is not None and current is not state.jobs.get(job_id):  # the client watches it by a message
            self._registry.subscribe(connection, WatchRequest(current.grant, current.key_id, None))
            return
        grant = subscription.grant.for_job(UUID(job_id))
        self._registry.subscribe(connection, WatchRequest(grant, subscription.key_id, None))
        if job_id in connection.subscriptions:  # not if the connection watches too many jobs
            state.jobs[job_id] = connection.subscriptions[job_id]

    def _hide(self, state: _ConnectionLists, connection: WebSocketConnection, job_id: str) -> None:
        """End the subscription to a job that a list has opened, unless another list shows the job."""
        opened, current = state.jobs.pop(job_id, None), connection.subscriptions.get(job_id)
        if opened is None or current not in (None, opened):
            return  # the client watches it by a message
        self._registry.unsubscribe(connection, job_id)
        other = next((each for each in state.lists.values() if job_id in each.shown), None)
        if other is not None:
            self._show(state, other, job_id)

    def tasks(self) -> dict[str, Callable[[], Awaitable[None]]]:
        """Return the background tasks by name."""
        return {"live_lists": self._live_lists.run, "list_tokens": self.run}

    async def run(self) -> None:
        """End the lists whose token has expired, or was signed with a key that was removed since, until cancelled."""
        while True:
            await asyncio.sleep(SWEEP_INTERVAL_S)
            now, key_ids = Timestamp.now(), self._auth.key_ids
            subscriptions = [each for state in self._connections.values() for each in state.lists.values()]
            for subscription in subscriptions:
                if subscription.grant.valid_until < now or subscription.key_id not in key_ids:
                    self._end_rejected(subscription)
                    await asyncio.sleep(0)  # a removed key may end thousands

    def _end_rejected(self, subscription: ListSubscription) -> None:
        """End a list with an error if its token is no longer accepted and the list has not ended meanwhile."""
        connection, list_id = subscription.connection, subscription.list_id
        state = self._connections.get(connection)
        if state is None or state.lists.get(list_id) is not subscription:
            return
        rejected = self._auth.recheck(subscription.grant, subscription.key_id, connection.origin)
        if rejected is not None:
            self.close(connection, list_id)
            self._refuse(connection, list_id, rejected.code, rejected.message)
