"""The poison queue: its messages, their grouping by job, and the settings and the output of its commands."""

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
CONNECTION_STRING = "AccountName=a;AccountKey=b"


def received(number: int, text: str = "nonsense", receipt: str = "first") -> ReceivedMessage:
    """Return a message that was inserted `number` seconds after the epoch."""
    return ReceivedMessage(f"m{number}", receipt, text, 1, Timestamp(number * 1000), Timestamp(number * 1000), 0.0)


class FakeQueue:
    """A queue that returns the given pages and records releases, deletions and sent messages.

    `error` is raised by every `send` and `update`. The request named in `blocking_request` waits for `unblock`.
    """

    def __init__(self, *pages: list[ReceivedMessage]) -> None:
        self.pages = list(pages)
        self.released: list[tuple[str, str]] = []  # message ID and pop receipt
        self.deleted: list[str] = []
        self.sent: list[str] = []
        self.error: Exception | None = None
        self.blocking_request = ""
        self.blocked = asyncio.Event()
        self.unblock = asyncio.Event()

    async def _block(self, request: str) -> None:
        if self.blocking_request == request:
            self.blocked.set()
            await self.unblock.wait()

    async def receive(self, count: int, visibility_s: int, *, create: bool) -> list[ReceivedMessage]:
        assert (count, create) == (MAX_PAGE, False)
        await self._block("receive")
        return self.pages.pop(0) if self.pages else []

    async def update(self, message_id: str, receipt: str, visibility_s: int) -> str:
        assert visibility_s == 0
        await self._block("update")
        self.released.append((message_id, receipt))
        if self.error is not None:
            raise self.error
        return "new receipt"

    async def delete(self, message_id: str, receipt: str) -> None:
        self.deleted.append(message_id)

    async def send(self, text: str) -> None:
        if self.error is not None:
            raise self.error
        self.sent.append(text)


def poison_queue(queue: Any) -> PoisonQueue:
    """Return a poison queue whose two queues are the same fake."""
    return PoisonQueue(queue, queue)


async def test_receiving_ends_at_a_page_without_new_messages() -> None:
    """A page of known messages ends the loop, and each message is released with its newest pop receipt."""
    again = [received(number, receipt="second") for number in (1, 2)]
    queue = FakeQueue([received(1), received(2)], [received(3), again[0]], again, [received(4)])
    async with poison_queue(queue).jobs() as jobs:
        assert [job.id for job in jobs] == ["m1", "m2", "m3"]
    assert sorted(queue.released) == [("m1", "second"), ("m2", "second"), ("m3", "first")]


@pytest.mark.parametrize("request_name", ["receive", "update"])
async def test_cancelled_operation_releases_its_messages(request_name: str) -> None:
    """Ctrl-C while a page is received or released leaves no message leased."""
    queue = FakeQueue([received(number) for number in range(MAX_PAGE)])
    queue.blocking_request = request_name

    async def receive_all() -> None:
        async with poison_queue(queue).jobs():
            assert request_name == "update"

    task = asyncio.create_task(receive_all())
    await queue.blocked.wait()
    task.cancel()
    queue.unblock.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(queue.released) == MAX_PAGE


async def test_redriven_message_is_deleted_and_not_released() -> None:
    """A redriven job is sent to its queue and its poison message is deleted; other messages are released."""
    queue = FakeQueue([received(1, encode_message(JobMessage(id=JOB_ID))), received(2)])
    poison = poison_queue(queue)
    async with poison.jobs() as jobs:
        message = await poison.redrive(jobs[0], Timestamp(9))
    assert (queue.sent, queue.deleted) == ([encode_message(message)], ["m1"])
    assert queue.released == [("m2", "first")]


async def test_failed_redrive_keeps_the_poison_messages() -> None:
    """If a job cannot be sent, its poison message is released, and an error of the release is ignored."""
    queue = FakeQueue([received(1, encode_message(JobMessage(id=JOB_ID)))])
    queue.error = ServiceRequestError("unavailable")
    poison = poison_queue(queue)
    with pytest.raises(ServiceRequestError):
        async with poison.jobs() as jobs:
            await poison.redrive(jobs[0], Timestamp(9))
    assert (queue.deleted, queue.released) == ([], [("m1", "first")])


