"""The async client against the whole system."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from collections.abc import AsyncIterator
from datetime import datetime
from pathlib import Path
from uuid import uuid4

import pytest
from aiohttp import web

from dev.environment import ROOT
from headway.client import Client, InvalidToken, JobCancelled, JobFailed, RequestFailed
from headway.contracts import JobSnapshot
from tests.documents import Document
from tests.stack import JOBS, Stack, running
from tests.waiting import PATIENCE_S, free_ports, wait_until

(LETTERS,) = (text for _, text in Document("README.md").examples("python") if text.startswith("# myapp/jobs.py"))


@pytest.fixture(scope="module")
def code(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write the README's package with the job `letters`, and return the folder that contains it."""
    code = tmp_path_factory.mktemp("code")
    (code / "myapp").mkdir()
    (code / "myapp/jobs.py").write_text(LETTERS)
    return code


@pytest.fixture(scope="module")
async def stack(code: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    """Run the system for this module."""
    env = {"WORKER_JOBS": f"{JOBS},myapp.jobs", "PYTHONPATH": str(code), "GRACE_S": "1", "DRAIN_S": "0.2"}
    async with running(tmp_path_factory.mktemp("client"), **env) as stack:
        yield stack


@pytest.fixture
async def client(stack: Stack) -> AsyncIterator[Client]:
    """Open a client."""
    async with Client(stack.url) as client:
        yield client


def check_history(snapshots: list[JobSnapshot], status: str) -> None:
    """Check that versions rise and that the only finished snapshot has this status."""
    versions = [snapshot.version for snapshot in snapshots]
    assert versions == sorted(set(versions))
    assert [snapshot.status for snapshot in snapshots if snapshot.finished_at] == [status]


async def test_job_is_watched_until_its_result(stack: Stack, client: Client) -> None:
    """A watcher sees the progress in order, and `result` decodes the result to the requested type."""
    with stack.frozen("worker"):
        job = await client.submit("countdown", {"steps": 10, "delay_s": 0.05})
        watch = client.watch(job)
        first = await anext(watch)
    snapshots = [first, *[snapshot async for snapshot in watch]]
    check_history(snapshots, "succeeded")
    steps = [snapshot.progress.current for snapshot in snapshots if snapshot.progress and not snapshot.finished_at]
    assert steps == sorted(set(steps))
    assert len(steps) > 1
    assert await client.result(job.id) == await client.result(str(job.id), type=str) == "Counted 10 steps"


async def test_a_log_is_followed_across_a_restart(client: Client, stack: Stack) -> None:
    """The notifier is killed meanwhile, and each byte comes once, also to a client that reads the log again."""
    job = await client.submit("talkative", 40)
    texts: list[str] = []
    async for text in client.log(job):
        if not texts:
            await stack.kill("notifier")
        texts.append(text)
    *lines, last = "".join(texts).splitlines()
    assert lines == [f"line {number}: \x1b[1mü\x1b[0m" for number in range(40)]
    assert last.endswith("INFO all_lines_written")
    assert len(texts) > 1, "the pieces did not come live"
    offset = len("".join(texts[:1]).encode())
    assert [text async for text in client.log(job.id, offset, follow=False)] == ["".join(texts[1:])]
    assert [text async for text in client.log(job.id, 10**6)] == []


async def test_details_say_why_a_job_has_failed(client: Client) -> None:
    """They have the payload and the traceback; a job that does not exist has none."""
    job = await client.submit("broken", {"cable": 7}, name="Cable")
    with pytest.raises(JobFailed):
        await client.result(job)
    details = await client.details(job)
    assert details.error is not None
    assert (details.error.type, details.error.message) == ("ValueError", "the cable is loose")
    assert (details.error.traceback or "").endswith("ValueError: the cable is loose\n")
    assert (details.labels.name, details.kept, bytes(details.payload)) == ("Cable", True, b'{"cable":7}')
    assert [attempt.outcome for attempt in details.attempts] == ["failed"]
    with pytest.raises(RequestFailed, match="record"):
        await client.details(uuid4())


async def test_jobs_run_again_and_are_erased(client: Client, tmp_path: Path) -> None:
    """A redrive goes on with the job and its watchers, a rerun is a new job, and nothing runs twice."""
    file = tmp_path / "runs"
    job = await client.submit("until-file-exists", str(file), max_attempts=1)
    with pytest.raises(JobFailed):
        await client.result(job)
    with pytest.raises(RequestFailed) as refused:
        await client.redrive(job, generation=7)
    assert refused.value.code == "changed"
    file.touch()
    assert (await client.redrive(job, generation=0)).generation == 1
    assert await client.result(job) is not None
    assert file.read_text() == f"{job.id}\n"
    again = await client.rerun(job, str(file), idempotency_key="again")
    assert (await client.rerun(job.id, str(file), idempotency_key="again")).id == again.id != job.id
    await client.result(again)
    assert sorted(file.read_text().split()) == sorted([str(job.id), str(again.id)])
    await client.erase(again)
    with pytest.raises(RequestFailed) as refused:
        await client.rerun(again)
    assert refused.value.code == "payload_not_kept"
    assert bytes((await client.get(again)).result) == b"null"


async def test_failed_jobs_run_again_together(client: Client, tmp_path: Path) -> None:
    """A preview counts the jobs that match; the action is a job, whose result says how many were redriven."""
    file, tag = tmp_path / "runs", f"t{uuid4()}"
    jobs = [await client.submit("until-file-exists", str(file), max_attempts=1, tags=tag) for _ in range(3)]
    for job in jobs:
        with pytest.raises(JobFailed):
            await client.result(job)
    file.touch()

    async def are_listed() -> bool:
        return (await client.preview_bulk("redrive", tag=tag)).count == len(jobs)

    await wait_until(are_listed)  # the index is written behind
    preview = await client.preview_bulk("redrive", tag=tag, kind="until-file-exists")
    assert {example.id for example in preview.examples} == {job.id for job in jobs}
    assert {example.error_type for example in preview.examples} == {"ValueError"}
    result = await client.result(await client.bulk("redrive", tag=tag, idempotency_key=tag))
    assert result["done"] == len(jobs)
    for job in jobs:
        await client.result(job)
    assert sorted(file.read_text().split()) == sorted(str(job.id) for job in jobs)


@pytest.mark.parametrize("payload", [{}, [], 0, "ü ☂", {"deep": [{"a": None}]}])
async def test_payload_reaches_the_handler_unchanged(client: Client, payload: object) -> None:
    """The handler gets the payload exactly as it was submitted."""
    assert await client.result(await client.submit("echo", payload), timeout_s=PATIENCE_S) == payload


async def test_failures_raise_exceptions(client: Client) -> None:
    """A failed job, a rejected submission and a timeout each raise their own exception."""
    with pytest.raises(JobFailed) as failed:
        await client.result(await client.submit("broken"))
    assert (failed.value.error.type, failed.value.error.message) == ("ValueError", "the cable is loose")
    with pytest.raises(RequestFailed) as rejected:
        await client.submit("countdown", max_attempts=0)
    assert (rejected.value.status, rejected.value.field) == (422, "max_attempts")
    with pytest.raises(RequestFailed) as rejected:
        await client.submit("countdown", "x" * 33_000)
    assert (rejected.value.status, rejected.value.field) == (413, "payload")
    with pytest.raises(TimeoutError):
        await client.result(await client.submit("countdown", delay_s=60), timeout_s=0.2)


async def test_shared_receipt_can_watch_but_not_cancel(stack: Stack, client: Client) -> None:
    """The receipt that `share` returns shows the same job until the same time; its token does not permit to cancel."""
    job = await client.submit("countdown", {"steps": 2, "delay_s": 0.1}, delay_s=1)
    shared = await client.share(job)
    assert (shared.id, shared.expires_at) == (job.id, job.expires_at)
    assert shared.expires_at == datetime.fromisoformat(str((await client.get(shared)).expires_at))
    with pytest.raises(RequestFailed) as forbidden:
        await client.cancel(shared)
    assert (forbidden.value.status, forbidden.value.code) == (403, "forbidden")
    check_history([snapshot async for snapshot in client.watch(shared.link)], "succeeded")


async def test_every_kind_of_link_works(stack: Stack, client: Client) -> None:
    """Another client watches a job by the link of its page or of the notifier, with the token in it or separate."""
    job = await client.submit("countdown", {"steps": 5, "delay_s": 0.1})
    page, live = job.link.partition("#")[0], job.links["live"]
    async with Client() as other:
        for link, token in ((job.link, None), (page, job.token), (live, job.token), (f"{live}#{job.token}", None)):
            check_history([snapshot async for snapshot in other.watch(link, token=token)], "succeeded")


async def test_get_returns_one_snapshot(client: Client) -> None:
    """A job that has not started is queued; one that has ended has its outcome."""
    delayed = await client.submit("countdown", delay_s=60)
    snapshot = await client.get(delayed)
    assert (snapshot.id, snapshot.status) == (delayed.id, "queued")
    ended = await client.submit("echo", 1)
    await client.result(ended)
    for job, token in ((ended.id, None), (ended.link, None), (ended.links["live"], ended.token)):
        assert (await client.get(job, token=token)).status == "succeeded"


async def test_cancel_ends_a_job(client: Client) -> None:
    """A running job and a delayed job are cancelled; a job that has ended does not change."""
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


async def test_invalid_token_raises(client: Client) -> None:
    """An altered token and a token of another job raise `InvalidToken`; other subscriptions are not affected."""
    job, other = await client.submit("countdown", {"steps": 5, "delay_s": 0.1}), await client.submit("echo")
    head, claims, signature = job.token.split(".")
    altered = f"{head}.{claims}.{'A' if signature[0] != 'A' else 'B'}{signature[1:]}"
    other_result = asyncio.create_task(client.result(other))
    for token in (altered, other.token, "nonsense"):
        async with Client() as stranger:
            with pytest.raises(InvalidToken) as rejected:
                await stranger.result(job.links["live"], token=token)
            assert rejected.value.code == "invalid_token"
    assert await other_result == {}


async def test_same_idempotency_key_is_one_job(client: Client) -> None:
    """Twenty submissions with the same key and body are one job that runs once; another body is another job."""
    before = await client.result(await client.submit("count-calls"))
    twenty = [client.submit("count-calls", {"a": 1}, idempotency_key="the key") for _ in range(20)]
    ids = {receipt.id for receipt in await asyncio.gather(*twenty)}
    other = await client.submit("count-calls", {"a": 2}, idempotency_key="the key")
    assert len(ids) == 1
    assert other.id not in ids
    assert {await client.result(ids.pop()), await client.result(other)} == {before + 1, before + 2}


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=["killed", "drained"])
async def test_watch_survives_a_notifier_restart(stack: Stack, client: Client, number: signal.Signals) -> None:
    """Subscriptions continue until the jobs end when the notifier is killed or restarted in the meantime."""
    await stack.wait_until_restartable("notifier")
    jobs = [await client.submit("countdown", {"steps": 20, "delay_s": 0.15}) for _ in range(5)]
    halfway = asyncio.Event()

    async def history(job: object) -> list[JobSnapshot]:
        snapshots = []
        async for snapshot in client.watch(job):  # type: ignore[arg-type]
            snapshots.append(snapshot)
            if snapshot.progress and snapshot.progress.current >= 30:
                halfway.set()
        return snapshots

    watching = asyncio.gather(*map(history, jobs))
    await asyncio.wait_for(halfway.wait(), PATIENCE_S)
    old_pid = stack.pid("notifier")
    assert old_pid is not None
    os.kill(old_pid, number)
    for snapshots in await asyncio.wait_for(watching, PATIENCE_S):
        check_history(snapshots, "succeeded")
        assert snapshots[-1].progress is not None
        assert snapshots[-1].progress.percent == 100.0
    await stack.wait_for_restart("notifier", old_pid)


