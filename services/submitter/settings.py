"""The settings of the submitter."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar

from msgspec import Meta

from ..runtime.queue_settings import QueueSettings
from ..runtime.settings import Origin, OriginList, PerSecond, Port, Positive, Url


class SubmitterSettings(QueueSettings, frozen=True, kw_only=True):
    """The settings of the submitter, read from environment variables of the same names in upper case."""

    service: ClassVar[str] = "submitter"

    port: Port = 8080
    submitter_url: Url  # where browsers reach this submitter
    live_url: Url  # where browsers reach the notifier
    allowed_origins: OriginList = ()  # in addition to the submitter's own
    submitter_open: bool = False  # accept submissions without an API key: locally or behind an authenticating proxy
    submitter_api_keys: Path | None = None  # a file with one key per line
    submit_rate: PerSecond = 100  # average submissions per second of one caller
    submit_burst: Positive = 1_000  # submissions that one caller may send in a burst
    forwarded_hops: Annotated[int, Meta(ge=0)] = 0  # trusted proxies that append to X-Forwarded-For
    notifier_internal_url: Url | None = None  # to send wake-ups to; None: workers find new messages only by polling
    token_key_file: Path
    token_public_key_file: Path | None = None  # by default the public half of token_key_file

    @classmethod
    def validate(cls, values: Mapping[str, Any]) -> list[str]:
        """Return the problems of the queue's settings, and a problem unless either open mode or API keys are set."""
        problems = super().validate(values)
        if bool(values.get("submitter_open")) == ("submitter_api_keys" in values):
            problems.append("exactly one of SUBMITTER_OPEN and SUBMITTER_API_KEYS must be set")
        return problems

    @property
    def origins(self) -> tuple[str, ...]:
        """The origins whose pages may use the API."""
        return (Origin.of(self.submitter_url), *self.allowed_origins)
