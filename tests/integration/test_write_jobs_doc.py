"""The examples of docs/write-jobs.md and the state diagram of docs/concepts.md, checked against the whole system."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
import sys
import uuid
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from dev.environment import ROOT
from headway.azure.job_queue import JobQueue
from headway.contracts import JobMessage, Json, Timestamp, encode
from headway.message_codec import encode_message
from headway.tokens import Grant, TokenSigner
from tests.documents import Document
from tests.integration.status_recorder import StatusRecorder, Transitions
from tests.integration.test_attempts import watch_until
from tests.integration.test_one_job import API_VERSION, history, history_from_start, run_to_end
from tests.stack import Stack, running
from tests.waiting import PATIENCE_S, wait_until

PAGE = Document("docs/write-jobs.md")
*JOBS, TESTS = [example.text for example in PAGE.examples("python")]
((_, DIAGRAM),) = Document("docs/concepts.md").examples("mermaid")
CUSTOMERS = [f"c{number}" for number in range(20)]


@pytest.fixture(scope="module")
def code(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write the document's package, the fake shop that it uses, and the document's tests; return the folder."""
    code = tmp_path_factory.mktemp("code")
    (code / "myapp").mkdir()
    (code / "myapp/jobs.py").write_text("\n".join(JOBS))
    (code / "test_jobs.py").write_text(TESTS)
    shutil.copy(Path(__file__).with_name("fake_shop.py"), code / "myapp" / "shop.py")
    return code


