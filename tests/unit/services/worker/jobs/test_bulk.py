"""The `headway.bulk` job against a fake of the internal listeners of notifier and submitter."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4, uuid5

import pytest
from aiohttp import web

from headway import Fail, Retry
from headway.testing import run_async
from services.worker.jobs import bulk as bulk_module
from services.worker.jobs.bulk import PAGE, bulk
from services.worker.outcomes import decisive_exception
from tests.waiting import free_ports

JOB_COUNT = 2 * PAGE + 7
FILTER = {"status": ["failed"], "tag": ["a", "b"], "until": "2026-01-01T00:00:00.000Z"}


class FakeServices:
    """The internal listeners: jobs with generations, newest first, and the requests for each."""

    def __init__(self, key_file: Path) -> None:
        self.key_file, self.key = key_file, "report-key"
        self.next_key: str | None = None  # from the second page on
        key_file.write_text(self.key)
        self.list_refusal: tuple[int, str] | None = None
        self.generations: dict[UUID, int] = {uuid4(): index % 3 for index in range(JOB_COUNT)}
        self.listed = list(self.generations.items())
        self.actions: Counter[tuple[str, UUID]] = Counter()
        self.new_ids: dict[UUID, set[str]] = {}
        self.queries: list[str] = []
        self.refusals: dict[UUID, tuple[int, str]] = {}
        self.ended: set[UUID] = set()
        self.untils: set[str] = set()
        self.kinds: dict[UUID, str] = {}
        self.operators: set[str] = set()
        self.crash_after: int | None = None  # actions
        self.is_complete = [True, True, True]  # of each page

    def routes(self) -> list[web.RouteDef]:
        """Return the routes of both services."""
        return [
            web.get("/jobs", self.list),
            web.post("/jobs/{id}/redrive", self.redrive),
            web.post("/jobs/{id}/rerun", self.rerun),
            web.post("/jobs/{id}/cancel", self.cancel),
        ]

    async def list(self, request: web.Request) -> web.Response:
        """Answer with a page; the cursor is the index of its first job."""
        self._authorize(request)
        if self.list_refusal is not None:
            return _problem(*self.list_refusal)
        self.queries.append(request.query_string)
        start = int(request.query.get("cursor", 0))
        if start == PAGE and self.next_key is not None:
            self.key = self.next_key
            self.key_file.write_text(self.key)
        end = start + int(request.query["limit"])
        jobs = [
            {"job": {"id": str(id_), "generation": number, "kind": self.kinds.get(id_, "report")}}
            for id_, number in self.listed[start:end]
        ]
        following = str(end) if end < len(self.listed) else None
        return web.json_response({"jobs": jobs, "next": following, "complete": self.is_complete[start // PAGE]})

    async def redrive(self, request: web.Request) -> web.Response:
        """Redrive a job that has the generation of the body."""
        job_id, body = self._begin("redrive", request), await request.json()
        self.operators.add(body["by"])
        if body["generation"] != self.generations[job_id]:
            return _problem(409, "changed")
        self.generations[job_id] += 1
        return self._end("redrive", job_id)

    async def rerun(self, request: web.Request) -> web.Response:
        """Run a job again."""
        job_id, body = self._begin("rerun", request), await request.json()
        self.operators.add(body["by"])
        self.new_ids.setdefault(job_id, set()).add(body["id"])
        return self._end("rerun", job_id)

    async def cancel(self, request: web.Request) -> web.Response:
        """Cancel a job that has the generation of the body and has not ended."""
        job_id, body = self._begin("cancel", request), await request.json()
        self.operators.add(body["by"])
        self.untils.add(body["until"])
        if job_id in self.ended:
            return _problem(409, "ended")
        if body["generation"] != self.generations[job_id]:
            return _problem(409, "changed")
        return self._end("cancel", job_id)

    def _authorize(self, request: web.Request) -> None:
        if request.headers["Authorization"] != f"Bearer {self.key}":
            raise web.HTTPUnauthorized

    def _begin(self, action: str, request: web.Request) -> UUID:
        self._authorize(request)
        if self.crash_after is not None and sum(self.actions.values()) >= self.crash_after:
            raise web.HTTPServiceUnavailable
        return UUID(request.match_info["id"])

    def _end(self, action: str, job_id: UUID) -> web.Response:
        if job_id in self.refusals:
            return _problem(*self.refusals[job_id])
        self.actions[action, job_id] += 1
        return web.json_response({}, status=202)


def _problem(status: int, code: str) -> web.Response:
    body = json.dumps({"code": code, "detail": "no detail"}) if code else "<h1>Bad request</h1>"  # of a proxy
    return web.Response(status=status, text=body, content_type="application/problem+json")


@pytest.fixture
async def services(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[FakeServices]:
    """Run the fake services, and set the environment of a worker that uses them."""
    services = FakeServices(tmp_path / "key")
    app = web.Application()
    app.add_routes(services.routes())
    runner = web.AppRunner(app)
    await runner.setup()
    (port,) = free_ports(1)
    await web.TCPSite(runner, "127.0.0.1", port).start()
    url = f"http://127.0.0.1:{port}"
    settings = {
        "QUEUE_CONNECTION_STRING": "UseDevelopmentStorage=true",
        "NOTIFIER_INTERNAL_URL": url,
        "SUBMITTER_INTERNAL_URL": url,
        "REPORT_KEY_FILE": str(services.key_file),
    }
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(bulk_module, "MAX_PER_S", 1e6)
    monkeypatch.setattr(bulk_module, "RETRY_FOR_S", 0.0)
    yield services
    await runner.cleanup()


def request(action: str, **fields: Any) -> dict[str, Any]:
    """Return the payload of a bulk job."""
    return {"action": action, "filter": FILTER, **fields}


async def test_each_selected_job_is_redriven_once(services: FakeServices) -> None:
    """The action reaches the jobs of all pages, the bar has the total, and the filter reaches the list."""
    ran = await run_async(bulk, request("redrive", total=JOB_COUNT))
    assert services.actions == Counter({("redrive", id_): 1 for id_ in services.generations})
    assert ran.result.done == JOB_COUNT
    assert ran.result.skipped == ran.result.failed == {}
    assert ran.result.complete
    assert [(one.current, one.total) for one in ran.progress][-1] == (JOB_COUNT, JOB_COUNT)
    assert services.queries[0] == "tag=a&tag=b&until=2026-01-01T00:00:00.000Z&status=failed&limit=50"


@pytest.mark.parametrize("action", ["redrive", "rerun", "cancel"])
@pytest.mark.parametrize("crash_after", [0, 3, PAGE, PAGE + 20, 2 * PAGE + 5])
async def test_an_interrupted_action_is_continued(services: FakeServices, action: str, crash_after: int) -> None:
    """After a crash at any point, the next attempt acts on the other jobs, on none twice, and all are counted once."""
    services.crash_after, job_id = crash_after, uuid4()
    saved: list[Any] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("headway.testing.Recorder.save_checkpoint", _saver(saved))
        error = await failure_of(action, job_id)
    assert isinstance(error, Retry)
    services.crash_after = None
    ran = await run_async(bulk, request(action), checkpoint=saved[-1], job_id=job_id, attempt=2)
    assert ran.result.done + ran.result.skipped.get("changed", 0) == JOB_COUNT
    assert {id_ for _, id_ in services.actions} == set(services.generations)
    if action == "redrive":
        assert max(services.actions.values()) == 1
        assert ran.result.skipped.get("changed", 0) < PAGE
    elif action == "rerun":
        assert services.new_ids == {id_: {str(uuid5(job_id, str(id_)))} for id_ in services.generations}


async def test_list_that_lacks_jobs_is_mentioned(services: FakeServices) -> None:
    """If one of the pages may lack jobs, the result and the bar say so, also after an interruption."""
    services.is_complete[0], services.crash_after = False, PAGE + 20
    saved: list[Any] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("headway.testing.Recorder.save_checkpoint", _saver(saved))
        await failure_of("redrive", uuid4())
    services.is_complete[0], services.crash_after = True, None
    ran = await run_async(bulk, request("redrive"), checkpoint=saved[-1], attempt=2)
    assert not ran.result.complete
    assert [one.message for one in ran.progress][-1] == f"{ran.result.done} redriven{bulk_module.INCOMPLETE}"


async def failure_of(action: str, job_id: UUID) -> BaseException:
    """Return the exception that decides the outcome of an attempt that fails."""
    with pytest.raises(Exception) as caught:  # noqa: PT011 - often a group
        await run_async(bulk, request(action), job_id=job_id)
    return decisive_exception(caught.value)


def _saver(saved: list[Any]) -> Any:
    async def save(_recorder: object, checkpoint: Any) -> None:
        saved.append(json.loads(bytes(checkpoint)))

    return save


async def test_a_second_action_changes_nothing(services: FakeServices) -> None:
    """A double click runs two actions: the second one skips the jobs that the first one has redriven."""
    await run_async(bulk, request("redrive"))
    ran = await run_async(bulk, request("redrive"))
    assert max(services.actions.values()) == 1
    assert (ran.result.done, ran.result.skipped) == (0, {"changed": JOB_COUNT})


@pytest.mark.parametrize("action", ["redrive", "rerun", "cancel"])
async def test_actions_have_the_name_of_the_operator(services: FakeServices, action: str) -> None:
    """The submitter logs who asked for the action."""
    await run_async(bulk, request(action, by="alice"))
    assert services.operators == {"alice"}


async def test_jobs_that_have_changed_are_not_cancelled(services: FakeServices) -> None:
    """A job that has ended, or was redriven since the list was read, is skipped; the notifier knows the time, too."""
    first, second = list(services.generations)[:2]
    services.ended.add(first)
    services.generations[second] += 1
    ran = await run_async(bulk, request("cancel"))
    assert (ran.result.done, ran.result.skipped) == (JOB_COUNT - 2, {"ended": 1, "changed": 1})
    assert services.untils == {FILTER["until"]}


@pytest.mark.parametrize(("kind", "is_left_out"), [(None, True), ("headway.bulk", False)])
async def test_bulk_actions_do_not_run_again_unless_named(
    services: FakeServices, *, kind: str | None, is_left_out: bool
) -> None:
    """An earlier action that has failed is left out, or its jobs would run again twice."""
    earlier = next(iter(services.generations))
    services.kinds[earlier] = "headway.bulk"
    body = request("rerun")
    body["filter"] = {**FILTER, **({} if kind is None else {"kind": kind})}
    ran = await run_async(bulk, body)
    assert (("rerun", earlier) not in services.actions) == is_left_out
    assert ran.result.done == JOB_COUNT - is_left_out


async def test_action_does_not_cancel_itself(services: FakeServices) -> None:
    """A request that was repeated with the same key may select the job of the first one."""
    own = next(iter(services.generations))
    ran = await run_async(bulk, request("cancel"), job_id=own)
    assert ran.result.done == JOB_COUNT - 1
    assert ("cancel", own) not in services.actions


async def test_refusals_are_counted_by_their_codes(services: FakeServices) -> None:
    """A job that cannot be run again is skipped, an unexpected refusal has failed; neither ends the action."""
    first, second = list(services.generations)[:2]
    services.refusals = {first: (409, "payload_not_kept"), second: (413, "too_large")}
    result = (await run_async(bulk, request("rerun"))).result
    assert (result.done, result.skipped, result.failed) == (JOB_COUNT - 2, {"payload_not_kept": 1}, {"too_large": 1})


async def test_report_key_is_rotated(services: FakeServices) -> None:
    """Each request has the key that the file has now. A service that does not know it yet does not end the action."""
    services.next_key = "the-next-key"
    assert (await run_async(bulk, request("rerun"))).result.done == JOB_COUNT
    services.key = "a-key-that-the-worker-does-not-have-yet"
    error = await failure_of("rerun", uuid4())
    assert isinstance(error, Retry)
    assert str(error) == bulk_module.REFUSED_KEY


@pytest.mark.parametrize(
    ("status", "code", "error_type"),
    [(422, "invalid", Fail), (422, "", Retry), (404, "not_found", Retry), (500, "internal_error", Retry)],
)
async def test_only_a_refused_filter_ends_the_action(
    services: FakeServices, status: int, code: str, error_type: type[Exception]
) -> None:
    """Any other error of the list is temporary, as that of a proxy or of a notifier of an older version."""
    services.list_refusal = (status, code)
    assert isinstance(await failure_of("cancel", uuid4()), error_type)


async def test_answer_of_a_proxy_says_nothing_about_a_job(services: FakeServices) -> None:
    """An error that is not from a service of Headway is not counted as a refusal."""
    services.refusals = {next(iter(services.generations)): (400, "")}
    assert isinstance(await failure_of("rerun", uuid4()), Retry)


async def test_missing_setting_is_named(services: FakeServices, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without SUBMITTER_INTERNAL_URL the job fails, and says why."""
    assert services.queries == []
    monkeypatch.delenv("SUBMITTER_INTERNAL_URL")
    with pytest.raises(Fail, match="SUBMITTER_INTERNAL_URL"):
        await run_async(bulk, request("cancel"))


async def test_cancellation_stops_between_two_groups(services: FakeServices) -> None:
    """A watcher may cancel the action; what is done stays done."""
    with pytest.raises(asyncio.CancelledError):
        await run_async(bulk, request("cancel"), cancel_after=2)
    assert 0 < len(services.actions) < JOB_COUNT
