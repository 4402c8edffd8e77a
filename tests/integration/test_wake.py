"""Wake hints: an idle worker that polls rarely starts a job at once, and without hints it starts it all the same."""

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

import pytest
from redis.asyncio import Redis

from dev.environment import ROOT
from headway.azure.job_queue import JobQueue
from headway.contracts import JobMessage, Json, Timestamp, encode_message
from tests.integration.conftest import Notifier, new_id, running_notifier
from tests.integration.test_one_job import API_VERSION, history
from tests.integration.test_readiness import RedisProxy
from tests.stack import JOBS, Stack, running
from tests.waiting import free_ports, metric, wait_until

QUIET_S = 0.5  # no poll for so long: the next one is far enough off to tell whether it was a hint


async def ask(notifier: Notifier, timeout_s: float | str = 30) -> int:
    """Ask for a hint as a worker does; return the answer's status."""
    url, query = f"{notifier.internal}/wake", {"timeout_s": str(timeout_s)}
    async with notifier.session.get(url, params=query) as response:
        return response.status


async def hint(notifier: Notifier) -> int:
    """Hint as a submitter does; return the answer's status."""
    async with notifier.session.post(f"{notifier.internal}/wake") as response:
        return response.status


async def forgotten(notifier: Notifier) -> bool:
    """Tell whether no hint is kept any more; take the one that is."""
    return await ask(notifier, 0) == 204


@asynccontextmanager
async def held(notifier: Notifier, count: int) -> AsyncIterator[list[asyncio.Task[int]]]:
    """Hold requests as workers do, in their order."""
    await wait_until(lambda: forgotten(notifier))
    tasks: list[asyncio.Task[int]] = []
    try:
        for _ in range(count):
            before = await notifier.metric("notifier_waiting_workers")
            tasks.append(asyncio.create_task(ask(notifier)))

            async def waits(before: float = before) -> bool:
                return await notifier.metric("notifier_waiting_workers") > before

            await wait_until(waits)
        yield tasks
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def test_one_hint_answers_one_request_of_each_replica(
    notifier: Notifier, stores: dict[str, str], tmp_path: Path
) -> None:
    """Whichever replica takes it, the first in each one's line is told, and the others go on waiting."""
    async with (
        running_notifier(stores, tmp_path / "keys") as other,
        held(notifier, 2) as here,
        held(other, 2) as there,
    ):
        assert await hint(other) == 204
        assert [await here[0], await there[0]] == [200, 200]
        assert not here[1].done()
        assert not there[1].done()
        assert await hint(notifier) == 204
        assert [await here[1], await there[1]] == [200, 200]


async def test_without_a_hint_the_answer_is_that_there_is_none(notifier: Notifier) -> None:
    """The time that is asked for is the time that it takes."""
    await wait_until(lambda: forgotten(notifier))
    began = time.monotonic()
    assert await ask(notifier, 0.3) == 204
    assert time.monotonic() - began >= 0.29


@pytest.mark.parametrize("timeout_s", ["-1", "60.1", "nan", "inf", "soon", ""])
async def test_a_bad_time_is_refused(notifier: Notifier, timeout_s: str) -> None:
    """What is no time up to a minute is a 422 that names the field."""
    url = f"{notifier.internal}/wake"
    async with notifier.session.get(url, params={"timeout_s": timeout_s}) as response:
        assert (response.status, response.content_type) == (422, "application/problem+json")
        assert (await response.json())["field"] == "timeout_s"


async def test_hints_are_internal(notifier: Notifier) -> None:
    """The public listener knows nothing of them."""
    for method in ("GET", "POST"):
        async with notifier.session.request(method, f"{notifier.public}/wake") as response:
            assert response.status == 404


async def test_who_has_left_eats_no_hint(notifier: Notifier) -> None:
    """A request whose sender is gone is passed over for the next one."""
    async with held(notifier, 1) as gone:
        gone[0].cancel()
        await asyncio.wait(gone)
        async with held(notifier, 1) as here:
            assert await hint(notifier) == 204
            assert await here[0] == 200


async def test_a_lost_subscription_is_a_hint(notifier: Notifier, admin: Redis) -> None:
    """Hints may have been lost with it, so one waiting worker looks."""
    async with held(notifier, 1) as waiting:
        await admin.client_kill_filter(_type="pubsub")
        assert await waiting[0] == 200


async def test_without_redis_a_replica_tells_its_own(stores: dict[str, str], tmp_path: Path) -> None:
    """The hint is answered 503, and the worker at this replica hears it all the same."""
    line = RedisProxy(stores["REDIS_URL"])
    through = {**stores, "REDIS_URL": f"redis://127.0.0.1:{await line.listen()}/0"}
    async with running_notifier(through, tmp_path / "keys") as alone, held(alone, 1) as waiting:
        line.cut()
        assert await hint(alone) == 503
        assert await waiting[0] == 200


async def test_a_drain_sends_workers_to_another_replica(stores: dict[str, str], tmp_path: Path) -> None:
    """What is held is answered at once, what comes later is refused, and both connections end."""
    async with running_notifier(stores, tmp_path / "keys", DRAIN_S="3") as notifier, notifier.socket():
        async with held(notifier, 3) as waiting:
            notifier.process.terminate()
            assert await asyncio.gather(*waiting) == [204] * 3
        async with notifier.session.get(f"{notifier.internal}/wake") as response:  # the socket is not yet closed
            assert (response.status, response.headers["Connection"]) == (503, "close")
        assert await asyncio.wait_for(notifier.process.wait(), 10) == 0


