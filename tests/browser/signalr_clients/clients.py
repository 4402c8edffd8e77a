"""The clients, their versions and transports, and what each one sees of a job."""

from __future__ import annotations

import asyncio
import itertools
import json
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

from aiohttp import web
from playwright.async_api import Browser, ConsoleMessage, Page

from dev.environment import ROOT
from tests.browser.npm import PACKAGES, find_nodejs
from tests.web_server import serve

FOLDER = Path(__file__).parent
CORE_10 = ("@microsoft/signalr", "@microsoft/signalr-protocol-msgpack")
CORE_8 = ("@microsoft/signalr-8", "@microsoft/signalr-protocol-msgpack-8")
CORE_7 = ("@microsoft/signalr-7", "@microsoft/signalr-protocol-msgpack-7")
CORE_TRANSPORTS = [
    ("WebSockets", "json"),
    ("WebSockets", "messagepack"),
    ("ServerSentEvents", "json"),
    ("LongPolling", "json"),
    ("LongPolling", "messagepack"),
]
CLASSIC_TRANSPORTS = ("webSockets", "serverSentEvents", "longPolling")


class Client(NamedTuple):
    """A client: where it runs, the packages it consists of, how it connects, and how it says what it watches."""

    runtime: str
    packages: tuple[str, ...]
    transport: str
    protocol: str = "json"
    watch: str = "url"

    def __str__(self) -> str:
        return " ".join((self.runtime, *self.packages, *self[2:]))

    @property
    def is_classic(self) -> bool:
        """Whether it is a client of 2015."""
        return "jquery" in self.packages[-1]

    @property
    def polls(self) -> bool:
        """Whether it has no connection that it could lose, unless a poll fails."""
        return self.transport.lower() == "longpolling"

    @property
    def continues(self) -> bool:
        """Whether it goes on where it was after a reconnect; otherwise, it is shown the present state again."""
        return self.is_classic or self.watch != "url"


# Each version once, and each transport of each generation.
CLIENTS = [
    Client("node", CORE_10, "WebSockets"),
    Client("node", CORE_10, "WebSockets", "messagepack", "stream"),
    Client("node", CORE_10, "ServerSentEvents", "json", "method"),
    Client("node", CORE_10, "LongPolling"),
    Client("node", CORE_10, "LongPolling", "messagepack", "stream"),
    Client("node", CORE_8, "WebSockets", "json", "method"),
    Client("chromium", CORE_7, "ServerSentEvents"),
    Client("chromium", ("signalr-2.2.1", "jquery-2"), "webSockets"),
    Client("chromium", ("signalr-2.3.0", "jquery"), "serverSentEvents"),
    Client("chromium", ("signalr", "jquery"), "longPolling"),
    Client("python", ("pysignalr",), "WebSockets"),
    Client("python", ("signalrcore",), "ServerSentEvents"),
]


def whole_matrix() -> list[Client]:
    """Return each version with each transport and protocol.

    Not long polling with signalrcore: it delays all but the first message of an answer to the answers of later polls,
    and with MessagePack it fails to start.
    """
    core = itertools.product(("node", "chromium"), (CORE_7, CORE_8, CORE_10), CORE_TRANSPORTS)
    classic = itertools.product(
        ("signalr-2.2.1", "signalr-2.3.0", "signalr"), ("jquery-2", "jquery"), CLASSIC_TRANSPORTS
    )
    python = [("pysignalr", CORE_TRANSPORTS[:2]), ("signalrcore", CORE_TRANSPORTS[:3])]
    matrix = [
        *(Client(runtime, packages, *transport) for runtime, packages, transport in core),
        *(Client("chromium", (signalr, jquery), transport) for signalr, jquery, transport in classic),
        *(Client("python", (package,), *transport) for package, transports in python for transport in transports),
    ]
    return list(dict.fromkeys([*CLIENTS, *matrix]))


class Job(NamedTuple):
    """A job, its token, and the base URL of the notifier that it is watched at."""

    url: str
    id: str
    token: str

    def options(self, client: Client) -> dict[str, Any]:
        """Return what a client is started with."""
        url = f"{self.url}/hubs/job-progress"
        return {**client._asdict(), "url": url, "jobId": self.id, "token": self.token}


