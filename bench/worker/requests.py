"""`python -m bench.worker.requests`: the CPU time of a request to the queue, in the client.

Three clients take turns within one process: the SDK with its own policies and transport, Headway's use of the SDK, and
aiohttp alone, which sends the same requests without a signature and reads the responses without parsing them.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import uvloop
from azure.storage.queue.aio import QueueServiceClient

from bench.figures import Row, markdown_table, write_csv
from bench.processes import Process
from bench.worker.peers.bare import OPTIONS
from bench.worker.stub_queue import MESSAGE_ID, POP_RECEIPT, TEXT
from dev.environment import ACCOUNT, ACCOUNT_KEY, ROOT
from headway.azure.job_queue import MAX_PAGE, JobQueue

RESULTS = ROOT / "bench/results/requests.csv"
SDK, HEADWAY, HTTP = "the SDK", "Headway", "aiohttp alone"
LEASE_S = 60
CALLS, WARMUP_CALLS = 100, 30

COLUMNS = {
    "send_ms": "send, ms",
    "receive_ms": "receive one, ms",
    "receive_page_ms": "receive 32, ms",
    "renew_ms": "renew, ms",
    "delete_ms": "delete, ms",
}

Calls = dict[str, Callable[[], Awaitable[object]]]  # measure -> sends one request


class Stub(Process):
    """The process of the queue service."""

    has_replies = True


def queue_calls(queue: JobQueue) -> Calls:
    """Return the requests of the SDK."""
    return {
        "send_ms": lambda: queue.send(TEXT),
        "receive_ms": lambda: queue.receive(1, LEASE_S),
        "receive_page_ms": lambda: queue.receive(MAX_PAGE, LEASE_S),
        "renew_ms": lambda: queue.update(MESSAGE_ID, POP_RECEIPT, LEASE_S),
        "delete_ms": lambda: queue.delete(MESSAGE_ID, POP_RECEIPT),
    }


def http_calls(session: aiohttp.ClientSession, url: str) -> Calls:
    """Return the same requests without the SDK."""
    headers = {"x-ms-version": OPTIONS["api_version"], "Authorization": "-" * 60, "x-ms-date": "-" * 29}
    message = f"{url}/jobs/messages/{MESSAGE_ID}?popreceipt={POP_RECEIPT}"

    def call(method: str, url: str, body: str | None = None) -> Callable[[], Awaitable[object]]:
        async def send() -> None:
            async with session.request(method, url, headers=headers, data=body) as response:
                await response.read()

        return send

    return {
        "send_ms": call("POST", f"{url}/jobs/messages", f"<QueueMessage>{TEXT}</QueueMessage>"),
        "receive_ms": call("GET", f"{url}/jobs/messages?numofmessages=1"),
        "receive_page_ms": call("GET", f"{url}/jobs/messages?numofmessages={MAX_PAGE}"),
        "renew_ms": call("PUT", f"{message}&visibilitytimeout={LEASE_S}"),
        "delete_ms": call("DELETE", message),
    }


@asynccontextmanager
async def clients() -> AsyncIterator[dict[str, Calls]]:
    """Run the stub, and open the clients."""
    command = (sys.executable, "-m", "bench.worker.stub_queue")
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        async with Stub.running(command, dict(os.environ), Path(folder) / "stub.log") as stub:
            url = f"http://127.0.0.1:{(await stub.request('port')).decode()}/{ACCOUNT}"
            connection = f"AccountName={ACCOUNT};AccountKey={ACCOUNT_KEY};QueueEndpoint={url}"
            async with (
                QueueServiceClient.from_connection_string(connection, **OPTIONS) as service,
                JobQueue.connect(connection, "jobs") as queue,
                aiohttp.ClientSession() as session,
            ):
                yield {
                    SDK: queue_calls(JobQueue(service, "jobs")),
                    HEADWAY: queue_calls(queue),
                    HTTP: http_calls(session, url),
                }


async def measure(rounds: int) -> list[Row]:
    """Measure each request of each client once per round."""
    rows = []
    async with clients() as found:
        for number in range(rounds + 1):  # the first one warms up
            for measure in COLUMNS:
                for system, calls in found.items():
                    before_s = time.process_time()
                    for _ in range(CALLS if number else WARMUP_CALLS):
                        await calls[measure]()
                    used_ms = (time.process_time() - before_s) * 1000 / CALLS
                    if number:
                        rows.append(Row(number, system, measure, used_ms))
    return rows


def main(arguments: list[str]) -> None:
    """Measure, write the raw rows and print a table."""
    parser = argparse.ArgumentParser(prog="python -m bench.worker.requests")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--results", type=Path, default=RESULTS, help="CSV file of the raw rows")
    args = parser.parse_args(arguments)
    rows = uvloop.run(measure(args.rounds))
    write_csv(rows, args.results)
    print(markdown_table(rows, COLUMNS))


if __name__ == "__main__":
    main(sys.argv[1:])
