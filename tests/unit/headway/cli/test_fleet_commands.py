"""`headway workers` and `headway kinds` against fake services, with the methods of both clients."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from headway.client import SyncClient
from tests.unit.headway.cli.test_list_commands import NOW, headway, issued, links
from tests.unit.headway.cli.test_list_commands import _environment as _environment
from tests.unit.headway.client.conftest import _short_delays as _short_delays
from tests.unit.headway.client.conftest import services as services
from tests.unit.headway.client.fake_services import Services, list_token, respond_with

WORKER: dict[str, Any] = {
    "id": "w1", "host": "host-1\x1b", "version": "0.2.0", "queue": "jobs", "slots": 16, "running": 3,
    "kinds": ["a", "b"], "queue_depth": 40, "seen_at": str(NOW), "new": 1,
}  # fmt: skip
KIND: dict[str, Any] = {
    "kind": "letters", "schema": {"type": "object"}, "workers": 2, "rate_per_h": 41.5, "failure_share": 0.05,
    "hours": [{"hour": str(NOW), "submitted": 40, "succeeded": 37, "failed": 2, "cancelled": 1}],
    "duration_s": {"p50": 4.1, "p95": 9.84},
}  # fmt: skip
UNUSED = {"kind": "unused", "schema": None, "workers": 1, "rate_per_h": 0, "failure_share": None, "duration_s": None}


async def test_workers_are_a_table(services: Services, capsys: pytest.CaptureFixture[str]) -> None:
    """The token is for all jobs; columns are aligned, and control characters are replaced."""
    other = {**WORKER, "id": "w-2", "queue_depth": None}
    services.responses = [issued(), links(services), respond_with(200, {"now": str(NOW), "workers": [WORKER, other]})]
    assert await headway("workers") == 0
    assert json.loads(services.bodies[0]) == {"filter": {}, "scope": "list operate", "ttl_s": 3600}
    assert services.requests[-1].headers["Authorization"] == "Bearer issued"
    assert capsys.readouterr().out.splitlines() == [
        "HOST     WORKER  VERSION  QUEUE  WAITING  RUNNING  KINDS",
        "host-1   w1      0.2.0    jobs   40       3 of 16  a, b",
        "host-1   w-2     0.2.0    jobs            3 of 16  a, b",
    ]


async def test_kinds_are_a_table(services: Services, capsys: pytest.CaptureFixture[str]) -> None:
    """A number that is not known is an empty cell; JSON has the schema and the hours."""
    kinds = respond_with(200, {"now": str(NOW), "kinds": [KIND, UNUSED], "complete": True})
    services.responses = [issued(), links(services), kinds]
    assert await headway("kinds") == 0
    assert json.loads(services.bodies[0])["scope"] == "list details"
    assert capsys.readouterr().out.splitlines() == [
        "KIND     WORKERS  PER HOUR  FAILED  HALF WITHIN  95 % WITHIN",
        "letters  2        41.5      5.0 %   4.1 s        9.8 s",
        "unused   1        0.0",
    ]
    services.responses = [issued(), links(services), kinds]
    assert await headway("kinds", "--json") == 0
    assert [json.loads(line)["schema"] for line in capsys.readouterr().out.splitlines()] == [{"type": "object"}, None]


async def test_no_worker_is_a_line_on_stderr(
    services: Services, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With a list token no key is needed."""
    monkeypatch.setenv("HEADWAY_TOKEN", list_token())
    services.responses = [links(services), respond_with(200, {"now": str(NOW), "workers": []})]
    assert await headway("workers") == 0
    assert capsys.readouterr() == ("", "headway: no worker runs\n")
    assert services.requests[-1].headers["Authorization"] == f"Bearer {list_token()}"


async def test_the_sync_client_lists_both(services: Services) -> None:
    """It returns the same types."""

    def use() -> None:
        with SyncClient(services.url) as client:
            services.responses = [links(services), respond_with(200, {"workers": [WORKER]})]
            assert client.workers("token")[0].kinds == ("a", "b")
            services.responses = [links(services), respond_with(200, {"kinds": [KIND]})]
            (kind,) = client.kinds("token")
            assert kind.duration_s is not None
            assert (kind.duration_s.p95, kind.hours[0].failed) == (9.84, 2)

    await asyncio.to_thread(use)
