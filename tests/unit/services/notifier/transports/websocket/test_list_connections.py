"""Live lists over a WebSocket, with real tokens and subscriptions, and an index in memory."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest
from redis.exceptions import ConnectionError as RedisConnectionError
from websockets.frames import Opcode

from headway.contracts import encode
from services.notifier.transports.websocket import list_connections as module
from services.notifier.transports.websocket.connection import MAX_LISTS, MESSAGES_PER_LIST, WebSocketConnection
from services.notifier.transports.websocket.handler import WebSocketHandler
from services.notifier.transports.websocket.list_connections import ListConnections
from services.notifier.watching.live_lists import LiveLists
from services.runtime.token_bucket import TokenBucket
from tests.key_files import replace_file
from tests.unit.services.notifier.transports.fake_transport import FakeTransport
from tests.unit.services.notifier.transports.listed_jobs import Jobs, job_id, list_token
from tests.unit.services.notifier.transports.notifier_parts import Replica, refusals
from tests.unit.services.notifier.transports.websocket.test_connection import text
from tests.waiting import wait_until

LIMIT = 3
EVERYTHING = {"kind": "k"}


class Client:
    """A client of a replica whose records are read, connected by a WebSocket with a fake transport."""

    def __init__(self, keys: Path, **settings: Any) -> None:
        self.replica, self.jobs, self.transport = Replica(keys, **settings), Jobs(), FakeTransport()
        replica = self.replica
        replica.registry.max_watches = 100
        replica.synchronizer._store = cast(Any, self.jobs)
        replica.pubsub.confirms = True
        self.live_lists = LiveLists(cast(Any, self.jobs), cast(Any, replica.pubsub), 1_000)
        self.lists = ListConnections(replica.registry, self.live_lists, replica.auth)
        handler = WebSocketHandler(replica.registry, cast(Any, self.jobs), replica.auth, replica.settings, self.lists)
        self.connection = WebSocketConnection(handler, cast(asyncio.Transport, self.transport), None)
        self.connection.connection_made(self.connection._transport)
        self.transport.frames()

    async def send(self, **message: Any) -> list[Any]:
        """Send a message; return what the server sends: ids of jobs, and other messages."""
        self.connection.data_received(text(encode(message).decode()))
        await wait_until(lambda: self.transport.reading or self.transport.aborted, poll_s=0)
        return await self.received()

    async def received(self) -> list[Any]:
        """Return what the server has sent, as numbers of jobs, and other messages."""
        for _ in range(20):
            await asyncio.sleep(0)
        messages = [msgspec.json.decode(frame.data) for frame in self.transport.frames() if frame.opcode is Opcode.TEXT]
        return [number_of(message["job"]["id"]) if "job" in message else message for message in messages]

    async def open(self, list_id: str | None = None, **fields: Any) -> list[Any]:
        """Open a list of Anna's jobs, or with another filter."""
        options: dict[str, Any] = {} if list_id is None else {"list_id": list_id}
        return await self.send(list=list_token(self.replica.signer, **fields), limit=LIMIT, **options)

    async def refresh(self) -> list[Any]:
        """Read all lists again; return what the server sends."""
        for live_list in list(self.live_lists._lists.values()):
            await self.live_lists._refresh(live_list)
        return await self.received()

    @property
    def watched(self) -> list[int]:
        """The numbers of the jobs that the connection is subscribed to."""
        return sorted(map(number_of, self.connection.subscriptions))


def number_of(text: str) -> int:
    """Return the number of a job with an id."""
    return next(number for number in range(200) if str(job_id(number)) == text)


def ids(*numbers: int) -> list[str]:
    """Return ids of jobs."""
    return [str(job_id(number)) for number in numbers]


def opened(*numbers: int, more: bool = False, **fields: Any) -> dict[str, Any]:
    """Return the message that begins a list."""
    return {"list": {"jobs": ids(*numbers), "next": "more" if more else None, "complete": True, **fields}}


def changed(entered: list[int], left: list[int], **fields: Any) -> dict[str, Any]:
    """Return the message about changes of a list."""
    return {"list": {"entered": ids(*entered), "left": ids(*left), **fields}}


@pytest.fixture
async def client(keys: Path) -> AsyncIterator[Client]:
    """Return a client, while the read loop runs."""
    client = Client(keys)
    task = asyncio.create_task(client.replica.synchronizer.read_loop())
    yield client
    task.cancel()
    await asyncio.wait({task})