class Recording:
    """What a client was called with: lists that begin with a name."""

    def __init__(self) -> None:
        self.events: list[list[Any]] = []

    def values(self, name: str) -> list[list[Any]]:
        """Return the values of all events with a name."""
        return [event[1:] for event in self.events if event[0] == name]

    def connections(self) -> list[Recording]:
        """Return the events of each connection."""
        parts = [Recording()]
        for event in self.events:
            if event == ["lost"]:
                parts.append(Recording())
            parts[-1].events.append(event)
        return parts

    @property
    def percent(self) -> float:
        """The percentage of the newest snapshot, 0 without any."""
        return next((event[3] for event in reversed(self.events) if event[0] == "snapshot"), None) or 0


Recordings = Mapping[Client, Recording]


@asynccontextmanager
async def watching(
    clients: Sequence[Client], job: Job, browser: Browser, port: int, logs: Path
) -> AsyncIterator[Recordings]:
    """Run clients that watch a job until it has succeeded, which the block must bring about."""
    recordings = {client: Recording() for client in clients}
    node = (find_nodejs().node, str(FOLDER / "node.mjs"))
    python = (sys.executable, "-m", f"{__package__}.python")
    async with AsyncExitStack() as stack, asyncio.TaskGroup() as group:
        await stack.enter_async_context(_open_pages(recordings, job, browser, port))
        for runtime, command in (("node", node), ("python", python)):
            group.create_task(_run(runtime, command, recordings, job, logs))
        yield recordings


async def _run(runtime: str, command: Sequence[str], recordings: Recordings, job: Job, logs: Path) -> None:
    """Run the clients of a runtime in a process until they end."""
    clients = [client for client in recordings if client.runtime == runtime]
    options = json.dumps([job.options(client) for client in clients])
    with (logs / f"{runtime}.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *command, options, cwd=ROOT, env={"PACKAGES": str(PACKAGES)}, stdout=asyncio.subprocess.PIPE, stderr=log
        )
    assert process.stdout is not None
    try:
        while line := await process.stdout.readline():
            number, *event = json.loads(line)
            recordings[clients[number]].events.append(event)
        assert await process.wait() == 0, (logs / f"{runtime}.log").read_text()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


@asynccontextmanager
async def _open_pages(recordings: Recordings, job: Job, browser: Browser, port: int) -> AsyncIterator[None]:
    """Open a page for each client that runs in Chromium, in a window of its own: it has six connections per server."""
    clients = [client for client in recordings if client.runtime == "chromium"]

    async def answer(request: web.Request) -> web.Response:
        html = _page(clients[int(request.match_info["number"])], job)
        return web.Response(text=html, content_type="text/html")

    app = web.Application()
    app.router.add_static("/packages", PACKAGES)
    app.router.add_static("/clients", FOLDER)
    app.router.add_get(r"/{number:\d+}", answer)
    async with serve(web.AppRunner(app), port), AsyncExitStack() as stack:
        for number, client in enumerate(clients):
            page = await stack.enter_async_context(await browser.new_page())
            await _open_page(page, f"http://127.0.0.1:{port}/{number}", recordings[client])
        yield


async def _open_page(page: Page, url: str, recording: Recording) -> None:
    """Open a page; it prints events as JSON to the console, where the browser reports failed requests, too."""

    def on_line(line: ConsoleMessage) -> None:
        if line.type == "log":
            recording.events.append(json.loads(line.text))

    page.on("console", on_line)
    page.on("pageerror", lambda error: recording.events.append(["error", str(error)]))
    await page.goto(url)


def _page(client: Client, job: Job) -> str:
    """Return a page with the script tags of a client."""
    first, second = client.packages
    if client.is_classic:
        sources = [f"/packages/{second}/dist/jquery.js", f"/packages/{first}/jquery.signalR.js"]
        sources += [f"{job.url}/signalr/hubs", "/clients/classic.js"]
        start = "watchJob(options, print);"
    else:
        names = {first: "signalr.js", second: "signalr-protocol-msgpack.js"}
        sources = [f"/packages/{package}/dist/browser/{name}" for package, name in names.items()]
        start = """import { watchJob } from "/clients/aspnet_core.mjs";
            await watchJob(signalR, signalR.protocols.msgpack.MessagePackHubProtocol, options, print);"""
    tags = "".join(f'<script src="{source}"></script>' for source in sources)
    return f"""<!doctype html><title>Export</title><span id="progress"></span>{tags}<script type="module">
        const options = {json.dumps(job.options(client))}, print = (...values) => console.log(JSON.stringify(values));
        {start}</script>"""