async def test_submissions_survive_a_submitter_restart(stack: Stack, client: Client) -> None:
    """Submissions that fail because the submitter was killed are sent again, and each job runs exactly once."""
    before = await client.result(await client.submit("count-calls"))
    submitting = asyncio.gather(*(client.submit("count-calls", number) for number in range(30)))
    await stack.kill("submitter")
    receipts = await asyncio.wait_for(submitting, PATIENCE_S)
    counts = await asyncio.gather(*map(client.result, receipts))
    assert sorted(counts) == list(range(before + 1, before + 31))


async def test_client_falls_back_to_long_polls(stack: Stack, client: Client) -> None:
    """Behind a proxy that rejects WebSockets, the job is watched to its end with a few long polls."""
    job = await client.submit("countdown", {"steps": 3, "delay_s": 0.3})
    paths: list[str] = []

    async def forward(request: web.Request) -> web.Response:
        paths.append(request.path)
        if "Upgrade" in request.headers:
            return web.Response(status=403)
        headers = {name: value for name, value in request.headers.items() if name != "Host"}
        async with stack.session.get(f"{stack.env['LIVE_URL']}{request.path_qs}", headers=headers) as response:
            return web.Response(status=response.status, body=await response.read())

    app = web.Application()
    app.router.add_get("/{path:.*}", forward)
    runner = web.AppRunner(app)
    await runner.setup()
    (port,) = free_ports(1)
    await web.TCPSite(runner, "127.0.0.1", port).start()
    link = f"http://127.0.0.1:{port}/live/jobs/{job.id}#{job.token}"
    check_history([snapshot async for snapshot in client.watch(link)], "succeeded")
    assert paths.count("/live") == 1
    assert len(paths) < 15
    await runner.cleanup()


