"""examples/thumbnails, the way that its README goes: its own commands are what is run here."""

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
from tests.waiting import wait_until
from thumbnails import images

EXAMPLE = ROOT / "examples" / "thumbnails"
README = (EXAMPLE / "README.md").read_text()
PICTURES = 40


@pytest.fixture(scope="module")
async def stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    """Run the system as the README has it, with the example on the path instead of installed."""
    folder = tmp_path_factory.mktemp("thumbnails")
    (line,) = re.findall(r"^(LEASE_S=.*) make up$", README, re.MULTILINE)
    settings = dict(setting.split("=") for setting in line.split())
    assert settings == {"LEASE_S": "5", "WORKER_JOBS": "services.worker.jobs,thumbnails"}
    env = {**settings, "LEASE_S": "2", "PYTHONPATH": str(EXAMPLE), "THUMBNAILS_FOLDER": str(folder / "thumbnails")}
    async with running(folder, GRACE_S="0", DRAIN_S="0", **env) as stack:
        yield stack


def block(heading: str, number: int = 0) -> str:
    """Return one of the README's blocks under a heading."""
    section = README.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    blocks: list[str] = re.findall(r"```sh\n(.*?)```", section, re.DOTALL)
    return blocks[number]


async def told(stack: Stack, script: str) -> str:
    """Run commands of the README in a shell; return what they printed."""
    for there, here in {
        ".venv/bin/headway": f"{sys.executable} -m headway",
        "http://127.0.0.1:8080": stack.url,
        ".headway/": f"{stack.folder}/",
    }.items():
        script = script.replace(there, here)
    process = await asyncio.create_subprocess_exec(
        "bash", "-euo", "pipefail", "-c", script, cwd=ROOT, env={**os.environ, "HEADWAY_URL": stack.url}, stdout=PIPE
    )
    output, _ = await asyncio.wait_for(process.communicate(), 60)
    return output.decode()


def album(stack: Stack, job_id: UUID) -> Path:
    """Return the folder of a job."""
    return stack.folder / "thumbnails" / str(job_id)


def files(stack: Stack, job_id: UUID) -> dict[str, int]:
    """Return the files of a job, and when each was written."""
    folder = album(stack, job_id)
    return {str(file.relative_to(folder)): file.stat().st_mtime_ns for file in folder.rglob("*.*")}


async def drawn(stack: Stack, token: str) -> None:
    """Wait until a job is in the midst of its drawing."""
    async for job in stack.watch(token):
        if job["progress"] and job["progress"]["percent"] > 5:
            assert job["progress"]["message"] == "Drawing"
            return


async def test_it_is_submitted_and_watched(stack: Stack) -> None:
    """All three ways of the README; the steps are seen one after the other, and the result says where the sheet is."""
    shown = await told(
        stack, block("Run", 1).replace("thumbnails --watch", "thumbnails --payload '{\"width\": 400}' --watch")
    )
    for step in ("Drawing", "Resizing", "Contact sheet", "succeeded"):
        assert shown.count(step) >= 2
    receipt = json.loads(shown[shown.index('{"id"') :])
    end = (await history(stack, receipt["token"]))[-1]
    assert end["progress"]["percent"] == 100
    assert end["result"]["pictures"] == 10
    assert end["result"]["sheet"] == str(album(stack, receipt["id"]) / "sheet.jpg")
    assert len(files(stack, receipt["id"])) == 10 + 10 + 1


async def test_after_a_kill_it_goes_on_with_what_is_missing(stack: Stack) -> None:
    """The worker is killed in mid-drawing: no file that was finished is made again, and the pictures stay a series."""
    link = Link.parse(await told(stack, block("Kill the worker").replace("200", str(PICTURES))))
    kill, watch = block("Kill the worker", 1).splitlines()
    watching = asyncio.create_task(history(stack, link.token))
    await drawn(stack, link.token)
    worker = stack.pid("worker")
    await told(stack, kill)
    await wait_until(lambda: stack.pid("worker") not in (None, worker))
    finished = {name: at for name, at in files(stack, link.id).items() if name.endswith(".jpg")}
    assert 0 < len(finished) < PICTURES

    shown = await told(stack, f"link='{link.page}#{link.token}'\n{watch}")
    assert "succeeded" in shown.splitlines()[-1]
    end = (await watching)[-1]
    assert (end["status"], end["attempt"]) == ("succeeded", 2)
    after = files(stack, link.id)
    assert {name: after[name] for name in finished} == finished
    assert len(after) == 2 * PICTURES + 1
    name = "large/000.jpg"
    images.draw(f"{end['result']['seed']} 000.jpg", 1600).save(stack.folder / "again.jpg", quality=90)
    assert (stack.folder / "again.jpg").read_bytes() == (album(stack, link.id) / name).read_bytes()


async def test_cancelled_it_leaves_nothing(stack: Stack) -> None:
    """Its folder is gone by the time that the job is `cancelled`."""
    submit, cancel = block("Cancel it").splitlines()
    link = Link.parse(await told(stack, f"{submit}\necho $link"))
    await drawn(stack, link.token)
    assert files(stack, link.id)
    await told(stack, f"link='{link.page}#{link.token}'\n{cancel}")
    end = (await history(stack, link.token))[-1]
    assert end["status"] == "cancelled"
    assert not album(stack, link.id).exists()
