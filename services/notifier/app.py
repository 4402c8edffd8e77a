"""The composition of the notifier: its resources, request handlers and background tasks."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from importlib.resources import files
from typing import Protocol

from aiohttp import web

from headway.tokens import TokenVerifier

from ..runtime.cors import CorsPolicy
from ..runtime.openapi import openapi_route
from ..runtime.service import ServiceSpec
from ..runtime.settings import ReloadingFile, read_keys
from .control import ControlHandler, ReportRequests
from .fleet.handlers import FleetHandler, WorkerHandler
from .fleet.kinds import KindReader
from .fleet.workers import WorkerStore
from .ingest.handlers import ReportHandler
from .ingest.submissions import SubmissionHandler
from .job_api import JobApiHandler
from .logs.feed import LogFeed
from .logs.handler import LogHandler
from .logs.store import LogStore
from .records.index.job_index import JobIndex
from .records.store import JobStore
from .redis_client.pubsub import PubSub
from .redis_client.url import redis_from_url
from .settings import NotifierSettings
from .transports.auth import TokenAuth
from .transports.details import DetailsHandler
from .transports.job_log import JobLogHandler
from .transports.lists import ListHandler
from .transports.long_poll import LongPollHandler
from .transports.registry import ConnectionRegistry
from .transports.signalr.aspnet_core.handler import PATH as HUB_PATH
from .transports.signalr.aspnet_core.handler import HubHandler
from .transports.signalr.aspnet_core.hub import Hub as SignalRHub
from .transports.signalr.aspnet_core.inbox import Inbox
from .transports.signalr.authorization import ConnectionAuth
from .transports.signalr.classic.handler import PATTERN as CLASSIC_PATTERN
from .transports.signalr.classic.handler import ClassicHandler
from .transports.signalr.connection_tokens import ConnectionTokens
from .transports.sse import EventStreamHandler
from .transports.websocket.handler import WebSocketHandler
from .transports.websocket.list_connections import ListConnections
from .wakeups import WakeupHandler, WakeupQueue
from .watching.hub import Hub
from .watching.live_lists import LiveLists
from .watching.synchronizer import SnapshotSynchronizer

POLLED_COLLECT_S = 1.0  # jobs that clients poll instead of watching them are reported as often
SIGNALR_PATHS = re.compile(f"{HUB_PATH}|/{CLASSIC_PATTERN}/")
OPENAPI = files(__package__).joinpath("openapi.yaml")


@asynccontextmanager
async def notifier(settings: NotifierSettings) -> AsyncIterator[ServiceSpec]:
    """Open the notifier's resources and yield the specification of its service."""
    auth = _token_auth(settings)
    report_keys = ReloadingFile(settings.report_key_file, read_keys)
    async with (
        redis_from_url(settings.redis_url) as redis,
        JobIndex(redis, settings.replica_name, settings.job_ttl_s) as index,
    ):
        pubsub = PubSub(redis, subscription_timeout_s=settings.deaf_s)
        report_requests, polled = ReportRequests(pubsub), ReportRequests(pubsub, POLLED_COLLECT_S)
        store = JobStore(redis, index.writer.add, report_requests.request, lambda: index.memory.is_full)
        synchronizer = SnapshotSynchronizer(Hub(), store, pubsub, settings.silence_s, report_requests.request)
        is_unready = partial(pubsub.is_lost_for, settings.unready_s)
        logs = LogStore(redis, lambda: index.memory.is_full)
        log_feed = LogFeed(logs, store, pubsub)
        registry = ConnectionRegistry(synchronizer, log_feed, settings, auth, store.clock, is_unready)
        workers = WorkerStore(redis, store.clock)
        jobs = index.reader(store, workers.queue_depth)
        fleet = FleetHandler(workers, KindReader(redis, store.clock, jobs, workers), store.clock, auth)
        list_handler = ListHandler(jobs, store, auth)
        lists = ListConnections(registry, LiveLists(jobs, pubsub, settings.max_connections), auth)
        hub = SignalRHub(registry, store, auth, settings)
        inbox = Inbox(redis, pubsub, lambda: index.memory.is_full)
        signalr = _signalr_routes(hub, inbox, ConnectionTokens(report_keys))
        wakeup_queue = WakeupQueue()
        wakeups = WakeupHandler(pubsub, wakeup_queue)
        control = ControlHandler(pubsub, report_keys, settings.ping_s)
        tasks = {"clock": store.clock.run, "pubsub": pubsub.run, "reports": report_requests.run, "polled": polled.run}
        yield ServiceSpec(
            public=_public_routes(registry, store, logs, auth, settings, list_handler, fleet, lists, polled) + signalr,
            public_port=settings.port,
            cors=_cors_policy(settings, auth),
            internal=[
                *_internal_routes(store, synchronizer, list_handler, logs, wakeups, control, report_keys, settings),
                *WorkerHandler(workers, report_keys).routes(),
            ],
            tasks={**tasks, **_tasks_of(synchronizer, registry, index, lists, log_feed)},
            unready_reasons=lambda: [] if pubsub.ready else ["redis"],
            drain=partial(_drain, wakeup_queue, control, registry),
        )