async def test_a_list_token_opens_the_jobs_of_its_owner(stack: Stack, client: Client) -> None:
    """A client with the token alone watches and cancels a job by its id; a token of another owner opens nothing."""
    job = await client.submit(
        "countdown", {"steps": 9000, "delay_s": 0.05}, name="October", owner="user:7", tags=["demo", "letters"]
    )
    await anext(snapshot async for snapshot in client.watch(job) if snapshot.status == "running")
    mine, theirs = [(await client.list_token(owner=owner)).token for owner in ("user:7", "user:8")]
    async with Client(stack.url) as other:
        watch = other.watch(job.id, timeout_s=PATIENCE_S, token=mine)
        assert (await anext(watch)).name == "October"
        for refused in (other.get, other.cancel):
            with pytest.raises(RequestFailed) as rejected:
                await refused(job.id, token=theirs)
            assert rejected.value.code == "forbidden"
        with pytest.raises(RequestFailed, match=re.escape(rejected.value.detail)):
            await anext(other.watch(job.id, token=theirs))
        assert (await other.cancel(job.id, token=mine)).cancel_requested
        assert [snapshot.status async for snapshot in watch][-1] == "cancelled"
        job_token = (await client.job_token(job.id, scope="watch")).token
        assert (await other.get(job.id, token=job_token)).status == "cancelled"
        with pytest.raises(RequestFailed) as rejected:
            await other.get(unknown := uuid4(), token=(await client.job_token(unknown)).token)
        assert (rejected.value.status, rejected.value.code) == (404, "unknown")