@pytest.fixture(scope="module")
async def stack(code: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    """Run the system with the document's `WORKER_JOBS` and the jobs of the tests."""
    (modules,) = re.findall(r"^WORKER_JOBS=(\S+) make up$", PAGE.text, re.MULTILINE)
    env = {"WORKER_JOBS": f"{modules},tests.integration.sample_jobs", "PYTHONPATH": str(code), "TMPDIR": str(code)}
    settings = {"LEASE_S": "3", "GRACE_S": "0", "DRAIN_S": "0", "LOG_FORMAT": "json", "SHOP_LOG": str(code / "shop")}
    async with running(tmp_path_factory.mktemp("jobs"), **env, **settings) as stack:
        yield stack


def shop_log(code: Path, job_id: str) -> list[str]:
    """Return the lines of the shop's log that contain a job's id."""
    lines = (code / "shop").read_text().splitlines() if (code / "shop").exists() else []
    return [line for line in lines if job_id in line]


def percents(snapshots: list[dict[str, Any]], step: str = "") -> list[float]:
    """Return the percentages of the snapshots whose message begins with the name of a step."""
    progress = [job["progress"] for job in snapshots if job["progress"]]  # the outcome may contain the last progress
    return [update["percent"] for update in progress if (update["message"] or "").startswith(step)]


async def test_handler_gets_a_typed_payload(stack: Stack) -> None:
    """The payload is decoded to its annotated type; watchers see the progress up to 100 % and the result as JSON."""
    receipt = await stack.submit("pack", {"items": ["ink", "paper", "glue"], "copies": 2})
    snapshots = await history(stack, receipt["token"])
    assert snapshots[-1]["result"] == {"parcels": 6}
    assert snapshots[-1]["max_attempts"] == 3
    assert percents(snapshots)[-1] == 100
    assert set(percents(snapshots)) <= {0, 33.33, 66.67, 100}


async def test_invalid_payload_has_the_documented_error(stack: Stack) -> None:
    """The job fails at its first attempt, with an error that names the field."""
    (message,) = re.findall(r"``(Expected .*?) ``", PAGE.text)
    end = await run_to_end(stack, "pack", {"items": [], "copies": "many"})
    error = {"type": "InvalidPayload", "message": message}
    assert (end["status"], end["attempt"], end["error"]) == ("failed", 1, error)


@pytest.mark.parametrize(("kind", "payload", "result"), [("primes", 100, 25), ("seal", 3, 64)])
async def test_threads_and_processes_report_progress(stack: Stack, kind: str, payload: int, result: int) -> None:
    """Watchers see the result and the progress of a handler in a process and of one in a thread."""
    end = await run_to_end(stack, kind, payload)
    assert result in (end["result"], len(str(end["result"])))
    assert end["progress"]["percent"] == 100


async def test_parallel_and_nested_steps_move_one_bar(stack: Stack) -> None:
    """The percentage never goes back, and the step `Download` takes the first 60 %."""
    snapshots = await history_from_start(stack, "album", {"photos": ["sea", "hill", "town"], "pages": 5})
    assert percents(snapshots) == sorted(percents(snapshots))
    assert 0 < max(percents(snapshots, "Download")) <= 60
    messages = {job["progress"]["message"] for job in snapshots if job["progress"]}
    assert any(re.fullmatch("Download › (sea|hill|town): Copying", message) for message in messages)  # noqa: RUF001
    assert set(percents(snapshots, "Print: Pages")) <= {60, 68, 76, 84, 92, 100}
    assert percents(snapshots)[-1] == 100


async def test_fail_and_retry_are_shown_to_watchers(stack: Stack) -> None:
    """After `Fail` there is no other attempt; after `Retry`, watchers see the error and the time of the next one."""
    end = await run_to_end(stack, "sync", "moon")
    error = {"type": "Fail", "message": "There is no album 'moon'."}
    assert (end["status"], end["attempt"], end["error"]) == ("failed", 1, error)
    snapshots = await history_from_start(stack, "sync", "sea")
    (retrying,) = [job for job in snapshots if job["status"] == "retrying"]
    assert retrying["error"] == {"type": "Retry", "message": "The album is locked."}
    assert 500 < Timestamp.parse(retrying["due_at"]) - Timestamp.parse(retrying["updated_at"]) <= 1000
    assert snapshots[-1]["result"] == "12 photos, at attempt 2 of 3"


@pytest.mark.parametrize("kind", ["wait-in-thread", "render"])
async def test_cancelled_threads_and_processes_clean_up(stack: Stack, code: Path, kind: str) -> None:
    """Watchers see the job as `cancelled` only after its handler has removed its temporary folder."""
    receipt = await stack.submit(kind, 10 * int(PATIENCE_S))
    await wait_until(lambda: list(code.glob(f"{receipt['id']}*")))
    await stack.cancel(receipt)
    end = await asyncio.wait_for(watch_until(stack, receipt, "cancelled"), PATIENCE_S)
    assert (end["progress"] or {"percent": 0})["percent"] < 100
    assert list(code.glob(f"{receipt['id']}*")) == []


async def test_thread_without_progress_runs_to_its_end(stack: Stack) -> None:
    """A handler that never calls `ctx.progress` cannot be stopped: its job is cancelled when it returns."""
    receipt = await stack.submit("stubborn", 1.5)
    await watch_until(stack, receipt, "running")
    assert (await stack.cancel(receipt))["cancel_requested"]
    end = (await history(stack, receipt["token"]))[-1]
    assert (end["status"], end["result"]) == ("cancelled", None)
    assert Timestamp.parse(end["finished_at"]) - Timestamp.parse(end["started_at"]) > 1400


async def test_log_lines_of_a_handler_contain_its_job(stack: Stack) -> None:
    """A line has the job's id and kind, and the fields that the handler adds."""
    receipt = await stack.submit("ship", ["a", "b"])
    await watch_until(stack, receipt, "succeeded")
    log = stack.folder / "logs/worker.log"
    await wait_until(lambda: "parcels_shipped" in log.read_text().rpartition("\n")[0])
    lines = map(json.loads, log.read_text().rpartition("\n")[0].splitlines())
    (line,) = [line for line in lines if line["event"] == "parcels_shipped"]
    assert (line["job_id"], line["kind"], line["parcels"]) == (receipt["id"], "ship", 2)


async def test_documented_tests_pass(code: Path) -> None:
    """All tests in the document pass when pytest runs them as an author would."""
    env = {"PYTHONPATH": f"{ROOT}:{code}", "SHOP_LOG": str(code / "shop"), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "pytest", "-q", "test_jobs.py", cwd=code, env={**os.environ, **env}, stdout=PIPE
    )
    output, _ = await process.communicate()
    assert f"{TESTS.count('def test_')} passed" in output.decode(), output.decode()


async def submit(stack: Stack, kind: str, payload: Any = None, **more: Any) -> tuple[StatusRecorder, dict[str, Any]]:
    """Submit a job and record its status; return the recorder and the receipt."""
    receipt = await stack.submit(kind, payload, **more)
    recorder = StatusRecorder(stack, receipt["token"])
    await wait_until(lambda: recorder.snapshots)
    return recorder, receipt


async def watch(stack: Stack, job_id: uuid.UUID) -> StatusRecorder:
    """Record the status of a job that is not on the queue yet."""
    now = Timestamp.now()
    signer = TokenSigner(Path(stack.env["TOKEN_KEY_FILE"]).read_text())
    grant = Grant(job_id=job_id, kind="k", submitted_at=now, expires_at=now.after(3600))
    recorder = StatusRecorder(stack, signer.sign(grant))
    await wait_until(lambda: recorder.snapshots)
    return recorder


async def enqueue(stack: Stack, job_id: uuid.UUID, kind: str, ttl_s: float = 3600, **fields: Any) -> None:
    """Put the message of a job on the queue."""
    message = JobMessage(id=job_id, kind=kind, expires_at=Timestamp.now().after(ttl_s), **fields)
    async with JobQueue.connect(stack.env["QUEUE_CONNECTION_STRING"], "jobs", API_VERSION) as queue:
        await queue.send(encode_message(message))


async def succeed_at_the_last_attempt(stack: Stack) -> Transitions:
    """Run a job that succeeds at its last attempt; return its transitions."""
    recorder, _ = await submit(stack, "flaky")
    await recorder.wait_for("succeeded")
    return recorder.transitions()


async def cancel(stack: Stack, status: str, kind: str, payload: Any = None, **more: Any) -> Transitions:
    """Cancel a job when it has a status; return its transitions."""
    recorder, receipt = await submit(stack, kind, payload, **more)
    await recorder.wait_for(status)
    await stack.cancel(receipt)
    await recorder.wait_for("cancelled")
    return recorder.transitions()


async def redrive(stack: Stack, status: str, kind: str, payload: Any = None) -> Transitions:
    """Redrive a job by a request when it has ended with a status, and again until then; return its transitions."""
    recorder, receipt = await submit(stack, kind, payload)
    await end(stack, recorder, receipt, status)
    with stack.frozen("worker"):  # which could start the job before its watchers see that it waits
        async with stack.session.post(f"{stack.url}/jobs/{receipt['id']}/redrive", json={}) as response:
            assert response.status == 202, await response.text()
        await recorder.wait_for("queued")
    await end(stack, recorder, receipt, status)
    return recorder.transitions()


async def end(stack: Stack, recorder: StatusRecorder, receipt: dict[str, Any], status: str) -> None:
    """Wait until a job has ended with a status; cancel it first if that is `cancelled`."""
    if status == "cancelled":
        await recorder.wait_for("running")
        await stack.cancel(receipt)
    await recorder.wait_for(status)


async def redrive_from_poison_queue(stack: Stack) -> Transitions:
    """Run a job that fails, then its next generation, which succeeds; return the transitions."""
    job_id = uuid.uuid4()
    recorder = await watch(stack, job_id)
    await enqueue(stack, job_id, "broken")
    await recorder.wait_for("failed")
    await enqueue(stack, job_id, "echo", generation=1)
    await recorder.wait_for("succeeded")
    return recorder.transitions()


async def expire(stack: Stack, mark: str) -> Transitions:
    """Enqueue a job that has expired, and one that expires before its second attempt; return their transitions."""
    expired, retried = job_ids = [uuid.uuid4() for _ in range(2)]
    recorders = [await watch(stack, job_id) for job_id in job_ids]
    await enqueue(stack, expired, "echo", ttl_s=-1)
    await enqueue(stack, retried, "retry-once", ttl_s=10, payload=Json(encode([mark, 10])))
    for recorder in recorders:
        await recorder.wait_for("failed")
        assert recorder.snapshots[-1]["error"]["type"] == "Expired"
    return recorders[0].transitions() | recorders[1].transitions()


async def stop_worker(stack: Stack, code: Path) -> Transitions:
    """Stop the worker of a job, as a release does; then cancel the job. Return its transitions.

    The handler sees the difference: when the worker stops, it closes its camera, and the job continues in the same
    attempt; when the job is cancelled, it also discards the recording.
    """
    recorder, receipt = await submit(stack, "record", 600)
    await recorder.wait_for("running")
    await wait_until(lambda: (recorder.snapshots[-1]["progress"] or {}).get("percent"))
    worker = stack.pid("worker")
    assert worker is not None
    os.kill(worker, signal.SIGTERM)
    await recorder.wait_for("queued")
    assert shop_log(code, receipt["id"]) == [f"closed {receipt['id']}"]
    await recorder.wait_for("running")
    assert {job["attempt"] for job in recorder.snapshots} == {1}
    await stack.cancel(receipt)
    await recorder.wait_for("cancelled")
    assert shop_log(code, receipt["id"])[1:] == [f"discarded {receipt['id']}", f"closed {receipt['id']}"]
    return recorder.transitions()


async def kill_worker(stack: Stack, code: Path) -> Transitions:
    """Kill the worker of a job, which continues from its checkpoint. Return its transitions.

    At most the work between two checkpoints is repeated: one customer is charged again, with the same key.
    """
    recorder, receipt = await submit(stack, "bills", {"customers": CUSTOMERS})
    await wait_until(lambda: len(shop_log(code, receipt["id"])) > 6)
    await stack.kill("worker")
    await recorder.wait_for("succeeded", attempt=2)
    assert recorder.snapshots[-1]["result"] == len(CUSTOMERS)
    charges = shop_log(code, receipt["id"])
    assert list(dict.fromkeys(charges)) == [f"charged {name} {receipt['id']}/{name[1:]}" for name in CUSTOMERS]
    assert len(charges) <= len(CUSTOMERS) + 1
    return recorder.transitions()


async def test_watchers_see_the_transitions_of_the_diagram(stack: Stack, code: Path, tmp_path: Path) -> None:
    """Together, the jobs go through every transition in the diagram and through no other, also when workers die."""
    long_countdown, long_delay = {"steps": 1000, "delay_s": 0.1}, [str(tmp_path / "marks"), 3600]
    expiry = asyncio.create_task(expire(stack, str(tmp_path / "late")))
    concurrent = await asyncio.gather(
        succeed_at_the_last_attempt(stack),
        cancel(stack, "queued", "echo", delay_s=3600),
        cancel(stack, "running", "countdown", long_countdown),
        cancel(stack, "retrying", "retry-once", long_delay),
        redrive_from_poison_queue(stack),
    )
    others = [await stop_worker(stack, code), await kill_worker(stack, code), await expiry]
    redriven = [
        await redrive(stack, "succeeded", "copy"),
        await redrive(stack, "failed", "broken"),
        await redrive(stack, "cancelled", "countdown", long_countdown),
    ]
    assert set.union(*concurrent, *others, *redriven) == set(re.findall(r"^ +(\w+) --> (\w+)", DIAGRAM, re.MULTILINE))