def _token_auth(settings: NotifierSettings) -> TokenAuth:
    verifier = ReloadingFile(settings.token_public_key_file, TokenVerifier)
    return TokenAuth(verifier, settings.allowed_origins, by_job_id=settings.signalr_by_job_id)


def _cors_policy(settings: NotifierSettings, auth: TokenAuth) -> CorsPolicy:
    return CorsPolicy(settings.allowed_origins, credentialed_paths=SIGNALR_PATHS, on_rejected=auth.refusals.add_origin)


def _public_routes(
    registry: ConnectionRegistry,
    store: JobStore,
    logs: LogStore,
    auth: TokenAuth,
    settings: NotifierSettings,
    list_handler: ListHandler,
    fleet: FleetHandler,
    lists: ListConnections,
    polled: ReportRequests,
) -> list[web.RouteDef]:
    handlers = (
        WebSocketHandler(registry, store, auth, settings, lists),
        EventStreamHandler(registry, store, logs, auth),
        LongPollHandler(registry, store, logs, auth, polled.request),
        JobLogHandler(registry, store, logs, auth),
        list_handler,
        DetailsHandler(store, auth),
        fleet,
    )
    return [*(route for handler in handlers for route in handler.routes()), openapi_route(OPENAPI)]


def _signalr_routes(hub: SignalRHub, inbox: Inbox, tokens: ConnectionTokens) -> list[web.RouteDef]:
    auth = ConnectionAuth(hub.auth)
    handlers = (HubHandler(hub, tokens, auth, inbox), ClassicHandler(hub.registry, hub.settings, auth, tokens))
    return [route for handler in handlers for route in handler.routes()]


def _internal_routes(
    store: JobStore,
    synchronizer: SnapshotSynchronizer,
    list_handler: ListHandler,
    logs: LogStore,
    wakeups: WakeupHandler,
    control: ControlHandler,
    report_keys: ReloadingFile[tuple[str, ...]],
    settings: NotifierSettings,
) -> list[web.RouteDef]:
    handlers = (
        ReportHandler(store, synchronizer, report_keys, settings.job_ttl_s),
        SubmissionHandler(store, wakeups, report_keys),
        JobApiHandler(store, list_handler, report_keys),
        LogHandler(logs, report_keys),
        wakeups,
        control,
    )
    return [route for handler in handlers for route in handler.routes()]


class _WithTasks(Protocol):
    def tasks(self) -> Mapping[str, Callable[[], Awaitable[object]]]:
        """Return the background tasks by name."""


def _tasks_of(*parts: _WithTasks) -> dict[str, Callable[[], Awaitable[object]]]:
    return {name: run for part in parts for name, run in part.tasks().items()}


async def _drain(wakeups: WakeupQueue, control: ControlHandler, registry: ConnectionRegistry) -> None:
    """Send the workers and the clients to other replicas."""
    wakeups.drain()
    control.drain()
    await registry.drain()
