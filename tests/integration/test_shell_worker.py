"""The shell worker of examples/shell-worker against a notifier: its reports, its output and its exit codes."""

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
from tests.waiting import PATIENCE_S

WORKER = ROOT / "examples" / "shell-worker" / "worker.sh"
CURL_WRAPPER = '#!/bin/sh\necho "$@" >>"$0.arguments"\nexec {curl} "$@"\n'


async def start(notifier: Notifier, folder: Path, job_id: str, *, key: str | None = None, **env: str) -> Process:
    """Start the worker; its steps take no time unless `env` sets `STEP_S`."""
    file = folder / "report.key"
    file.write_text(f"{key or notifier.report_key}\n")
    settings = {"NOTIFIER_INTERNAL_URL": notifier.internal, "REPORT_KEY_FILE": str(file), "STEP_S": "0", **env}
    return await asyncio.create_subprocess_exec(
        WORKER, job_id, env={**os.environ, **settings}, stdin=DEVNULL, stdout=PIPE, stderr=PIPE
    )


async def wait_for_exit(process: Process) -> tuple[int | None, str]:
    """Wait until the worker has exited; return its exit code and its output."""
    out, err = await asyncio.wait_for(process.communicate(), PATIENCE_S)
    return process.returncode, (out + err).decode()


async def watch_progress(notifier: Notifier, job_id: str, *, until: float = 101) -> list[dict[str, Any]]:
    """Watch the job until it has ended or reached a percentage; return its snapshots that have progress."""
    snapshots: list[dict[str, Any]] = []
    async with notifier.socket() as socket:
        await socket.send_json({"watch": notifier.token(job_id)})
        while not snapshots or (snapshots[-1]["status"] == "running" and snapshots[-1]["progress"]["percent"] < until):
            snapshot = (await socket.receive_json(timeout=PATIENCE_S))["job"]
            snapshots += [snapshot] if snapshot["progress"] else []
    return snapshots


async def test_worker_completes_a_job(notifier: Notifier, redis: Redis, tmp_path: Path) -> None:
    """A watcher sees the job succeed, and a second run of the worker does not change the job."""
    job_id = str(uuid.uuid4())
    watching = asyncio.create_task(watch_progress(notifier, job_id))
    assert await wait_for_exit(await start(notifier, tmp_path, job_id)) == (0, "")
    snapshots = await watching
    end = snapshots[-1]
    assert (end["kind"], end["status"], end["progress"]["percent"]) == ("backup", "succeeded", 100.0)
    assert end["progress"]["message"] == "Copied 10 of 10 folders"
    assert await wait_for_exit(await start(notifier, tmp_path, job_id)) == (0, "The job has ended.\n")
    assert await watch_progress(notifier, job_id) == [end]


async def test_progress_never_goes_back(notifier: Notifier, redis: Redis, tmp_path: Path) -> None:
    """Two workers complete a job that is already at 55 %, and its progress only rises."""
    job_id = str(uuid.uuid4())
    url = f"{notifier.internal}/progress/{notifier.report_key}"
    async with notifier.session.get(url, params={"jobId": job_id, "progress": "55"}) as response:
        assert (await response.json())["accepted"]
    watching = asyncio.create_task(watch_progress(notifier, job_id))
    workers = [await start(notifier, tmp_path, job_id) for _ in range(2)]
    assert {code for code, _ in await asyncio.gather(*map(wait_for_exit, workers))} == {0}
    percents = [job["progress"]["percent"] for job in await watching]
    assert percents == sorted(percents)
    assert (percents[0], percents[-1]) == (55.0, 100.0)


async def test_cancel_stops_the_worker(notifier: Notifier, redis: Redis, tmp_path: Path) -> None:
    """The verdict of its next report stops the worker, which exits with 130; the job stays `cancelled`."""
    job_id = str(uuid.uuid4())
    worker = await start(notifier, tmp_path, job_id, STEP_S="0.1")
    await watch_progress(notifier, job_id, until=20)
    url, headers = f"{notifier.public}/live/jobs/{job_id}/cancel", {"Authorization": f"Bearer {notifier.token(job_id)}"}
    async with notifier.session.post(url, headers=headers) as response:
        cancelled = await response.json()
    assert cancelled["status"] == "cancelled"
    assert await wait_for_exit(worker) == (130, "The job was cancelled.\n")
    assert await watch_progress(notifier, job_id) == [cancelled]


async def test_rejected_report_is_an_error(notifier: Notifier, redis: Redis, tmp_path: Path) -> None:
    """With a wrong key or an invalid job id the worker exits with 1 and prints the notifier's error."""
    code, output = await wait_for_exit(await start(notifier, tmp_path, str(uuid.uuid4()), key="guessed"))
    assert (code, '"unauthorized"' in output) == (1, True)
    code, output = await wait_for_exit(await start(notifier, tmp_path, "7"))
    assert (code, '"field":"jobId"' in output) == (1, True)


async def test_key_is_not_an_argument_of_curl(notifier: Notifier, redis: Redis, tmp_path: Path) -> None:
    """The worker passes the report key to curl on stdin, because other users can list the arguments of a process."""
    wrapper = tmp_path / "curl"
    wrapper.write_text(CURL_WRAPPER.format(curl=shutil.which("curl")))
    wrapper.chmod(0o755)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    code, _ = await wait_for_exit(await start(notifier, tmp_path, str(uuid.uuid4()), PATH=path))
    arguments = (tmp_path / "curl.arguments").read_text()
    assert (code, arguments.count("--config - ")) == (0, 11)
    assert notifier.report_key not in arguments
