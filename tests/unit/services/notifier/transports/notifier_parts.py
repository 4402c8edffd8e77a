"""The parts of a notifier that serve subscriptions: hub, synchronizer, tokens and registry. Only Redis is a fake."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import patch
from uuid import UUID

import msgspec

from headway.timestamp import RemoteClock, Timestamp
from headway.tokens import Grant, TokenSigner, TokenVerifier, make_keys
from services.notifier import metrics
from services.notifier.logs.feed import LogFeed
from services.notifier.records.keys import job_key
from services.notifier.settings import NotifierSettings
from services.notifier.transports import registry
from services.notifier.transports.auth import TokenAuth, WatchRequest
from services.notifier.transports.base import ClientConnection
from services.notifier.transports.refusals import TokenAllowance
from services.notifier.transports.registry import ConnectionRegistry
from services.notifier.watching.hub import Hub
from services.notifier.watching.snapshot import PublishedSnapshot
from services.notifier.watching.synchronizer import SnapshotSynchronizer
from services.runtime.settings import ReloadingFile
from tests.waiting import wait_until

MAX_WATCHES = 3
SETTINGS = {
    "max_watches": MAX_WATCHES,
    "max_connections": 10,
    "messages_per_s": 1e6,
    "max_silence_s": 50.0,
    "first_message_s": 10.0,
    "stuck_s": 30.0,
    "ping_s": 20.0,
    "drain_s": 0.0,
}


class FakePubSub:
    """Counts how often each channel was subscribed and unsubscribed."""

    def __init__(self) -> None:
        self.open: Counter[str] = Counter()
        self.confirms = False

    def subscribe(self, channel: str, _handler: object) -> bool:
        """Open a channel, which may be open already."""
        self.open[channel] = 1
        return self.confirms

    def unsubscribe(self, channel: str) -> None:
        """Close a channel, which must be open."""
        assert self.open.pop(channel) == 1


class FakeConnection(ClientConnection):
    """A connection that records errors."""

    transport = "websocket"
    logs_lifecycle = False

    def __init__(self) -> None:
        super().__init__(cast(asyncio.Transport, None), None)
        self.errors: list[tuple[str | None, str]] = []

    def send_snapshot(self, job_id: str, snapshot: PublishedSnapshot) -> bool:
        """Raise: no record is read."""
        raise AssertionError

    def send_error(self, job_id: str | None, code: str, message: str) -> None:
        """Record the error."""
        self.errors.append((job_id, code))

    def reap(self) -> None:
        """Do nothing."""

    def send_away(self) -> None:
        """Do nothing."""


class Replica:
    """A registry with real subscriptions and real tokens."""

    def __init__(self, keys: Path, **settings: Any) -> None:
        make_keys(keys)
        self.keys = keys
        self.signer = TokenSigner((keys / "token.pem").read_text())
        self.public_keys = keys / "token.pub.pem"
        self.auth = TokenAuth(ReloadingFile(self.public_keys, TokenVerifier), [])
        self.hub, self.pubsub = Hub(), FakePubSub()
        self.synchronizer = SnapshotSynchronizer(self.hub, cast(Any, None), cast(Any, self.pubsub), 5.0)
        self.settings = cast(NotifierSettings, SimpleNamespace(**{**SETTINGS, **settings}))
        self.logs = LogFeed(cast(Any, None), cast(Any, None), cast(Any, self.pubsub))
        self.registry = ConnectionRegistry(
            self.synchronizer, self.logs, self.settings, self.auth, RemoteClock(), lambda: False
        )
        self.connection = self.connect()

    def connect(self) -> FakeConnection:
        """Open another connection."""
        connection = FakeConnection()
        self.registry.register(connection)
        return connection

    def token(
        self, job_id: UUID, *, expires_in_s: float = 3600, signer: TokenSigner | None = None, **fields: Any
    ) -> str:
        """Return a token, which may be signed with another key."""
        now = Timestamp.now()
        grant = Grant(job_id=job_id, kind="k", submitted_at=now, expires_at=now.after(expires_in_s), **fields)
        return (signer or self.signer).sign(grant)

    def watch(
        self,
        job_id: UUID,
        connection: FakeConnection | None = None,
        *,
        signer: TokenSigner | None = None,
        expired: bool = False,
    ) -> None:
        """Subscribe a connection to a job, with a token that may have expired since it was verified."""
        request = self.auth.verify(self.token(job_id, signer=signer), None, TokenAllowance(MAX_WATCHES, None))
        assert isinstance(request, WatchRequest)
        if expired:
            grant = msgspec.structs.replace(request.grant, expires_at=Timestamp.now().after(-3600))
            request = request._replace(grant=grant)
        self.registry.subscribe(connection or self.connection, request)

    def new_key(self) -> tuple[TokenSigner, str]:
        """Return another key as a signer and as PEM."""
        folder = self.keys / "other"
        make_keys(folder)
        return TokenSigner((folder / "token.pem").read_text()), (folder / "token.pub.pem").read_text()

    async def sweep_until(self, condition: Callable[[], bool]) -> None:
        """Run the registry, which sweeps often, until a condition holds."""
        with patch.multiple(registry, FLUSH_INTERVAL_S=0.001, SWEEP_INTERVAL_S=0.0):
            running = asyncio.create_task(self.registry.run())
            await wait_until(condition)
            running.cancel()
            await asyncio.wait({running})

    def check(self, *job_ids: UUID, connection: ClientConnection | None = None) -> None:
        """Assert that exactly these jobs are watched, by one connection each."""
        watched = {str(job_id) for job_id in job_ids}
        assert set((connection or self.connection).subscriptions) == watched
        assert set(self.pubsub.open) == {job_key(job_id) for job_id in watched}
        assert (len(self.hub), self.hub.subscription_count()) == (len(watched), len(watched))


def refusals(code: str, origin: str | None = None) -> float:
    """Return how many watches were refused with a code, for pages of one origin or of all."""
    samples = [sample for family in metrics.WATCH_REFUSED.collect() for sample in family.samples]
    counted = [sample for sample in samples if sample.labels["code"] == code]
    return sum(sample.value for sample in counted if origin in (None, sample.labels["origin"]))
