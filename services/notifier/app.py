"""The notifier's parts, put together."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from headway.tokens import TokenVerifier
from services.chassis import Service
from services.notifier.bus import Bus
from services.notifier.hub import Hub
from services.notifier.live import Live
from services.notifier.records import Records
from services.notifier.reports import Reports
from services.notifier.settings import NotifierSettings
from services.notifier.transports.poll import Poll
from services.notifier.transports.websocket import Sockets
from services.settings import WatchedFile, read_keys


@asynccontextmanager
async def notifier(settings: NotifierSettings) -> AsyncIterator[Service]:
    """Open the notifier's resources and hand its parts to the chassis."""
    verifier = WatchedFile(settings.token_public_key_file, TokenVerifier)
    report_keys = WatchedFile(settings.report_key_file, read_keys)
    async with Records.connect(settings.redis_url) as records:
        live = Live(Hub(), records, settings.silence_s)
        async with Bus.connect(settings.redis_url, live.heard, live.confirmed) as bus:
            live.bus = bus
            sockets = Sockets(live, records, verifier, settings.allowed_origins, settings.ping_s)
            poll = Poll(records, verifier, settings.allowed_origins)
            yield Service(
                public=[*sockets.routes(), *poll.routes()],
                public_port=settings.port,
                internal=Reports(records, report_keys).routes(),
                tasks={"bus": bus.run, "read": live.read, "sweep": live.sweep, "sockets": sockets.sweep},
                waiting_for=lambda: [] if bus.connected else ["redis"],
                drain=lambda: sockets.drain(settings.drain_s),
            )
