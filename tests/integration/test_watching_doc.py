"""docs/watching.md keeps its word: its own commands are what is run here."""

from __future__ import annotations

import asyncio
import json
import re
import sys
from asyncio.subprocess import PIPE, STDOUT
from collections import defaultdict
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from dev.environment import ROOT
from tests.stack import Stack, running

DOC = (ROOT / "docs" / "watching.md").read_text()
MARK = "\f"  # between the outputs of two examples
JOB_LINK = r"/jobs/[0-9a-f-]{36}#[\w.-]+"


def examples(language: str, stack: Stack) -> list[tuple[str, str]]:
    """Return the document's examples in a language at this system's address, each with the heading above it."""
    found = re.findall(r"^#+ ([^\n]*)$|^```(\w+)\n(.*?)^```$", DOC, re.DOTALL | re.MULTILINE)
    under, heading = [], ""
    for title, named, text in found:
        heading = title or heading
        if named == language:
            under.append((heading, text.replace("http://127.0.0.1:8080", stack.url)))
    return under


async def run(*command: str, folder: Path) -> str:
    """Run a program; return all that it printed."""
    process = await asyncio.create_subprocess_exec(*command, cwd=folder, stdout=PIPE, stderr=STDOUT)
    told, _ = await asyncio.wait_for(process.communicate(), 90)
    assert process.returncode == 0, told.decode()
    return told.decode()


def streamed(output: str) -> list[dict[str, Any]]:
    """Return the snapshots of an event stream, which a comment opens."""
    assert output.startswith(": ")
    events = re.findall(r"^id: (\d+)\nevent: job\ndata: (.*)\n$", output, re.MULTILINE)
    jobs = [json.loads(data) for _, data in events]
    assert [job["version"] for job in jobs] == [int(version) for version, _ in events]
    return jobs


def rises(jobs: list[dict[str, Any]], ending: str) -> None:
    """Check that a job was seen to move, by versions that only rise, to this ending."""
    versions = [job["version"] for job in jobs]
    assert versions == sorted(set(versions))
    assert jobs[-1]["status"] == ending
    assert len(jobs) > 1


@pytest.fixture(scope="module")
async def stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    """Run the system for this module."""
    async with running(tmp_path_factory.mktemp("watching")) as stack:
        yield stack


@pytest.fixture(scope="module")
async def told(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Run all commands of the document in one shell, in their order; return what those under each heading printed."""
    commands = examples("sh", stack)
    script = f"printf '{MARK}'\n".join(text for _, text in commands)
    outputs = await run("bash", "-euo", "pipefail", "-c", script, folder=tmp_path_factory.mktemp("shell"))
    told: dict[str, str] = defaultdict(str)
    for (heading, _), output in zip(commands, outputs.split(MARK), strict=True):
        told[heading] += output
    return told


def test_json_is_submitted(told: dict[str, str]) -> None:
    """The receipt has what the document shows."""
    receipt = json.loads(told["Submit"])
    (shown,) = re.findall(r"```json\n(\{\"id.*?)```", DOC, re.DOTALL)
    assert receipt.keys() == json.loads(shown).keys()
    assert receipt["links"].keys() == json.loads(shown)["links"].keys()


def test_a_form_is_submitted(told: dict[str, str], stack: Stack) -> None:
    """The form leads to the job's page, and the page to the notifier."""
    link = told["By a form"].strip()
    assert re.fullmatch(re.escape(stack.url) + JOB_LINK, link)
    assert json.loads(told["From a link"])["links"]["live"].startswith(stack.env["LIVE_URL"])


def test_a_snapshot_is_read(told: dict[str, str]) -> None:
    """It has the fields that the document explains; unchanged, it is 304."""
    snapshot = json.loads(told["The snapshot"])
    assert [field for field in snapshot if f"`{field}`" not in DOC] == []
    assert told["GET"].startswith("HTTP/1.1 304 ")


def test_jobs_are_polled(told: dict[str, str]) -> None:
    """The loop sees a job to its end; many are answered together."""
    rises([json.loads(line) for line in told["Long poll"].splitlines()], "succeeded")
    many = json.loads(told["Many jobs in one request"])
    assert many.keys() == {"now", "jobs", "errors"}
    assert len(many["jobs"]) in (1, 2)
    assert many["errors"] == []


def test_jobs_are_streamed(told: dict[str, str]) -> None:
    """A stream of one and a stream of two, each to the end."""
    rises(streamed(told["Server-Sent Events"]), "succeeded")
    last = {job["id"]: job["status"] for job in streamed(told["Many jobs on one stream"])}
    assert list(last.values()) == ["succeeded", "succeeded"]


def test_a_job_is_cancelled(told: dict[str, str]) -> None:
    """The answer shows the wish, the stream the end; the token that is shared may not."""
    answer, _, stream = told["Cancel"].partition("\n")
    assert json.loads(answer)["cancel_requested"]
    assert streamed(stream)[-1]["status"] == "cancelled"
    link, problem = told["Tokens"].splitlines()
    assert re.search(JOB_LINK, link)
    assert json.loads(problem)["code"] == "forbidden"


def test_a_foreign_page_is_refused(told: dict[str, str]) -> None:
    """The answer lets no page read it."""
    answer = told["Pages of other origins"]
    assert answer.startswith("HTTP/1.1 403 ")
    assert '"code":"origin_not_allowed"' in answer
    assert "access-control" not in answer.lower()


async def test_the_python_example_watches_to_the_end(stack: Stack, tmp_path: Path) -> None:
    """It prints each step of its job, though the notifier is killed in between."""
    ((_, text),) = examples("python", stack)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-W", "error", "-uc", text, cwd=tmp_path, stdout=PIPE
    )
    assert process.stdout is not None
    while not (await process.stdout.readline()).startswith(b"running 20"):
        assert not process.stdout.at_eof()
    await stack.kill("notifier")
    rest, _ = await asyncio.wait_for(process.communicate(), 60)
    steps = [line.split() for line in rest.decode().splitlines()]
    percents = [float(percent) for _, percent in steps]
    assert percents == sorted(percents)
    assert steps[-1] == ["succeeded", "100.0"]
    assert process.returncode == 0
