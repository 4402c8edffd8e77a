"""Wake-ups: an idle worker that polls rarely starts a job at once; a lost wake-up costs only time."""

from __future__ import annotations

import asyncio
import os
import signal
import statistics
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from redis.asyncio import Redis

from dev.environment import ROOT
from headway.azure.job_queue import JobQueue
from headway.contracts import JobMessage, Json, Timestamp, encode
from headway.message_codec import encode_message
from tests.integration.conftest import Notifier, running_notifier
from tests.integration.test_one_job import API_VERSION, history
from tests.integration.test_readiness import RedisProxy
from tests.stack import JOBS, Stack, running
from tests.waiting import PATIENCE_S, free_ports, is_ready, metric, wait_until

QUIET_S = 0.5  # since the last poll: the next one is then seconds away, so that only a wake-up starts a job at once
LATE_S = 5.0  # after which a job would have been found by polling
STEP = {"steps": 1, "delay_s": 0.1}


async def wait_for_wakeup(notifier: Notifier, timeout_s: float | str = 30, **queue: str) -> int:
    """Wait for a wake-up as a worker does; return the status of the response: 200, or 204 after the timeout."""
    url, query = f"{notifier.internal}/wake", {"timeout_s": str(timeout_s), **queue}
    async with notifier.session.get(url, params=query) as response:
        return response.status


async def send_wakeup(notifier: Notifier, **queue: str) -> int:
    """Send a wake-up as a submitter does; return the status of the response."""
    async with notifier.session.post(f"{notifier.internal}/wake", params=queue) as response:
        return response.status


async def has_no_wakeup(notifier: Notifier) -> bool:
    """Return whether the replica has no unclaimed wake-up; claim it if there is one."""
    return await wait_for_wakeup(notifier, 0) == 204


@asynccontextmanager
async def waiting_workers(notifier: Notifier, count: int, **queue: str) -> AsyncIterator[list[asyncio.Task[int]]]:
    """Send requests of workers that wait for a wake-up; yield them in their order in the replica's queue."""
    await wait_until(lambda: has_no_wakeup(notifier))
    tasks: list[asyncio.Task[int]] = []
    try:
        for _ in range(count):
            before = await notifier.metric("notifier_waiting_workers")
            tasks.append(asyncio.create_task(wait_for_wakeup(notifier, **queue)))

            async def queued(before: float = before) -> bool:
                return await notifier.metric("notifier_waiting_workers") > before

            await wait_until(queued)
        yield tasks
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def test_wakeup_answers_one_worker_of_each_replica(
    notifier: Notifier, stores: dict[str, str], tmp_path: Path
) -> None:
    """Each replica answers the worker that has waited longest, no matter which replica received the wake-up."""
    async with (
        running_notifier(stores, tmp_path / "keys") as second_notifier,
        waiting_workers(notifier, 2) as first,
        waiting_workers(second_notifier, 2) as second,
    ):
        assert await send_wakeup(second_notifier) == 204
        assert [await first[0], await second[0]] == [200, 200]
        assert not first[1].done()
        assert not second[1].done()
        assert await send_wakeup(notifier) == 204
        assert [await first[1], await second[1]] == [200, 200]


async def test_workers_of_two_queues_get_their_own_wakeups(notifier: Notifier) -> None:
    """A wake-up answers a worker of its queue; one without a queue, as of version 0.1, answers any worker."""
    async with (
        waiting_workers(notifier, 2, queue="mail") as mail,
        waiting_workers(notifier, 1, queue="videos") as videos,
    ):
        assert await send_wakeup(notifier, queue="videos") == 204
        assert await videos[0] == 200
        assert not mail[0].done()
        assert await send_wakeup(notifier) == 204
        assert await mail[0] == 200
        assert not mail[1].done()
        async with waiting_workers(notifier, 1) as unnamed:
            assert await send_wakeup(notifier, queue="videos") == 204
            assert await unnamed[0] == 200
            assert not mail[1].done()
    assert await send_wakeup(notifier, queue="x" * 64) == 422


async def test_request_times_out_without_a_wakeup(notifier: Notifier) -> None:
    """A worker that gets no wake-up gets 204 after the time that it asked for."""
    await wait_until(lambda: has_no_wakeup(notifier))
    started_at = time.monotonic()
    assert await wait_for_wakeup(notifier, 0.3) == 204
    assert time.monotonic() - started_at >= 0.29


