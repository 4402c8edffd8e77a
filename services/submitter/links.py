"""Links to a job: its page, snapshot, events, WebSocket and cancellation."""

from __future__ import annotations

from uuid import UUID

from .settings import SubmitterSettings


class Links:
    """Creates links from `SUBMITTER_URL` and `LIVE_URL`, and has the addresses that pages need."""

    def __init__(self, settings: SubmitterSettings) -> None:
        self.trace_url = None if settings.trace_url is None else str(settings.trace_url)
        self.live_url = settings.live_url.rstrip("/")
        self.socket_url = f"ws{self.live_url.removeprefix('http')}"
        self._submitter_url = settings.submitter_url.rstrip("/")

    def for_job(self, job_id: UUID, token: str | None = None) -> dict[str, str]:
        """Return the links to a job; the page's link gets the token, if any, as its fragment."""
        path = f"/jobs/{job_id}"
        live = f"{self.live_url}/live{path}"
        return {
            "page": f"{self._submitter_url}{path}" + (f"#{token}" if token else ""),
            "live": live,
            "events": f"{live}/events",
            "socket": f"{self.socket_url}/live",
            "cancel": f"{live}/cancel",
        }