async def test_jobs_are_listed_page_by_page(stack: Stack, client: Client) -> None:
    """The pages have every job of the owner, the newest first, and none of another owner."""
    owners = ["user:1", "user:2", "user:1", "user:1"]
    jobs = [await client.submit("echo", n, owner=owner, tags=f"n:{n}") for n, owner in enumerate(owners)]
    failed = await client.submit("broken", owner="user:1")
    await asyncio.gather(*map(client.result, [*jobs, failed]), return_exceptions=True)
    mine = [failed.id, jobs[3].id, jobs[2].id, jobs[0].id]
    token = (await client.list_token(owner="user:1", scope="list")).token
    async with Client(stack.url) as other:
        assert [job.id async for job in other.jobs(token)] == mine
        first = await other.jobs_page(token, limit=3)
        last = await other.jobs_page(token, limit=3, cursor=first.next)
        assert [job.id for job in (*first.jobs, *last.jobs)] == mine
        assert (len(first.jobs), last.next, last.complete) == (3, None, True)
        for query in ({"owner": "user:2"}, {"cursor": "altered"}, {"limit": 201}):
            with pytest.raises(RequestFailed) as rejected:
                await other.jobs_page(token, **query)
            assert [rejected.value.field] == list(query)
    since = first.jobs[-1].submitted_at
    assert [job.id async for job in client.jobs(kind="broken", status="failed", since=since)] == [failed.id]
    assert [job.id async for job in client.jobs(tag=["n:1"])] == [jobs[1].id]
    assert [job.error_type async for job in client.jobs(owner="user:1", error_type="ValueError")] == ["ValueError"]


async def run_program(stack: Stack, code: Path, *command: str) -> str:
    """Run a program as a user would, and return its output."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    env = {**os.environ, "PATH": path, "HEADWAY_URL": stack.url, "PYTHONPATH": f"{ROOT}{os.pathsep}{code}"}
    process = await asyncio.create_subprocess_exec(
        *command, cwd=code, env=env, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    output, _ = await asyncio.wait_for(process.communicate(), PATIENCE_S)
    assert process.returncode == 0, output.decode()
    return output.decode()


async def test_examples_of_the_document_run(stack: Stack, code: Path) -> None:
    """Every program of the pages runs unchanged, apart from the submitter's address."""
    output = ""
    pages = map(Document, ("docs/python-client.md", "docs/lists-and-tokens.md"))
    for example in [example for page in pages for example in page.examples("python")]:
        program = example.text.replace("http://127.0.0.1:8080", stack.url)
        output += await run_program(stack, code, sys.executable, "-c", program)
    for expected in (
        "Counted 3 steps",
        "2 letters",
        "\n3\n",
        "succeeded October",
        "0 to come",
        "Letters of May succeeded",
    ):
        assert expected in output
