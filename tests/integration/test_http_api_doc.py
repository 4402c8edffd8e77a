"""The commands of docs/http-api.md, run unchanged apart from the submitter's address and the start of some jobs."""

from __future__ import annotations

import asyncio
import json
import re
from asyncio.subprocess import PIPE, STDOUT
from collections import defaultdict
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.documents import Document
from tests.stack import Stack, running
from tests.waiting import PATIENCE_S

PAGE = Document("docs/http-api.md")
SEPARATOR = "\f"  # between the outputs of two examples
# Submit a job that a worker starts when someone watches it: a slow shell would come after its end.
SUBMIT_HELD = """kill -STOP {worker}
{submit}
(until curl -sS {notifier}/metrics | grep '^notifier_watched_jobs [1-9]' >/dev/null; do sleep 0.1; done
kill -CONT {worker}) &"""
JOB_LINK = r"/jobs/[0-9a-f-]{36}#[\w.-]+"


def fill_in(text: str, stack: Stack) -> str:
    """Replace the page's address of the submitter by that of the running system, and hold jobs that are followed."""

    def hold(submit: re.Match[str]) -> str:
        return SUBMIT_HELD.format(submit=submit[0], worker=stack.pid("worker"), notifier=stack.internal("notifier"))

    text = text.replace("http://127.0.0.1:8080", stack.url)
    return re.sub(r'^submit .*"steps": 20\b.*$', hold, text, flags=re.MULTILINE)


async def run(*command: str, folder: Path) -> str:
    """Run a program, which must exit with 0; return its output."""
    process = await asyncio.create_subprocess_exec(*command, cwd=folder, stdout=PIPE, stderr=STDOUT)
    output, _ = await asyncio.wait_for(process.communicate(), PATIENCE_S)
    assert process.returncode == 0, output.decode()
    return output.decode()


def parse_stream(output: str) -> list[dict[str, Any]]:
    """Return the snapshots of an event stream, which must start with a comment."""
    assert output.startswith(": ")
    events = re.findall(r"^id: (\d+)\nevent: job\ndata: (.*)\n$", output, re.MULTILINE)
    snapshots = [json.loads(data) for _, data in events]
    assert [snapshot["version"] for snapshot in snapshots] == [int(version) for version, _ in events]
    return snapshots


def check_history(snapshots: list[dict[str, Any]], outcome: str) -> None:
    """Check that there are several snapshots, that their versions rise, and that the last one has the outcome."""
    versions = [snapshot["version"] for snapshot in snapshots]
    assert versions == sorted(set(versions))
    assert snapshots[-1]["status"] == outcome
    assert len(snapshots) > 1


@pytest.fixture(scope="module")
async def stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    """Run the system for this module."""
    async with running(tmp_path_factory.mktemp("watching"), GRACE_S="0", DRAIN_S="0") as stack:
        yield stack


@pytest.fixture(scope="module")
async def output_of(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Run all commands of the document in one shell, in their order; return their output by heading."""
    commands = PAGE.examples("sh")
    script = f"printf '{SEPARATOR}'\n".join(fill_in(example.text, stack) for example in commands)
    outputs = await run("bash", "-euo", "pipefail", "-c", script, folder=tmp_path_factory.mktemp("shell"))
    output_by_heading: dict[str, str] = defaultdict(str)
    for example, output in zip(commands, outputs.split(SEPARATOR), strict=True):
        output_by_heading[example.heading] += output
    return output_by_heading


def test_submission_as_json(output_of: dict[str, str]) -> None:
    """The receipt has the fields and the links of the document's example."""
    receipt = json.loads(output_of["Submit"])
    (documented,) = [json.loads(text) for heading, text in PAGE.examples("json") if heading == "Submit"]
    assert receipt.keys() == documented.keys()
    assert receipt["links"].keys() == documented["links"].keys()


def test_submission_by_form(output_of: dict[str, str], stack: Stack) -> None:
    """The form redirects to the job's page, which returns the links to the notifier."""
    link = output_of["By a form"].strip()
    assert re.fullmatch(re.escape(stack.url) + JOB_LINK, link)
    assert json.loads(output_of["From a link"])["links"]["live"].startswith(stack.env["LIVE_URL"])


def test_snapshot_is_documented(output_of: dict[str, str]) -> None:
    """The document explains every field of a snapshot; a request for an unchanged snapshot gets 304."""
    snapshot = json.loads(output_of["The snapshot"])
    assert [field for field in snapshot if f"`{field}`" not in PAGE.text] == []
    assert output_of["GET"].startswith("HTTP/1.1 304 ")


def test_long_polls(output_of: dict[str, str]) -> None:
    """The loop follows a job to its end; one request returns the snapshots of several jobs."""
    check_history([json.loads(line) for line in output_of["Long poll"].splitlines()], "succeeded")
    many = json.loads(output_of["Many jobs in one request"])
    assert many.keys() == {"now", "jobs", "errors"}
    assert len(many["jobs"]) in (1, 2)
    assert many["errors"] == []


def test_event_streams(output_of: dict[str, str]) -> None:
    """A stream of one job and a stream of two jobs follow them to their ends."""
    check_history(parse_stream(output_of["Server-Sent Events"]), "succeeded")
    last = {job["id"]: job["status"] for job in parse_stream(output_of["Many jobs on one stream"])}
    assert list(last.values()) == ["succeeded", "succeeded"]


def test_details(output_of: dict[str, str]) -> None:
    """The response has the fields of the document's example; the job of the example did not keep its message."""
    details = json.loads(output_of["Details of a job"])
    (documented,) = [json.loads(text) for heading, text in PAGE.examples("json") if heading == "Details of a job"]
    assert details.keys() == documented.keys()
    assert details["attempts"][-1].keys() == documented["attempts"][-1].keys()
    assert (details["kept"], details["error"]) == (False, None)


def test_cancel(output_of: dict[str, str]) -> None:
    """The response shows the request, and the stream ends with `cancelled`; a watch token cannot cancel."""
    response, _, stream = output_of["Cancel"].partition("\n")
    assert json.loads(response)["cancel_requested"]
    assert parse_stream(stream)[-1]["status"] == "cancelled"
    link, problem = output_of["Tokens"].splitlines()
    assert re.search(JOB_LINK, link)
    assert json.loads(problem)["code"] == "forbidden"


def test_workers_and_kinds(output_of: dict[str, str]) -> None:
    """The examples of the document have the fields of the answers."""
    workers, kinds = output_of["Workers and kinds"].replace("}{", "}\n{").splitlines()
    documented = [
        text.replace("…}", "}").replace(", …", "")
        for heading, text in PAGE.examples("json")
        if heading == "Workers and kinds"
    ]
    for name, answer, example in zip(("workers", "kinds"), (workers, kinds), map(json.loads, documented), strict=True):
        (shown, *_), (expected,) = json.loads(answer)[name], example[name]
        assert shown.keys() == expected.keys()


def test_page_of_another_origin_is_rejected(output_of: dict[str, str]) -> None:
    """The response is 403 and has no CORS headers, so that the page cannot read it."""
    response = output_of["Pages of other origins"]
    assert response.startswith("HTTP/1.1 403 ")
    assert '"code":"origin_not_allowed"' in response
    assert "access-control" not in response.lower()
