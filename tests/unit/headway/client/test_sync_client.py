"""The sync client against fake services. They run in the tests' event loop, and so the client in other threads."""

from __future__ import annotations

import asyncio
import inspect
import os
import signal
import sys
import threading
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from unittest.mock import AsyncMock
from uuid import uuid4

import pytest

from dev.environment import ROOT
from headway.client import Client, JobCancelled, Receipt, RequestFailed, SyncClient
from headway.contracts import JobSnapshot
from tests.unit.headway.client.fake_services import (
    Services,
    drop_response,
    end_jobs,
    respond_with,
    send_messages,
    snapshot_json,
)
from tests.waiting import PATIENCE_S, wait_until

METHODS = [
    *("__init__", "submit", "get", "watch", "result", "cancel", "share"),
    *("list_token", "job_token", "jobs", "jobs_page"),
]


@pytest.fixture
async def sync_client(services: Services) -> AsyncIterator[SyncClient]:
    """Create a client of the fake services, and close it at the end."""
    client = SyncClient(services.url, api_key="the key")
    yield client
    await asyncio.to_thread(client.close)
    assert client_threads() == []


def client_threads() -> list[threading.Thread]:
    """Return the threads of all sync clients."""
    return [thread for thread in threading.enumerate() if thread.name.startswith("headway-client")]


@pytest.mark.parametrize("name", METHODS)
def test_both_clients_take_the_same_arguments(name: str) -> None:
    """Each method of the sync client has the parameters of the async one, with the same defaults and types."""
    sync, async_ = (inspect.signature(getattr(cls, name)).parameters for cls in (SyncClient, Client))
    assert list(sync.values()) == list(async_.values())


def test_both_clients_have_the_same_methods() -> None:
    """The sync client has every public method of the async one, and `close`."""
    sync, async_ = ({name for name in dir(cls) if not name.startswith("_")} for cls in (SyncClient, Client))
    assert sync - async_ == {"close"}
    assert async_ - sync == set()


async def test_a_job_is_submitted_watched_and_cancelled(services: Services, sync_client: SyncClient) -> None:
    """Each method sends the request of the async client and returns its result."""
    receipt = services.receipt(uuid4())
    body = {"id": str(receipt.id), "token": receipt.token, "links": receipt.links}
    services.responses = [
        drop_response,
        respond_with(202, body),
        respond_with(200, snapshot_json(receipt.id, 0, "queued")),
        respond_with(202, snapshot_json(receipt.id, 1, "cancelled")),
    ]
    first, last = snapshot_json(receipt.id, 2), snapshot_json(receipt.id, 3, "succeeded", result=[1])
    services.socket_handlers = [send_messages({"job": first}, close=1012), send_messages({"job": last}, close=1012)]

    def use() -> None:
        job = sync_client.submit("k", {"a": 1}, delay_s=2, max_attempts=3, timeout_s=4, idempotency_key="mine")
        assert job == receipt
        assert sync_client.get(job).status == "queued"
        assert sync_client.cancel(job.id).status == "cancelled"
        assert [snapshot.version for snapshot in sync_client.watch(job.links["live"], token=job.token)] == [2, 3]
        assert sync_client.result(job, type=tuple[int]) == (1,)

    await asyncio.to_thread(use)
    assert services.bodies[1] == b'{"kind":"k","payload":{"a":1},"delay_s":2,"max_attempts":3,"timeout_s":4}'
    assert services.requests[1].headers["Idempotency-Key"] == "mine"
    assert services.requests[1].headers["Authorization"] == "Bearer the key"


async def test_errors_are_those_of_the_async_client(services: Services, sync_client: SyncClient) -> None:
    """A call raises the exception of the async client."""
    receipt = services.receipt(uuid4())
    services.responses = [respond_with(422, {"code": "invalid", "detail": "Expected a kind", "field": "kind"})]
    services.socket_handlers = [send_messages({"job": snapshot_json(receipt.id, 1, "cancelled")})]

    def use() -> None:
        with pytest.raises(RequestFailed, match="Expected a kind"):
            sync_client.submit("")
        with pytest.raises(JobCancelled):
            sync_client.result(receipt)
        with pytest.raises(ValueError, match="pass its link"):
            next(sync_client.watch(uuid4()))

    await asyncio.to_thread(use)


async def test_a_watch_and_a_result_end_after_their_timeout(services: Services, sync_client: SyncClient) -> None:
    """If the job does not end within `timeout_s`, the call raises a TimeoutError and unsubscribes."""
    watched, awaited = services.receipt(uuid4()), services.receipt(uuid4())
    services.socket_handlers = [send_messages({"job": snapshot_json(watched.id, 1)})]

    def use() -> None:
        watch = sync_client.watch(watched, timeout_s=1)
        assert next(watch).version == 1
        with pytest.raises(TimeoutError):
            next(watch)
        with pytest.raises(TimeoutError):
            sync_client.result(awaited, 1)

    await asyncio.to_thread(use)
    await wait_until(lambda: sum("unwatch" in message for message in services.received) == 2)


