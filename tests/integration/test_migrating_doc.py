"""The page docs/migrating-from-signalr.md: its settings, commands and job, followed on one machine."""

from __future__ import annotations

import base64
import json
import re
import uuid
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import pytest

from headway.azure.job_queue import API_VERSION, JobQueue
from headway.contracts import Timestamp
from headway.tokens import Grant, TokenSigner
from tests.browser.new_user import Machine
from tests.documents import Document
from tests.stack import ENDED
from tests.terminal import Terminal
from tests.waiting import wait_until

PAGE = Document("docs/migrating-from-signalr.md")
((_, SETTINGS),) = PAGE.examples("ini")
NOTIFIER, REPORT, OPEN_PAGE, WORKER, WAKE, SUBMITTER, SUBMIT = (text for _, text in PAGE.examples("sh"))
((_, JOBS),) = PAGE.examples("python")
((_, MESSAGE),) = PAGE.examples("json")
CSHARP = "".join(text for _, text in PAGE.examples("csharp"))


class Reader(NamedTuple):
    """The machine of a reader, and the terminal in which the services run."""

    machine: Machine
    terminal: Terminal
    session: aiohttp.ClientSession
    queue: str

    async def type(self, commands: str) -> str:
        """Type commands of the page; return their output."""
        return await self.terminal.run(self.machine.localize(commands).replace("queue=jobs", f"queue={self.queue}"))

    async def start(self, commands: str, service: str) -> None:
        """Start a service, and wait until it is ready."""
        await self.type(commands)
        started = re.compile(rf"service_started.*{service}")
        await wait_until(lambda: started.search(self.terminal.log.read_text()))

    async def snapshot(self, job_id: str) -> dict[str, Any]:
        """Return the snapshot of a job."""
        now = Timestamp.now()
        grant = Grant(
            job_id=uuid.UUID(job_id), kind="", submitted_at=now, expires_at=now.after(60), scope=frozenset({"watch"})
        )
        token = TokenSigner((self.machine.letters / "keys/token.pem").read_text()).sign(grant)
        url = f"{self.machine.url('8081')}/live/jobs/{job_id}"
        async with self.session.get(url, headers={"Authorization": f"Bearer {token}"}) as response:
            snapshot: dict[str, Any] = await response.json()
            return snapshot

    async def wait_for_end(self, job_id: str) -> dict[str, Any]:
        """Wait until a job has ended; return its snapshot."""

        async def ended() -> dict[str, Any] | None:
            snapshot = await self.snapshot(job_id)
            return snapshot if snapshot["status"] in ENDED else None

        snapshot: dict[str, Any] = await wait_until(ended, poll_s=0.1)
        return snapshot

    def open_queue(self) -> AbstractAsyncContextManager[JobQueue]:
        """Open the queue, as the site and the WebJob do."""
        connection = self.machine.localize("UseDevelopmentStorage=true").strip("'")
        return JobQueue.connect(connection, self.queue, API_VERSION)

    async def send(self, *texts: str) -> None:
        """Put messages on the queue as the site does."""
        async with self.open_queue() as queue:
            for text in texts:
                await queue.send(base64.b64encode(text.encode()).decode())

    async def run_dying_webjob(self, job_id: str) -> None:
        """Receive the message of a job, report 40 %, and do no more, so that the queue delivers it again."""
        async with self.open_queue() as queue:
            assert await queue.receive(1, 1)
        assert json.loads(await self.type(f"ID={job_id}\n{REPORT.splitlines()[-1]}"))["accepted"]


@pytest.fixture
async def reader(stores: dict[str, str], tmp_path: Path) -> AsyncIterator[Reader]:
    """Return a reader who has installed Headway and saved the settings and the job."""
    machine = Machine(tmp_path, stores)
    machine.letters.mkdir()
    queue = f"exports-{uuid.uuid4().hex[:8]}"
    settings = f"{SETTINGS.replace('QUEUE_NAME=jobs', f'QUEUE_NAME={queue}')}SUBMITTER_PORT=8080\nNOTIFIER_PORT=8081\n"
    (machine.letters / ".env").write_text(machine.localize(settings))
    (machine.letters / "exports.py").write_text(JOBS)
    async with aiohttp.ClientSession() as session, machine.installed_terminal("services") as terminal:
        yield Reader(machine, terminal, session, queue)


async def test_each_step_works(reader: Reader) -> None:
    """Reports are shown, messages of the site run, also one that a WebJob has lost, and jobs for the submitter do."""
    await reader.start(NOTIFIER, "notifier")
    assert json.loads(await reader.type(REPORT))["accepted"]
    job_id = (await reader.type("echo $ID")).strip()
    assert (await reader.snapshot(job_id))["progress"]["percent"] == 40
    link, verdict = (await reader.type(OPEN_PAGE)).splitlines()
    assert (link.endswith(job_id), json.loads(verdict)["accepted"]) == (True, True)
    assert (await reader.snapshot(job_id))["progress"]["percent"] == 60
    message, lone_id, lost_id = json.loads(MESSAGE), str(uuid.uuid4()), str(uuid.uuid4())
    await reader.send(json.dumps(lost_id))
    await reader.run_dying_webjob(lost_id)
    await reader.start(WORKER, "worker")
    await reader.send(MESSAGE, json.dumps(lone_id))
    await reader.type(WAKE)
    for id_, kind, attempt in (
        (message["id"], message["kind"], 1),
        (lone_id, "countdown", 1),
        (lost_id, "countdown", 2),
    ):
        end = await reader.wait_for_end(id_)
        assert (end["kind"], end["status"], end["attempt"]) == (kind, "succeeded", attempt)
    await reader.start(SUBMITTER, "submitter")
    receipt = json.loads(await reader.type(SUBMIT))
    assert (await reader.wait_for_end(receipt["id"]))["status"] == "succeeded"


def test_csharp_and_json_agree() -> None:
    """The code of the site writes the message that the page shows, and the address is that of the reports."""
    message = json.loads(MESSAGE)
    file = message["payload"]["file"]
    body = f'kind = "{message["kind"]}", payload = new {{ file = "{file}" }} }}'
    assert CSHARP.count(body) == 2
    assert f"new {{ id = jobId, {body}" in CSHARP
    assert '"?jobId={0}&progress={1}"' in CSHARP
    assert uuid.UUID(message["id"]).version == 4
