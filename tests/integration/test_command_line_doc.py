"""The commands of docs/command-line.md and docs/lists-and-tokens.md, run unchanged beside a running system."""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
import uuid
from asyncio.subprocess import PIPE, STDOUT
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from headway.azure.job_queue import API_VERSION, JobQueue
from headway.contracts import JobMessage, Json, Timestamp, encode
from headway.message_codec import encode_message
from tests.documents import Document
from tests.stack import Stack, running
from tests.waiting import PATIENCE_S

PAGE, LISTS = Document("docs/command-line.md"), Document("docs/lists-and-tokens.md")
LAST_ID = uuid.UUID("ffffffff-ffff-4fff-bfff-ffffffffffff")  # jobs of the same second are listed in the order of ids
VARIABLE_PARTS = {  # of an output, and what they look like
    "…": r"[\s\S]*",
    "2026-01-01T09:00:00.000Z": r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z",
    "12 min": r"\d+ s",
    "3 h": r"\d+ s",
}


@pytest.fixture(scope="module")
async def stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    """Run the system for this module, with its state in the folder that the commands search for."""
    async with running(tmp_path_factory.mktemp("command") / ".headway", GRACE_S="1", DRAIN_S="0.2") as stack:
        yield stack


async def run(stack: Stack, command: str) -> str:
    """Run a command in a shell, next to `.headway`; it must exit with 0. Return its output."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    process = await asyncio.create_subprocess_exec(
        *("sh", "-euc", command),
        cwd=stack.folder.parent,
        env={**os.environ, "PATH": path, "HEADWAY_URL": stack.url},
        stdout=PIPE,
        stderr=STDOUT,
    )
    output, _ = await asyncio.wait_for(process.communicate(), PATIENCE_S)
    assert process.returncode == 0, output.decode()
    return output.decode()


def output_pattern(text: str) -> str:
    """Return a regular expression for an output in the page, whose variable parts may differ."""
    variable = "|".join(map(re.escape, VARIABLE_PARTS))
    return "".join(VARIABLE_PARTS.get(part, re.escape(part)) for part in re.split(f"({variable})", text.rstrip()))


async def test_commands_submit_watch_and_cancel(stack: Stack) -> None:
    """The shell commands show the outcomes that the page describes."""
    output = "".join([await run(stack, example.text) for example in PAGE.examples("sh")])
    expected_parts = (
        "Counted 3 steps",
        '"Counted 2 steps"',
        "ended with 130",
        '"name":"October letters"',
        "  submitted  ",
        "ended with 1\n",
        '{"steps": "many"}\n',
        "headway: the job has logged nothing\n",
        ", generation 1\n",
        "\nerased ",
    )
    for expected in (f"{stack.url}/jobs/", *expected_parts):
        assert expected in output


async def test_commands_list_the_jobs_of_a_customer(stack: Stack) -> None:
    """The job that has been submitted with a tag is listed by it."""
    output = "".join([await run(stack, example.text) for example in LISTS.examples("sh")])
    listed = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
    assert [job["name"] for job in listed] == ["October letters"]


async def test_poisoned_jobs_are_listed_and_redriven(stack: Stack) -> None:
    """The commands for poison messages print what the page shows."""
    letters = JobMessage(
        id=LAST_ID,
        kind="letters",
        payload=Json(encode({"to": ["a", "b", "c"]})),
        submitted_at=Timestamp.now(),
        expires_at=Timestamp.now().after(3600),
    )
    async with JobQueue.connect(stack.env["QUEUE_CONNECTION_STRING"], "jobs-poison", API_VERSION) as queue:
        await queue.send("x")
        await queue.send(encode_message(letters))
    listed = [json.loads(line) for line in (await run(stack, "headway poison list --json")).splitlines()]
    ids = {"4a5e8d60-…": str(LAST_ID), "0d4f7a3b-…": listed[0]["message_id"], "http://127.0.0.1:8080": stack.url}
    text = "".join(example.text for example in PAGE.examples("console"))
    for placeholder, value in ids.items():
        text = text.replace(placeholder, value)
    for command, expected in re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", text, re.MULTILINE):
        output = await run(stack, command)
        assert re.fullmatch(output_pattern(expected), output.rstrip()), output
    assert await run(stack, "headway poison list") == ""
