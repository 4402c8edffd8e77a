"""`headway poison`, beside a running system whose queue and key it finds by itself."""

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
from contextlib import asynccontextmanager, chdir, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from azure.storage.queue.aio import QueueServiceClient

from dev.environment import ROOT
from headway.azure.job_queue import API_VERSION, JobQueue, ReceivedMessage
from headway.azure.poison_queue import PoisonQueue
from headway.cli.command import main
from headway.contracts import JobMessage, Json, Timestamp, decode_message, encode_message
from tests.integration.test_cli import Completed
from tests.integration.test_one_job import history
from tests.stack import JOBS, Stack, running
from tests.waiting import wait_until

SECRET = "a payload that only show shows"


@pytest.fixture(scope="module")
async def stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    """Run the system for this module, its state where the commands look for it."""
    folder = tmp_path_factory.mktemp("poison") / ".headway"
    async with running(folder, WORKER_JOBS=JOBS, GRACE_S="0", DRAIN_S="0", POLL_MAX_S="0.2") as stack:
        yield stack


@pytest.fixture
def queue() -> str:
    """Name a queue that nobody works on."""
    return f"idle-{uuid.uuid4().hex}"


async def poison(stack: Stack, *arguments: str, **more: str) -> Completed:
    """Run `headway poison` where `.headway` is, in this process: nothing of it takes long but its imports."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err), chdir(stack.folder.parent), patch.dict(os.environ, more):
        code = await asyncio.to_thread(main, ["poison", *arguments])
    return Completed(code, out.getvalue(), err.getvalue())


async def poison_process(stack: Stack, *arguments: str) -> Completed:
    """Run `headway poison` where `.headway` is, as a person does."""
    process = await asyncio.create_subprocess_exec(
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
    out, err = await asyncio.wait_for(process.communicate(), 60)
    return Completed(process.returncode, out.decode(), err.decode())


async def listed(stack: Stack, queue: str = "jobs") -> list[dict[str, Any]]:
    """Return what `list --json` prints."""
    ended = await poison(stack, "list", "--json", "--queue", queue)
    assert (ended.code, ended.err) == (0, "")
    return [json.loads(line) for line in ended.lines]


def connected(stack: Stack, name: str) -> Any:
    """Open a queue."""
    return JobQueue.connect(stack.env["QUEUE_CONNECTION_STRING"], name)


async def put(stack: Stack, queue: str, *texts: str) -> None:
    """Put messages on a queue's poison queue."""
    async with connected(stack, f"{queue}-poison") as poisoned:
        for text in texts:
            await poisoned.send(text)


async def everything(stack: Stack, name: str) -> list[ReceivedMessage]:
    """Take all that can be seen on a queue."""
    async with connected(stack, name) as queue:
        taken: list[ReceivedMessage] = []
        while page := await queue.receive(32, 30):
            taken += page
        return taken


@asynccontextmanager
async def socket_of(stack: Stack, token: str) -> AsyncIterator[AsyncIterator[dict[str, Any]]]:
    """Watch a job by one socket, beyond its end."""

    async def snapshots() -> AsyncIterator[dict[str, Any]]:
        async for message in socket:
            if "job" in (said := message.json()):
                yield said["job"]

    async with stack.session.ws_connect(f"{stack.env['LIVE_URL']}/live") as socket:
        await socket.send_json({"watch": token})
        yield snapshots()


async def fail(stack: Stack, mended: Path, count: int) -> list[dict[str, Any]]:
    """Submit jobs and wait until they have failed; return their receipts, the oldest first."""
    receipts = [await stack.submit("until-file-exists", str(mended), max_attempts=1) for _ in range(count)]
    for receipt in receipts:
        assert (await history(stack, receipt["token"]))[-1]["status"] == "failed"
    return receipts


async def test_a_redriven_job_goes_on_before_its_watchers(stack: Stack, tmp_path: Path) -> None:
    """A socket that saw the failure sees the same job run, a generation later, to its end."""
    mended = tmp_path / SECRET
    receipt = await stack.submit("until-file-exists", str(mended))
    async with socket_of(stack, receipt["token"]) as snapshots:
        seen = [await anext(snapshots)]
        while seen[-1]["status"] != "failed":
            seen.append(await anext(snapshots))
        shown = [await poison(stack, *command) for command in (("list",), ("list", "--json"), ("show", receipt["id"]))]
        assert [(ended.code, ended.err) for ended in shown] == [(0, "")] * 3
        (line,), (row,) = shown[0].lines, map(json.loads, shown[1].lines)
        assert line.startswith(f"{receipt['id']} until-file-exists, generation 0, submitted ")
        assert (row["id"], row["kind"], row["messages"], row["problem"]) == (
            receipt["id"],
            "until-file-exists",
            1,
            None,
        )
        assert (SECRET in shown[0].out + shown[1].out, json.loads(shown[2].out)["payload"]) == (False, str(mended))
        mended.touch()
        redriven = await poison_process(stack, "redrive", receipt["id"])
        assert (redriven.code, redriven.err, len(redriven.lines)) == (0, "", 1)
        while seen[-1]["status"] != "succeeded":
            seen.append(await anext(snapshots))
    assert [job["version"] for job in seen] == sorted({job["version"] for job in seen})
    generations = [job["generation"] for job in seen]
    assert (generations[0], generations == sorted(generations)) == (0, True)
    end = seen[-1]
    assert (end["generation"], end["attempt"], end["result"], end["error"]) == (1, 1, 1, None)
    assert end["submitted_at"] == row["submitted_at"]
    assert end["expires_at"] > seen[0]["expires_at"]
    assert await stack.snapshot(receipt["id"], redriven.lines[0]) == end
    assert await listed(stack) == []


