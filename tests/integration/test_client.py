"""The client against the whole real system."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web

from dev.environment import ROOT
from headway.client import Client, InvalidToken, JobCancelled, JobFailed, RequestFailed
from headway.contracts import JobSnapshot
from tests.stack import JOBS, Stack, running
from tests.waiting import free_ports

DOCUMENT = (ROOT / "docs" / "client.md").read_text()


@pytest.fixture(scope="module")
async def stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    """Run the system for this module."""
    env = {"WORKER_JOBS": JOBS, "GRACE_S": "1", "DRAIN_S": "0.2"}
    async with running(tmp_path_factory.mktemp("client"), **env) as stack:
        yield stack


@pytest.fixture
async def client(stack: Stack) -> AsyncIterator[Client]:
    """Open a client."""
    async with Client(stack.url) as client:
        yield client


def check(seen: list[JobSnapshot], status: str) -> None:
    """Versions only rise, and the ending is last and only once."""
    versions = [snapshot.version for snapshot in seen]
    assert versions == sorted(set(versions))
    assert [snapshot.status for snapshot in seen if snapshot.finished_at] == [status]


async def test_a_job_is_watched_to_its_result(client: Client) -> None:
    """A watcher sees the steps in order, and the result comes back as the type that is asked for."""
    job = await client.submit("countdown", {"steps": 10, "delay_s": 0.05}, delay_s=1)  # the watcher is there first
    seen = [snapshot async for snapshot in client.watch(job)]
    check(seen, "succeeded")
    steps = [snapshot.progress.current for snapshot in seen if snapshot.progress and not snapshot.finished_at]
    assert steps == sorted(set(steps))
    assert len(steps) > 5
    assert await client.result(job.id) == await client.result(str(job.id), type=str) == "Counted 10 steps"


@pytest.mark.parametrize("payload", [{}, [], 0, "ü ☂", {"deep": [{"a": None}]}])
async def test_a_payload_arrives_as_it_is(client: Client, payload: object) -> None:
    """What is submitted is what the handler gets."""
    assert await client.result(await client.submit("echo", payload), timeout_s=30) == payload


async def test_failures_and_refusals_are_exceptions(client: Client) -> None:
    """A failed job, a refused submission and a result that is late each have their own."""
    with pytest.raises(JobFailed) as failed:
        await client.result(await client.submit("broken"))
    assert (failed.value.error.type, failed.value.error.message) == ("ValueError", "the cable is loose")
    with pytest.raises(RequestFailed) as refused:
        await client.submit("countdown", max_attempts=0)
    assert (refused.value.status, refused.value.field) == (422, "max_attempts")
    with pytest.raises(RequestFailed) as refused:
        await client.submit("countdown", "x" * 33_000)
    assert (refused.value.status, refused.value.field) == (413, "payload")
    with pytest.raises(TimeoutError):
        await client.result(await client.submit("countdown", delay_s=60), timeout_s=0.2)


async def test_every_kind_of_link_leads_to_the_job(stack: Stack, client: Client) -> None:
    """Somebody else watches by a page's link, by the notifier's, and with the token apart."""
    job = await client.submit("countdown", {"steps": 5, "delay_s": 0.1})
    page, live = job.link.partition("#")[0], job.links["live"]
    async with Client() as other:
        for link, token in ((job.link, None), (page, job.token), (live, job.token), (f"{live}#{job.token}", None)):
            check([snapshot async for snapshot in other.watch(link, token=token)], "succeeded")


async def test_cancelling_ends_a_job(client: Client) -> None:
    """A running and a delayed job are cancelled; one that has ended stays as it is."""
    running_job = await client.submit("countdown", {"steps": 1000, "delay_s": 0.05})
    async for snapshot in client.watch(running_job):
        if snapshot.status == "running" and not snapshot.cancel_requested:
            assert (await client.cancel(running_job)).cancel_requested
    assert snapshot.status == "cancelled"
    delayed = await client.submit("countdown", delay_s=60)
    assert (await client.cancel(delayed.id)).status == "cancelled"
    with pytest.raises(JobCancelled):
        await client.result(delayed)
    ended = await client.submit("echo", 1)
    await client.result(ended)
    assert (await client.cancel(ended)).status == "succeeded"


async def test_tokens_are_checked(client: Client) -> None:
    """A token that was altered, or is another job's, raises; the watches beside it go on."""
    job, other = await client.submit("countdown", {"steps": 5, "delay_s": 0.1}), await client.submit("echo")
    head, claims, signature = job.token.split(".")
    altered = f"{head}.{claims}.{'A' if signature[0] != 'A' else 'B'}{signature[1:]}"
    beside = asyncio.create_task(client.result(other))
    for token in (altered, other.token, "nonsense"):
        async with Client() as stranger:
            with pytest.raises(InvalidToken) as refused:
                await stranger.result(job.links["live"], token=token)
            assert refused.value.code == "invalid_token"
    assert await beside == {}


