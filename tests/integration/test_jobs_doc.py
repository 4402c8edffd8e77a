"""docs/jobs.md and docs/lifecycle.md keep their word: their jobs and ways are those of a worker of the real system."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
import sys
import time
import uuid
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from dev.environment import ROOT
from headway.azure.job_queue import JobQueue
from headway.contracts import JobMessage, Json, Timestamp, encode, encode_message
from headway.tokens import Grant, TokenSigner
from tests.integration.status_recorder import StatusRecorder, Transitions
from tests.integration.test_attempts import watch_until
from tests.integration.test_one_job import API_VERSION, history, run_to_end
from tests.stack import Stack, running
from tests.waiting import wait_until

DOC = (ROOT / "docs" / "jobs.md").read_text()
*JOBS, TESTS = re.findall(r"^```python\n(.*?)^```$", DOC, re.DOTALL | re.MULTILINE)
(DIAGRAM,) = re.findall(r"```mermaid\n(.*?)```", (ROOT / "docs" / "lifecycle.md").read_text(), re.DOTALL)
CUSTOMERS = [f"c{number}" for number in range(20)]


@pytest.fixture(scope="module")
def code(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write the package of the document, with the shop that it is for."""
    code = tmp_path_factory.mktemp("code")
    (code / "myapp").mkdir()
    (code / "myapp/jobs.py").write_text("\n".join(JOBS))
    (code / "test_jobs.py").write_text(TESTS)
    shutil.copy(Path(__file__).with_name("fake_shop.py"), code / "myapp" / "shop.py")
    return code


