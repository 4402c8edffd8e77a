"""The settings of the submitter."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar

from msgspec import Meta

from ..runtime.queue_settings import QueueSettings
from ..runtime.settings import Origin, OriginList, PerSecond, Port, Positive, TraceUrl, Url


class SubmitterSettings(QueueSettings, frozen=True, kw_only=True):
    """The settings of the submitter, read from environment variables of the same names in upper case."""

    service: ClassVar[str] = "submitter"

    port: Port = 8080
    """The port for pages and API."""
    submitter_url: Url
    """Where browsers reach the submitter."""
    live_url: Url
    """Where browsers reach the notifier."""
    allowed_origins: OriginList = ()
    """The origins whose pages may send requests, in addition to the submitter's own. With `DASHBOARD_OPEN`, their pages
    may see and operate all jobs, too."""
    submitter_open: bool = False
    """Whether anyone may submit: on one machine, or behind a proxy that authenticates. Otherwise set
    `SUBMITTER_API_KEYS`."""
    submitter_api_keys: Path | None = None
    """The API keys of those who may submit, one per line, and their roles: see
    docs/run-in-production.md#keys-and-api-keys."""
    dashboard_open: bool = False
    """Whether anyone may see and operate all jobs: on one machine, or behind a proxy that authenticates. Then
    `POST /tokens`, owners, tags and actions of operators need no API key, and requests are refused unless their `Host`
    is an IP address, `localhost`, or a name from `SUBMITTER_URL` or `ALLOWED_ORIGINS`."""
    submit_rate: PerSecond = 100
    """How many jobs, requests for tokens and actions one caller may send per second, on average."""
    submit_burst: Positive = 1_000
    """How many jobs, requests for tokens and actions one caller may send at once."""
    forwarded_hops: Annotated[int, Meta(ge=0)] = 0
    """How many proxies in front append to `X-Forwarded-For`. A caller without an API key is identified by its
    address."""
    trace_url: TraceUrl | None = None
    """Where the dashboard links to the trace of a job, with `{trace_id}` in place of its id: see docs/traces.md."""
    notifier_internal_url: Url | None = None
    """Where the notifier receives submissions and wake-ups. Without it, workers find new jobs only by polling, lists
    show a job when it starts, and operators cannot run jobs again."""
    report_key_file: Path | None = None
    """The keys that authorize submissions at the notifier, and those of workers here, one per line. The submitter uses
    the first. Without it, lists show a job when it starts, workers cannot submit jobs, and operators cannot run jobs
    again."""
    token_key_file: Path
    """The private key that signs tokens."""
    token_public_key_file: Path | None = None
    """The public keys that verify tokens, one PEM block after another. By default, the public half of
    `TOKEN_KEY_FILE`."""

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
