"""A page that watches jobs with `headway.js`, and what its handlers are told."""

from __future__ import annotations

import json
from typing import Any

from playwright.async_api import Page, WebSocket

from tests.waiting import wait_until

# Watch a job, and write down what its handlers are told.
WATCH = """async ({ name, token, throws = false }) => {
  const { watchJob } = await import("/assets/headway.js");
  const { liveUrl } = await import("/assets/live-url.js");
  window.watches ??= {};
  window.told ??= {};
  const heard = (window.told[name] = []);
  const hear = (event) => (...details) => {
    heard.push([event, ...details]);
    if (throws) throw new Error(`${name}: ${event}`);
  };
  const options = { url: liveUrl, token, onConnection: hear("connection"), onError: hear("error") };
  const watch = (window.watches[name] = watchJob(options, hear("job")));
  return { id: watch.id, early: heard.length };
}"""


class Client:
    """A page that watches jobs, and the sockets that it opens."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.sockets: list[WebSocket] = []
        self.sent: list[dict[str, Any]] = []
        page.on("websocket", self._opened)

    def _opened(self, socket: WebSocket) -> None:
        self.sockets.append(socket)
        socket.on("framesent", lambda frame: self.sent.append(json.loads(frame)))

    async def watch(self, name: str, token: str, **more: Any) -> str | None:
        """Watch a job under a name; return the job's id."""
        made = await self.page.evaluate(WATCH, {"name": name, "token": token, **more})
        assert made["early"] == 0, "a handler was called before watchJob returned"
        job_id: str | None = made["id"]
        return job_id

    async def call(self, name: str, method: str) -> Any:
        """Call a method of a watch."""
        return await self.page.evaluate("([name, method]) => watches[name][method]()", [name, method])

    async def told(self, name: str, event: str) -> list[Any]:
        """Return what a watch's handler has been told."""
        heard: list[list[Any]] = await self.page.evaluate("(name) => told[name]", name)
        return [details[0] for kind, *details in heard if kind == event]

    async def hears(self, name: str, event: str, count: int = 1) -> list[Any]:
        """Wait until a watch's handler has been told something so often."""

        async def enough() -> list[Any]:
            told = await self.told(name, event)
            return told if len(told) >= count else []

        heard: list[Any] = await wait_until(enough)
        return heard

    async def sees(self, name: str, status: str) -> dict[str, Any]:
        """Wait until a watch's newest snapshot has this status; return it."""

        async def newest() -> Any:
            told = await self.told(name, "job")
            return told[-1] if told and told[-1]["status"] == status else None

        snapshot: dict[str, Any] = await wait_until(newest)
        return snapshot

    async def versions(self, name: str) -> list[int]:
        """Return the versions that a watch has been shown, which only rise."""
        versions = [job["version"] for job in await self.told(name, "job")]
        assert versions == sorted(set(versions))
        return versions
