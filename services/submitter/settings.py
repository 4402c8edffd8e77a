"""The submitter's settings."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar

from msgspec import Meta

from ..runtime.queue_settings import QueueSettings
from ..runtime.settings import Origin, OriginList, Port, Positive, Seconds, Url


class SubmitterSettings(QueueSettings, frozen=True, kw_only=True):
    """The submitter's settings."""

    service: ClassVar[str] = "submitter"

    port: Port = 8080
    submitter_url: Url  # where browsers reach this service
    live_url: Url  # where browsers reach the notifier
    allowed_origins: OriginList = ()  # in addition to the submitter's own
    submitter_open: bool = False  # anyone may submit: for local use and behind an authenticating proxy
    submitter_api_keys: Path | None = None  # a file with one key per line
    submit_rate: Seconds = 100  # submissions per second and caller, on average
    submit_burst: Positive = 1_000  # submissions at once
    forwarded_hops: Annotated[int, Meta(ge=0)] = 0  # trusted proxies that append to X-Forwarded-For
    notifier_internal_url: Url | None = None  # for wake-ups; without it, workers find submissions by polling
    token_key_file: Path
    token_public_key_file: Path | None = None  # by default the public half of token_key_file

    @classmethod
    def validate(cls, values: Mapping[str, Any]) -> list[str]:
        """Check that exactly one way to authorize submissions is set."""
        problems = super().validate(values)
        if bool(values.get("submitter_open")) == ("submitter_api_keys" in values):
            problems.append("exactly one of SUBMITTER_OPEN and SUBMITTER_API_KEYS must be set")
        return problems

    @property
    def origins(self) -> tuple[str, ...]:
        """The origins whose pages may use the API."""
        return (Origin.of(self.submitter_url), *self.allowed_origins)
