"""The example examples/thumbnails: the commands of its README are executed."""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import UUID

import pytest

from dev.environment import ROOT
from headway.client.links import Link
from tests.integration.test_one_job import history
from tests.stack import Stack, running
from tests.waiting import PATIENCE_S, wait_until
from thumbnails import images

EXAMPLE = ROOT / "examples" / "thumbnails"
README = (EXAMPLE / "README.md").read_text()
PICTURES = 40
STEPS = ("Drawing", "Resizing", "Contact sheet")


@pytest.fixture(scope="module")
async def stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    """Run the system as the README does, with the example on the import path instead of installed."""
    folder = tmp_path_factory.mktemp("thumbnails")
    (line,) = re.findall(r"^(LEASE_S=.*) make up$", README, re.MULTILINE)
    settings = dict(setting.split("=") for setting in line.split())
    assert settings == {"LEASE_S": "5", "WORKER_JOBS": "thumbnails"}
    env = {**settings, "PYTHONPATH": str(EXAMPLE), "THUMBNAILS_FOLDER": str(folder / "thumbnails")}
    async with running(folder, GRACE_S="0", DRAIN_S="0", **env) as stack:
        yield stack


def block(heading: str, number: int = 0) -> str:
    """Return one of the README's shell blocks under a heading."""
    section = README.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    blocks: list[str] = re.findall(r"```sh\n(.*?)```", section, re.DOTALL)
    return blocks[number]


async def run_script(stack: Stack, script: str) -> str:
    """Run commands of the README in a shell, and return their output."""
    for documented, actual in {
        ".venv/bin/headway": f"{sys.executable} -m headway",
        "http://127.0.0.1:8080": stack.url,
        ".headway/": f"{stack.folder}/",
    }.items():
        script = script.replace(documented, actual)
    process = await asyncio.create_subprocess_exec(
        "bash", "-euo", "pipefail", "-c", script, cwd=ROOT, env={**os.environ, "HEADWAY_URL": stack.url}, stdout=PIPE
    )
    output, _ = await asyncio.wait_for(process.communicate(), PATIENCE_S)
    return output.decode()


def job_folder(stack: Stack, job_id: UUID) -> Path:
    """Return the folder that a job writes to."""
    return stack.folder / "thumbnails" / str(job_id)


def files(stack: Stack, job_id: UUID) -> dict[str, int]:
    """Return the modification time (ns) of each file of a job."""
    folder = job_folder(stack, job_id)
    return {str(file.relative_to(folder)): file.stat().st_mtime_ns for file in folder.rglob("*.*")}


async def wait_for_drawing(stack: Stack, token: str) -> None:
    """Wait until a job has drawn some of its pictures."""
    async for job in stack.watch(token):
        if job["progress"] and job["progress"]["percent"] > 5:
            assert job["progress"]["message"] == "Drawing"
            return


async def test_commands_submit_and_watch(stack: Stack) -> None:
    """The README's three submissions succeed; watchers see the steps in order, and the result has the sheet's path."""
    output = await run_script(stack, block("Run", 1))
    assert output.count("succeeded") == 2
    seen = [list(dict.fromkeys(re.findall("|".join(STEPS), watched))) for watched in output.split("succeeded")[:2]]
    for steps in seen:  # those of a short time may be coalesced with the next one
        assert steps == [step for step in STEPS if step in steps]
    assert seen[0]  # that job takes longer than two heartbeats
    receipt = json.loads(output[output.index('{"id"') :])
    end = (await history(stack, receipt["token"]))[-1]
    assert end["progress"]["percent"] == 100
    assert end["result"]["pictures"] == 10
    assert end["result"]["sheet"] == str(job_folder(stack, receipt["id"]) / "sheet.jpg")
    assert len(files(stack, receipt["id"])) == 10 + 10 + 1


async def test_next_attempt_creates_only_missing_files(stack: Stack) -> None:
    """After the worker is killed while drawing, the next attempt keeps finished files and draws with the same seed."""
    link = Link.parse(await run_script(stack, block("Kill the worker").replace("200", str(PICTURES))))
    kill, watch = block("Kill the worker", 1).splitlines()
    watching = asyncio.create_task(history(stack, link.token))
    await wait_for_drawing(stack, link.token)
    worker = stack.pid("worker")
    await run_script(stack, kill)
    await wait_until(lambda: stack.pid("worker") not in (None, worker))
    finished = {name: at for name, at in files(stack, link.id).items() if name.endswith(".jpg")}
    assert 0 < len(finished) < PICTURES

    output = await run_script(stack, f"link='{link.page}#{link.token}'\n{watch}")
    assert "succeeded" in output.splitlines()[-1]
    end = (await watching)[-1]
    assert (end["status"], end["attempt"]) == ("succeeded", 2)
    after = files(stack, link.id)
    assert {name: after[name] for name in finished} == finished
    assert len(after) == 2 * PICTURES + 1
    name = "large/000.jpg"
    images.draw(f"{end['result']['seed']} 000.jpg", 1600).save(stack.folder / "again.jpg", quality=90)
    assert (stack.folder / "again.jpg").read_bytes() == (job_folder(stack, link.id) / name).read_bytes()


async def test_cancellation_deletes_the_folder(stack: Stack) -> None:
    """When the job is `cancelled`, its folder has been deleted."""
    submit, cancel = block("Cancel it").splitlines()
    link = Link.parse(await run_script(stack, f"{submit}\necho $link"))
    await wait_for_drawing(stack, link.token)
    assert files(stack, link.id)
    await run_script(stack, f"link='{link.page}#{link.token}'\n{cancel}")
    end = (await history(stack, link.token))[-1]
    assert end["status"] == "cancelled"
    assert not job_folder(stack, link.id).exists()
