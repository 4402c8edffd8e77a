"""`headway poison` beside a running system, with the queue and the key that it finds in `.headway`."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import os
import sys
import uuid
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, chdir, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from azure.storage.queue.aio import QueueServiceClient

from dev.environment import ROOT
from headway.azure.job_queue import API_VERSION, JobQueue, ReceivedMessage
from headway.azure.poison_queue import PoisonQueue
from headway.cli.command import main
from headway.contracts import JobMessage, Json, Timestamp
from headway.labels import Labels
from headway.message_codec import decode_message, encode_message
from tests.integration.test_cli import Completed
from tests.integration.test_one_job import history
from tests.stack import JOBS, Stack, running
from tests.waiting import PATIENCE_S, wait_until

SECRET = "a payload that only `show` prints"


@pytest.fixture(scope="module")
async def stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    """Run the system for this module, with its state in the folder that the commands search for."""
    folder = tmp_path_factory.mktemp("poison") / ".headway"
    async with running(folder, WORKER_JOBS=JOBS, GRACE_S="0", DRAIN_S="0", POLL_MAX_S="0.2") as stack:
        yield stack


@pytest.fixture
def queue() -> str:
    """Return the name of a new queue, which no worker receives from."""
    return f"idle-{uuid.uuid4().hex}"


async def poison(stack: Stack, *arguments: str, **env: str) -> Completed:
    """Run `headway poison` next to `.headway`, in this process, which saves the time of the imports."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err), chdir(stack.folder.parent), patch.dict(os.environ, env):
        code = await asyncio.to_thread(main, ["poison", *arguments])
    return Completed(code, out.getvalue(), err.getvalue())


async def start_poison(stack: Stack, *arguments: str) -> asyncio.subprocess.Process:
    """Start `headway poison` next to `.headway`, in a new process, as an operator does."""
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-W",
        "error",
        "-m",
        "headway",
        "poison",
        *arguments,
        cwd=stack.folder.parent,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=DEVNULL,
        stdout=PIPE,
        stderr=PIPE,
    )


async def poison_in_new_process(stack: Stack, *arguments: str) -> Completed:
    """Run `headway poison` in a new process to its end."""
    process = await start_poison(stack, *arguments)
    out, err = await asyncio.wait_for(process.communicate(), PATIENCE_S)
    return Completed(process.returncode, out.decode(), err.decode())


async def listed(stack: Stack, queue: str = "jobs") -> list[dict[str, Any]]:
    """Return the parsed output of `list --json`."""
    completed = await poison(stack, "list", "--json", "--queue", queue)
    assert (completed.code, completed.err) == (0, "")
    return [json.loads(line) for line in completed.lines]


def connect(stack: Stack, name: str) -> AbstractAsyncContextManager[JobQueue]:
    """Open a queue until the block ends."""
    return JobQueue.connect(stack.env["QUEUE_CONNECTION_STRING"], name)


async def send_to_poison_queue(stack: Stack, queue: str, *texts: str) -> None:
    """Send messages to a queue's poison queue."""
    async with connect(stack, f"{queue}-poison") as poison_queue:
        for text in texts:
            await poison_queue.send(text)


async def receive_all(stack: Stack, name: str) -> list[ReceivedMessage]:
    """Receive all visible messages of a queue."""
    async with connect(stack, name) as queue:
        messages: list[ReceivedMessage] = []
        while page := await queue.receive(32, 30):
            messages += page
        return messages


@asynccontextmanager
async def watch(stack: Stack, token: str) -> AsyncIterator[AsyncIterator[dict[str, Any]]]:
    """Watch a job over one WebSocket, also after its end; yield its snapshots."""

    async def snapshots() -> AsyncIterator[dict[str, Any]]:
        async for frame in socket:
            if "job" in (message := frame.json()):
                yield message["job"]

    async with stack.session.ws_connect(f"{stack.env['LIVE_URL']}/live") as socket:
        await socket.send_json({"watch": token})
        yield snapshots()


async def submit_failing(stack: Stack, file: Path, count: int) -> list[dict[str, Any]]:
    """Submit jobs that need a file, and wait until they have failed; return their receipts, the oldest first."""
    receipts = [await stack.submit("until-file-exists", str(file), max_attempts=1) for _ in range(count)]
    for receipt in receipts:
        assert (await history(stack, receipt["token"]))[-1]["status"] == "failed"
    return receipts


