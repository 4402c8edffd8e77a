"""The handler of appends to logs, with a store that records them."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterable
from io import BytesIO
from pathlib import Path
from typing import Any, cast

import pytest
from aiohttp import ClientResponse
from redis.exceptions import RedisError

from headway.details import MAX_APPENDS_BYTES, MAX_LOG_BYTES, LogAppend, LogVerdict
from services.notifier.logs.handler import LogHandler
from services.notifier.logs.store import LogStore
from services.runtime.settings import ReloadingFile, read_keys
from tests.unit.services.runtime.http_app import Client, read_problem, serve

KEY = "the-report-key"
JOB_ID = "6b3c2f9e-0f0a-4a57-9d0e-3d2a1f6a7b11"
APPEND: dict[str, Any] = {
    "job_id": JOB_ID, "generation": 1, "message_id": "m", "delivery": 2, "attempt": 2, "from": 7, "text": "a\n",
}  # fmt: skip


class Logs:
    """A served handler, and a store that accepts the first append and refuses the others."""

    def __init__(self, keys: Path) -> None:
        self.client: Client
        self.appended: list[LogAppend] = []
        self.failure: Exception | None = None
        self.routes = LogHandler(cast(LogStore, self), ReloadingFile(keys, read_keys)).routes()

    async def append(self, appends: Iterable[LogAppend]) -> list[LogVerdict]:
        """Record the appends; fail as a test says."""
        self.appended += appends
        if self.failure is not None:
            raise self.failure
        first, *others = self.appended
        return [LogVerdict(first.job_id, True), *(LogVerdict(each.job_id, False, "superseded") for each in others)]

    async def post(self, body: Any, key: str | None = KEY) -> ClientResponse:
        """Post appends."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        return await self.client.post("/logs", data=BytesIO(data), headers=headers)


@pytest.fixture
async def logs(tmp_path: Path) -> AsyncIterator[Logs]:
    """Serve the handler behind the middleware of every listener."""
    (tmp_path / "report.key").write_text(KEY)
    logs = Logs(tmp_path / "report.key")
    async with serve(*logs.routes) as logs.client:
        yield logs


async def test_the_answer_has_one_verdict_per_append(logs: Logs) -> None:
    """In the order of the appends; unknown fields of newer workers are ignored."""
    response = await logs.post([APPEND, {**APPEND, "from": 9, "newer": 1}])
    assert await response.json() == [
        {"job_id": JOB_ID, "accepted": True, "reason": None},
        {"job_id": JOB_ID, "accepted": False, "reason": "superseded"},
    ]
    first, second = logs.appended
    assert (first.start, first.text, first.delivery, first.generation, first.watchers) == (7, "a\n", 2, 1, False)
    assert second.start == 9


@pytest.mark.parametrize("text", ["\0", "\x1b[31mred\x1b[0m", "</script><!--", "é" * 16_384, ""])
async def test_any_text_is_accepted(logs: Logs, text: str) -> None:
    """NUL, ANSI escapes and markup are bytes like all others; clients that show them make them harmless."""
    assert (await logs.post([APPEND | {"text": text}])).status == 200
    assert logs.appended[0].text == text


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        pytest.param(b"no JSON", 400, None, id="no JSON"),
        pytest.param([APPEND, APPEND | {"text": "\ud800"}], 400, None, id="lone surrogate"),
        pytest.param(b'[{"text": "\xed\xa0\x80"}]', 400, None, id="lone surrogate as bytes"),
        pytest.param(b" " * (MAX_APPENDS_BYTES + 1), 413, None, id="more than 1 MiB"),
        pytest.param([], 422, None, id="none"),
        pytest.param([APPEND] * 501, 422, None, id="501"),
        pytest.param([APPEND, APPEND | {"job_id": "7"}], 422, "[1].job_id", id="no UUID"),
        pytest.param([APPEND | {"from": -1}], 422, "[0].from", id="negative offset"),
        pytest.param([APPEND | {"from": 2**53}], 422, "[0].from", id="huge offset"),
        pytest.param([APPEND | {"delivery": 0}], 422, "[0].delivery", id="no delivery"),
        pytest.param([APPEND | {"message_id": ""}], 422, "[0].message_id", id="no message"),
        pytest.param([APPEND | {"watchers": "yes"}], 422, "[0].watchers", id="no boolean"),
        pytest.param([APPEND | {"text": "x" * (MAX_LOG_BYTES + 1)}], 422, "[0].text", id="more than 64 KiB"),
        pytest.param([APPEND, APPEND | {"text": "é" * 32_769}], 422, "[1].text", id="more than 64 KiB in UTF-8"),
    ],
)
async def test_an_invalid_request_is_refused_as_a_whole(logs: Logs, body: Any, status: int, field: str | None) -> None:
    """The error names the element and the field."""
    response = await logs.post(body)
    problem = await read_problem(response)
    assert (response.status, problem.get("field")) == (status, field)
    assert logs.appended == []


@pytest.mark.parametrize("key", [None, "", "wrong", KEY[:-1]])
async def test_a_wrong_key_is_refused(logs: Logs, key: str | None) -> None:
    """Nothing is appended without the report key."""
    response = await logs.post([APPEND], key=key)
    assert (response.status, (await read_problem(response))["code"]) == (401, "unauthorized")
    assert logs.appended == []


@pytest.mark.parametrize("failure", [RedisError("secret"), ConnectionResetError("secret"), TimeoutError("secret")])
async def test_any_doubt_is_a_503(logs: Logs, failure: Exception) -> None:
    """The worker sends the same request again, which the script recognizes."""
    logs.failure = failure
    response = await logs.post([APPEND])
    problem = await read_problem(response)
    assert (response.status, response.headers["Retry-After"], problem["code"]) == (503, "1", "unavailable")
    assert "secret" not in problem["detail"]
