"""A job as its watcher sees it go, from status to status."""

from __future__ import annotations

import asyncio
from typing import Any

from tests.stack import Stack
from tests.waiting import wait_until

Ways = set[tuple[str, str]]


class Walk:
    """A job, and the ways that its watcher sees it go."""

    def __init__(self, stack: Stack, token: str) -> None:
        self._stack = stack
        self._token = token
        self.seen: list[dict[str, Any]] = []
        self._passed = 0
        self._watching = asyncio.create_task(self._watch())

    async def _watch(self) -> None:
        """Watch beyond the end."""
        async with self._stack.session.ws_connect(f"{self._stack.env['LIVE_URL']}/live") as socket:
            await socket.send_json({"watch": self._token})
            async for message in socket:
                if "job" in (told := message.json()):
                    self.seen.append(told["job"])

    async def reaches(self, status: str, attempt: int = 1) -> None:
        """Wait until the job is seen to get there, after where it was seen before."""

        def there() -> bool:
            for place, job in enumerate(self.seen[self._passed :], self._passed):
                if job["status"] == status and job["attempt"] >= attempt:
                    self._passed = place
                    return True
            return False

        await wait_until(there, 40)

    def ways(self) -> Ways:
        """Watch no more; return from which status to which it went, an attempt after an attempt among them."""
        self._watching.cancel()
        pairs = zip(self.seen, self.seen[1:], strict=False)
        moves = [(old, new) for old, new in pairs if (old["status"], old["attempt"]) != (new["status"], new["attempt"])]
        return {(old["status"], new["status"]) for old, new in moves}