async def test_watchers_of_a_failed_job_see_it_redriven(stack: Stack, tmp_path: Path) -> None:
    """A WebSocket that received the failure receives the next generation of the job, until it succeeds."""
    file = tmp_path / SECRET
    receipt = await stack.submit("until-file-exists", str(file))
    async with watch(stack, receipt["token"]) as snapshots:
        received = [await anext(snapshots)]
        while received[-1]["status"] != "failed":
            received.append(await anext(snapshots))
        commands = (("list",), ("list", "--json"), ("show", receipt["id"]))
        text_list, json_list, shown = outputs = [await poison(stack, *command) for command in commands]
        assert [(completed.code, completed.err) for completed in outputs] == [(0, "")] * 3
        (line,), (row,) = text_list.lines, map(json.loads, json_list.lines)
        assert line.startswith(f"{receipt['id']} until-file-exists, generation 0, submitted ")
        assert (row["id"], row["kind"], row["messages"], row["problem"]) == (
            receipt["id"],
            "until-file-exists",
            1,
            None,
        )
        assert (SECRET in text_list.out + json_list.out, json.loads(shown.out)["payload"]) == (False, str(file))
        file.touch()
        redriven = await poison_in_new_process(stack, "redrive", receipt["id"])
        assert (redriven.code, redriven.err, len(redriven.lines)) == (0, "", 1)
        while received[-1]["status"] != "succeeded":
            received.append(await anext(snapshots))
    assert [job["version"] for job in received] == sorted({job["version"] for job in received})
    generations = [job["generation"] for job in received]
    assert (generations[0], generations == sorted(generations)) == (0, True)
    end = received[-1]
    assert (end["generation"], end["attempt"], end["result"], end["error"]) == (1, 1, 1, None)
    assert end["submitted_at"] == row["submitted_at"]
    assert end["expires_at"] > received[0]["expires_at"]
    assert await stack.snapshot(receipt["id"], redriven.lines[0]) == end
    assert await listed(stack) == []


async def test_redrive_all_skips_unreadable_messages(stack: Stack, tmp_path: Path) -> None:
    """The output is a line per job; an unreadable message stays on the queue, with an error and the exit code 1."""
    file = tmp_path / "file"
    receipts = await submit_failing(stack, file, 3)
    await send_to_poison_queue(stack, "jobs", "nonsense")
    file.touch()
    completed = await poison(stack, "redrive", "--all")
    tokens = dict(line.split(" ") for line in completed.lines)
    assert (completed.code, set(tokens)) == (1, {receipt["id"] for receipt in receipts})
    await wait_until(lambda: len(file.read_text().split()) == 3)
    for token in tokens.values():
        assert (await history(stack, token))[-1]["status"] == "succeeded"
    assert sorted(file.read_text().split()) == sorted(tokens)
    (unreadable,) = await listed(stack)
    assert completed.err.startswith(
        f"headway: poison message {unreadable['message_id']} cannot be redriven, because it cannot be read"
    )
    assert (await poison(stack, "discard", unreadable["message_id"])).code == 0
    assert (await poison(stack, "redrive", "--all")) == (0, "", "")


async def test_job_that_is_redriven_twice_runs_once(stack: Stack, tmp_path: Path) -> None:
    """A redrive that crashes before it deletes the poison message can be repeated without a second run."""
    file = tmp_path / "file"
    (receipt,) = await submit_failing(stack, file, 1)
    async with PoisonQueue.connect(stack.env["QUEUE_CONNECTION_STRING"], "jobs") as queue, queue.jobs() as jobs:
        (text,) = [job.latest.received.text for job in jobs if job.matches(receipt["id"])]
    file.touch()
    for _ in range(2):
        assert (await poison(stack, "redrive", receipt["id"])).code == 0
        await send_to_poison_queue(stack, "jobs", text)
    finished = 'jobs_finished_total{kind="until-file-exists",outcome="finished"}'

    async def second_message_rejected() -> bool:
        return await stack.metric(finished, "worker") == 1

    await wait_until(second_message_rejected)
    assert file.read_text() == f"{receipt['id']}\n"
    assert (await stack.snapshot(receipt["id"], receipt["token"]))["status"] == "succeeded"
    assert (await poison(stack, "discard", receipt["id"])).code == 0


