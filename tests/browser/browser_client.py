"""A page that watches jobs with `headway.js` and records the calls of its callbacks."""

from __future__ import annotations

import json
from typing import Any

from playwright.async_api import Page, WebSocket

from tests.stack import Stack
from tests.waiting import wait_until

POLL_S = 0.05  # each look at the page is a round trip through three processes

# Watch a job and record each call of the callbacks.
WATCH = """async ({ name, token, log, throws = false }) => {
  const { watchJob } = await import("/assets/headway.js");
  const { liveUrl } = await import("/assets/live-url.js");
  window.watches ??= {};
  window.calls ??= {};
  const calls = (window.calls[name] = []);
  const recorder = (event) => (...details) => {
    calls.push([event, ...details]);
    if (throws) throw new Error(`${name}: ${event}`);
  };
  const [onLog, onConnection, onError] = ["log", "connection", "error"].map(recorder);
  const options = { url: liveUrl, token, log, onLog, onConnection, onError };
  const watch = (window.watches[name] = watchJob(options, recorder("job")));
  return { id: watch.id, earlyCalls: calls.length };
}"""


class BrowserClient:
    """A page that watches jobs, the WebSockets it opens, and the messages it sends."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.sockets: list[WebSocket] = []
        self.sent: list[dict[str, Any]] = []
        page.on("websocket", self._on_websocket)

    @classmethod
    async def opened(cls, page: Page, origin: str) -> BrowserClient:
        """Open a document of the submitter that shows nothing, so that it loads faster than a page, without watches."""
        client = cls(page)
        await page.goto(f"{origin}/assets/headway.js")
        return client

    def _on_websocket(self, socket: WebSocket) -> None:
        self.sockets.append(socket)
        socket.on("framesent", lambda frame: self.sent.append(json.loads(frame)))

    async def watch(self, name: str, token: str, **options: Any) -> str | None:
        """Watch a job under a name; return the job's id."""
        watch = await self.page.evaluate(WATCH, {"name": name, "token": token, **options})
        assert watch["earlyCalls"] == 0, "a callback was called before watchJob returned"
        job_id: str | None = watch["id"]
        return job_id

    async def watch_all(self, tokens: dict[str, str]) -> None:
        """Watch several jobs at once; the tokens are given by the names of the watches."""
        watches = [{"name": name, "token": token} for name, token in tokens.items()]
        await self.page.evaluate(f"(watches) => Promise.all(watches.map({WATCH}))", watches)

    async def call(self, name: str, method: str) -> Any:
        """Call a method of a watch."""
        return await self.page.evaluate("([name, method]) => watches[name][method]()", [name, method])

    async def received(self, name: str, event: str) -> list[Any]:
        """Return the values that a watch's callback has received."""
        calls: list[list[Any]] = await self.page.evaluate("(name) => calls[name]", name)
        return [details[0] for called, *details in calls if called == event]

    async def wait_for(self, name: str, event: str, count: int = 1) -> list[Any]:
        """Wait until a watch's callback has been called this often; return the values that it received."""

        async def enough() -> list[Any]:
            values = await self.received(name, event)
            return values if len(values) >= count else []

        values: list[Any] = await wait_until(enough, poll_s=POLL_S)
        return values

    async def wait_for_status(self, name: str, status: str) -> dict[str, Any]:
        """Wait until a watch's newest snapshot has this status; return the snapshot."""

        async def newest() -> Any:
            snapshots = await self.received(name, "job")
            return snapshots[-1] if snapshots and snapshots[-1]["status"] == status else None

        snapshot: dict[str, Any] = await wait_until(newest, poll_s=POLL_S)
        return snapshot

    async def wait_for_log(self, name: str, text: str, start: int = 0) -> None:
        """Wait until a watch has received this text from an offset on, each byte once."""

        async def received() -> bool:
            return "".join(piece["text"] for piece in await self.received(name, "log")) == text

        await wait_until(received)
        for piece in await self.received(name, "log"):
            assert (piece["from"], piece["to"]) == (start, start + len(piece["text"].encode()))
            start = piece["to"]

    async def versions(self, name: str) -> list[int]:
        """Return the versions that a watch has received, after checking that they increase."""
        versions = [job["version"] for job in await self.received(name, "job")]
        assert versions == sorted(set(versions))
        return versions


async def details_token(stack: Stack, receipt: dict[str, Any]) -> str:
    """Return a token that opens the log of a job, but does not permit to cancel it."""
    body = {"job": receipt["id"], "scope": "watch details"}
    async with stack.session.post(f"{stack.url}/tokens", json=body) as response:
        token: str = (await response.json())["token"]
        return token