async def test_all_are_redriven_but_what_cannot_be_read(stack: Stack, tmp_path: Path) -> None:
    """Each job is a line for scripts; what cannot be read is told, stays, and makes the exit code 1."""
    mended = tmp_path / "mended"
    receipts = await fail(stack, mended, 3)
    await put(stack, "jobs", "nonsense")
    mended.touch()
    ended = await poison(stack, "redrive", "--all")
    tokens = dict(line.split(" ") for line in ended.lines)
    assert (ended.code, set(tokens)) == (1, {receipt["id"] for receipt in receipts})
    await wait_until(lambda: len(mended.read_text().split()) == 3)
    for token in tokens.values():
        assert (await history(stack, token))[-1]["status"] == "succeeded"
    assert sorted(mended.read_text().split()) == sorted(tokens)
    (left,) = await listed(stack)
    assert ended.err.startswith(
        f"headway: poison message {left['message_id']} cannot be redriven, because it cannot be read"
    )
    assert (await poison(stack, "discard", left["message_id"])).code == 0
    assert (await poison(stack, "redrive", "--all")) == (0, "", "")


async def test_a_crash_while_redriving_runs_the_job_once(stack: Stack, tmp_path: Path) -> None:
    """When the old message is still there after the new one is on the queue, redriving it again does no harm."""
    mended = tmp_path / "mended"
    (receipt,) = await fail(stack, mended, 1)
    async with PoisonQueue.connect(stack.env["QUEUE_CONNECTION_STRING"], "jobs") as looked, looked.jobs() as cases:
        (text,) = [case.latest.received.text for case in cases if case.matches(receipt["id"])]
    mended.touch()
    for _ in range(2):
        assert (await poison(stack, "redrive", receipt["id"])).code == 0
        await put(stack, "jobs", text)
    finished = 'jobs_finished_total{kind="until-file-exists",outcome="finished"}'

    async def answered() -> bool:
        return await stack.metric(finished, "worker") == 1

    await wait_until(answered)
    assert mended.read_text() == f"{receipt['id']}\n"
    assert (await stack.snapshot(receipt["id"], receipt["token"]))["status"] == "succeeded"
    assert (await poison(stack, "discard", receipt["id"])).code == 0


async def test_doubles_are_one_job(stack: Stack, queue: str) -> None:
    """The highest generation goes back on the queue, otherwise as it was, and all messages are removed."""
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
    )
    older = [encode_message(JobMessage(id=job.id, generation=generation)) for generation in (0, 2)]
    await put(stack, queue, older[0], encode_message(job), older[1], f'{{"id": "{job.id}", "kind": 5}}')
    (row,) = await listed(stack, queue)
    assert (row["generation"], row["messages"]) == (3, 4)
    shown = await poison(stack, "show", str(job.id), "--queue", queue)
    assert '"checkpoint": {\n    "done": [\n      12345678901234567890\n    ]\n  }' in shown.out
    redriven = await poison(
        stack, "redrive", str(job.id).upper(), "--queue", queue, "--ttl", "60", "--json", "--link", "http://h"
    )
    (told,) = map(json.loads, redriven.lines)
    assert (told["id"], told["generation"]) == (str(job.id), 4)
    assert told["link"] == f"http://h/jobs/{job.id}#{told['token']}"
    (received,) = await everything(stack, queue)
    message = decode_message(received.text)
    assert message.expires_at is not None
    assert 0 < message.expires_at - Timestamp.now() <= 60_000
    assert bytes(message.payload) == bytes(job.payload)
    assert bytes(message.checkpoint) == bytes(job.checkpoint)
    assert (message.id, message.kind, message.max_attempts, message.timeout_s) == (job.id, "letters", 7, 9.5)
    assert (message.generation, message.releases, message.submitted_at) == (4, 0, now)
    assert await everything(stack, f"{queue}-poison") == []