async def test_messages_of_a_job_are_redriven_as_one(stack: Stack, queue: str) -> None:
    """The message of the highest generation is sent with the next generation, and all poison messages are deleted."""
    now = Timestamp.now()
    job = JobMessage(
        id=uuid.uuid4(),
        kind="letters",
        payload=Json(b'{"to": [1.50]}'),
        submitted_at=now,
        expires_at=now.after(1),
        generation=3,
        max_attempts=7,
        timeout_s=9.5,
        releases=2,
        checkpoint=Json(b'{"done": [12345678901234567890]}'),
        labels=Labels(name="October letters", owner="user:7"),
    )
    older = [encode_message(JobMessage(id=job.id, generation=generation)) for generation in (0, 2)]
    unreadable = f'{{"id": "{job.id}", "kind": 5}}'
    await send_to_poison_queue(stack, queue, older[0], encode_message(job), older[1], unreadable)
    (row,) = await listed(stack, queue)
    assert (row["name"], row["generation"], row["messages"]) == ("October letters", 3, 4)
    (line,) = (await poison(stack, "list", "--queue", queue)).lines
    assert line.startswith(f"{job.id} letters, October letters, generation 3, ")
    shown = await poison(stack, "show", str(job.id), "--queue", queue)
    assert '"checkpoint": {\n    "done": [\n      12345678901234567890\n    ]\n  }' in shown.out
    redriven = await poison(
        stack, "redrive", str(job.id).upper(), "--queue", queue, "--ttl", "60", "--json", "--link", "http://h"
    )
    (output,) = map(json.loads, redriven.lines)
    assert (output["id"], output["generation"]) == (str(job.id), 4)
    assert output["link"] == f"http://h/jobs/{job.id}#{output['token']}"
    (received,) = await receive_all(stack, queue)
    message = decode_message(received.text)
    assert message.expires_at is not None
    assert 0 < message.expires_at - Timestamp.now() <= 60_000
    assert bytes(message.payload) == bytes(job.payload)
    assert bytes(message.checkpoint) == bytes(job.checkpoint)
    assert (message.id, message.kind, message.max_attempts, message.timeout_s) == (job.id, "letters", 7, 9.5)
    assert (message.generation, message.releases, message.submitted_at) == (4, 0, now)
    assert message.labels == job.labels
    assert await receive_all(stack, f"{queue}-poison") == []


async def test_unreadable_messages_are_shown_and_discarded(stack: Stack, queue: str) -> None:
    """The commands name a message by its job's id, otherwise by its own, and print no control characters."""
    job_id = str(uuid.uuid4())
    garbage = base64.b64encode("\x1b[2J\x9bnonsense".encode()).decode()
    invalid = json.dumps({"id": job_id, "kind": "\x9b\u202e", "max_attempts": "\x1b"}, ensure_ascii=False)
    await send_to_poison_queue(stack, queue, garbage, invalid, f'{{"id": "{uuid.uuid4()}", "kind": "\x9b\u202e"}}')
    rows = {row["kind"] or row["id"]: row for row in await listed(stack, queue)}
    assert rows.keys() == {None, job_id, "\x9b\u202e"}
    message_id = rows[None]["message_id"]
    text = await poison(stack, "list", "--queue", queue)
    for completed in (text, shown := await poison(stack, "show", job_id, "--queue", queue)):
        assert not set(completed.out) & set("\x1b\x9b\u202e")
    assert shown.out.startswith(f'{{"id": "{job_id}", "kind": "  "')
    assert f"{message_id} unreadable: " in text.out
    assert f"{job_id} unreadable: Expected `int | null`, got `str` - at `$.max_attempts`, poisoned " in text.out
    assert (await poison(stack, "show", message_id, "--queue", queue)).out == f"{garbage}\n"
    for unreadable in (message_id, job_id):
        rejected = await poison(stack, "redrive", unreadable, "--queue", queue)
        assert (rejected.code, rejected.out, rejected.err.count("\n")) == (1, "", 1)
        assert "cannot be read" in rejected.err
        assert (await poison(stack, "discard", unreadable, "--queue", queue)).code == 0
    assert len(await receive_all(stack, f"{queue}-poison")) == 1


async def test_redrive_all_skips_messages_that_are_too_large(stack: Stack, queue: str) -> None:
    """A message that would exceed the queue's limit in base64 stays; the other jobs are redriven."""
    large, small = uuid.uuid4(), uuid.uuid4()
    await send_to_poison_queue(stack, queue, f'{{"id": "{large}", "payload": "{"x" * 50_000}"}}', f'"{small}"')
    completed = await poison(stack, "redrive", "--all", "--no-token", "--queue", queue)
    assert completed == (1, f"{small}\n", f"headway: poison message {large} is too large to be redriven\n")
    assert [row["id"] for row in await listed(stack, queue)] == [str(large)]


async def test_list_receives_and_releases_several_pages(stack: Stack, queue: str) -> None:
    """All messages are listed, also when one request cannot receive them, and they are visible again at once."""
    ids = [uuid.uuid4() for _ in range(75)]
    await send_to_poison_queue(stack, queue, *[encode_message(JobMessage(id=job_id)) for job_id in ids])
    assert [row["messages"] for row in await listed(stack, queue)] == [1] * 75
    messages = await receive_all(stack, f"{queue}-poison")
    assert {decode_message(received.text).id for received in messages} == set(ids)