async def test_threads_share_one_client(services: Services, sync_client: SyncClient) -> None:
    """The client starts its thread with the first call; the calls of all threads share the thread and the WebSocket."""
    receipts = [services.receipt(uuid4()) for _ in range(20)]
    services.socket_handlers = [end_jobs(*receipts)]
    assert client_threads() == []
    barrier = threading.Barrier(len(receipts))

    def watch(receipt: Receipt) -> list[JobSnapshot]:
        barrier.wait()
        return list(sync_client.watch(receipt))

    loop = asyncio.get_running_loop()
    with ThreadPoolExecutor(len(receipts)) as threads:
        histories = await asyncio.gather(*(loop.run_in_executor(threads, watch, receipt) for receipt in receipts))
    assert [history[-1].id for history in histories] == [receipt.id for receipt in receipts]
    assert services.socket_count == 1
    assert len(client_threads()) == 1


async def test_a_dropped_iterator_unsubscribes(services: Services, sync_client: SyncClient) -> None:
    """Leaving a loop over `watch` ends the subscription, and the client can be used further."""
    receipt = services.receipt(uuid4())
    services.socket_handlers = [send_messages({"job": snapshot_json(receipt.id, 1)})]

    def use() -> None:
        for _snapshot in sync_client.watch(receipt):
            break

    await asyncio.to_thread(use)
    await wait_until(lambda: {"unwatch": str(receipt.id)} in services.received)


async def test_close_ends_the_calls_of_other_threads(services: Services, sync_client: SyncClient) -> None:
    """A watch, a result and a request in progress raise a RuntimeError when the client is closed."""
    watched, awaited = services.receipt(uuid4()), services.receipt(uuid4())
    services.socket_handlers = [send_messages({"job": snapshot_json(watched.id, 1)})]
    services.responses = [respond_with(503, Retry_After="20")]
    watch = sync_client.watch(watched)
    assert (await asyncio.to_thread(next, watch)).version == 1
    functions = (lambda: next(watch), lambda: sync_client.result(awaited), lambda: sync_client.submit("k"))
    calls = asyncio.gather(*map(asyncio.to_thread, functions), return_exceptions=True)
    await wait_until(lambda: services.requests and {"watch": awaited.token} in services.received)
    await asyncio.to_thread(sync_client.close)
    for error in await calls:
        assert isinstance(error, RuntimeError)
        assert "closed" in str(error)


async def test_a_closed_client_opens_again(services: Services, sync_client: SyncClient) -> None:
    """The next call after `close` starts a new thread; a watch from before does not continue."""
    receipt = services.receipt(uuid4())
    services.socket_handlers = [send_messages({"job": snapshot_json(receipt.id, 1)})]
    services.responses = [respond_with(200, snapshot_json(receipt.id, 1))]

    def use() -> None:
        with sync_client:
            watch = sync_client.watch(receipt)
            next(watch)
        for thread in client_threads():
            thread.join(PATIENCE_S)  # that of a client of another test, which was not closed
        assert client_threads() == []
        sync_client.close()
        assert sync_client.get(receipt).version == 1
        with pytest.raises(RuntimeError, match="closed"):
            next(watch)

    await asyncio.to_thread(use)


async def test_a_dropped_client_ends_its_thread(services: Services) -> None:
    """A client that is garbage-collected closes its connections and ends its thread."""
    receipt = services.receipt(uuid4())
    services.responses = [respond_with(200, snapshot_json(receipt.id, 1))]

    def use() -> None:
        client = SyncClient(services.url)
        assert client.get(receipt).version == 1
        assert len(client_threads()) == 1

    await asyncio.to_thread(use)
    await wait_until(lambda: client_threads() == [])


async def test_a_call_in_a_running_loop_works(services: Services, sync_client: SyncClient) -> None:
    """A call blocks a loop that runs in the caller's thread, as in Jupyter, and returns."""
    receipt = services.receipt(uuid4())
    services.socket_handlers = [end_jobs(receipt)]

    async def cell() -> list[int]:
        return [snapshot.version for snapshot in sync_client.watch(receipt)]

    assert await asyncio.to_thread(asyncio.run, cell()) == [1]


def test_a_client_that_cannot_be_created_is_dropped_silently() -> None:
    """Wrong arguments raise a TypeError, and nothing else."""
    with pytest.raises(TypeError, match="patience"):
        SyncClient(patience=3)  # type: ignore[call-arg]


PROGRAM = """
import os, sys, threading, warnings
from headway.client import SyncClient
from headway.client.receipts import Receipt
from uuid import UUID

warnings.filterwarnings("ignore", ".*is multi-threaded", DeprecationWarning)  # Python 3.12 warns of such a fork
url, job_id, token = sys.argv[1:]
client = SyncClient(url)
receipt = Receipt(UUID(job_id), token, {"live": f"{url}/live/jobs/{job_id}"})
"""