async def test_what_cannot_be_read_is_shown_and_discarded(stack: Stack, queue: str) -> None:
    """It has the id of its message, or of its job where that can be read; it is printed as received, and harmlessly."""
    job_id = str(uuid.uuid4())
    evil = base64.b64encode("\x1b[2J\x9bnonsense".encode()).decode()
    named = json.dumps({"id": job_id, "kind": "\x9b\u202e", "max_attempts": "\x1b"}, ensure_ascii=False)
    await put(stack, queue, evil, named, f'{{"id": "{uuid.uuid4()}", "kind": "\x9b\u202e"}}')
    rows = {row["kind"] or row["id"]: row for row in await listed(stack, queue)}
    assert rows.keys() == {None, job_id, "\x9b\u202e"}
    nameless = rows[None]["message_id"]
    text = await poison(stack, "list", "--queue", queue)
    for printed in (text, shown := await poison(stack, "show", job_id, "--queue", queue)):
        assert not set(printed.out) & set("\x1b\x9b\u202e")
    assert shown.out.startswith(f'{{"id": "{job_id}", "kind": "  "')
    assert f"{nameless} unreadable: " in text.out
    assert f"{job_id} unreadable: Expected `int`, got `str` - at `$.max_attempts`, poisoned " in text.out
    assert (await poison(stack, "show", nameless, "--queue", queue)).out == f"{evil}\n"
    for unreadable in (nameless, job_id):
        refused = await poison(stack, "redrive", unreadable, "--queue", queue)
        assert (refused.code, refused.out, refused.err.count("\n")) == (1, "", 1)
        assert "cannot be read" in refused.err
        assert (await poison(stack, "discard", unreadable, "--queue", queue)).code == 0
    assert len(await everything(stack, f"{queue}-poison")) == 1


async def test_what_is_too_large_keeps_nothing_else_back(stack: Stack, queue: str) -> None:
    """A message that fits the queue only without base64 stays; the other jobs are redriven."""
    large, small = uuid.uuid4(), uuid.uuid4()
    await put(stack, queue, f'{{"id": "{large}", "payload": "{"x" * 50_000}"}}', f'"{small}"')
    ended = await poison(stack, "redrive", "--all", "--no-token", "--queue", queue)
    assert ended == (1, f"{small}\n", f"headway: poison message {large} is too large to be redriven\n")
    assert [row["id"] for row in await listed(stack, queue)] == [str(large)]


async def test_more_than_a_page_is_listed_and_given_back(stack: Stack, queue: str) -> None:
    """However many there are, all are listed, and can be seen again at once."""
    ids = [uuid.uuid4() for _ in range(75)]
    await put(stack, queue, *[encode_message(JobMessage(id=job_id)) for job_id in ids])
    assert [row["messages"] for row in await listed(stack, queue)] == [1] * 75
    taken = await everything(stack, f"{queue}-poison")
    assert {decode_message(received.text).id for received in taken} == set(ids)


async def test_a_job_is_discarded_with_its_doubles(stack: Stack, queue: str) -> None:
    """All messages of the job are removed and no other; an id that nobody knows is told."""
    gone, kept = uuid.uuid4(), uuid.uuid4()
    await put(stack, queue, *[encode_message(JobMessage(id=job_id)) for job_id in (gone, kept, gone)])
    assert (await poison(stack, "discard", str(gone), "--queue", queue)).out == f"discarded {gone}, 2 messages\n"
    for command in ("discard", "redrive", "show"):
        ended = await poison(stack, command, str(gone), "--queue", queue)
        assert ended == (1, "", f"headway: no poison message of job {gone}\n")
    (left,) = await everything(stack, f"{queue}-poison")
    assert decode_message(left.text).id == kept


async def test_without_a_key_nothing_is_touched(stack: Stack, queue: str) -> None:
    """Redriving refuses before it has received anything, unless no token is asked for."""
    job_id = uuid.uuid4()
    await put(stack, queue, encode_message(JobMessage(id=job_id)))
    refused = await poison(stack, "redrive", "--all", "--queue", queue, TOKEN_KEY_FILE="/no/such/key")
    assert (refused.code, refused.out, refused.err.count("\n")) == (1, "", 1)
    assert "--no-token" in refused.err
    async with connected(stack, f"{queue}-poison") as poisoned:
        (untouched,) = await poisoned.receive(1, 1)
        assert untouched.delivery == 1
        await poisoned.update(untouched.id, untouched.pop_receipt, 0)
    redriven = await poison(
        stack, "redrive", str(job_id), "--queue", queue, "--no-token", TOKEN_KEY_FILE="/no/such/key"
    )
    assert redriven == (0, f"{job_id}\n", "")
    assert len(await everything(stack, queue)) == 1


async def test_looking_makes_no_queue(stack: Stack, queue: str) -> None:
    """Where nothing was ever poisoned nothing is listed, and a misspelt name leaves no queue behind."""
    assert await poison(stack, "list", "--queue", queue) == (0, "", "")
    string = stack.env["QUEUE_CONNECTION_STRING"]
    async with QueueServiceClient.from_connection_string(string, api_version=API_VERSION) as service:
        assert [found async for found in service.list_queues(name_starts_with=queue)] == []
    away = await poison(stack, "list", QUEUE_CONNECTION_STRING=string.replace(stack.env["AZURITE_PORT"], "1"))
    assert (away.code, away.out, away.err.count("\n")) == (1, "", 1)
