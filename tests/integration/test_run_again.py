"""Operators run jobs again and erase them over HTTP, while workers run them: no job is lost, and none runs twice."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from headway.azure.poison_queue import PoisonQueue
from tests.documents import Document
from tests.stack import JOBS, Stack, running
from tests.waiting import PATIENCE_S, wait_until

Answer = tuple[int, dict[str, Any]]


@pytest.fixture(scope="module")
async def stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    """Run the system for this module."""
    async with running(
        tmp_path_factory.mktemp("run-again"), WORKER_JOBS=JOBS, GRACE_S="0", DRAIN_S="0", POLL_MAX_S="0.2"
    ) as stack:
        yield stack


async def ask(stack: Stack, method: str, path: str, body: Any = None) -> Answer:
    """Send an operator's request; return the status and the body of the answer."""
    async with stack.session.request(method, f"{stack.url}{path}", json=body) as response:
        return response.status, await response.json(content_type=None) if response.status != 204 else {}


async def refusal(stack: Stack, method: str, path: str, body: Any = None) -> tuple[int, str]:
    """Send a request that is refused; return the status and the code."""
    status, problem = await ask(stack, method, path, body)
    return status, problem["code"]


async def ended(stack: Stack, receipt: dict[str, Any], generation: int = 0) -> dict[str, Any]:
    """Wait until a job has ended in a generation; return its last snapshot."""
    last: dict[str, Any] = {}
    async for snapshot in stack.watch(receipt["token"]):
        last = snapshot
    assert last["generation"] == generation
    return last


async def poisoned(stack: Stack) -> set[str]:
    """Return the ids of the jobs on the poison queue."""
    status, body = await ask(stack, "GET", "/poison")
    assert (status, body["complete"]) == (200, True)
    return {job["id"] for job in body["jobs"]}


async def redrive_from_poison_queue(stack: Stack, job_id: str) -> None:
    """Redrive a job as `headway poison redrive` does, unless its message is gone."""
    async with (
        PoisonQueue.connect(stack.env["QUEUE_CONNECTION_STRING"], "jobs") as poison,
        poison.jobs() as jobs,
    ):
        for job in jobs:
            if job.id == job_id:
                await poison.redrive(job, ttl_s=60)


async def test_a_failed_job_runs_once_more_however_often_it_is_redriven(stack: Stack, tmp_path: Path) -> None:
    """Several requests at once, one more after that, and the command of another operator on the poison queue."""
    starts = tmp_path / "starts"
    receipt = await stack.submit("until-file-exists", str(starts))
    path = f"/jobs/{receipt['id']}"
    assert (await ended(stack, receipt))["status"] == "failed"
    assert receipt["id"] in await poisoned(stack)
    starts.touch()
    async with asyncio.TaskGroup() as group:
        group.create_task(redrive_from_poison_queue(stack, receipt["id"]))
        requests = [group.create_task(ask(stack, "POST", f"{path}/redrive", {"generation": 0})) for _ in range(3)]
    answers = [request.result() for request in requests]
    assert {status for status, _ in answers} <= {202, 409}
    redriven = [body for status, body in answers if status == 202]
    assert redriven in ([{"id": receipt["id"], "generation": 1, "status": "queued"}], [])  # the command may be faster
    assert {body["code"] for status, body in answers if status == 409} <= {"not_ended", "changed"}
    shown = await stack.snapshot(receipt["id"], receipt["token"])
    assert (shown["generation"], shown["status"]) != (0, "failed")  # watchers see that the job goes on
    assert (await ended(stack, receipt, generation=1))["status"] == "succeeded"
    assert await refusal(stack, "POST", f"{path}/redrive", {"generation": 0}) == (409, "changed")
    await wait_until(lambda: is_not_poisoned(stack, receipt["id"]))
    assert starts.read_text().split() == [receipt["id"]]


async def is_not_poisoned(stack: Stack, job_id: str) -> bool:
    """Return whether a job is not on the poison queue."""
    return job_id not in await poisoned(stack)


async def test_a_running_job_is_not_redriven_and_not_erased(stack: Stack, tmp_path: Path) -> None:
    """It goes on to its end."""
    end = tmp_path / "end"
    receipt = await stack.submit("wait-for-file", str(end))
    async for snapshot in stack.watch(receipt["token"]):
        if snapshot["status"] == "running":
            break
    path = f"/jobs/{receipt['id']}"
    assert await refusal(stack, "POST", f"{path}/redrive") == (409, "not_ended")
    assert await refusal(stack, "DELETE", path) == (409, "not_ended")
    end.touch()
    assert (await ended(stack, receipt))["status"] == "succeeded"