async def test_submitting_twice_with_one_key_is_one_job(client: Client) -> None:
    """The same submission with the same key is the same job and runs once; another body is another job."""
    before = await client.result(await client.submit("count-calls"))
    twenty = [client.submit("count-calls", {"a": 1}, idempotency_key="the key") for _ in range(20)]
    ids = {receipt.id for receipt in await asyncio.gather(*twenty)}
    other = await client.submit("count-calls", {"a": 2}, idempotency_key="the key")
    assert len(ids) == 1
    assert other.id not in ids
    assert {await client.result(ids.pop()), await client.result(other)} == {before + 1, before + 2}


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=["killed", "drained"])
async def test_a_dying_notifier_is_not_noticed(stack: Stack, client: Client, number: signal.Signals) -> None:
    """Many watches of a client go on to their ends when the notifier is killed or restarts in the middle."""
    jobs = [await client.submit("countdown", {"steps": 20, "delay_s": 0.15}) for _ in range(5)]
    middle = asyncio.Event()

    async def history(job: object) -> list[JobSnapshot]:
        seen = []
        async for snapshot in client.watch(job):  # type: ignore[arg-type]
            seen.append(snapshot)
            if snapshot.progress and snapshot.progress.current >= 30:
                middle.set()
        return seen

    watching = asyncio.gather(*map(history, jobs))
    await asyncio.wait_for(middle.wait(), 20)
    old = stack.pid("notifier")
    assert old is not None
    os.kill(old, number)
    for seen in await asyncio.wait_for(watching, 60):
        check(seen, "succeeded")
        assert seen[-1].progress is not None
        assert seen[-1].progress.percent == 100.0
    assert stack.pid("notifier") not in (None, old)


async def test_a_submitter_that_restarts_runs_each_job_once(stack: Stack, client: Client) -> None:
    """Submissions that meet a killed submitter are sent again, and each job is run exactly once."""
    before = await client.result(await client.submit("count-calls"))
    submitting = asyncio.gather(*(client.submit("count-calls", number) for number in range(30)))
    await stack.kill("submitter")
    receipts = await asyncio.wait_for(submitting, 40)
    counts = await asyncio.gather(*map(client.result, receipts))
    assert sorted(counts) == list(range(before + 1, before + 31))


async def test_behind_a_proxy_without_sockets_it_polls(stack: Stack, client: Client) -> None:
    """When a proxy refuses upgrades, the same watch goes to the same end by held requests, few of them."""
    job = await client.submit("countdown", {"steps": 3, "delay_s": 0.3})
    asked: list[str] = []

    async def forward(request: web.Request) -> web.Response:
        asked.append(request.path)
        if "Upgrade" in request.headers:
            return web.Response(status=403)
        headers = {name: value for name, value in request.headers.items() if name != "Host"}
        async with stack.session.get(f"{stack.env['LIVE_URL']}{request.path_qs}", headers=headers) as answer:
            return web.Response(status=answer.status, body=await answer.read())

    app = web.Application()
    app.router.add_get("/{path:.*}", forward)
    runner = web.AppRunner(app)
    await runner.setup()
    (port,) = free_ports(1)
    await web.TCPSite(runner, "127.0.0.1", port).start()
    link = f"http://127.0.0.1:{port}/live/jobs/{job.id}#{job.token}"
    check([snapshot async for snapshot in client.watch(link)], "succeeded")
    assert asked.count("/live") == 1
    assert len(asked) < 15
    await runner.cleanup()


async def test_the_documents_examples_run(stack: Stack, tmp_path: Path) -> None:
    """Every example of docs/client.md runs as it stands there, at this system's address."""
    programs = [(sys.executable, text) for text in re.findall(r"```python\n(.*?)```", DOCUMENT, re.DOTALL)]
    programs += [("sh", f"set -eu\n{text}") for text in re.findall(r"```sh\n(.*?)```", DOCUMENT, re.DOTALL)]
    assert len(programs) == 5
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    env = {**os.environ, "PATH": path, "HEADWAY_URL": stack.url, "PYTHONPATH": str(ROOT)}
    output = ""
    for program, text in programs:
        process = await asyncio.create_subprocess_exec(
            program,
            "-c",
            text.replace("http://127.0.0.1:8080", stack.url),
            cwd=tmp_path,
            env=env,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        told, _ = await asyncio.wait_for(process.communicate(), 60)
        assert process.returncode == 0, told.decode()
        output += told.decode()
    for expected in ("Counted 3 steps", "UnknownKind", '"Counted 2 steps"', "ended with 130"):
        assert expected in output
