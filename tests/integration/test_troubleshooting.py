"""The messages and commands of docs/troubleshooting.md, each caused as the page says."""

from __future__ import annotations

import asyncio
import os
import re
import socket
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from dev.environment import ROOT, service
from headway.client import Client, Unreachable
from headway.contracts import Timestamp
from headway.tokens import Grant, TokenSigner, make_keys
from tests.documents import Document
from tests.integration.test_one_job import history
from tests.stack import Stack, running
from tests.waiting import PATIENCE_S, free_ports, wait_until

DOC = Document("docs/troubleshooting.md")
MESSAGES = DOC.examples("text")
JOBS = (ROOT / "examples/app/jobs.py").read_text()
WITHOUT_UVLOOP = (
    "import sys; sys.modules['uvloop'] = None; from headway.cli.command import main; sys.exit(main(['worker']))"
)
READYZ = dict(DOC.examples("sh"))["The job stays queued"]


def is_shown(heading: str, actual: str) -> bool:
    """Return whether the page shows a message below a heading; `…` in the page stands for any text."""
    patterns = [re.escape(text.strip()).replace("…", ".*") for title, text in MESSAGES if title == heading]
    assert patterns, heading
    return any(re.fullmatch(pattern, actual.strip()) for pattern in patterns)


@pytest.fixture(scope="module")
async def stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    """Run the system with the job `letters`."""
    folder = tmp_path_factory.mktemp("troubleshooting")
    (folder / "jobs.py").write_text(JOBS)
    env = {"WORKER_JOBS": "jobs", "PYTHONPATH": str(folder), "GRACE_S": "0", "DRAIN_S": "0"}
    async with running(folder / "state", **env) as stack:
        yield stack


