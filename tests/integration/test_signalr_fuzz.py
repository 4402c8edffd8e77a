"""Fuzzing of the endpoints of SignalR: any request or frame is answered or closes its own connection, nothing else.

The notifier answers nothing with 500 and logs no errors of its own, keeps no connection or subscription, and the
watcher of another job is not disturbed.

Long form, of ten minutes: LONG=1 FUZZ_SEED=7 make test ARGS=tests/integration/test_signalr_fuzz.py
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from functools import partial

import pytest
from redis.asyncio import Redis

from tests.hub_messages import PATH as HUB_PATH
from tests.integration.conftest import Notifier, new_id
from tests.integration.fuzz_inputs import JOB_PLACEHOLDERS
from tests.integration.fuzzing import Bystander, generate, input_in_errors
from tests.integration.signalr_inputs import Session, SignalRInputs
from tests.waiting import wait_until

LONG = bool(os.environ.get("LONG"))
TOTAL_S = 600 if LONG else 3
SEED = int(os.environ.get("FUZZ_SEED") or 1)
SESSIONS = 8  # at the same time
RESPONSE_S = 0.1  # after that, a client disconnects: the response to a poll, or a stream, may take longer
pytestmark = [pytest.mark.timeout(TOTAL_S + 300), pytest.mark.parametrize("seed", [SEED], ids="FUZZ_SEED={}".format)]


@pytest.fixture(scope="module")
async def bystander(stores: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Bystander]:
    """Run a notifier with a watcher."""
    async with Bystander.running(stores, tmp_path_factory.mktemp("keys"), SIGNALR_BY_JOB_ID="true") as bystander:
        yield bystander


async def send_inputs(
    bystander: Bystander, kind: str, inputs: SignalRInputs, draw: Callable[[], list[list[bytes]]]
) -> None:
    """Send what the clients of some sessions send, all at the same time."""
    sent = []
    for _ in range(SESSIONS):
        inputs.session = await new_session(bystander, inputs)
        sent += draw()
    with input_in_errors(sent):
        await asyncio.gather(*(exchange(bystander, kind, one) for one in sent))
        await bystander.check_connected()


async def new_session(bystander: Bystander, inputs: SignalRInputs) -> Session:
    """Negotiate a connection, and report jobs."""
    notifier = bystander.notifier
    async with notifier.session.post(f"{notifier.public}{HUB_PATH}/negotiate?negotiateVersion=1") as response:
        connection = (await response.json())["connectionToken"]
    jobs, body = [new_id() for _ in JOB_PLACEHOLDERS], inputs.reports_body()
    for placeholder, job_id in zip(JOB_PLACEHOLDERS, jobs, strict=True):
        body = body.replace(placeholder.encode(), job_id.encode())
    headers = {"Authorization": f"Bearer {notifier.report_key}"}
    async with notifier.session.post(f"{notifier.internal}/reports", data=body, headers=headers) as response:
        assert response.status in {200, 400, 422}
    tokens = [notifier.token(job_id) for job_id in jobs]
    return Session(connection, jobs, [*tokens, notifier.token(jobs[0], ttl_s=-60), notifier.token(jobs[0], scope="")])


async def exchange(bystander: Bystander, kind: str, sent: list[bytes]) -> None:
    """Send a request and what follows, and disconnect after a moment; check the status of each response."""
    host, port = bystander.notifier.public.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    first, *others = sent
    received = b""
    writer.write(first)
    with suppress(ConnectionError, TimeoutError):
        async with asyncio.timeout(RESPONSE_S):
            received = await reader.readline()
            writer.writelines(others)
            while data := await reader.read(2**16):
                received += data
    writer.transport.abort()
    for status in map(int, re.findall(rb"^HTTP/1.1 (\d+)", received, re.MULTILINE)):
        bystander.counts[kind, status < 300] += 1
        assert status < 500 or status == 503


async def wait_until_left(bystander: Bystander, redis: Redis) -> None:
    """Wait until only the bystander is connected and subscribed."""
    names = ("notifier_connections", "notifier_subscriptions", "notifier_watched_jobs")
    for name in names:
        await wait_until(partial(has_one, bystander.notifier, name))
    await wait_until(partial(has_no_inbox, redis))


async def has_one(notifier: Notifier, name: str) -> bool:
    """Return whether a metric is 1."""
    return await notifier.metric(name) == 1


async def has_no_inbox(redis: Redis) -> bool:
    """Return whether no replica is subscribed to the inbox of a connection."""
    return not await redis.pubsub_channels("headway:conn:*")


@pytest.mark.parametrize("kind", ["requests", "websockets"])
async def test_any_input(bystander: Bystander, admin: Redis, seed: int, kind: str) -> None:
    """No response is a server error, and no frame ends another connection, before and after the handshake."""
    inputs = SignalRInputs(seed)
    draw = inputs.exchanges if kind == "requests" else inputs.websockets
    for sending in generate(lambda: send_inputs(bystander, kind, inputs, draw), TOTAL_S / 2):
        await sending
    await wait_until_left(bystander, admin)
