"""The poison queue's walk and its grouping, which queue is meant, and how it is printed."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from azure.core.exceptions import ServiceRequestError
from hypothesis import given
from hypothesis import strategies as st

from headway.azure.job_queue import MAX_PAGE, ReceivedMessage
from headway.azure.poison_queue import MAX_CONCURRENCY, PoisonMessage, PoisonQueue, for_each_limited, group_by_job
from headway.cli import queue_config
from headway.cli.poison_commands import duration_text
from headway.cli.text import printable_json
from headway.contracts import JobMessage, Timestamp, encode_message

JOB_ID = UUID("b1f6a6a0-7b7e-4c7f-9d0a-3c1c5a0e6f11")
STRING = "AccountName=a;AccountKey=b"


def received(number: int, text: str = "nonsense", receipt: str = "first") -> ReceivedMessage:
    """Make a message that was put on the queue so many seconds after the epoch."""
    return ReceivedMessage(f"m{number}", receipt, text, 1, Timestamp(number * 1000), 0.0)


class Queue:
    """A queue that brings pages as it is told, and remembers what it is asked for."""

    def __init__(self, *pages: list[ReceivedMessage]) -> None:
        self.pages = list(pages)
        self.given_back: list[tuple[str, str]] = []
        self.removed: list[str] = []
        self.sent: list[str] = []
        self.trouble: Exception | None = None
        self.slow = ""
        self.asked = asyncio.Event()
        self.answering = asyncio.Event()

    async def _answer(self, request: str) -> None:
        if self.slow == request:
            self.asked.set()
            await self.answering.wait()

    async def receive(self, count: int, visibility_s: int, *, create: bool) -> list[ReceivedMessage]:
        assert (count, create) == (MAX_PAGE, False)
        await self._answer("receive")
        return self.pages.pop(0) if self.pages else []

    async def update(self, message_id: str, receipt: str, visibility_s: int) -> str:
        assert visibility_s == 0
        await self._answer("update")
        self.given_back.append((message_id, receipt))
        if self.trouble is not None:
            raise self.trouble
        return "dead"

    async def delete(self, message_id: str, receipt: str) -> None:
        self.removed.append(message_id)

    async def send(self, text: str) -> None:
        if self.trouble is not None:
            raise self.trouble
        self.sent.append(text)


def poison(queue: Any) -> PoisonQueue:
    """Make the operator's side of a queue that is both."""
    return PoisonQueue(queue, queue)


async def test_a_walk_ends_when_a_page_brings_nothing_new() -> None:
    """A walk that meets its own messages again ends, and gives them back by the receipts that are alive."""
    again = [received(number, receipt="second") for number in (1, 2)]
    queue = Queue([received(1), received(2)], [received(3), again[0]], again, [received(4)])
    async with poison(queue).jobs() as cases:
        assert [case.id for case in cases] == ["m1", "m2", "m3"]
    assert sorted(queue.given_back) == [("m1", "second"), ("m2", "second"), ("m3", "first")]


@pytest.mark.parametrize("during", ["receive", "update"])
async def test_what_an_interruption_leaves_is_given_back(during: str) -> None:
    """Ctrl-C while a page is received, or given back, hides none of its messages."""
    queue = Queue([received(number) for number in range(MAX_PAGE)])
    queue.slow = during

    async def walk() -> None:
        async with poison(queue).jobs():
            assert during == "update"

    task = asyncio.create_task(walk())
    await queue.asked.wait()
    task.cancel()
    queue.answering.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(queue.given_back) == MAX_PAGE


async def test_what_was_removed_is_not_given_back() -> None:
    """A redriven job is on its queue and its message removed; what is not touched is given back."""
    queue = Queue([received(1, encode_message(JobMessage(id=JOB_ID))), received(2)])
    looked = poison(queue)
    async with looked.jobs() as cases:
        message = await looked.redrive(cases[0], Timestamp(9))
    assert (queue.sent, queue.removed) == ([encode_message(message)], ["m1"])
    assert queue.given_back == [("m2", "first")]


async def test_a_job_that_could_not_be_sent_keeps_its_messages() -> None:
    """A queue that is away lets no job be lost, and what could not be given back is no further error."""
    queue = Queue([received(1, encode_message(JobMessage(id=JOB_ID)))])
    queue.trouble = ServiceRequestError("away")
    looked = poison(queue)
    with pytest.raises(ServiceRequestError):
        async with looked.jobs() as cases:
            await looked.redrive(cases[0], Timestamp(9))
    assert (queue.removed, queue.given_back) == ([], [("m1", "first")])