async def test_a_list_shows_its_jobs_and_then_its_changes(client: Client) -> None:
    """First the list, then each job; then what enters and leaves, the newest first, and what has entered."""
    for number in (1, 2):
        client.jobs.put(number)
    client.jobs.put(9, "bert")
    assert await client.open() == [opened(2, 1), 2, 1]
    assert await client.refresh() == []
    for number in (3, 4):
        client.jobs.put(number)
    assert await client.refresh() == [changed([4, 3], [1]), 4, 3]
    assert client.watched == [2, 3, 4]
    del client.jobs.records[str(job_id(3))]
    assert await client.refresh() == [changed([1], [3]), 1]
    assert await client.send(unlist="") == []
    assert (client.watched, client.live_lists._lists) == ([], {})
    client.jobs.put(5)
    assert await client.refresh() == []


async def test_a_list_says_when_it_becomes_complete_or_incomplete(client: Client) -> None:
    """Once, with the jobs that have changed, or alone."""
    client.jobs.put(1)
    client.jobs.complete = False
    assert await client.open() == [{"list": {**opened(1)["list"], "complete": False}}, 1]
    assert await client.refresh() == []
    client.jobs.complete = True
    assert await client.refresh() == [changed([], [], complete=True)]
    client.jobs.put(2)
    assert await client.refresh() == [changed([2], []), 2]
    client.jobs.put(3)
    client.jobs.complete = False
    assert await client.refresh() == [changed([3], [], complete=False), 3]


async def test_lists_of_one_connection_are_kept_apart(client: Client) -> None:
    """Messages name their list. A job stays subscribed while one of the lists shows it."""
    client.jobs.put(1)
    client.jobs.put(2, "bert")
    assert await client.open("mine") == [opened(1, id="mine"), 1]
    assert await client.open("all", **EVERYTHING) == [opened(2, 1, id="all"), 2, 1]
    assert await client.send(unlist="mine") == [1]
    assert client.watched == [1, 2]
    client.jobs.put(3)
    assert await client.refresh() == [changed([3], [], id="all"), 3]
    assert await client.send(unlist="all") == []
    assert client.watched == []


async def test_a_second_list_with_the_same_id_replaces_the_first(client: Client) -> None:
    """Its jobs are sent again. The jobs of the first list are not watched any more."""
    client.jobs.put(1)
    client.jobs.put(2, "bert")
    await client.open()
    assert await client.open(owner="bert") == [opened(2), 2]
    assert client.watched == [2]
    assert len(client.live_lists._lists) == 1


async def test_a_job_that_the_client_watches_stays_watched(client: Client) -> None:
    """Its own token outlives the list, whichever comes first; a job that it has unwatched is not watched again."""
    for number in (1, 2, 3):
        client.jobs.put(number)
    await client.send(watch=client.replica.token(job_id(1)))
    assert await client.open() == [opened(3, 2, 1), 3, 2, 1]
    await client.send(watch=client.replica.token(job_id(2)))
    assert await client.send(unwatch=job_id(3)) == []
    await client.refresh()
    assert client.watched == [1, 2]
    await client.send(unlist="")
    assert client.watched == [1, 2]
    assert client.connection.subscriptions[str(job_id(2))].grant.filter is None


async def test_a_list_never_shows_another_owners_job(client: Client) -> None:
    """Not even if the index is wrong, or the record is rebuilt with another owner while it is shown."""
    client.jobs.put(1)
    await client.open()
    subscription = client.connection.subscriptions[str(job_id(1))]
    before = refusals("forbidden")
    client.jobs.put(1, "bert", version=5)
    client.replica.synchronizer.on_publication(
        f"headway:job:{{{job_id(1)}}}", client.jobs.records[str(job_id(1))].snapshot
    )
    (error,) = await client.received()
    assert (error["error"]["code"], error["error"]["job_id"]) == ("forbidden", str(job_id(1)))
    assert client.watched == []
    assert not client.replica.hub.has(subscription)
    assert refusals("forbidden") == before + 1
    assert await client.refresh() == [changed([], [1])]


async def test_a_slow_consumer_gets_all_changes_at_once(client: Client) -> None:
    """While its connection is backpressured it gets none; then what is different from what it knows."""
    client.jobs.put(1)
    await client.open()
    client.connection.pause_writing()
    for number in (2, 3, 4):
        client.jobs.put(number)
        assert await client.refresh() == []
    client.connection.resume_writing()
    assert await client.received() == [changed([4, 3, 2], [1]), 4, 3, 2]