async def start(services: Services, receipt: Receipt, program: str) -> Process:
    """Run a program in which every warning is an error, with a client and the receipt of a job."""
    url = services.url.replace("127.0.0.1", "localhost")  # a name, which a thread looks up
    arguments = ("-W", "error", "-c", PROGRAM + program, url, str(receipt.id), receipt.token)
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    return await asyncio.create_subprocess_exec(sys.executable, *arguments, env=env, stdout=PIPE, stderr=PIPE)


async def output_of(process: Process) -> list[str]:
    """Wait until a program ends, and return the lines that it printed; it must not print an error."""
    out, err = await asyncio.wait_for(process.communicate(), PATIENCE_S)
    assert (process.returncode, err.decode()) == (0, "")
    return out.decode().splitlines()


@pytest.fixture
def endless(services: Services) -> Receipt:
    """Return the receipt of a job that does not end."""
    receipt = services.receipt(uuid4())
    services.socket_handlers = [send_messages({"job": snapshot_json(receipt.id, 1)})]
    services.responses = [respond_with(200, snapshot_json(receipt.id, 1))]
    return receipt


async def test_ctrl_c_ends_the_wait(services: Services, endless: Receipt) -> None:
    """KeyboardInterrupt ends a call at once and its subscription; the client can be used further."""
    process = await start(
        services,
        endless,
        """
try:
    client.result(receipt)
except KeyboardInterrupt:
    print(client.get(receipt).version, flush=True)
sys.stdin.read()
""",
    )
    await wait_until(lambda: services.received)
    process.send_signal(signal.SIGINT)
    await wait_until(lambda: {"unwatch": str(endless.id)} in services.received)
    assert await output_of(process) == ["1"]


async def test_a_forked_process_has_its_own_connections(services: Services, endless: Receipt) -> None:
    """A client that was used before a fork works in both processes, and the child leaves the parent's watch alone."""
    process = await start(
        services,
        endless,
        """
watch = client.watch(receipt)
print(next(watch).version, flush=True)
child = os.fork()
if not child:
    try:
        next(watch)
    except RuntimeError as error:
        print(error)
    print("child", client.get(receipt).version, next(client.watch(receipt)).version, flush=True)
    del watch, client
    import gc
    gc.collect()
    sys.exit()
os.waitpid(child, 0)
print("parent", client.get(receipt).version, next(client.watch(receipt)).version)
client.close()
""",
    )
    lines = ["1", "the process was forked; watch the job again", "child 1 1", "parent 1 1"]
    assert await output_of(process) == lines
    assert services.socket_count == 2


async def test_processes_may_fork_while_threads_use_the_client(services: Services, endless: Receipt) -> None:
    """A lock that another thread holds at the time of the fork does not block the child."""
    process = await start(
        services,
        endless,
        """
def call():
    while not done.is_set():
        client.get(receipt)

done = threading.Event()
threads = [threading.Thread(target=call) for _ in range(4)]
for thread in threads:
    thread.start()
for _ in range(10):
    child = os.fork()
    if not child:
        os._exit(0 if client.get(receipt).version == 1 else 1)
    print(os.waitpid(child, 0)[1])
done.set()
for thread in threads:
    thread.join()
""",
    )
    assert await output_of(process) == ["0"] * 10


async def test_no_call_waits_for_a_thread_that_has_ended(
    services: Services, endless: Receipt, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call ends with an error if the event loop of the client ended before it took the call."""
    monkeypatch.setattr(Client, "__aenter__", AsyncMock(side_effect=OSError("too many open files")))
    with pytest.raises(RuntimeError, match="the client was closed") as caught:
        await asyncio.wait_for(asyncio.to_thread(SyncClient(services.url).get, endless), PATIENCE_S)
    assert str(caught.value.__cause__) == "too many open files"


async def test_a_fork_waits_for_the_lookup_of_a_host_name(services: Services, endless: Receipt) -> None:
    """The lock that the C library holds during a lookup is free in the child, which looks up the name itself."""
    process = await start(
        services,
        endless,
        """
import socket

def look_up(*args, **options):
    with c_library:
        looking_up.set()
        never.wait(0.5)
        return original(*args, **options)

original, socket.getaddrinfo = socket.getaddrinfo, look_up
c_library, looking_up, never = threading.Lock(), threading.Event(), threading.Event()
thread = threading.Thread(target=client.get, args=(receipt,))
thread.start()
looking_up.wait()
child = os.fork()
if not child:
    os._exit(0 if client.get(receipt).version == 1 else 1)
print(os.waitpid(child, 0)[1])
thread.join()
""",
    )
    assert await output_of(process) == ["0"]


async def test_a_process_ends_without_close(services: Services, endless: Receipt) -> None:
    """A client that is never closed works in `atexit` handlers, and neither delays the exit nor warns."""
    process = await start(
        services,
        endless,
        """
import atexit
watch = client.watch(receipt)
print(next(watch).version)
other = SyncClient(url)
atexit.register(lambda: print("unused", other.get(receipt).version))
atexit.register(lambda: print("used", client.get(receipt).version))
""",
    )
    assert await output_of(process) == ["1", "used 1", "unused 1"]