@pytest.fixture(scope="module")
async def stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    """Run the system for this module, with a worker that runs one job at a time."""
    env = {"WORKER_JOBS": JOBS, "WORKER_CONCURRENCY": "1", "GRACE_S": "0", "DRAIN_S": "0"}
    async with running(tmp_path_factory.mktemp("wake"), **env) as stack:
        yield stack


async def idle(stack: Stack, internal: str) -> None:
    """Wait until a worker hears hints, and does not poll again soon."""

    async def asleep() -> bool:
        flows = await metric(stack.session, internal, "worker_hints_flow")
        polled_at = await metric(stack.session, internal, "worker_last_poll_timestamp_seconds")
        return flows == 1 and time.time() - polled_at > QUIET_S

    await wait_until(asleep)


def late_s(job: dict[str, Any], since: str) -> float:
    """Return how long after a time of a job it was started."""
    return (Timestamp.parse(job["started_at"]) - Timestamp.parse(job[since])) / 1000


async def test_an_idle_worker_starts_a_job_at_once(stack: Stack) -> None:
    """It polls every ten seconds, and still half of the jobs start within a fraction of one."""
    found = []
    for number in range(7):
        await idle(stack, stack.internal("worker"))
        before = await stack.metric("worker_hints_total", "worker")
        receipt = await stack.submit("echo", number)
        found.append(late_s((await history(stack, receipt["token"]))[-1], "submitted_at"))
        assert await stack.metric("worker_hints_total", "worker") > before
    assert statistics.median(found) < 0.5, found


async def test_a_delayed_job_starts_when_its_time_comes(stack: Stack) -> None:
    """The submitter hints then, so nobody has to poll for it."""
    receipt = await stack.submit("echo", 1, delay_s=4)
    first, *_, end = await history(stack, receipt["token"])
    late = (Timestamp.parse(end["started_at"]) - Timestamp.parse(first["due_at"])) / 1000
    assert -0.1 < late < 1.5


async def test_another_attempt_starts_when_its_time_comes(stack: Stack, tmp_path: Path) -> None:
    """The worker that has hidden the message hints then."""
    marks = tmp_path / "marks"
    receipt = await stack.submit("retry-once", [str(marks), 4])
    assert (await history(stack, receipt["token"]))[-1]["status"] == "succeeded"
    first, second = map(float, marks.read_text().splitlines())
    assert 3.9 < second - first < 5.5


async def test_a_killed_notifier_costs_time_only(stack: Stack) -> None:
    """A job that nobody hinted at is found by polling, and hints flow again afterwards."""
    await idle(stack, stack.internal("worker"))
    await stack.kill("notifier")
    receipt = await stack.submit("echo", 1)
    assert (await history(stack, receipt["token"]))[-1]["status"] == "succeeded"
    await idle(stack, stack.internal("worker"))


@asynccontextmanager
async def another_worker(stack: Stack) -> AsyncIterator[str]:
    """Run one more worker until the block ends; yield where its internal listener is."""
    (port,) = free_ports(1)
    env = {**os.environ, **stack.env, "WORKER_CONCURRENCY": "1", "GRACE_S": "0", "WORKER_INTERNAL_PORT": str(port)}
    with (stack.folder / "logs" / f"worker-{port}.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "services.worker", cwd=ROOT, env=env, stderr=log
        )

    async def answers() -> bool:
        try:
            async with stack.session.get(f"http://127.0.0.1:{port}/readyz") as response:
                return response.status == 200
        except OSError:
            return False

    try:
        await wait_until(answers)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
    assert await asyncio.wait_for(process.wait(), 20) == 0


async def test_what_a_stopping_worker_hands_back_goes_on_at_once(stack: Stack) -> None:
    """An idle worker takes it before the stopped one is there again."""
    receipt = await stack.submit("countdown", {"steps": 100, "delay_s": 0.1})

    async def runs() -> bool:
        return await stack.metric("worker_jobs_in_progress", "worker") == 1

    await wait_until(runs)
    async with another_worker(stack) as other:
        await idle(stack, other)
        pid = stack.pid("worker")
        assert pid is not None
        os.kill(pid, signal.SIGTERM)

        async def taken() -> bool:
            return await metric(stack.session, other, "worker_jobs_in_progress") == 1

        await wait_until(taken)
        await stack.cancel(receipt)
        *_, end = await history(stack, receipt["token"])
        assert (end["status"], end["attempt"]) == ("cancelled", 1)


async def test_one_hint_is_enough_for_a_burst(stack: Stack) -> None:
    """Of fifty jobs that somebody put on the queue, each of three idle workers takes its part at once."""
    async with another_worker(stack) as second, another_worker(stack) as third:
        workers = [stack.internal("worker"), second, third]
        for internal in workers:
            await idle(stack, internal)
        before = [await metric(stack.session, internal, "jobs_finished_total") for internal in workers]
        async with JobQueue.connect(stack.env["QUEUE_CONNECTION_STRING"], "jobs", API_VERSION) as queue:
            payload = Json(b'{"steps": 1, "delay_s": 0.1}')
            messages = [JobMessage(id=new_id(), kind="countdown", payload=payload) for _ in range(50)]  # type: ignore[arg-type]
            await asyncio.gather(*(queue.send(encode_message(message)) for message in messages))
        async with stack.session.post(f"{stack.internal('notifier')}/wake") as response:
            assert response.status == 204
        shares: list[float] = []

        async def all_done() -> bool:
            now = [await metric(stack.session, internal, "jobs_finished_total") for internal in workers]
            shares[:] = [after - start for after, start in zip(now, before, strict=True)]
            return sum(shares) == 50

        await wait_until(all_done)
        assert min(shares) >= 10
