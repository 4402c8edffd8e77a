"""The workers and the kinds of jobs, as operators see them, with a real notifier."""

from __future__ import annotations

import uuid
from types import SimpleNamespace
from typing import Any, cast

import pytest
from redis.asyncio import Redis

from headway.contracts import Timestamp, decode, encode
from headway.details import WorkerInfo
from headway.grants import ListGrant
from headway.labels import JobFilter
from services.notifier.fleet import kinds as kinds_module
from services.notifier.fleet import workers as workers_module
from services.notifier.fleet.workers import IDS_KEY, TTL_MS, WorkerStore
from services.notifier.records.clock import RedisClock
from services.notifier.redis_client.url import redis_from_url
from tests.integration.conftest import Notifier, new_id, report
from tests.waiting import wait_until

SCHEMA = {"type": "object", "properties": {"count": {"type": "integer"}}}


def token(notifier: Notifier, scope: str, **job_filter: str) -> str:
    """Return a list token."""
    now = Timestamp.now()
    return notifier.signer.sign(
        ListGrant(
            filter=JobFilter(**job_filter), issued_at=now, expires_at=now.after(600), scope=frozenset(scope.split())
        )
    )


async def get(notifier: Notifier, path: str, scope: str, **job_filter: str) -> tuple[int, dict[str, Any]]:
    """Return the status and the body of a response."""
    headers = {"Authorization": f"Bearer {token(notifier, scope, **job_filter)}"}
    async with notifier.session.get(f"{notifier.public}{path}", headers=headers) as response:
        return response.status, await response.json(content_type=None)


def worker(worker_id: str, **fields: Any) -> dict[str, Any]:
    """Return a worker as it posts itself."""
    return {
        "id": worker_id,
        "host": "host-1",
        "version": "0.2.0",
        "queue": f"jobs-{worker_id}",
        "slots": 16,
        "running": 3,
        "kinds": [{"kind": f"letters-{worker_id}", "schema": SCHEMA}, {"kind": "import", "schema": None}],
        "queue_depth": 40,
        **fields,
    }


async def post(notifier: Notifier, body: Any) -> tuple[int, Any]:
    """Post a worker; return the status and the body of the response."""
    headers = {"Authorization": f"Bearer {notifier.report_key}"}
    async with notifier.session.post(f"{notifier.internal}/workers", json=body, headers=headers) as response:
        return response.status, None if response.status == 204 else await response.json(content_type=None)


async def test_workers_are_listed_until_they_fall_silent(notifier: Notifier, admin: Redis) -> None:
    """The list has what a worker has posted last, and a worker whose key has expired is gone."""
    first, second = uuid.uuid4().hex, uuid.uuid4().hex
    await admin.delete(IDS_KEY)
    for body in (worker(first), worker(second, queue_depth=None), worker(first, running=5, queue_depth=7)):
        assert await post(notifier, body) == (204, None)
    status, body = await get(notifier, "/live/workers", "list operate")
    listed = {each["id"]: each for each in body["workers"]}
    assert status == 200
    assert listed[first] == {
        **worker(first, running=5, queue_depth=7),
        "kinds": [f"letters-{first}", "import"],
        "seen_at": listed[first]["seen_at"],
    }
    await wait_until(lambda: queue_has(notifier, 7))
    key = f"headway:workers:{{{first}}}"
    assert 0 < await admin.pttl(key) <= TTL_MS
    await admin.delete(key)
    _, body = await get(notifier, "/live/workers", "list operate")
    assert [each["id"] for each in body["workers"]] == [second]


async def queue_has(notifier: Notifier, count: int) -> bool:
    """Return whether lists show this length of the queue."""
    return bool((await get(notifier, "/live/jobs", "list"))[1]["about"]["queue"] == count)


