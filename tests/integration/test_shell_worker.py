"""The worker in shell, as a program and its callers see it."""

from __future__ import annotations

import asyncio
import os
import shutil
import uuid
from asyncio.subprocess import DEVNULL, PIPE, Process
from pathlib import Path
from typing import Any

from redis.asyncio import Redis

from dev.environment import ROOT
from tests.integration.conftest import Notifier

WORKER = ROOT / "examples" / "shell-worker" / "worker.sh"
SPY = '#!/bin/sh\necho "$@" >>"$0.arguments"\nexec {curl} "$@"\n'


async def start(notifier: Notifier, folder: Path, job_id: str, *, key: str | None = None, **env: str) -> Process:
    """Start the worker; its work takes no time unless told otherwise."""
    file = folder / "report.key"
    file.write_text(f"{key or notifier.report_key}\n")
    settings = {"NOTIFIER_INTERNAL_URL": notifier.internal, "REPORT_KEY_FILE": str(file), "STEP_S": "0", **env}
    return await asyncio.create_subprocess_exec(
        WORKER, job_id, env={**os.environ, **settings}, stdin=DEVNULL, stdout=PIPE, stderr=PIPE
    )


async def ended(process: Process) -> tuple[int | None, str]:
    """Wait for the worker's end; return its exit code and what it said."""
    out, err = await asyncio.wait_for(process.communicate(), 30)
    return process.returncode, (out + err).decode()


async def snapshots(notifier: Notifier, job_id: str, *, until: float = 101) -> list[dict[str, Any]]:
    """Watch the job until it has ended, or has come so far; return what was seen with progress."""
    seen: list[dict[str, Any]] = []
    async with notifier.socket() as socket:
        await socket.send_json({"watch": notifier.token(job_id)})
        while not seen or (seen[-1]["status"] == "running" and seen[-1]["progress"]["percent"] < until):
            job = (await socket.receive_json(timeout=20))["job"]
            seen += [job] if job["progress"] else []
    return seen


async def test_a_job_is_taken_to_its_end(notifier: Notifier, redis: Redis, tmp_path: Path) -> None:
    """Eleven reports make a job that succeeds, told step by step to whoever watches; running again changes nothing."""
    job_id = str(uuid.uuid4())
    watching = asyncio.create_task(snapshots(notifier, job_id))
    assert await ended(await start(notifier, tmp_path, job_id)) == (0, "")
    seen = await watching
    assert (seen[-1]["kind"], seen[-1]["status"], seen[-1]["progress"]["percent"]) == ("backup", "succeeded", 100.0)
    assert seen[-1]["progress"]["message"] == "Copied 10 of 10 folders"
    assert await ended(await start(notifier, tmp_path, job_id)) == (0, "The job has ended.\n")
    assert await snapshots(notifier, job_id) == seen[-1:]


async def test_repeated_and_reordered_reports_move_nothing_back(
    notifier: Notifier, redis: Redis, tmp_path: Path
) -> None:
    """Two workers at once, on a job that is already half done, move its bar to the end and never back."""
    job_id = str(uuid.uuid4())
    url = f"{notifier.internal}/progress/{notifier.report_key}"
    async with notifier.session.get(url, params={"jobId": job_id, "progress": "55"}) as response:
        assert (await response.json())["accepted"]
    watching = asyncio.create_task(snapshots(notifier, job_id))
    workers = [await start(notifier, tmp_path, job_id) for _ in range(2)]
    assert {code for code, _ in await asyncio.gather(*map(ended, workers))} == {0}
    percents = [job["progress"]["percent"] for job in await watching]
    assert percents == sorted(percents)
    assert (percents[0], percents[-1]) == (55.0, 100.0)


async def test_cancelling_stops_the_worker(notifier: Notifier, redis: Redis, tmp_path: Path) -> None:
    """The worker hears of it by its next report, says so, and the job stays cancelled."""
    job_id = str(uuid.uuid4())
    worker = await start(notifier, tmp_path, job_id, STEP_S="0.1")
    await snapshots(notifier, job_id, until=20)
    url, headers = f"{notifier.public}/live/jobs/{job_id}/cancel", {"Authorization": f"Bearer {notifier.token(job_id)}"}
    async with notifier.session.post(url, headers=headers) as response:
        cancelled = await response.json()
    assert cancelled["status"] == "cancelled"
    assert await ended(worker) == (130, "The job was cancelled.\n")
    assert await snapshots(notifier, job_id) == [cancelled]


async def test_a_refusal_is_told(notifier: Notifier, redis: Redis, tmp_path: Path) -> None:
    """With a wrong key, or for what is no job, the worker stops at once and shows the problem."""
    code, told = await ended(await start(notifier, tmp_path, str(uuid.uuid4()), key="guessed"))
    assert (code, '"unauthorized"' in told) == (1, True)
    code, told = await ended(await start(notifier, tmp_path, "7"))
    assert (code, '"field":"jobId"' in told) == (1, True)


async def test_the_key_is_no_argument(notifier: Notifier, redis: Redis, tmp_path: Path) -> None:
    """Arguments can be seen by others on the machine, so curl is not told the key by them."""
    spy = tmp_path / "curl"
    spy.write_text(SPY.format(curl=shutil.which("curl")))
    spy.chmod(0o755)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    code, _ = await ended(await start(notifier, tmp_path, str(uuid.uuid4()), PATH=path))
    arguments = (tmp_path / "curl.arguments").read_text()
    assert (code, arguments.count("--config - ")) == (0, 11)
    assert notifier.report_key not in arguments