async def test_invalid_lists_are_refused(client: Client) -> None:
    """The error has the id of the list. The connection goes on."""
    replica, token = client.replica, list_token(client.replica.signer)

    async def codes(**message: Any) -> list[tuple[str, str | None]]:
        return [(one["error"]["code"], one["error"].get("list_id")) for one in await client.send(**message)]

    assert await codes(list="a.b.c", list_id="x") == [("invalid_token", "x")]
    assert await codes(list=replica.token(job_id(1)), list_id="x") == [("forbidden", "x")]
    assert await codes(list=list_token(replica.signer, "watch list", expires_in_s=-600)) == [("token_expired", None)]
    assert await codes(list=token, list_id="x", filter={"owner": "bert"}) == [("forbidden", "x")]
    assert await codes(list=token, filter={"error_type": "Oops"}) == [("forbidden", None)]
    for invalid in (
        {"limit": 101},
        {"limit": 0},
        {"list_id": "x" * 65},
        {"filter": {"status": "done"}},
        {"filter": {"tag": "{"}},
        {"filter": {"tag": [f"t{number}" for number in range(9)]}},
        {"filter": {"status": "failed,done"}},
        {"filter": {"error": "Oops"}},
        {"version": 1},
        {"watch": token},
        {"unlist": "x"},
    ):
        assert await codes(list=token, **invalid) == [("invalid", None)]
    assert await codes(list_id="x") == [("invalid", None)]
    client.jobs.failure = RedisConnectionError()
    assert await codes(list=token, list_id="x") == [("unavailable", "x")]
    client.jobs.failure = None
    assert (client.lists._connections, client.live_lists._lists) == ({}, {})
    assert await client.send(list=token) == [opened()]


async def test_the_lists_of_a_connection_are_limited(client: Client) -> None:
    """A list that replaces another one is not one too many."""
    for number in range(MAX_LISTS):
        assert len(await client.open(str(number))) == 1
    (error,) = await client.open("more")
    assert (error["error"]["code"], error["error"]["list_id"]) == ("too_many_lists", "more")
    assert await client.open("0") == [opened(id="0")]
    await client.send(unlist="1")
    assert await client.open("more") == [opened(id="more")]


async def test_a_list_counts_as_several_messages(client: Client) -> None:
    """It costs more than any other message. A client that opens lists without a pause is disconnected."""
    client.connection._list_budget = TokenBucket(0.001, 2 * MESSAGES_PER_LIST, time.monotonic())
    assert len(await client.open()) == len(await client.open()) == 1
    assert not client.connection.closing
    await client.open()
    assert client.connection.closing


async def test_small_limits_let_a_client_open_all_its_lists(keys: Path) -> None:
    """At once, and watch its jobs, too, whatever MESSAGES_PER_S and MAX_WATCHES are."""
    client = Client(keys, messages_per_s=0.001, max_watches=1)
    for number in range(MAX_LISTS):
        assert await client.open(str(number)) == [opened(id=str(number))]
    assert await client.send(unwatch=job_id(1)) == []
    assert not client.connection.closing


async def test_a_list_ends_with_its_token(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the token expires, or its key is removed. Lists with other tokens stay."""
    monkeypatch.setattr(module, "SWEEP_INTERVAL_S", 0.0)
    client.jobs.put(1)
    other, public_pem = client.replica.new_key()
    replace_file(client.replica.public_keys, client.replica.public_keys.read_text() + public_pem)
    await client.send(list=list_token(other), list_id="other")
    await client.open("mine")
    task = asyncio.create_task(client.lists.run())
    assert await client.received() == []
    replace_file(client.replica.public_keys, public_pem)
    await wait_until(lambda: list(client.lists._connections[client.connection].lists) == ["other"])
    messages = await client.received()
    task.cancel()
    await asyncio.wait({task})
    assert [(one["error"]["code"], one["error"]["list_id"]) for one in messages if one != 1] == [
        ("invalid_token", "mine")
    ]
    assert client.watched == [1]


async def test_a_connection_that_ends_leaves_nothing(client: Client) -> None:
    """Not even a list that is being read."""
    client.jobs.put(1)
    await client.open("first")
    page, reading, ended = client.jobs.page, asyncio.Event(), asyncio.Event()

    async def slow_page(query: Any) -> Any:
        reading.set()
        await ended.wait()
        return await page(query)

    client.jobs.page = slow_page  # type: ignore[method-assign]
    client.connection.data_received(text(encode({"list": list_token(client.replica.signer, tag="t")}).decode()))
    await reading.wait()
    client.transport.abort()
    client.connection.connection_lost(None)
    ended.set()
    await wait_until(lambda: client.connection._pending_task is None, poll_s=0)
    assert (client.lists._connections, client.live_lists._lists, client.watched) == ({}, {}, [])
    assert not client.replica.pubsub.open