def test_doubles_are_grouped_by_their_job() -> None:
    """Of a job's messages that of the highest generation counts, and any before one that cannot be read."""
    other = UUID(int=1)
    generations = [f'{{"id": "{JOB_ID}", "generation": {generation}}}' for generation in (1, 4, 3)]
    texts = [f'{{"id": "{JOB_ID}", "kind": 1}}', f'"{other}"', *generations, "nonsense"]
    cases = group_by_job(PoisonMessage.read(received(number, text)) for number, text in enumerate(texts))
    assert [(case.id, len(case.messages)) for case in cases] == [(str(other), 1), (str(JOB_ID), 4), ("m5", 1)]
    job = cases[1]
    assert all(job.matches(text) for text in (str(JOB_ID), str(JOB_ID).upper(), "m0", "m4"))
    assert not any(job.matches(text) for text in (str(other), "m5", ""))
    redriven = job.redriven_message(Timestamp(99))
    assert (redriven.generation, redriven.submitted_at, redriven.expires_at) == (5, Timestamp(3000), Timestamp(99))


async def test_an_error_ends_what_has_not_begun() -> None:
    """A few are worked on at once; where all work fails, no more is begun, and the first error is raised."""
    begun: list[int] = []

    async def work(number: int) -> None:
        begun.append(number)
        await asyncio.sleep(0)
        raise OSError(number)

    with pytest.raises(OSError, match="0"):
        await for_each_limited(range(100), work)
    assert begun == list(range(MAX_CONCURRENCY))


@pytest.fixture
def local(tmp_path: Path) -> Path:
    """Write what `make up` writes."""
    path = tmp_path / "env"
    path.write_text("QUEUE_CONNECTION_STRING=AccountName=local;AccountKey=k==\nQUEUE_NAME=\nGRACE_S=3\n")
    return path


@pytest.mark.parametrize(
    ("environ", "name", "expected"),
    [
        ({}, None, ("AccountName=local;AccountKey=k==", "jobs", None)),
        ({"QUEUE_NAME": "other", "QUEUE_ACCOUNT_URL": ""}, None, ("AccountName=local;AccountKey=k==", "other", None)),
        ({"QUEUE_CONNECTION_STRING": STRING}, None, (STRING, "jobs", None)),
        ({"QUEUE_CONNECTION_STRING": STRING, "QUEUE_NAME": "a", "QUEUE_API_VERSION": "v"}, "b", (STRING, "b", "v")),
        ({"QUEUE_ACCOUNT_URL": "https://a.example"}, None, ("https://a.example", "jobs", None)),
    ],
)
def test_the_queue_is_the_environments_or_the_local_one(
    local: Path, environ: dict[str, str], name: str | None, expected: tuple[str, str, str | None]
) -> None:
    """What the environment names goes before what `make up` has written, and an option before both."""
    assert queue_config.find_queue(environ, name, local) == expected


def test_a_connection_string_may_stand_in_a_file(tmp_path: Path) -> None:
    """A secret file's end of line is none of it, and the access does not show it."""
    (tmp_path / "secret").write_text(f"{STRING}\n")
    access = queue_config.find_queue(
        {"QUEUE_CONNECTION_STRING_FILE": str(tmp_path / "secret")}, None, tmp_path / "none"
    )
    assert (access.account, "Account" in repr(access)) == (STRING, False)


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"QUEUE_CONNECTION_STRING": STRING, "QUEUE_ACCOUNT_URL": "https://a.example"},
        {"QUEUE_ACCOUNT_URL": "http://a.example"},
        {"QUEUE_CONNECTION_STRING_FILE": "/dev/null"},
    ],
)
def test_there_must_be_one_way_to_the_queue(environ: dict[str, str], tmp_path: Path) -> None:
    """None, two, and one that an identity may not take are refused."""
    with pytest.raises(ValueError, match="QUEUE_"):
        queue_config.find_queue(environ, None, tmp_path / "none")


@given(st.recursive(st.text() | st.floats(allow_nan=False), lambda inner: st.dictionaries(st.text(), inner)))
def test_printed_json_is_the_same_json_and_steers_no_terminal(value: Any) -> None:
    """What a terminal could obey is escaped, and nothing else is changed."""
    text = printable_json(json.dumps(value, ensure_ascii=False, indent=1))
    assert json.loads(text) == value
    assert all(character.isprintable() or character == "\n" for character in text)


@pytest.mark.parametrize(
    ("seconds", "told"),
    [(-5, "0 s"), (1, "1 s"), (119, "119 s"), (120, "2 min"), (7200, "2 h"), (3 * 86_400, "3 days")],
)
def test_spans_are_told_in_a_fitting_unit(seconds: int, told: str) -> None:
    """The unit is the greatest that there are two of."""
    assert duration_text(seconds * 1000) == told
