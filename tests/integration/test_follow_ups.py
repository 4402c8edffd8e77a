"""Follow-up jobs in the whole system: each end is followed once, whichever service is killed, and the docs' recipes.

Long form, with 200 ends: LONG=1 make test ARGS=tests/integration/test_follow_ups.py
"""

from __future__ import annotations

import asyncio
import hmac
import os
import signal
import subprocess
import sys
import time
from base64 import b64decode, b64encode
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from email import message_from_bytes
from email.message import Message
from pathlib import Path
from typing import Any
from uuid import UUID, uuid5

import msgspec
import pytest
from aiohttp import web

from dev.environment import ROOT
from headway.azure.job_queue import JobQueue
from services.worker.follow_ups import NAMESPACE
from tests.documents import Document
from tests.integration.handler_log import LOG_VARIABLE, HandlerLog
from tests.integration.http_proxy import NONE, HttpProxy, http_proxy
from tests.stack import ENDED, JOBS, Stack, running
from tests.waiting import free_ports, wait_until
from tests.web_server import serve

DOC = Document("docs/when-a-job-ends.md")
FOLLOWED, BY_CLIENT, WEBHOOK, MAIL = (text for _, text in DOC.examples("python"))
((_, BY_COMMAND),) = DOC.examples("sh")
SECRET = b64encode(bytes(range(32))).decode()
COUNTDOWN = {"steps": 1, "delay_s": 0}

AWAY = "502"
WAVES = 10 if os.environ.get("LONG") == "1" else 1
PLANS = [("succeed", "succeeded"), ("fail", "failed"), ("crash", "failed"), ("wait", "cancelled")] * 5  # and their ends
WAVE_END_S = 2.5  # until the last end of a wave
KILLED = ["worker", "submitter", "notifier"]
KILL_INTERVAL_S = 0.7  # in which a service starts again
WAVE_S = 10.5  # `make up` ends if one of its processes dies three times in ten seconds


class Receiver:
    """The receiver of webhooks: it keeps the requests, refuses the first one of each job that is named `flaky`."""

    def __init__(self) -> None:
        self.requests: list[tuple[dict[str, str], bytes]] = []

    async def receive(self, request: web.Request) -> web.Response:
        """Handle a webhook."""
        body = await request.read()
        name = msgspec.json.decode(body)["data"].get("name")
        seen = {headers["webhook-id"] for headers, _ in self.requests}
        self.requests.append((dict(request.headers), body))
        if name == "flaky" and request.headers["webhook-id"] not in seen:
            return web.Response(status=503)
        return web.Response(status=410 if name == "gone" else 204)

    def of_job(self, name: str) -> list[tuple[dict[str, str], dict[str, Any]]]:
        """Return the headers and the events about a job; raise AssertionError if a signature is wrong."""
        found = []
        for headers, body in self.requests:
            signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
            signature = b64encode(hmac.digest(b64decode(SECRET), signed, "sha256")).decode()
            assert headers["webhook-signature"] == f"v1,{signature}"
            assert abs(int(headers["webhook-timestamp"]) - time.time()) < 300
            event = msgspec.json.decode(body)
            if event["data"].get("name") == name:
                found.append((headers, event))
        return found