async def test_newest_workers_are_kept(stores: dict[str, str], admin: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many workers start and end, their ids occupy little memory. The schema of a kind is read once."""
    monkeypatch.setattr(workers_module, "MAX_WORKERS", 3)
    now = Timestamp.now()
    async with redis_from_url(stores["REDIS_URL"]) as client:
        store = WorkerStore(client, cast(RedisClock, SimpleNamespace(now=lambda: now)))
        for number in range(5):
            now = Timestamp(now + 1)
            body = worker(f"worker-{number}", kinds=[{"kind": "import", "schema": SCHEMA}])
            await store.put(decode(encode(body), WorkerInfo))
        assert await admin.zcard(IDS_KEY) == 3
        found = await store.read()
        assert [each.info.id for each in found] == ["worker-2", "worker-3", "worker-4"]
        executed: list[Any] = []
        execute = client.execute

        def recorded(commands: Any) -> Any:
            executed.extend(commands)
            return execute(commands)

        monkeypatch.setattr(client, "execute", recorded)
        schemas = await store.read_schemas(found)
        assert {kind: decode(bytes(schema), dict) for kind, schema in schemas.items()} == {"import": SCHEMA}
        assert len(executed) == 1
        now = Timestamp(now + TTL_MS + 1)
        assert await store.read() == []


async def test_damaged_workers_are_left_out(notifier: Notifier, admin: Redis) -> None:
    """What another program has written to the keys of workers is not shown, and ends no request."""
    foreign, damaged = uuid.uuid4().hex, uuid.uuid4().hex
    await admin.set(f"headway:workers:{{{foreign}}}", "text", px=TTL_MS)
    await admin.hset(f"headway:workers:{{{damaged}}}", mapping={"info": "{", "seen_ms": "x"})
    now = int(Timestamp.now())
    await admin.zadd(IDS_KEY, {foreign: now, damaged: now})
    status, body = await get(notifier, "/live/workers", "list operate")
    assert status == 200
    assert not {foreign, damaged} & {each["id"] for each in body["workers"]}


async def test_kinds_have_rates_and_durations(notifier: Notifier) -> None:
    """The hours of a kind add up to its jobs; it has the schema that a worker has posted."""
    worker_id = uuid.uuid4().hex
    kind = f"letters-{worker_id}"
    await post(notifier, worker(worker_id))
    failed = {"status": "failed", "error": {"type": "Oops", "message": "no"}}
    for fields in ({}, failed, {"status": "succeeded"}, {"status": "succeeded"}, {"status": "succeeded"}):
        job_id = new_id()
        await notifier.report(report(job_id, 1, kind=kind))
        if fields:
            await notifier.report(report(job_id, 2, kind=kind, **fields))

    async def statistics() -> dict[str, Any] | None:
        status, body = await get(notifier, "/live/kinds", "list details")
        assert status == 200
        found = next((each for each in body["kinds"] if each["kind"] == kind), None)
        return found if found and sum(hour["succeeded"] for hour in found["hours"]) == 3 else None

    found: dict[str, Any] = await wait_until(statistics)
    totals = {name: sum(hour[name] for hour in found["hours"]) for name in ("submitted", "succeeded", "failed")}
    assert totals == {"submitted": 5, "succeeded": 3, "failed": 1}
    assert len(found["hours"]) == kinds_module.HOURS
    assert (found["schema"], found["workers"], found["failure_share"]) == (SCHEMA, 1, 0.25)
    assert found["rate_per_h"] == pytest.approx(5 / 24, abs=0.01)
    assert 0 <= found["duration_s"]["p50"] <= found["duration_s"]["p95"] < 60


@pytest.mark.parametrize(
    ("path", "scope", "job_filter"),
    [
        ("/live/workers", "list details", {}),
        ("/live/workers", "list operate", {"owner": "anna"}),
        ("/live/kinds", "list operate", {}),
        ("/live/kinds", "list details", {"kind": "import"}),
    ],
)
async def test_only_operators_see_them(notifier: Notifier, path: str, scope: str, job_filter: dict[str, str]) -> None:
    """A token for some jobs, or without the scope, opens neither list."""
    status, body = await get(notifier, path, scope, **job_filter)
    assert (status, body["code"]) == (403, "forbidden")


@pytest.mark.parametrize(
    ("change", "field"),
    [({"id": ""}, "id"), ({"slots": -1}, "slots"), ({"kinds": [{"schema": {}}]}, "kinds[0].kind")],
)
async def test_invalid_worker_is_refused(notifier: Notifier, change: dict[str, Any], field: str) -> None:
    """The error names the field."""
    status, body = await post(notifier, worker("w", **change))
    assert (status, body["code"], body["field"]) == (422, "invalid", field)
