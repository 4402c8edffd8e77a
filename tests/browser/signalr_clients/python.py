"""Watch a job with clients in Python; print what they are called with, one JSON value a line."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from pysignalr.client import SignalRClient
from pysignalr.protocol.json import JSONProtocol
from pysignalr.protocol.messagepack import MessagepackProtocol
from signalrcore.hub_connection_builder import HubConnectionBuilder
from signalrcore.types import HttpTransportType, HubProtocolEncoding

Print = Callable[..., None]
PROTOCOLS = {"json": JSONProtocol, "messagepack": MessagepackProtocol}
ENCODINGS = {"json": HubProtocolEncoding.text, "messagepack": HubProtocolEncoding.binary}
RECONNECT = {"type": "raw", "keep_alive_interval": 10, "reconnect_interval": 1}


class Watcher:
    """Prints the calls of a client's methods. `ended` is set when the job has succeeded."""

    def __init__(self, print_event: Print) -> None:
        self.print = print_event
        self.ended = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    def update_progress(self, arguments: list[Any]) -> None:
        """Called with a percentage."""
        self.print("progress", *arguments)

    def job_changed(self, arguments: list[dict[str, Any]]) -> None:
        """Called with a snapshot, possibly in another thread."""
        (snapshot,) = arguments
        self.print("snapshot", snapshot["status"], snapshot["version"], (snapshot["progress"] or {}).get("percent"))
        if snapshot["status"] == "succeeded":
            self._loop.call_soon_threadsafe(self.ended.set)


async def watch_with_pysignalr(options: dict[str, Any], watcher: Watcher) -> None:
    """Watch a job until it succeeds."""
    client = SignalRClient(
        f"{options['url']}?jobId={options['jobId']}",
        protocol=PROTOCOLS[options["protocol"]](),
        headers={"Authorization": f"Bearer {options['token']}"},
    )

    async def update_progress(arguments: list[Any]) -> None:
        watcher.update_progress(arguments)

    async def job_changed(arguments: list[Any]) -> None:
        watcher.job_changed(arguments)

    async def connected() -> None:
        watcher.print("connected")

    async def lost() -> None:
        watcher.print("lost")

    client.on("updateProgress", update_progress)
    client.on("jobChanged", job_changed)
    client.on_open(connected)
    client.on_close(lost)
    running = asyncio.create_task(client.run())
    ended = asyncio.create_task(watcher.ended.wait())
    await asyncio.wait((running, ended), return_when=asyncio.FIRST_COMPLETED)
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running


async def watch_with_signalrcore(options: dict[str, Any], watcher: Watcher) -> None:
    """Watch a job until it succeeds."""

    def reconnected() -> None:
        watcher.print("lost")
        watcher.print("connected")

    url = f"{options['url']}?jobId={options['jobId']}"
    transport = HttpTransportType(options["transport"])
    connection = (
        HubConnectionBuilder()
        .with_url(url, options={"access_token_factory": lambda: options["token"], "transport": transport})
        .with_hub_protocol(ENCODINGS[options["protocol"]])
        .with_automatic_reconnect(RECONNECT)
        .build()
    )
    connection.on("updateProgress", watcher.update_progress)
    connection.on("jobChanged", watcher.job_changed)
    connection.on_open(lambda: watcher.print("connected"))
    connection.on_reconnect(reconnected)
    await asyncio.to_thread(connection.start)
    await watcher.ended.wait()  # its threads end with the process; `stop` takes twelve seconds


WATCH = {"pysignalr": watch_with_pysignalr, "signalrcore": watch_with_signalrcore}


async def main(clients: list[dict[str, Any]]) -> None:
    """Watch a job with several clients."""

    def print_event(number: int, *values: Any) -> None:
        print(json.dumps([number, *values]), flush=True)

    async with asyncio.TaskGroup() as group:
        for number, options in enumerate(clients):
            watcher = Watcher(lambda *values, number=number: print_event(number, *values))
            group.create_task(WATCH[options["packages"][0]](options, watcher))


if __name__ == "__main__":
    asyncio.run(main(json.loads(sys.argv[1])))
