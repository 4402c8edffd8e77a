"""The recipes of docs/recipes.md: the job, the nightly submissions and the notices of failures."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any
from uuid import UUID

import pytest
import yaml  # type: ignore[import-untyped]

from dev.environment import ROOT
from headway.client import SyncClient
from headway.client.links import Link
from tests.documents import Document
from tests.integration.test_attempts import watch_until
from tests.integration.test_one_job import history_from_start, run_to_end
from tests.stack import JOBS, Stack, running
from tests.waiting import PATIENCE_S, is_running, wait_until

DOC = Document("docs/recipes.md")
CONVERT, REPORT_FAILURE = (text for _, text in DOC.examples("python"))
((_, CRONTAB),) = DOC.examples("cron")
((_, ON_FAILURE),) = DOC.examples("sh")
((_, CRON_JOB_YAML),) = DOC.examples("yaml")
CRON_JOB = yaml.safe_load(CRON_JOB_YAML)
LETTERS = (ROOT / "examples/app/jobs.py").read_text().replace("sleep(1)", "sleep(0.5)")

# Prints the progress of a video of ten seconds as ffmpeg does; the file beside the target has its process ID.
FFMPEG = """#!{python}
import os, pathlib, signal, sys, time
*_, source, target = sys.argv
def terminate(*_):
    pathlib.Path(target).write_text("terminated")
    sys.exit(255)
signal.signal(signal.SIGTERM, signal.SIG_IGN if source == "stubborn" else terminate)
pathlib.Path(target + ".pid").write_text(str(os.getpid()))
for second in range({{"short": 11, "broken": 2}}.get(source, 1000)):
    print(f"frame={{second}}", f"out_time_us={{second}}000000", "progress=continue", sep="\\n", flush=True)
    time.sleep(0.05)
sys.exit(source == "broken")
"""
MAIL = '#!/bin/sh\n{ printf "%s\\n" "$@"; cat; } >mail.txt\n'


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the jobs, and with the programs `ffmpeg`, `mail` and `headway` in `bin`."""
    folder = tmp_path_factory.mktemp("recipes")
    (folder / "letters.py").write_text(LETTERS)
    (folder / "convert.py").write_text(CONVERT)
    (folder / "bin").mkdir()
    headway = f'#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} -m headway "$@"\n'
    for name, text in {"ffmpeg": FFMPEG.format(python=sys.executable), "mail": MAIL, "headway": headway}.items():
        (folder / "bin" / name).write_text(text)
        (folder / "bin" / name).chmod(0o755)
    return folder


@pytest.fixture(scope="module")
async def stack(folder: Path) -> AsyncIterator[Stack]:
    """Run the system with the jobs of the page."""
    env = {"WORKER_JOBS": f"{JOBS},letters,convert", "PYTHONPATH": str(folder), "GRACE_S": "0", "DRAIN_S": "0"}
    async with running(folder / "state", PATH=f"{folder / 'bin'}:{os.environ['PATH']}", **env) as stack:
        yield stack


async def run(stack: Stack, folder: Path, script: str) -> tuple[int, str]:
    """Run a script as cron does; return its exit code and its output."""
    env = {**os.environ, "PATH": f"{folder / 'bin'}:{os.environ['PATH']}", "HEADWAY_URL": stack.url}
    completed = await asyncio.to_thread(
        subprocess.run, ["sh", "-c", script], cwd=folder, env=env, capture_output=True, text=True, timeout=PATIENCE_S
    )
    return completed.returncode, completed.stdout + completed.stderr


async def submitted_id(stack: Stack, folder: Path, script: str) -> UUID:
    """Run a script that prints the link to a job, and return the job's id."""
    code, output = await run(stack, folder, script)
    assert code == 0, output
    return Link.parse(output).id


def convert(source: str, target: Path) -> dict[str, Any]:
    """Return the payload of the job `convert`."""
    return {"source": source, "target": str(target), "duration_s": 10}


async def test_program_reports_its_progress(stack: Stack, tmp_path: Path) -> None:
    """The job shows the position in the video, and succeeds with the program."""
    snapshots = await history_from_start(stack, "convert", convert("short", tmp_path / "target"))
    assert snapshots[-1]["status"] == "succeeded"
    percents = [job["progress"]["percent"] for job in snapshots if job["progress"]]
    assert len(percents) > 1
    assert percents == sorted(percents)
    assert percents[-1] == 100


async def test_failed_program_fails_the_job(stack: Stack, tmp_path: Path) -> None:
    """If the program exits with an error, the job fails with a message for its watchers."""
    payload = {**convert("broken", tmp_path), "duration_s": 1000}
    end = await run_to_end(stack, "convert", payload)
    assert (end["status"], end["attempt"]) == ("failed", 1)
    assert end["error"] == {"type": "Fail", "message": "ffmpeg cannot convert this file."}