async def test_operators_at_once_find_everything(stack: Stack, queue: str) -> None:
    """Two operators who redrive and one who discards, at the same time, each find their job on two pages."""
    ids = [uuid.uuid4() for _ in range(40)]
    await send_to_poison_queue(stack, queue, *[encode_message(JobMessage(id=job_id)) for job_id in ids])

    async def change(job_id: uuid.UUID, *, redrive: bool) -> None:
        async with PoisonQueue.connect(stack.env["QUEUE_CONNECTION_STRING"], queue) as client, client.jobs() as jobs:
            (job,) = [job for job in jobs if job.matches(str(job_id))]
            await (client.redrive(job, 60) if redrive else client.discard(job))

    first, second, third, *remaining = ids
    await asyncio.gather(change(first, redrive=True), change(second, redrive=True), change(third, redrive=False))
    assert {row["id"] for row in await listed(stack, queue)} == set(map(str, remaining))
    redriven = [decode_message(received.text) for received in await receive_all(stack, queue)]
    assert sorted((message.id, message.generation) for message in redriven) == sorted([(first, 1), (second, 1)])


async def test_terminated_command_releases_its_messages(stack: Stack, queue: str) -> None:
    """A command that waits for another one, which has leased a message, releases its own messages at once."""
    texts = [encode_message(JobMessage(id=uuid.uuid4())) for _ in range(3)]
    await send_to_poison_queue(stack, queue, *texts)
    async with connect(stack, f"{queue}-poison") as poison_queue:
        await poison_queue.receive(1, 60)
        process = await start_poison(stack, "redrive", "--all", "--no-token", "--queue", queue)

        async def visible(count: int) -> bool:
            return len(await poison_queue.peek()) == count

        await wait_until(lambda: visible(0))
        process.terminate()
        assert await asyncio.wait_for(process.wait(), PATIENCE_S) == 130
        assert await visible(2)


async def test_all_messages_of_a_job_are_discarded(stack: Stack, queue: str) -> None:
    """Messages of other jobs stay; later commands report that the job has no poison message."""
    discarded, kept = uuid.uuid4(), uuid.uuid4()
    texts = [encode_message(JobMessage(id=job_id)) for job_id in (discarded, kept, discarded)]
    await send_to_poison_queue(stack, queue, *texts)
    completed = await poison(stack, "discard", str(discarded), "--queue", queue)
    assert completed.out == f"discarded {discarded}, 2 messages\n"
    for command in ("discard", "redrive", "show"):
        completed = await poison(stack, command, str(discarded), "--queue", queue)
        assert completed == (1, "", f"headway: no poison message of job {discarded}\n")
    (received,) = await receive_all(stack, f"{queue}-poison")
    assert decode_message(received.text).id == kept


async def test_redrive_without_a_token_key_fails(stack: Stack, queue: str) -> None:
    """The command fails before it receives a message; with `--no-token` it needs no key."""
    job_id = uuid.uuid4()
    await send_to_poison_queue(stack, queue, encode_message(JobMessage(id=job_id)))
    rejected = await poison(stack, "redrive", "--all", "--queue", queue, TOKEN_KEY_FILE="/no/such/key")
    assert (rejected.code, rejected.out, rejected.err.count("\n")) == (1, "", 1)
    assert "--no-token" in rejected.err
    async with connect(stack, f"{queue}-poison") as poison_queue:
        (received,) = await poison_queue.receive(1, 1)
        assert received.delivery == 1
        await poison_queue.update(received.id, received.pop_receipt, 0)
    redriven = await poison(
        stack, "redrive", str(job_id), "--queue", queue, "--no-token", TOKEN_KEY_FILE="/no/such/key"
    )
    assert redriven == (0, f"{job_id}\n", "")
    assert len(await receive_all(stack, queue)) == 1


async def test_list_does_not_create_a_queue(stack: Stack, queue: str) -> None:
    """The list of a queue that does not exist is empty; without a connection to the storage the command fails."""
    assert await poison(stack, "list", "--queue", queue) == (0, "", "")
    connection = stack.env["QUEUE_CONNECTION_STRING"]
    async with QueueServiceClient.from_connection_string(connection, api_version=API_VERSION) as service:
        assert [properties async for properties in service.list_queues(name_starts_with=queue)] == []
    unreachable = connection.replace(stack.env["AZURITE_PORT"], "1")
    failed = await poison(stack, "list", QUEUE_CONNECTION_STRING=unreachable)
    assert (failed.code, failed.out, failed.err.count("\n")) == (1, "", 1)
