"""Lists of jobs by a list token, with a real notifier and its index."""

from __future__ import annotations

import uuid
from typing import Any

import pytest
from aiohttp import ClientWebSocketResponse
from redis.asyncio import Redis

from headway.contracts import Timestamp
from headway.grants import ListGrant
from headway.labels import JobFilter
from tests.integration.conftest import Notifier, new_id, report
from tests.waiting import wait_until

FAILED: dict[str, Any] = {"status": "failed", "error": {"type": "Oops", "message": "Not found\nat line 7"}}
HIDDEN: dict[str, Any] = {"status": "failed", "error": {"type": "InternalError", "message": "It failed unexpectedly."}}


class Owners:
    """The jobs of some owners on a running notifier; each test has owners of its own."""

    def __init__(self, notifier: Notifier) -> None:
        self.notifier = notifier
        self.suffix = uuid.uuid4().hex[:8]
        self.submitted_at = Timestamp.now()

    def name(self, owner: str) -> str:
        """Return the full name of an owner."""
        return f"{owner}-{self.suffix}"

    async def put(self, owner: str, job_id: str | None = None, sequence: int = 1, **fields: Any) -> str:
        """Report a job of an owner, and return the job's id."""
        job_id = job_id or new_id()
        labels = {"owner": self.name(owner), "tags": [f"tag-{self.suffix}"]}
        self.submitted_at = self.submitted_at.after(0.001)  # each job is submitted later than the one before
        fields = {"labels": labels, "submitted_at": str(self.submitted_at), **fields}
        (verdict,) = await self.notifier.report(report(job_id, sequence, **fields))
        assert verdict["accepted"], verdict
        return job_id

    def token(self, owner: str | None, scope: str = "list watch cancel", **fields: Any) -> str:
        """Return a token for the jobs of an owner."""
        now = Timestamp.now()
        job_filter = JobFilter(owner=None if owner is None else self.name(owner), **fields)
        return self.notifier.signer.sign(
            ListGrant(filter=job_filter, issued_at=now, expires_at=now.after(600), scope=frozenset(scope.split()))
        )

    async def get(self, path: str, token: str) -> dict[str, Any]:
        """Return the body of a response."""
        headers = {"Authorization": f"Bearer {token}"}
        async with self.notifier.session.get(f"{self.notifier.public}{path}", headers=headers) as response:
            body: dict[str, Any] = await response.json(content_type=None)
            return body

    async def ids(self, query: str, token: str) -> list[str]:
        """Return the ids of all pages of a list."""
        found, cursor = [], ""
        while True:
            body = await self.get(f"/live/jobs?limit=2{query}{cursor}", token)
            found += [job["id"] for job in body["jobs"]]
            if body["next"] is None:
                return found
            cursor = f"&cursor={body['next']}"


@pytest.fixture
def owners(notifier: Notifier) -> Owners:
    """Return owners without jobs."""
    return Owners(notifier)