@pytest.mark.parametrize("source", ["endless", "stubborn"])
async def test_cancelled_job_ends_the_program(stack: Stack, tmp_path: Path, source: str) -> None:
    """The program gets SIGTERM, and SIGKILL if it ignores that; the job is `cancelled` when the program has ended."""
    target = tmp_path / "target"
    receipt = await stack.submit("convert", convert(source, target))
    pid = await wait_until(lambda: read_pid(target))
    await stack.cancel(receipt)
    await watch_until(stack, receipt, "cancelled")
    await wait_until(lambda: not is_running(pid))
    assert target.exists() == (source == "endless")


def read_pid(target: Path) -> int | None:
    """Return the process ID of the program that writes a target, None before its start."""
    with suppress(FileNotFoundError, ValueError):
        return int(target.with_name(f"{target.name}.pid").read_text())
    return None


async def test_crontab_submits_once_a_night(stack: Stack, folder: Path) -> None:
    """Two machines run the line of the crontab, and one job runs; the next night it is another job."""
    minute, hour, *every, command = CRONTAB.strip().split(maxsplit=5)
    assert (minute, hour, every) == ("0", "3", ["*", "*", "*"])
    readers = folder / "readers.json"
    readers.write_text('{"to": ["Ada"]}')
    assert command.endswith(" >/dev/null")
    command = command.removesuffix(" >/dev/null").replace("\\%", "%").replace("/srv/readers.json", str(readers))
    first, again = [await submitted_id(stack, folder, command) for _ in range(2)]
    assert first == again != await submitted_id(stack, folder, command.replace("$(date +%F)", "2026-01-01"))


async def test_crontab_reports_a_failed_submission(stack: Stack, folder: Path) -> None:
    """If the submission fails, the command exits with an error and prints the reason."""
    command = CRONTAB.strip().split(maxsplit=5)[-1].replace("\\%", "%")
    code, output = await run(stack, folder, command)
    assert code == 2
    assert "readers.json" in output


async def test_cron_job_submits(stack: Stack, folder: Path) -> None:
    """The container's command submits the job; a repeated pod gets the same job."""
    (container,) = CRON_JOB["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"]
    assert container["command"] == ["sh", "-c"]
    assert {variable["name"] for variable in container["env"]} == {"HEADWAY_URL", "HEADWAY_API_KEY"}
    (script,) = container["args"]
    (folder / "readers.json").write_text('{"to": ["Ada", "Ben"]}')
    assert script.endswith(" >/dev/null")
    script = script.removesuffix(" >/dev/null").replace("/etc/letters/readers.json", str(folder / "readers.json"))
    first, again = [await submitted_id(stack, folder, script) for _ in range(2)]
    assert first == again


async def test_script_sends_a_mail_if_the_job_fails(stack: Stack, folder: Path) -> None:
    """There is no mail for a job that succeeds; the mail about a failed job has its error."""
    (folder / "readers.json").write_text('{"to": ["Ada"]}')
    assert await run(stack, folder, ON_FAILURE) == (0, "")
    assert not (folder / "mail.txt").exists()
    (folder / "readers.json").write_text('{"to": 1}')
    assert await run(stack, folder, ON_FAILURE) == (0, "")
    subject, address, *log = (folder / "mail.txt").read_text().splitlines()[1:]
    assert (subject, address) == ("The letters were not sent", "ops@example.org")
    assert "failed, InvalidPayload: Expected `array`, got `int` - at `$.to`" in log[-1]


async def test_app_gets_the_error_of_a_failed_job(stack: Stack) -> None:
    """The function passes on the error of a failed job with its link, and nothing for other outcomes."""
    notices: list[str] = []
    module = ModuleType("app")
    vars(module)["notify"] = notices.append
    exec(REPORT_FAILURE, vars(module))
    receipts = [await stack.submit("letters", payload) for payload in ({"to": ["Ada"]}, {"to": 1})]
    cancelled = await stack.submit("letters", {"to": ["Ada"]}, delay_s=60)
    await stack.cancel(cancelled)

    def report_all() -> None:
        with SyncClient(stack.url) as client:
            for receipt in (*receipts, cancelled):
                vars(module)["report_failure"](client, receipt["links"]["page"])

    await asyncio.to_thread(report_all)
    link = receipts[1]["links"]["page"]
    assert notices == [f"InvalidPayload: Expected `array`, got `int` - at `$.to`\n{link}"]
