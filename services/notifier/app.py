"""The notifier's parts, put together."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from headway.tokens import TokenVerifier
from services.chassis import Service
from services.cors import Origins
from services.notifier.bus import Bus
from services.notifier.hub import Hub
from services.notifier.inlets import Inlets
from services.notifier.live import Live
from services.notifier.records import Records
from services.notifier.redis_url import open_servers
from services.notifier.reports import Reports
from services.notifier.settings import NotifierSettings
from services.notifier.transports.access import Access
from services.notifier.transports.outlet import Outlets
from services.notifier.transports.poll import Poll
from services.notifier.transports.sse import Streams
from services.notifier.transports.websocket import Sockets
from services.notifier.wake import Waiters, Wake
from services.openapi import description
from services.settings import WatchedFile, read_keys

OPENAPI = Path(__file__).parent / "openapi.yaml"


@asynccontextmanager
async def notifier(settings: NotifierSettings) -> AsyncIterator[Service]:
    """Open the notifier's resources and hand its parts to the chassis."""
    access = Access(WatchedFile(settings.token_public_key_file, TokenVerifier))
    report_keys = WatchedFile(settings.report_key_file, read_keys)
    async with open_servers(settings.redis_url) as servers:
        records = Records(servers)
        live = Live(Hub(), records, settings.silence_s)
        waiters = Waiters()
        bus = Bus(servers, live.heard, live.confirmed, waiters.hint, deaf_s=settings.deaf_s)
        live.bus = bus
        reports = Reports(records, live, report_keys, settings.job_ttl_s)
        outlets = Outlets(live, settings)
        transports = (
            Sockets(outlets, records, access, settings),
            Streams(outlets, records, access),
            Poll(outlets, records, access),
        )

        async def drain() -> None:
            waiters.drain()
            await outlets.drain()

        async with Inlets(reports) as inlets:
            yield Service(
                public=[*(route for transport in transports for route in transport.routes()), description(OPENAPI)],
                public_port=settings.port,
                origins=Origins(settings.allowed_origins),
                internal=[*reports.routes(), *Wake(bus, waiters).routes()],
                front=inlets,
                tasks={
                    "bus": bus.run,
                    "read": live.read,
                    "sweep": live.sweep,
                    "outlets": outlets.sweep,
                    "inlets": inlets.sweep,
                },
                waiting_for=lambda: [] if bus.ready else ["redis"],
                drain=drain,
            )