class MailServer:
    """An SMTP server that keeps the messages."""

    def __init__(self) -> None:
        self.messages: list[Message] = []

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Accept messages from a client until it quits."""
        writer.write(b"220 mail.example.org\r\n")
        while (line := await reader.readline()) and not line.upper().startswith(b"QUIT"):
            if line.upper().startswith(b"DATA"):
                writer.write(b"354 go on\r\n")
                text = await reader.readuntil(b"\r\n.\r\n")
                self.messages.append(message_from_bytes(text.removesuffix(b".\r\n")))
            writer.write(b"250 OK\r\n")
        writer.write(b"221 bye\r\n")
        writer.close()


class System:
    """The running system, with a proxy between the worker and the submitter."""

    def __init__(self, stack: Stack, proxy: HttpProxy, log: Path, receiver: Receiver, mail: MailServer) -> None:
        self.stack = stack
        self.proxy = proxy
        self.receiver = receiver
        self.mail = mail
        self.killed: list[str] = []
        self._log = log

    @property
    def handler_log(self) -> HandlerLog:
        """The log of the job `note`."""
        return HandlerLog.read(self._log)

    async def follow_up(self, receipt: dict[str, Any]) -> dict[str, Any]:
        """Return the snapshot of the job that follows a job, with version 0 before it has a record."""
        job_id = str(uuid5(NAMESPACE, f"{UUID(receipt['id'])}/0"))
        async with self.stack.session.post(f"{self.stack.url}/tokens", json={"job": job_id}) as response:
            token = (await response.json())["token"]
        url = f"{self.stack.env['LIVE_URL']}/live/jobs/{job_id}"
        async with self.stack.session.get(url, headers={"Authorization": f"Bearer {token}"}) as response:
            snapshot: dict[str, Any] = (
                {"version": 0, "status": None} if response.status == 404 else await response.json()
            )
            return snapshot

    async def followed(self, receipt: dict[str, Any], *statuses: str) -> dict[str, Any]:
        """Wait until the job that follows a job has one of the statuses; return its snapshot."""
        snapshot: dict[str, Any] = {}

        async def has_status() -> bool:
            nonlocal snapshot
            snapshot = await self.follow_up(receipt)
            return snapshot["status"] in (statuses or ENDED)

        await wait_until(has_status)
        return snapshot


@pytest.fixture(scope="module")
async def system(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[System]:
    """Run the system with the jobs of the page, and a receiver of webhooks and a mail server."""
    folder = tmp_path_factory.mktemp("follow-ups")
    modules = {"followed_docs": FOLLOWED, "webhook": WEBHOOK.replace("backoff_s=5", "backoff_s=0.1"), "mail": MAIL}
    for name, text in modules.items():
        (folder / f"{name}.py").write_text(text)
    receiver, mail, log = Receiver(), MailServer(), folder / "handlers.log"
    receiver_port, submitter_port, proxy_port = free_ports(3)
    app = web.Application()
    app.add_routes([web.post("/hook", receiver.receive)])
    async with AsyncExitStack() as exits:
        await exits.enter_async_context(serve(web.AppRunner(app), receiver_port))
        server = await exits.enter_async_context(await asyncio.start_server(mail.talk, "127.0.0.1", 0))
        proxy = await exits.enter_async_context(http_proxy(proxy_port, submitter_port))
        env = {
            "WORKER_JOBS": ",".join([JOBS, "tests.integration.followed_jobs", *modules]),
            "PYTHONPATH": str(folder),
            LOG_VARIABLE: str(log),
            "SUBMITTER_INTERNAL_PORT": str(submitter_port),
            "SUBMITTER_INTERNAL_URL": f"http://127.0.0.1:{proxy_port}",
            "WEBHOOK_URL": f"http://127.0.0.1:{receiver_port}/hook",
            "WEBHOOK_SECRET": f"whsec_{SECRET}",
            "SMTP_HOST": "127.0.0.1",
            "SMTP_PORT": str(server.sockets[0].getsockname()[1]),
            "LEASE_S": "2",
            "GRACE_S": "0",
            "DRAIN_S": "0",
        }
        stack = await exits.enter_async_context(running(folder / "state", **env))
        yield System(stack, proxy, log, receiver, mail)


async def test_the_recipes_of_the_page_run(system: System) -> None:
    """A webhook is signed, repeated with the same id, and ended by a 410; an e-mail says how the job has ended."""
    names = ("flaky", "gone")
    hooks = [await system.stack.submit("countdown", COUNTDOWN, name=name, on_end="webhook") for name in names]
    mailed = await system.stack.submit("countdown", COUNTDOWN, name="March", on_end="mail", owner="user:7")
    outcomes = [await system.followed(receipt) for receipt in (*hooks, mailed)]
    assert [outcome["status"] for outcome in outcomes] == ["succeeded", "failed", "succeeded"]
    (first, event), (second, _) = system.receiver.of_job("flaky")
    assert first["webhook-id"] == second["webhook-id"] == outcomes[0]["id"]
    assert event["type"] == "job.succeeded"
    assert event["data"]["id"] == hooks[0]["id"]
    assert event["timestamp"] == event["data"]["finished_at"]
    assert len(system.receiver.of_job("gone")) == 1
    (message,) = system.mail.messages
    assert (message["Subject"], message["Message-ID"]) == ("March: succeeded", f"<{outcomes[2]['id']}@example.org>")


async def test_the_examples_of_the_page_run(system: System, tmp_path: Path) -> None:
    """The command and the client name the job that follows; the last one has the snapshot as its payload."""
    script = tmp_path / "headway"
    script.write_text(f'#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} -m headway "$@"\n')
    script.chmod(0o755)
    env = {**os.environ, "HEADWAY_URL": system.stack.url, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    commands = (
        ["sh", "-c", BY_COMMAND],
        [sys.executable, "-c", BY_CLIENT.replace("http://127.0.0.1:8080", system.stack.url)],
    )
    for command in commands:
        await asyncio.to_thread(subprocess.run, command, check=True, env=env, cwd=ROOT, stdout=subprocess.DEVNULL)
    export = await system.stack.submit("export", 2026, name="Export", owner="user:7")
    assert (await system.followed(export))["result"] == "Export has succeeded"

    async def results() -> list[str]:
        body = {"filter": {"kind": "announce"}, "scope": "list watch"}
        async with system.stack.session.post(f"{system.stack.url}/tokens", json=body) as response:
            headers = {"Authorization": f"Bearer {(await response.json())['token']}"}
        async with system.stack.session.get(f"{system.stack.env['LIVE_URL']}/live/jobs", headers=headers) as response:
            return sorted(str(job["result"]) for job in (await response.json())["jobs"])

    expected = ["Export has succeeded", *["countdown has succeeded"] * 2]
    await wait_until(lambda: _equals(results, expected))


async def _equals(read: Callable[[], Any], expected: Any) -> bool:
    return bool(await read() == expected)


async def test_a_kind_that_no_worker_has_fails_visibly(system: System) -> None:
    """The job that follows says so, and its message stays on the queue until a worker has the kind."""
    receipt = await system.stack.submit("countdown", COUNTDOWN, on_end="missing")
    snapshot = await system.followed(receipt, "retrying", "failed")
    assert snapshot["kind"] == "missing"
    assert snapshot["error"]["type"] == "UnknownKind"
    await system.stack.cancel({**receipt, **await _job_link(system, snapshot["id"])})


async def _job_link(system: System, job_id: str) -> dict[str, Any]:
    """Return the token and the link with which a job is cancelled."""
    async with system.stack.session.post(
        f"{system.stack.url}/tokens", json={"job": job_id, "scope": "watch cancel"}
    ) as response:
        token = (await response.json())["token"]
    return {"token": token, "links": {"cancel": f"{system.stack.env['LIVE_URL']}/live/jobs/{job_id}/cancel"}}


async def test_every_end_is_followed_once(system: System) -> None:
    """Worker, submitter and notifier are killed with SIGKILL while follow-up jobs are submitted.

    Each end is followed by one job. A job whose worker is killed while it runs has another attempt, as any job.
    """
    expected: dict[str, str] = {}
    for wave in range(WAVES):
        started = time.monotonic()
        expected |= await run_wave(system, AWAY if wave % 2 else NONE)
        await wait_until(lambda: len(followed_jobs(system.handler_log)) == len(expected))  # noqa: B023 - called here
        assert system.killed == KILLED * (wave + 1)
        if WAVES > 1:
            await asyncio.sleep(max(0.0, started + WAVE_S - time.monotonic()))
    async with JobQueue.connect(system.stack.env["QUEUE_CONNECTION_STRING"], "jobs") as queue:
        await wait_until(lambda: _equals(queue.count, 0))
    ends = followed_jobs(system.handler_log)
    assert {job_id: {status for _, status in followers} for job_id, followers in ends.items()} == {
        job_id: {status} for job_id, status in expected.items()
    }
    runs = Counter((entry.job_id, entry.attempt) for entry in system.handler_log.matching("of "))
    assert set(runs.values()) == {1}  # put on the queue twice, a job has two messages, each with a first attempt
    assert len({follower for follower, _ in runs}) == len(expected)
    starts = [(entry.job_id, entry.attempt) for entry in system.handler_log.matching("start")]
    assert len(starts) == len(set(starts))


async def run_wave(system: System, fault: str) -> dict[str, str]:
    """Submit jobs that end in all ways, and kill each service while they do; return how each of them will end.

    The fault is that of a request whose worker is killed: with `NONE`, the submitter accepts the job.
    """
    system.proxy.next_fault = Killer(system, fault).next_fault
    expected: dict[str, str] = {}
    for number, (plan, status) in enumerate(PLANS):
        is_delayed = plan == "wait" and number % 2 == 0
        payload, attempts = {"plan": plan, "seconds": number * WAVE_END_S / len(PLANS)}, 2 if plan == "crash" else 10
        receipt = await system.stack.submit_persistently(
            "followed", payload, delay_s=int(is_delayed), max_attempts=attempts
        )
        expected[receipt["id"]] = status
        if plan == "wait":  # before its start, or in the middle of the handler
            await system.stack.cancel_persistently(receipt)
    return expected


class Killer:
    """Kills the services one after the other, each when the worker submits a follow-up job and all services run."""

    def __init__(self, system: System, fault: str) -> None:
        self._system = system
        self._fault = fault
        self._names = list(reversed(KILLED))
        self._dead: set[int] = set()
        self._wait_until = 0.0

    def next_fault(self) -> str:
        """Return what the proxy does with a request of the worker; kill a service if it is time for that."""
        if not self._names or time.monotonic() < self._wait_until:
            return NONE
        name = self._names[-1]
        pid = self._system.stack.pid(name)
        if pid is None or pid in self._dead:
            return NONE
        os.kill(pid, signal.SIGKILL)
        self._names.pop()
        self._dead.add(pid)
        self._system.killed.append(name)
        self._wait_until = time.monotonic() + KILL_INTERVAL_S
        return self._fault if name == "worker" else NONE


def followed_jobs(log: HandlerLog) -> dict[str, set[tuple[str, str]]]:
    """Return the jobs that followed each ended job, with the status that they have seen."""
    ends: dict[str, set[tuple[str, str]]] = defaultdict(set)
    for entry in log.matching("of "):
        _, job_id, generation, status = entry.event.split()
        assert generation == "0"
        ends[job_id].add((entry.job_id, status))
    return ends