async def test_an_owner_lists_only_their_own_jobs(owners: Owners) -> None:
    """In pages, by status, and grouped by their failures; no parameter shows more than the token allows."""
    running = [await owners.put("anna") for _ in range(3)]
    failed = [await owners.put("anna", **FAILED) for _ in range(2)]
    others = [await owners.put("bert"), await owners.put("bert", **FAILED)]
    anna, details = owners.token("anna"), owners.token("anna", "list details")
    assert await owners.ids("", anna) == [*reversed(failed), *reversed(running)]
    assert await owners.ids("&status=running", anna) == running[::-1]
    assert sorted(await owners.ids("&status=failed", anna)) == sorted(failed)
    tag = f"tag-{owners.suffix}"
    everyone = owners.token(None, "list watch", tag=tag)
    assert await owners.ids("", everyone) == [*reversed(others), *reversed(failed), *reversed(running)]
    assert await owners.ids(f"&owner={owners.name('bert')}", everyone) == others[::-1]
    refused = await owners.get(f"/live/jobs?owner={owners.name('bert')}", anna)
    assert (refused["status"], refused["code"], refused["field"]) == (403, "forbidden", "owner")
    page = await owners.get("/live/jobs?limit=2", anna)
    for token, altered in ((anna, page["next"][:-1] + "_"), (anna, "x"), (everyone, page["next"])):
        body = await owners.get(f"/live/jobs?limit=2&cursor={altered}", token)
        assert (body["status"], body["code"], body["field"]) == (422, "invalid", "cursor")
    (group,) = (await owners.get("/live/failures", details))["groups"]
    assert (group["kind"], group["error_type"], group["message"]) == ("k", "Oops", "Not found")
    assert (group["count"], sorted(group["jobs"])) == (2, sorted(failed))
    every = owners.token(None, "list details", tag=tag)
    berts = f"owner={owners.name('bert')}"
    for query, counts in (("", [3]), (berts, [1]), ("kind=other", []), ("error_type=Oops", [3])):
        groups = (await owners.get(f"/live/failures?until=2100-01-01T00:00:00Z&{query}", every))["groups"]
        assert [one["count"] for one in groups] == counts
    for query, field in (("status=failed", "status"), ("limit=1", "limit"), ("until=x", "until")):
        body = await owners.get(f"/live/failures?{query}", details)
        assert (body["status"], body["field"]) == (422, field)
    element = (await owners.get("/live/jobs", details))["jobs"][0]
    assert (element["job"]["id"], element["error_type"]) == (failed[1], "Oops")
    assert element["labels"] == {"owner": owners.name("anna"), "tags": [tag]}


async def test_only_details_have_the_true_error(owners: Owners) -> None:
    """Lists, failures and details show it to operators; the snapshot of every transport hides it."""
    trace, secret = "line 7 in send", "the zip of Ann"
    error, message = {"type": "KeyError", "message": f"{secret}\nsecond line"}, "eyJpZCI6IjEiLCJwYXlsb2FkIjo3fQ=="
    job = await owners.put("anna")
    await owners.put(
        "anna", sequence=2, job_id=job, **HIDDEN, details={"error": error, "traceback": trace, "message": message}
    )
    operator, user = owners.token("anna", "list watch details"), owners.token("anna")
    listed = await owners.get("/live/jobs?status=failed&error_type=KeyError", operator)
    assert [(one["job"]["id"], one["error_type"]) for one in listed["jobs"]] == [(job, "KeyError")]
    (group,) = (await owners.get("/live/failures", operator))["groups"]
    assert (group["error_type"], group["message"], group["jobs"]) == ("KeyError", secret, [job])
    details = await owners.get(f"/live/jobs/{job}/details", operator)
    assert details["error"] == {**error, "traceback": trace}
    assert (details["kept"], details["payload"], len(details["attempts"])) == (True, None, 1)
    assert (await owners.get(f"/live/jobs/{job}/details", user))["code"] == "forbidden"
    seen = [await owners.get(path, user) for path in ("/live/jobs", f"/live/jobs/{job}")]
    async with owners.notifier.socket() as socket:
        await socket.send_json({"watch": user, "job_id": job})
        seen.append(await socket.receive_json())
    assert seen[1]["error"] == HIDDEN["error"]
    assert not any(text in str(seen) for text in (secret, trace, "KeyError", message))


async def test_other_services_read_cancel_and_erase_jobs(owners: Owners) -> None:
    """With the report key, on the internal listener; a watcher sees the new version."""
    progress = {"current": 1, "message": "for Ann"}
    job, notifier = await owners.put("anna", progress=progress), owners.notifier
    headers = {"Authorization": f"Bearer {notifier.report_key}"}

    async def send(method: str, path: str) -> tuple[int, Any]:
        async with notifier.session.request(method, f"{notifier.internal}{path}", headers=headers) as response:
            return response.status, await response.json(content_type=None)

    assert (await send("DELETE", f"/jobs/{job}"))[1]["code"] == "not_ended"
    status, snapshot = await send("POST", f"/jobs/{job}/cancel")
    assert (status, snapshot["cancel_requested"]) == (202, True)
    await owners.put("anna", job, 2, status="cancelled", progress=progress, details={"message": "kept"})
    kept = (await send("GET", f"/jobs/{job}"))[1]
    assert (kept["status"], kept["message"], kept["labels"]["owner"]) == ("cancelled", "kept", owners.name("anna"))
    _, listed = await send("GET", f"/jobs?status=cancelled&owner={owners.name('anna')}")
    assert [one["job"]["id"] for one in listed["jobs"]] == [job]
    assert await send("DELETE", f"/jobs/{job}") == (204, None)
    erased = (await send("GET", f"/jobs/{job}"))[1]
    assert (erased["message"], erased["snapshot"]["progress"]["message"]) == (None, None)
    assert (kept["erased"], erased["erased"]) == (False, True)
    assert erased["snapshot"]["version"] > kept["snapshot"]["version"]