@pytest.mark.parametrize("timeout_s", ["-1", "60.1", "nan", "inf", "soon", ""])
async def test_invalid_timeout_is_rejected(notifier: Notifier, timeout_s: str) -> None:
    """A timeout that is not a number from 0 to 60 gets 422, and the error names the field."""
    url = f"{notifier.internal}/wake"
    async with notifier.session.get(url, params={"timeout_s": timeout_s}) as response:
        assert (response.status, response.content_type) == (422, "application/problem+json")
        assert (await response.json())["field"] == "timeout_s"


async def test_wakeups_are_internal(notifier: Notifier) -> None:
    """The public listener has no `/wake`."""
    for method in ("GET", "POST"):
        async with notifier.session.request(method, f"{notifier.public}/wake") as response:
            assert response.status == 404


async def test_wakeup_skips_a_disconnected_worker(notifier: Notifier) -> None:
    """A wake-up goes to the first worker that is still connected."""
    async with waiting_workers(notifier, 1) as disconnected:
        disconnected[0].cancel()
        await asyncio.wait(disconnected)
        async with waiting_workers(notifier, 1) as connected:
            assert await send_wakeup(notifier) == 204
            assert await connected[0] == 200


async def test_lost_subscription_wakes_a_worker(notifier: Notifier, admin: Redis) -> None:
    """A wake-up may have been lost with the subscription, so one waiting worker looks at the queue."""
    async with waiting_workers(notifier, 1) as waiting:
        await admin.client_kill_filter(_type="pubsub")
        assert await waiting[0] == 200


async def test_without_redis_a_replica_wakes_its_own_worker(stores: dict[str, str], tmp_path: Path) -> None:
    """The sender of the wake-up gets 503, but a worker that waits on the same replica gets the wake-up."""
    proxy = RedisProxy(stores["REDIS_URL"])
    proxied = {**stores, "REDIS_URL": f"redis://127.0.0.1:{await proxy.listen()}/0"}
    async with running_notifier(proxied, tmp_path / "keys") as notifier, waiting_workers(notifier, 1) as waiting:
        proxy.cut()
        assert await send_wakeup(notifier) == 503
        assert await waiting[0] == 200


async def test_drain_sends_workers_to_another_replica(stores: dict[str, str], tmp_path: Path) -> None:
    """Waiting workers get 204 at once; later requests get 503, and their connection is closed."""
    async with running_notifier(stores, tmp_path / "keys", DRAIN_S="8") as notifier, notifier.socket():
        async with waiting_workers(notifier, 3) as waiting:
            notifier.process.terminate()
            assert await asyncio.gather(*waiting) == [204] * 3
        async with notifier.session.get(f"{notifier.internal}/wake") as response:  # still draining: a socket is open
            assert (response.status, response.headers["Connection"]) == (503, "close")
        assert await asyncio.wait_for(notifier.process.wait(), PATIENCE_S) == 0


@pytest.fixture(scope="module")
async def stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    """Run the system for this module, with a worker that runs one job at a time."""
    env = {"WORKER_JOBS": JOBS, "WORKER_CONCURRENCY": "1", "GRACE_S": "0", "DRAIN_S": "0"}
    async with running(tmp_path_factory.mktemp("wake"), **env) as stack:
        yield stack


async def wait_until_idle(stack: Stack, internal: str) -> None:
    """Wait until a worker listens for wake-ups and its next poll is seconds away."""

    async def idle() -> bool:
        connected = await metric(stack.session, internal, "worker_hints_flow")
        polled_at = await metric(stack.session, internal, "worker_last_poll_timestamp_seconds")
        return connected == 1 and time.time() - polled_at > QUIET_S

    await wait_until(idle)


async def has_wakeups(stack: Stack, count: float) -> bool:
    """Return whether the worker has received this number of wake-ups."""
    return await stack.metric("worker_hints_total", "worker") >= count


def start_delay_s(start: dict[str, Any], since: dict[str, Any], field: str) -> float:
    """Return how long after the time in a field of the snapshot `since` a job started."""
    return (Timestamp.parse(start["started_at"]) - Timestamp.parse(since[field])) / 1000


async def test_idle_worker_starts_a_job_at_once(stack: Stack) -> None:
    """The worker polls every ten seconds, but most jobs start at once, also on a busy machine."""
    delays_s = []
    for number in range(7):
        await wait_until_idle(stack, stack.internal("worker"))
        before = await stack.metric("worker_hints_total", "worker")
        receipt = await stack.submit("echo", number)
        end = (await history(stack, receipt["token"]))[-1]
        delays_s.append(start_delay_s(end, end, "submitted_at"))
        assert await stack.metric("worker_hints_total", "worker") > before
    assert statistics.median(delays_s) < 2, delays_s


