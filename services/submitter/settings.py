"""What the submitter can be told."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar

from msgspec import Meta

from ..runtime.queue_settings import QueueSettings
from ..runtime.settings import Origin, OriginList, Port, Positive, Seconds, Url


class SubmitterSettings(QueueSettings, frozen=True, kw_only=True):
    """What the submitter can be told."""

    service: ClassVar[str] = "submitter"

    port: Port = 8080
    submitter_url: Url  # where browsers reach this service
    live_url: Url  # where browsers reach the notifier
    allowed_origins: OriginList = ()  # besides the submitter's own
    submitter_open: bool = False  # anyone may submit: for local use and behind an authenticating proxy
    submitter_api_keys: Path | None = None  # a file of keys, one a line
    submit_rate: Seconds = 100  # submissions a second from one caller on average
    submit_burst: Positive = 1_000  # and at once
    forwarded_hops: Annotated[int, Meta(ge=0)] = 0  # proxies in front that append to X-Forwarded-For
    notifier_internal_url: Url | None = None  # where workers are told of a submission; else they find it by polling
    token_key_file: Path
    token_public_key_file: Path | None = None  # the notifier's; else the public half of the key above

    @classmethod
    def validate(cls, values: Mapping[str, Any]) -> list[str]:
        """Somebody must be allowed to submit, and it must be clear who."""
        problems = super().validate(values)
        if bool(values.get("submitter_open")) == ("submitter_api_keys" in values):
            problems.append("exactly one of SUBMITTER_OPEN and SUBMITTER_API_KEYS must be set")
        return problems

    @property
    def origins(self) -> tuple[str, ...]:
        """The origins that pages may ask from."""
        return (Origin.of(self.submitter_url), *self.allowed_origins)