async def test_a_job_whose_payload_was_not_kept_needs_another_one(stack: Stack) -> None:
    """By default that is so after a success, and for a job that does not exist there is none at all."""
    receipt = await stack.submit("echo", {"month": 3}, owner="user:7", name="March")
    await ended(stack, receipt)
    path = f"/jobs/{receipt['id']}"
    assert await refusal(stack, "POST", f"{path}/redrive") == (409, "payload_not_kept")
    assert await refusal(stack, "POST", f"{path}/rerun") == (409, "payload_not_kept")
    assert await refusal(stack, "POST", f"{path}/rerun", {"payload": "x" * 33_000}) == (413, "too_large")
    status, rerun = await ask(stack, "POST", f"{path}/rerun", {"payload": {"month": 4}})
    assert (status, rerun["id"] != receipt["id"]) == (202, True)
    snapshot = await ended(stack, rerun)
    assert (snapshot["result"], snapshot["name"], snapshot["generation"]) == ({"month": 4}, "March", 0)
    for method, end in (("POST", "/redrive"), ("POST", "/rerun"), ("DELETE", "")):
        assert await refusal(stack, method, f"/jobs/{uuid4()}{end}") == (404, "unknown")


async def test_an_erased_job_cannot_run_again(stack: Stack, tmp_path: Path) -> None:
    """Its payload is gone from the record and from the poison queue; a rerun before that is a job of its own."""
    starts = tmp_path / "starts"
    receipt = await stack.submit("until-file-exists", str(starts))
    await ended(stack, receipt)
    path = f"/jobs/{receipt['id']}"
    starts.touch()
    status, rerun = await ask(stack, "POST", f"{path}/rerun")
    assert (status, (await ended(stack, rerun))["status"]) == (202, "succeeded")
    assert receipt["id"] in await poisoned(stack)
    assert await ask(stack, "DELETE", path) == (204, {})
    assert receipt["id"] not in await poisoned(stack)
    for action in ("redrive", "rerun"):
        assert await refusal(stack, "POST", f"{path}/{action}") == (409, "payload_not_kept")
    assert starts.read_text().split() == [rerun["id"]]
    assert (await stack.snapshot(receipt["id"], receipt["token"]))["status"] == "failed"


async def test_the_commands_of_the_documentation_work(stack: Stack, tmp_path: Path) -> None:
    """They redrive a job, rerun it with another payload, erase it, act on many jobs and show the poison queue."""
    page = Document("docs/run-again.md")
    output = await run_commands(page, stack, tmp_path)
    decoder, answers = json.JSONDecoder(), []
    while output:
        answer, end = decoder.raw_decode(output)
        answers.append(answer)
        output = output[end:]
    redriven, receipt, selected, action, poison = answers
    documented_redrive, documented_selection = [json.loads(example.text) for example in page.examples("json")]
    assert redriven == {**documented_redrive, "id": redriven["id"]}
    assert (await ended(stack, receipt))["status"] == "succeeded"
    assert selected.keys() == documented_selection.keys()
    assert (await ended(stack, action))["status"] == "succeeded"
    assert poison["complete"]


async def test_the_questions_of_day_two_are_answered(stack: Stack, tmp_path: Path) -> None:
    """Each command and each request of the page finds what it promises."""
    failed = await stack.submit("countdown", {"steps": "many"}, name="The failed one")
    assert (await ended(stack, failed))["status"] == "failed"
    export = await stack.submit("export", owner="customer-7", delay_s=3600)
    output = await run_commands(Document("docs/day-two.md"), stack, tmp_path, ID=failed["id"])
    assert output.count("The failed one") >= 4  # in the lists and in the details
    assert "InvalidPayload" in output
    assert f"redriven {failed['id']}, generation 1\n" in output
    assert f'{{"id":"{failed["id"]}","generation":2,"status":"queued"}}' in output
    assert "redrive: " in output
    assert '{"count":' in output
    assert output.count(export["id"]) >= 2  # of customer 7, and among those that wait
    assert '"slots":' in output
    assert '"rate_per_h":' in output


async def run_commands(page: Document, stack: Stack, folder: Path, **variables: str) -> str:
    """Run the commands of a page in one shell, with the addresses of the running system; return their output.

    A redrive is repeated until it succeeds: the command before it has redriven the same job.
    """
    script = 'repeat() { until "$@"; do sleep 0.1; done; }\n'
    script += "".join(example.text for example in page.examples("sh"))
    script = script.replace("curl -sS -f -X POST", "repeat curl -sS -f -X POST").replace("until repeat", "until")
    script = script.replace("http://127.0.0.1:8081", stack.env["LIVE_URL"]).replace("http://127.0.0.1:8080", stack.url)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    process = await asyncio.create_subprocess_exec(
        *("bash", "-euo", "pipefail", "-c", script),
        cwd=folder,
        env={**os.environ, "PATH": path, "HEADWAY_URL": stack.url, **variables},
        stdout=PIPE,
        stderr=PIPE,
    )
    output, errors = await asyncio.wait_for(process.communicate(), PATIENCE_S)
    assert process.returncode == 0, errors.decode()
    return output.decode()