@pytest.fixture(scope="module")
async def stack(code: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    """Run the system as the document has it, with the tests' jobs besides."""
    (words,) = re.findall(r"^WORKER_JOBS=(\S+) make up$", DOC, re.MULTILINE)
    env = {"WORKER_JOBS": f"{words},tests.integration.sample_jobs", "PYTHONPATH": str(code), "TMPDIR": str(code)}
    settings = {"LEASE_S": "3", "GRACE_S": "0", "DRAIN_S": "0", "LOG_FORMAT": "json", "SHOP_LOG": str(code / "shop")}
    async with running(tmp_path_factory.mktemp("jobs"), **env, **settings) as stack:
        yield stack


def told(code: Path, about: str) -> list[str]:
    """Return what the shop has done about a job."""
    lines = (code / "shop").read_text().splitlines() if (code / "shop").exists() else []
    return [line for line in lines if about in line]


def percents(seen: list[dict[str, Any]], step: str = "") -> list[float]:
    """Return the percentages that were shown, of messages that begin so."""
    shown = [job["progress"] for job in seen if job["progress"]]  # the last one may come with the end
    return [one["percent"] for one in shown if (one["message"] or "").startswith(step)]


async def test_an_order_is_packed(stack: Stack) -> None:
    """The payload comes typed, the result goes as JSON, and the bar fills."""
    receipt = await stack.submit("pack", {"items": ["ink", "paper", "glue"], "copies": 2})
    seen = await history(stack, receipt["token"])
    assert seen[-1]["result"] == {"parcels": 6}
    assert seen[-1]["max_attempts"] == 3
    assert percents(seen)[-1] == 100
    assert set(percents(seen)) <= {0, 33.33, 66.67, 100}


async def test_a_payload_that_does_not_fit_is_refused_in_the_documents_words(stack: Stack) -> None:
    """At once, and naming the field."""
    (words,) = re.findall(r"``(Expected .*?) ``", DOC)
    end = await run_to_end(stack, "pack", {"items": [], "copies": "many"})
    assert (end["status"], end["attempt"], end["error"]) == ("failed", 1, {"type": "InvalidPayload", "message": words})


@pytest.mark.parametrize(("kind", "payload", "result"), [("primes", 100, 25), ("seal", 3, 64)])
async def test_threads_and_processes_work(stack: Stack, kind: str, payload: int, result: int) -> None:
    """Both tell how far they are."""
    end = await run_to_end(stack, kind, payload)
    assert result in (end["result"], len(str(end["result"])))
    assert end["progress"]["percent"] == 100


async def test_steps_at_once_and_within_each_other_are_one_bar(stack: Stack) -> None:
    """The download is the first 60 % of it."""
    receipt = await stack.submit("album", {"photos": ["sea", "hill", "town"], "pages": 5}, delay_s=1)
    seen = await history(stack, receipt["token"])
    assert percents(seen) == sorted(percents(seen))
    assert 0 < max(percents(seen, "Download")) <= 60
    messages = {job["progress"]["message"] for job in seen if job["progress"]}
    assert any(re.fullmatch("Download › (sea|hill|town): Copying", message) for message in messages)  # noqa: RUF001
    assert set(percents(seen, "Print: Pages")) <= {60, 68, 76, 84, 92, 100}
    assert percents(seen)[-1] == 100


async def test_a_job_asks_for_another_attempt_or_for_none(stack: Stack) -> None:
    """Watchers see why, and when the next one is."""
    end = await run_to_end(stack, "sync", "moon")
    error = {"type": "Fail", "message": "There is no album 'moon'."}
    assert (end["status"], end["attempt"], end["error"]) == ("failed", 1, error)
    receipt = await stack.submit("sync", "sea", delay_s=1)
    seen = await history(stack, receipt["token"])
    (waiting,) = [job for job in seen if job["status"] == "retrying"]
    assert waiting["error"] == {"type": "Retry", "message": "The album is locked."}
    assert 500 < Timestamp.parse(waiting["due_at"]) - Timestamp.parse(waiting["updated_at"]) <= 1000
    assert seen[-1]["result"] == "12 photos, at attempt 2 of 3"


@pytest.mark.parametrize("kind", ["wait-in-thread", "render"])
async def test_threads_and_processes_tidy_up(stack: Stack, code: Path, kind: str) -> None:
    """What they have opened is closed by the time that the job is `cancelled`."""
    receipt = await stack.submit(kind, 60)
    await wait_until(lambda: list(code.glob(f"{receipt['id']}*")))
    asked_at = time.monotonic()
    await stack.cancel(receipt)
    end = await watch_until(stack, receipt, "cancelled")
    assert (end["progress"] or {"percent": 0})["percent"] < 100
    assert list(code.glob(f"{receipt['id']}*")) == []
    assert time.monotonic() - asked_at < 10


async def test_a_thread_that_never_asks_runs_to_its_end(stack: Stack) -> None:
    """Only then is its job cancelled, and its result dropped."""
    receipt = await stack.submit("stubborn", 1.5)
    await watch_until(stack, receipt, "running")
    assert (await stack.cancel(receipt))["cancel_requested"]
    end = (await history(stack, receipt["token"]))[-1]
    assert (end["status"], end["result"]) == ("cancelled", None)
    assert Timestamp.parse(end["finished_at"]) - Timestamp.parse(end["started_at"]) > 1400


async def test_a_log_line_names_its_job(stack: Stack) -> None:
    """With what the handler adds."""
    receipt = await stack.submit("ship", ["a", "b"])
    await watch_until(stack, receipt, "succeeded")
    log = stack.folder / "logs/worker.log"
    await wait_until(lambda: "parcels_shipped" in log.read_text().rpartition("\n")[0])
    lines = map(json.loads, log.read_text().rpartition("\n")[0].splitlines())
    (line,) = [line for line in lines if line["event"] == "parcels_shipped"]
    assert (line["job_id"], line["kind"], line["parcels"]) == (receipt["id"], "ship", 2)


async def test_the_documents_own_tests_pass(code: Path) -> None:
    """Run by pytest, as an author would."""
    path = {"PYTHONPATH": f"{ROOT}:{code}", "SHOP_LOG": str(code / "shop"), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "pytest", "-q", "test_jobs.py", cwd=code, env={**os.environ, **path}, stdout=PIPE
    )
    output, _ = await process.communicate()
    assert f"{TESTS.count('def test_')} passed" in output.decode(), output.decode()


async def submitted(stack: Stack, kind: str, payload: Any = None, **more: Any) -> tuple[StatusRecorder, dict[str, Any]]:
    """Submit a job and watch it."""
    receipt = await stack.submit(kind, payload, **more)
    walk = StatusRecorder(stack, receipt["token"])
    await wait_until(lambda: walk.snapshots)
    return walk, receipt


async def watched(stack: Stack, job_id: uuid.UUID) -> StatusRecorder:
    """Watch a job that nobody has submitted yet."""
    now = Timestamp.now()
    signer = TokenSigner(Path(stack.env["TOKEN_KEY_FILE"]).read_text())
    walk = StatusRecorder(
        stack, signer.sign(Grant(job_id=job_id, kind="k", submitted_at=now, expires_at=now.after(3600)))
    )
    await wait_until(lambda: walk.snapshots)
    return walk


async def put(stack: Stack, job_id: uuid.UUID, kind: str, lives_s: float = 3600, **fields: Any) -> None:
    """Put a message on the queue."""
    message = JobMessage(id=job_id, kind=kind, expires_at=Timestamp.now().after(lives_s), **fields)
    async with JobQueue.connect(stack.env["QUEUE_CONNECTION_STRING"], "jobs", API_VERSION) as queue:
        await queue.send(encode_message(message))


async def at_last(stack: Stack) -> Transitions:
    """Let a job succeed at its last attempt."""
    walk, _ = await submitted(stack, "flaky")
    await walk.wait_for("succeeded")
    return walk.transitions()


async def cancelled(stack: Stack, status: str, kind: str, payload: Any = None, **more: Any) -> Transitions:
    """Cancel a job in a status."""
    walk, receipt = await submitted(stack, kind, payload, **more)
    await walk.wait_for(status)
    await stack.cancel(receipt)
    await walk.wait_for("cancelled")
    return walk.transitions()


async def redriven(stack: Stack) -> Transitions:
    """Let a job fail, and the next generation of it succeed."""
    job_id = uuid.uuid4()
    walk = await watched(stack, job_id)
    await put(stack, job_id, "broken")
    await walk.wait_for("failed")
    await put(stack, job_id, "echo", generation=1)
    await walk.wait_for("succeeded")
    return walk.transitions()


async def expired(stack: Stack, mark: str) -> Transitions:
    """Let a job come too late, and another one's second attempt."""
    late, retried = job_ids = [uuid.uuid4() for _ in range(2)]
    walks = [await watched(stack, job_id) for job_id in job_ids]
    await put(stack, late, "echo", lives_s=-1)
    await put(stack, retried, "retry-once", lives_s=3, payload=Json(encode([mark, 3])))
    for walk in walks:
        await walk.wait_for("failed")
        assert walk.snapshots[-1]["error"]["type"] == "Expired"
    return walks[0].transitions() | walks[1].transitions()


async def stopped(stack: Stack, code: Path) -> Transitions:
    """Stop the worker of a job, as a release does; then cancel the job.

    Its handler is told why: stopped it closes, and goes on elsewhere without losing an attempt; cancelled it discards.
    """
    walk, receipt = await submitted(stack, "record", 600)
    await walk.wait_for("running")
    await wait_until(lambda: (walk.snapshots[-1]["progress"] or {}).get("percent"))
    worker = stack.pid("worker")
    assert worker is not None
    os.kill(worker, signal.SIGTERM)
    await walk.wait_for("queued")
    assert told(code, receipt["id"]) == [f"closed {receipt['id']}"]
    await walk.wait_for("running")
    assert {job["attempt"] for job in walk.snapshots} == {1}
    await stack.cancel(receipt)
    await walk.wait_for("cancelled")
    assert told(code, receipt["id"])[1:] == [f"discarded {receipt['id']}", f"closed {receipt['id']}"]
    return walk.transitions()


async def killed(stack: Stack, code: Path) -> Transitions:
    """Kill the worker of a job, which goes on from its checkpoint.

    What lies between two checkpoints is done twice at most: one customer is charged again, with the same key.
    """
    walk, receipt = await submitted(stack, "bills", {"customers": CUSTOMERS})
    await wait_until(lambda: len(told(code, receipt["id"])) > 6)
    await stack.kill("worker")
    await walk.wait_for("succeeded", attempt=2)
    assert walk.snapshots[-1]["result"] == len(CUSTOMERS)
    charged = told(code, receipt["id"])
    assert list(dict.fromkeys(charged)) == [f"charged {name} {receipt['id']}/{name[1:]}" for name in CUSTOMERS]
    assert len(charged) <= len(CUSTOMERS) + 1
    return walk.transitions()


async def test_the_diagram_is_what_watchers_see(stack: Stack, code: Path, tmp_path: Path) -> None:
    """Every way in it is gone by some job, through stopped and killed workers, and none goes another."""
    long, asks = {"steps": 1000, "delay_s": 0.1}, [str(tmp_path / "marks"), 3600]
    expiring = asyncio.create_task(expired(stack, str(tmp_path / "late")))
    walked = await asyncio.gather(
        at_last(stack),
        cancelled(stack, "queued", "echo", delay_s=3600),
        cancelled(stack, "running", "countdown", long),
        cancelled(stack, "retrying", "retry-once", asks),
        redriven(stack),
    )
    gone = [await stopped(stack, code), await killed(stack, code), await expiring]
    assert set.union(*walked, *gone) == set(re.findall(r"^ +(\w+) --> (\w+)", DIAGRAM, re.MULTILINE))
