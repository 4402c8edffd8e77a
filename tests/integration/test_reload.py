"""Code reload: a worker in development runs the author's latest code."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.test_one_job import history
from tests.stack import Stack, running
from tests.waiting import wait_until

CODE = """
from headway import JobContext, job

@job("edited")
async def edited(_ctx: JobContext, _payload: dict) -> int:
    return {}
"""


@pytest.fixture
async def stack(tmp_path: Path) -> AsyncIterator[Stack]:
    """Run the system with a package of jobs that the test changes."""
    (tmp_path / "code/edited").mkdir(parents=True)
    (tmp_path / "code/edited/__init__.py").write_text(CODE.replace("{}", "1"))
    env = {"PYTHONPATH": str(tmp_path / "code"), "WORKER_JOBS": "edited", "GRACE_S": "0"}
    async with running(tmp_path / "stack", DRAIN_S="0", **env) as stack:
        yield stack


async def result(stack: Stack, kind: str = "edited") -> Any:
    """Run a job of this kind and return its result."""
    receipt = await stack.submit(kind)
    return (await history(stack, receipt["token"]))[-1]["result"]


def write(file: Path, text: str) -> None:
    """Write a file as many editors do: write a draft, then rename it."""
    draft = file.with_suffix(".draft")
    draft.write_text(text)
    draft.replace(file)


async def test_changed_code_is_reloaded(stack: Stack, tmp_path: Path) -> None:
    """A worker keeps its process id and its jobs while modules are changed, broken, repaired and added."""
    package = tmp_path / "code/edited"
    log = stack.folder / "logs/worker.log"
    pid = stack.pid("worker")
    assert await result(stack) == 1
    running_job = await stack.submit(payload={"steps": 30, "delay_s": 0.1})

    write(package / "__init__.py", CODE.replace("{}", "2"))
    await wait_until(lambda: log.read_text().count("service_started") == 2)
    assert await result(stack) == 2

    write(package / "__init__.py", "import no_such_module\n")
    await wait_until(lambda: "No module named 'no_such_module'" in log.read_text())
    assert await result(stack) == 2

    write(package / "__init__.py", CODE.replace("{}", "3"))
    write(package / "more.py", CODE.replace("{}", "4").replace('"edited"', '"more"'))
    await wait_until(lambda: log.read_text().count("service_started") == 3)
    assert await result(stack, "more") == 4
    assert await result(stack) == 3

    end = (await history(stack, running_job["token"]))[-1]
    assert (end["status"], end["attempt"], stack.pid("worker")) == ("succeeded", 1, pid)