async def test_delayed_job_starts_when_it_is_due(stack: Stack) -> None:
    """The submitter sends a wake-up when the job is due, so that the job does not wait for a poll."""
    before = await stack.metric("worker_hints_total", "worker")
    receipt = await stack.submit("echo", 1, delay_s=4)
    first, *_, end = await history(stack, receipt["token"])
    assert -0.1 < start_delay_s(end, first, "due_at") < LATE_S
    await wait_until(lambda: has_wakeups(stack, before + 1))


async def test_next_attempt_starts_when_it_is_due(stack: Stack, tmp_path: Path) -> None:
    """The worker that released the message sends a wake-up when the next attempt is due."""
    marks, before = tmp_path / "marks", await stack.metric("worker_hints_total", "worker")
    receipt = await stack.submit("retry-once", [str(marks), 4])
    assert (await history(stack, receipt["token"]))[-1]["status"] == "succeeded"
    first, second = map(float, marks.read_text().splitlines())
    assert 3.9 < second - first < 4 + LATE_S
    await wait_until(lambda: has_wakeups(stack, before + 2))


async def test_killed_notifier_only_delays_a_job(stack: Stack) -> None:
    """The worker finds a job without a wake-up by polling, and listens for wake-ups again afterwards."""
    await wait_until_idle(stack, stack.internal("worker"))
    await stack.kill("notifier")
    receipt = await stack.submit("echo", 1)
    assert (await history(stack, receipt["token"]))[-1]["status"] == "succeeded"
    await wait_until_idle(stack, stack.internal("worker"))


@asynccontextmanager
async def another_worker(stack: Stack) -> AsyncIterator[str]:
    """Run an additional worker until the block ends; yield the URL of its internal listener."""
    (port,) = free_ports(1)
    settings = {"WORKER_JOBS": JOBS, "WORKER_CONCURRENCY": "1", "GRACE_S": "0", "WORKER_INTERNAL_PORT": str(port)}
    with (stack.folder / "logs" / f"worker-{port}.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "services.worker", cwd=ROOT, env={**os.environ, **stack.env, **settings}, stderr=log
        )

    try:
        await wait_until(lambda: is_ready(stack.session, f"http://127.0.0.1:{port}/readyz"))
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
    assert await asyncio.wait_for(process.wait(), PATIENCE_S) == 0


async def test_job_of_a_stopped_worker_continues_at_once(stack: Stack) -> None:
    """An idle worker continues the released job before the stopped worker has been restarted."""
    receipt = await stack.submit("countdown", {"steps": 10_000, "delay_s": 0.1})

    async def started() -> bool:
        return await stack.metric("worker_jobs_in_progress", "worker") == 1

    await wait_until(started)
    async with another_worker(stack) as second:
        await wait_until_idle(stack, second)
        pid = stack.pid("worker")
        assert pid is not None
        os.kill(pid, signal.SIGTERM)

        async def continued() -> bool:
            return await metric(stack.session, second, "worker_jobs_in_progress") == 1

        await wait_until(continued)
        await stack.cancel(receipt)
        *_, end = await history(stack, receipt["token"])
        assert (end["status"], end["attempt"]) == ("cancelled", 1)
    await stack.wait_for_restart("worker", pid)  # the next test needs it


async def test_one_wakeup_is_enough_for_a_burst(stack: Stack, tmp_path: Path) -> None:
    """After one wake-up for fifty jobs, three idle workers run jobs at once, and each runs at least ten of them."""
    done = tmp_path / "done"
    async with another_worker(stack) as second, another_worker(stack) as third:
        workers = [stack.internal("worker"), second, third]
        for internal in workers:
            await wait_until_idle(stack, internal)
        before = [await metric(stack.session, internal, "jobs_finished_total") for internal in workers]
        async with JobQueue.connect(stack.env["QUEUE_CONNECTION_STRING"], "jobs", API_VERSION) as queue:
            for kind, payload, count in (("wait-for-file", str(done), 3), ("countdown", STEP, 47)):
                messages = [JobMessage(id=uuid4(), kind=kind, payload=Json(encode(payload))) for _ in range(count)]
                await asyncio.gather(*(queue.send(encode_message(message)) for message in messages))
        async with stack.session.post(f"{stack.internal('notifier')}/wake") as response:
            assert response.status == 204
        shares: list[float] = []

        async def all_busy() -> bool:
            return all([await metric(stack.session, worker, "worker_jobs_in_progress") == 1 for worker in workers])

        await wait_until(all_busy)
        done.touch()

        async def all_done() -> bool:
            after = [await metric(stack.session, internal, "jobs_finished_total") for internal in workers]
            shares[:] = [now - then for now, then in zip(after, before, strict=True)]
            return sum(shares) == 50

        await wait_until(all_done)
        assert min(shares) >= 10