def test_messages_are_grouped_by_job() -> None:
    """The latest message of a job is the readable one of the highest generation."""
    other_id = UUID(int=1)
    generations = [f'{{"id": "{JOB_ID}", "generation": {generation}}}' for generation in (1, 4, 3)]
    texts = [f'{{"id": "{JOB_ID}", "kind": 1}}', f'"{other_id}"', *generations, "nonsense"]
    jobs = group_by_job(PoisonMessage.read(received(number, text)) for number, text in enumerate(texts))
    assert [(job.id, len(job.messages)) for job in jobs] == [(str(other_id), 1), (str(JOB_ID), 4), ("m5", 1)]
    job = jobs[1]
    assert all(job.matches(text) for text in (str(JOB_ID), str(JOB_ID).upper(), "m0", "m4"))
    assert not any(job.matches(text) for text in (str(other_id), "m5", ""))
    redriven = job.redriven_message(Timestamp(99))
    assert (redriven.generation, redriven.submitted_at, redriven.expires_at) == (5, Timestamp(3000), Timestamp(99))


async def test_limited_calls_stop_when_all_fail() -> None:
    """At most MAX_CONCURRENCY items are processed at once; if all calls fail, no other item is started."""
    started: list[int] = []

    async def work(number: int) -> None:
        started.append(number)
        await asyncio.sleep(0)
        raise OSError(number)

    with pytest.raises(OSError, match="0"):
        await for_each_limited(range(100), work)
    assert started == list(range(MAX_CONCURRENCY))


@pytest.fixture
def local_env(tmp_path: Path) -> Path:
    """Write an `env` file as `make up` does."""
    path = tmp_path / "env"
    path.write_text("QUEUE_CONNECTION_STRING=AccountName=local;AccountKey=k==\nQUEUE_NAME=\nGRACE_S=3\n")
    return path


@pytest.mark.parametrize(
    ("environ", "name", "expected"),
    [
        ({}, None, ("AccountName=local;AccountKey=k==", "jobs", None)),
        ({"QUEUE_NAME": "other", "QUEUE_ACCOUNT_URL": ""}, None, ("AccountName=local;AccountKey=k==", "other", None)),
        ({"QUEUE_CONNECTION_STRING": CONNECTION_STRING}, None, (CONNECTION_STRING, "jobs", None)),
        (
            {"QUEUE_CONNECTION_STRING": CONNECTION_STRING, "QUEUE_NAME": "a", "QUEUE_API_VERSION": "v"},
            "b",
            (CONNECTION_STRING, "b", "v"),
        ),
        ({"QUEUE_ACCOUNT_URL": "https://a.example"}, None, ("https://a.example", "jobs", None)),
    ],
)
def test_environment_overrides_the_local_queue(
    local_env: Path, environ: dict[str, str], name: str | None, expected: tuple[str, str, str | None]
) -> None:
    """The environment overrides the file of `make up`, and the option --queue overrides both."""
    assert queue_config.find_queue(environ, name, local_env) == expected


def test_connection_string_is_read_from_a_file(tmp_path: Path) -> None:
    """A newline at the end of the file is ignored, and the connection string is not in the `repr`."""
    (tmp_path / "secret").write_text(f"{CONNECTION_STRING}\n")
    config = queue_config.find_queue(
        {"QUEUE_CONNECTION_STRING_FILE": str(tmp_path / "secret")}, None, tmp_path / "missing"
    )
    assert (config.account, "Account" in repr(config)) == (CONNECTION_STRING, False)


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"QUEUE_CONNECTION_STRING": CONNECTION_STRING, "QUEUE_ACCOUNT_URL": "https://a.example"},
        {"QUEUE_ACCOUNT_URL": "http://a.example"},
        {"QUEUE_CONNECTION_STRING_FILE": "/dev/null"},
    ],
)
def test_invalid_queue_settings_are_rejected(environ: dict[str, str], tmp_path: Path) -> None:
    """The environment must contain either a connection string that is not empty or an https URL."""
    with pytest.raises(ValueError, match="QUEUE_"):
        queue_config.find_queue(environ, None, tmp_path / "missing")


@given(st.recursive(st.text() | st.floats(allow_nan=False), lambda inner: st.dictionaries(st.text(), inner)))
def test_printable_json_escapes_control_characters(value: Any) -> None:
    """The JSON decodes to the same value, and contains no control character but newlines."""
    text = printable_json(json.dumps(value, ensure_ascii=False, indent=1))
    assert json.loads(text) == value
    assert all(character.isprintable() or character == "\n" for character in text)


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(-5, "0 s"), (1, "1 s"), (119, "119 s"), (120, "2 min"), (7200, "2 h"), (3 * 86_400, "3 days")],
)
def test_durations_have_a_suitable_unit(seconds: int, expected: str) -> None:
    """The unit is the largest of which the duration has at least two."""
    assert duration_text(seconds * 1000) == expected
