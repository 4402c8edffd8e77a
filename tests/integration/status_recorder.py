"""A watcher that records the status changes of a job."""

from __future__ import annotations

import asyncio
from typing import Any

from tests.stack import Stack
from tests.waiting import wait_until

Transitions = set[tuple[str, str]]


class StatusRecorder:
    """Watches a job and records its snapshots."""

    def __init__(self, stack: Stack, token: str) -> None:
        self._stack = stack
        self._token = token
        self.snapshots: list[dict[str, Any]] = []
        self._position = 0
        self._task = asyncio.create_task(self._watch())

    async def _watch(self) -> None:
        """Watch the job, also after its end."""
        async with self._stack.session.ws_connect(f"{self._stack.env['LIVE_URL']}/live") as socket:
            await socket.send_json({"watch": self._token})
            async for frame in socket:
                if "job" in (message := frame.json()):
                    self.snapshots.append(message["job"])

    async def wait_for(self, status: str, attempt: int = 1) -> None:
        """Wait for a snapshot with this status and at least this attempt, at or after the last one waited for."""

        def reached() -> bool:
            for index, job in enumerate(self.snapshots[self._position :], self._position):
                if job["status"] == status and job["attempt"] >= attempt:
                    self._position = index
                    return True
            return False

        await wait_until(reached)

    def transitions(self) -> Transitions:
        """Stop watching; return the changes of status or attempt, as pairs of the statuses before and after."""
        self._task.cancel()
        pairs = zip(self.snapshots, self.snapshots[1:], strict=False)
        changes = [
            (old, new) for old, new in pairs if (old["status"], old["attempt"]) != (new["status"], new["attempt"])
        ]
        return {(old["status"], new["status"]) for old, new in changes}
