"""The notifier's parts, put together."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from headway.tokens import TokenVerifier
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
from services.runtime.cors import CorsPolicy
from services.runtime.openapi import openapi_route
from services.runtime.service import ServiceSpec
from services.runtime.settings import ReloadingFile, read_keys

OPENAPI = Path(__file__).parent / "openapi.yaml"


@asynccontextmanager
async def notifier(settings: NotifierSettings) -> AsyncIterator[ServiceSpec]:
    """Open the notifier's resources and hand its parts to the chassis."""
    access = Access(ReloadingFile(settings.token_public_key_file, TokenVerifier))
    report_keys = ReloadingFile(settings.report_key_file, read_keys)
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
            yield ServiceSpec(
                public=[*(route for transport in transports for route in transport.routes()), openapi_route(OPENAPI)],
                public_port=settings.port,
                origins=CorsPolicy(settings.allowed_origins),
                internal=[*reports.routes(), *Wake(bus, waiters).routes()],
                protocol_factory=inlets,
                tasks={
                    "bus": bus.run,
                    "read": live.read,
                    "sweep": live.sweep,
                    "outlets": outlets.sweep,
                    "inlets": inlets.sweep,
                },
                unready_reasons=lambda: [] if bus.ready else ["redis"],
                drain=drain,
            )
