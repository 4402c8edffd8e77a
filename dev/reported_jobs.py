"""Jobs that exist only as reports, as a worker sends them to the notifier: any number of them in any state."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import aiohttp

from dev.environment import POLL_S
from headway.contracts import MAX_REPORTS_PER_REQUEST, Timestamp

LEASE_S = 600
HOUR_S = 3_600


class ReportSender:
    """Sends reports with the key of a local system.

    Args:
        session: the HTTP session.
        state: the state folder of a running `make up`.
    """

    def __init__(self, session: aiohttp.ClientSession, state: Path) -> None:
        self.env = dict(line.split("=", 1) for line in (state / "env").read_text().splitlines())
        self._session = session
        self._url = self.env["NOTIFIER_INTERNAL_URL"]
        self._headers = {"Authorization": f"Bearer {(state / 'keys/report.key').read_text().split()[0]}"}
        self._sequence = itertools.count(1)

    async def send(self, jobs: Sequence[dict[str, Any]]) -> None:
        """Report jobs, each given by the fields of its report; at least by `job_id`, `kind` and `submitted_at`."""
        for start in range(0, len(jobs), MAX_REPORTS_PER_REQUEST):
            group = [self._report(job) for job in jobs[start : start + MAX_REPORTS_PER_REQUEST]]
            for verdict in await self.post("/reports", group):
                if not verdict["accepted"]:
                    raise RuntimeError(f"The notifier refuses a report: {verdict['reason']}")

    async def post(self, path: str, body: Any) -> Any:
        """Post something to the notifier as a worker does; return the JSON of the answer, None if it has none."""
        async with self._session.post(f"{self._url}{path}", json=body, headers=self._headers) as response:
            response.raise_for_status()
            return await response.json() if response.status == 200 else None

    async def wait_until_ready(self) -> None:
        """Wait until the notifier is ready, for example after it was restarted."""
        while True:
            with suppress(aiohttp.ClientError):
                async with self._session.get(f"{self._url}/readyz") as response:
                    if response.status == 200:
                        return
            await asyncio.sleep(POLL_S)

    def _report(self, job: dict[str, Any]) -> dict[str, Any]:
        now = Timestamp.now()
        times = {"expires_at": str(now.after(HOUR_S)), "lease_until": str(now.after(LEASE_S)), "sent_at": str(now)}
        fence = {"message_id": "reported", "delivery": 1, "sequence": next(self._sequence)}
        return {"status": "running", **fence, **times, **job}