def headway(folder: Path, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run the `headway` command in a folder with only these variables."""
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), **env}
    command = [sys.executable, "-m", "headway", *arguments]
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=PATIENCE_S, check=False)


@asynccontextmanager
async def running_service(name: str, stack: Stack, **env: str) -> AsyncIterator[dict[str, str]]:
    """Run one more service until the block ends, with other settings and ports of its own; yield its environment."""
    ports = dict(zip((f"{name.upper()}_PORT", f"{name.upper()}_INTERNAL_PORT"), map(str, free_ports(2)), strict=True))
    env = {**os.environ, **stack.env, **ports, **env}
    log = stack.folder / "logs" / f"second-{name}.log"
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "headway", name, cwd=ROOT, env=env, stderr=output
        )
    try:
        yield env
    finally:
        process.terminate()
        await asyncio.wait_for(process.wait(), PATIENCE_S)


def test_missing_extra() -> None:
    """The command names the package that is missing and the extra that contains it."""
    completed = subprocess.run([sys.executable, "-c", WITHOUT_UVLOOP], cwd=ROOT, capture_output=True, text=True)
    assert is_shown("A package is missing", completed.stderr), completed.stderr


def test_missing_settings(tmp_path: Path) -> None:
    """A service without settings lists those that are missing, the one of the page first."""
    output = headway(tmp_path, "submitter").stderr.splitlines()
    assert is_shown("Settings are missing", "\n".join(output[:2])), output


def app_env(folder: Path) -> dict[str, str]:
    """Return the settings of examples/app/.env, and create its keys."""
    make_keys(folder / "keys")
    return dict(line.split("=", 1) for line in (ROOT / "examples/app/.env").read_text().splitlines())


def test_unimportable_jobs(tmp_path: Path) -> None:
    """A worker in another folder than the module of its jobs says that it cannot import it."""
    output = headway(tmp_path, "worker", "--jobs", "jobs", **app_env(tmp_path)).stderr
    assert is_shown("The jobs cannot be imported", output), output


def test_port_in_use(tmp_path: Path) -> None:
    """A service whose port is in use names the setting."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
        ports = {"SUBMITTER_PORT": port, "SUBMITTER_INTERNAL_PORT": "0"}
        output = headway(tmp_path, "submitter", **(app_env(tmp_path) | ports)).stderr
    assert is_shown("A port is in use", output.replace(port, "8080")), output


async def test_unreachable_submitter() -> None:
    """The error names the address of the submitter."""
    url = f"http://127.0.0.1:{free_ports(1)[0]}"
    async with Client(url, retry_for_s=0) as client:
        with pytest.raises(Unreachable) as raised:
            await client.submit("letters")
    assert is_shown("A job cannot be submitted", str(raised.value).replace(url, "http://127.0.0.1:8080"))


async def test_submission_is_rejected(stack: Stack, tmp_path: Path) -> None:
    """A caller without a key must send one; with a key it learns that the queue is unavailable."""
    keys = tmp_path / "api-keys"
    keys.write_text("the-key\n")
    queue = re.sub(
        r"QueueEndpoint=http://[^/]*",
        f"QueueEndpoint=http://127.0.0.1:{free_ports(1)[0]}",
        stack.env["QUEUE_CONNECTION_STRING"],
    )
    settings = {"SUBMITTER_OPEN": "false", "SUBMITTER_API_KEYS": str(keys), "QUEUE_CONNECTION_STRING": queue}
    async with running_service("submitter", stack, **settings) as env:
        await wait_until(lambda: service("submitter", env).is_ready())
        for headers in ({}, {"Authorization": "Bearer the-key"}):
            url = f"http://127.0.0.1:{env['SUBMITTER_PORT']}/jobs"
            async with stack.session.post(url, json={"kind": "letters"}, headers=headers) as response:
                detail = (await response.json())["detail"]
                assert is_shown("A job cannot be submitted", detail), detail


async def run_readyz(port: str) -> str:
    """Run the page's command for a worker; return its output."""
    process = await asyncio.create_subprocess_shell(
        READYZ.replace("9192", port), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    output, _ = await process.communicate()
    return output.decode()


async def test_readiness_of_the_worker(stack: Stack) -> None:
    """The command shows whether a worker runs, and whether it can reach notifier and queue."""
    symptoms = [row[0].strip("`") for row in DOC.table("The job stays queued")]
    assert symptoms == ["curl cannot connect", '"waiting_for": ["notifier and queue"]', '"ready": true']
    (closed,) = free_ports(1)
    assert "curl: (7)" in await run_readyz(str(closed))
    async with running_service("worker", stack, NOTIFIER_INTERNAL_URL=f"http://127.0.0.1:{closed}") as env:
        port = env["WORKER_INTERNAL_PORT"]

        async def is_waiting() -> bool:
            return symptoms[1] in await run_readyz(port)

        await wait_until(is_waiting)
    assert symptoms[2] in await run_readyz(stack.env["WORKER_INTERNAL_PORT"])


@pytest.mark.parametrize(
    ("heading", "kind"), [("The job says UnknownKind", "leters"), ("The job says InvalidPayload", "letters")]
)
async def test_errors_of_jobs(stack: Stack, heading: str, kind: str) -> None:
    """The job ends with the error of the page."""
    receipt = await stack.submit(kind, {"to": 1}, max_attempts=1)
    end = (await history(stack, receipt["token"]))[-1]
    error = f"{end['error']['type']}: {end['error']['message']}"
    assert is_shown(heading, error), error


async def test_poisoned_job_is_redriven(stack: Stack) -> None:
    """The commands list a job whose attempts are used up, and let it run again."""
    receipt = await stack.submit("leters", max_attempts=1)
    ((_, commands),) = [example for example in DOC.examples("sh") if example.heading == "The job failed"]
    listing, redriving = [command.split()[1:] for command in commands.splitlines()]

    async def is_listed() -> bool:
        return receipt["id"] in (await asyncio.to_thread(headway, ROOT, *listing, **stack.env)).stdout

    await wait_until(is_listed)
    redriven = await asyncio.to_thread(headway, ROOT, *redriving, **stack.env)
    assert (redriven.returncode, receipt["id"] in redriven.stdout) == (0, True)


def issue(signer: TokenSigner, *, submitted_s: float = 0, ttl_s: float = 3600, scope: str = "watch") -> tuple[str, str]:
    """Issue a token for a new job, submitted some seconds from now; return the job's id and the token."""
    job_id, submitted_at = uuid.uuid4(), Timestamp.now().after(submitted_s)
    grant = Grant(
        job_id=job_id,
        kind="letters",
        submitted_at=submitted_at,
        expires_at=submitted_at.after(ttl_s),
        scope=frozenset({scope}),
    )
    return str(job_id), signer.sign(grant)


async def problem(stack: Stack, method: str, path: str, token: str) -> Any:
    """Send a request that the notifier rejects; return its message."""
    headers = {"Authorization": f"Bearer {token}"}
    async with stack.session.request(method, f"{stack.env['LIVE_URL']}{path}", headers=headers) as response:
        assert response.status in (401, 403)
        return (await response.json())["detail"]


async def test_rejected_tokens(stack: Stack, keys: Path) -> None:
    """Each cause on the page leads to its message."""
    signer = TokenSigner((stack.folder / "keys/token.pem").read_text())
    other_signer = TokenSigner((keys / "token.pem").read_text())
    not_valid, expired, other_job, scope = [
        text.strip() for title, text in MESSAGES if title == "The token is not valid"
    ]
    job_id, token = issue(signer)
    assert (await stack.snapshot(job_id, token))["status"] == "queued"
    cases = [
        (issue(other_signer), not_valid),
        ((job_id, token[:-20]), not_valid),
        (issue(signer, submitted_s=120), not_valid),
        (issue(signer, submitted_s=-7200), expired),
        ((str(uuid.uuid4()), token), other_job),
    ]
    for (named_id, presented), message in cases:
        assert await problem(stack, "GET", f"/live/jobs/{named_id}", presented) == message
    assert await problem(stack, "POST", f"/live/jobs/{job_id}/cancel", token) == scope


async def test_tokens_are_about_as_long_as_the_page_says(stack: Stack) -> None:
    """The token in a receipt has about 400 characters."""
    assert 300 < len((await stack.submit("letters", {"to": []}))["token"]) < 450
    assert "about 400 characters" in DOC.text


async def test_commands_check_a_proxy(stack: Stack) -> None:
    """A direct connection passes both checks: the handshake, and a stream whose first line comes at once."""
    handshake, stream = [text for heading, text in DOC.examples("sh") if heading == "The bar moves late or in jumps"]
    receipt = await stack.submit("letters", {"to": ["Ada"]}, delay_s=1)
    env = {**os.environ, **stack.env, "ID": receipt["id"], "TOKEN": receipt["token"]}
    for command, first_line in ((handshake, "HTTP/1.1 101 Switching Protocols"), (stream, ": 20")):
        process = await asyncio.create_subprocess_shell(command, env=env, stdout=asyncio.subprocess.PIPE)
        output, _ = await asyncio.wait_for(process.communicate(), PATIENCE_S)
        assert output.decode().startswith(first_line)


def test_the_page_quotes_the_element() -> None:
    """The text for a lost worker is that of the element."""
    assert "*Worker lost*" in DOC.text
    assert "`Worker lost, " in (ROOT / "clients/browser/format.js").read_text()