async def test_the_position_of_a_queued_job(owners: Owners) -> None:
    """It counts the waiting jobs that were submitted earlier; a running job has none."""
    first = await owners.put("anna", status="queued", submitted_at=str(Timestamp.now().after(-5)))
    second = await owners.put("bert", status="queued")
    positions = [
        (await owners.get(f"/live/jobs/{job_id}/position", owners.token(owner)))["before"]
        for owner, job_id in (("anna", first), ("bert", second))
    ]
    assert positions[1] > positions[0] >= 0
    await owners.put("anna", first, 2)
    body = await owners.get(f"/live/jobs/{first}/position", owners.token("anna"))
    assert (body["before"], set(body)) == (None, {"now", "before", "complete"})


async def receive(socket: ClientWebSocketResponse, count: int) -> list[Any]:
    """Return the next messages; of a snapshot only the id and the status."""
    messages = [await socket.receive_json() for _ in range(count)]
    return [(one["job"]["id"], one["job"]["status"]) if "job" in one else one for one in messages]


async def test_a_live_list_follows_its_owner(owners: Owners) -> None:
    """Jobs enter and leave; those that are shown are watched. Another owner's jobs stay unseen, whatever happens."""
    shown = await owners.put("anna")
    async with owners.notifier.socket() as socket:
        await socket.send_json({"list": owners.token("anna"), "filter": {"status": ["running", "queued"]}, "limit": 5})
        head, job = await receive(socket, 2)
        assert head == {"list": {"jobs": [shown], "next": None, "complete": head["list"]["complete"]}}
        assert job == (shown, "running")
        foreign = await owners.put("bert")
        entered = await owners.put("anna")
        assert await receive(socket, 2) == [{"list": {"entered": [entered], "left": []}}, (entered, "running")]
        await owners.put("anna", shown, 2, **FAILED)
        assert await receive(socket, 2) == [(shown, "failed"), {"list": {"entered": [], "left": [shown]}}]
        for job_id, code in ((foreign, "forbidden"), (new_id(), "unknown")):
            await socket.send_json({"watch": owners.token("anna"), "job_id": job_id})
            (error,) = await receive(socket, 1)
            assert (error["error"]["code"], error["error"]["job_id"]) == (code, job_id)
        await socket.send_json({"cancel": foreign})
        (error,) = await receive(socket, 1)
        assert error["error"]["code"] == "not_watched"
        await owners.put("bert", foreign, 2, status="succeeded")
        await socket.send_json({"cancel": entered})
        assert await receive(socket, 1) == [(entered, "running")]
        await socket.send_json({"unlist": ""})
        await wait_until(lambda: has_no_lists(owners.notifier))


async def has_no_lists(notifier: Notifier) -> bool:
    """Return whether no live list is read."""
    return await notifier.metric("notifier_live_list_queries") == 0


async def test_a_rebuilt_record_is_closed_to_its_former_owner(owners: Owners, stores: dict[str, str]) -> None:
    """A client that watches a job by a list token gets nothing of the new owner's."""
    job_id = await owners.put("anna")
    async with Redis.from_url(stores["REDIS_URL"]) as redis, owners.notifier.socket() as socket:
        await socket.send_json({"watch": owners.token("anna"), "job_id": job_id})
        assert await receive(socket, 1) == [(job_id, "running")]
        await redis.delete(f"headway:job:{{{job_id}}}")
        for sequence in range(2, 6):
            await owners.put("bert", job_id, sequence)
        (error,) = await receive(socket, 1)
        assert (error["error"]["code"], error["error"]["job_id"]) == ("forbidden", job_id)
