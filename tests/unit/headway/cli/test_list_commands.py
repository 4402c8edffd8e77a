"""`headway jobs` and `headway show` against fake services."""

from __future__ import annotations

import asyncio
import io
import json
import sys
from collections.abc import Iterator
from typing import Any
from uuid import UUID, uuid4

import pytest
from rich.console import Console

from headway.cli.command import main
from headway.cli.job_table import print_table
from headway.contracts import JobSnapshot, Timestamp, decode, encode
from tests.unit.headway.client.conftest import _short_delays as _short_delays
from tests.unit.headway.client.conftest import services as services
from tests.unit.headway.client.fake_services import Services, list_token, respond_with, snapshot_json, token_for

NOW = Timestamp.parse("2026-01-01T00:00:00.000Z")  # that of the snapshots of the fake services
FAILED = {"type": "ValueError", "message": "the cable\nis loose"}


@pytest.fixture(autouse=True)
def _environment(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADWAY_URL", services.url)
    monkeypatch.setenv("HEADWAY_API_KEY", "the key")
    monkeypatch.delenv("HEADWAY_TOKEN", raising=False)


def issued(token: str = "issued") -> Any:
    """Return the submitter's response with a token."""
    return respond_with(200, {"token": token, "expires_at": "2026-01-01T01:00:00.000Z"})


def links(services: Services, job_id: UUID | None = None) -> Any:
    """Return the submitter's response for a job's page."""
    return respond_with(200, {"links": {"live": f"{services.url}/live/jobs/{job_id or UUID(int=0)}"}})


def page(*jobs: dict[str, Any], following: str | None = None, complete: bool = True) -> Any:
    """Return the response with a page."""
    return respond_with(200, {"now": str(NOW), "jobs": jobs, "next": following, "complete": complete})


async def headway(*arguments: str) -> int:
    """Run the command in a thread, beside the fake services."""
    return await asyncio.to_thread(main, arguments)


async def test_jobs_are_lines(services: Services, capsys: pytest.CaptureFixture[str]) -> None:
    """The token has the narrowest filter; each job is a line without control characters."""
    running = snapshot_json(uuid4(), 2, name="October", attempt=2)
    failed = snapshot_json(uuid4(), 3, "failed", error=FAILED)
    services.responses = [issued(), links(services), page(running, failed)]
    filters = ("--owner", "user:7", "--tag", "a", "--tag", "b", "--status", "running, failed", "--attempts-min", "1")
    assert await headway("jobs", *filters, "--since", "2026-01-01T01:00:00+01:00") == 0
    assert json.loads(services.bodies[0]) == {
        "filter": {"owner": "user:7", "tag": "a"},
        "scope": "list",
        "ttl_s": 3600,
    }
    assert dict(services.requests[2].query.items() ^ {("tag", "a"), ("tag", "b")}) == {
        "owner": "user:7",
        "status": "running,failed",
        "since": str(NOW),
        "attempts_min": "1",
        "limit": "50",
    }
    output = capsys.readouterr()
    assert output.err == ""
    assert output.out.splitlines() == [
        f"k {running['id']} running, October, attempt 2 of 5",
        f"k {failed['id']} failed, ValueError: the cable is loose",
    ]


async def test_json_has_each_snapshot(services: Services, capsys: pytest.CaptureFixture[str]) -> None:
    """With an error's type, the key needs the scope `details`; what is empty is left out."""
    failed = snapshot_json(uuid4(), 3, "failed", error=FAILED)
    element = {"job": failed, "labels": {"owner": "user:7"}, "error_type": "ValueError"}
    services.responses = [issued(), links(services), page(element, failed)]
    assert await headway("jobs", "--failed", "--error-type", "ValueError", "--json") == 0
    assert json.loads(services.bodies[0]) == {"filter": {}, "scope": "list details", "ttl_s": 3600}
    detailed, plain = map(json.loads, capsys.readouterr().out.splitlines())
    assert (detailed.pop("labels"), detailed.pop("error_type")) == ({"owner": "user:7"}, "ValueError")
    assert detailed == plain
    assert failed.items() <= plain.items()
    assert not {"name", "advanced_at", "earlier_attempts", "labels", "error_type"} & plain.keys()


async def test_a_list_token_needs_no_key(
    services: Services, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It comes from the environment or from stdin; the command pages, and says what it does not show."""
    services.responses = [links(services), page(snapshot_json(uuid4(), 1), following="c", complete=False)]
    services.responses += [links(services), page(following="d"), links(services)]
    services.responses += [page(*(snapshot_json(uuid4(), 1) for _ in range(2)), following="e")]
    monkeypatch.setenv("HEADWAY_TOKEN", list_token())
    assert await headway("jobs", "--limit", "2") == 0
    assert {request.headers.get("Authorization") for request in services.requests} == {None, f"Bearer {list_token()}"}
    assert [request.query.get("cursor") for request in services.requests[1::2]] == [None, "c", "d"]
    output = capsys.readouterr()
    assert len(output.out.splitlines()) == 2
    assert output.err.splitlines() == [
        "headway: the list may lack jobs, because the index is being rebuilt",
        "headway: there are more jobs; --limit shows more than 2",
    ]
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"from stdin\n")))
    services.responses = [links(services), page()]
    assert await headway("jobs", "--token-stdin") == 0
    assert services.requests[-1].headers["Authorization"] == "Bearer from stdin"


@pytest.mark.parametrize(
    ("status", "code", "exit_code"), [(401, "unauthorized", 1), (403, "forbidden", 1), (422, "invalid", 2)]
)
async def test_a_refusal_is_one_line(
    services: Services, capsys: pytest.CaptureFixture[str], status: int, code: str, exit_code: int
) -> None:
    """An invalid filter is a usage error; the line names the field."""
    services.responses = [respond_with(status, {"code": code, "detail": "No.", "field": "filter.owner"})]
    assert await headway("jobs", "--owner", "{}") == exit_code
    assert capsys.readouterr() == ("", "headway: No. (filter.owner)\n")


async def test_an_empty_list_is_a_success(
    services: Services, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A terminal says so; a pipe gets nothing."""
    for is_terminal, errors in ((False, ""), (True, "headway: no jobs\n")):
        monkeypatch.setattr("sys.stdout.isatty", lambda is_terminal=is_terminal: is_terminal)
        services.responses = [issued(), links(services), page()]
        assert await headway("jobs", "--kind", "k") == 0
        assert capsys.readouterr() == ("", errors)


async def test_a_terminal_shows_a_table(
    services: Services, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It has a head and a row for each job."""
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("TERM", "dumb")  # no colors
    job = snapshot_json(uuid4(), 1, name="October")
    services.responses = [issued(), links(services), page(job)]
    assert await headway("jobs", "--kind", "k") == 0
    head, row = capsys.readouterr().out.splitlines()
    assert head.split() == ["STATUS", "JOB", "ID", "DONE", "SINCE", "DETAILS"]
    assert "October" in row


def table(width: int, *jobs: dict[str, Any]) -> Iterator[str]:
    """Yield the lines of a table, two hours after the times of the jobs."""
    output = io.StringIO()
    snapshots = [decode(encode(job), JobSnapshot) for job in jobs]
    print_table(snapshots, NOW.after(7200), Console(file=output, width=width, color_system=None))
    yield from map(str.rstrip, output.getvalue().splitlines())


@pytest.mark.parametrize("width", [60, 80, 120, 200])
def test_a_row_is_one_line(width: int) -> None:
    """Long names and errors are shortened; a wide terminal shows whole ids."""
    job_id = UUID("b1f6a6a0-7b7e-4c7f-9d0a-3c1c5a0e6f11")
    progress = {"current": 40, "total": 100, "percent": 40.0, "unit": "%", "message": "\x1b[2JWriting"}
    _head, failed, running, queued = table(
        width,
        snapshot_json(job_id, 1, "failed", name="October " * 20, error={"type": "E", "message": "so " * 200}),
        snapshot_json(job_id, 2, progress=progress, attempt=2, started_at=str(NOW.after(3600))),
        snapshot_json(job_id, 3, "queued", due_at=str(NOW.after(7230))),
    )
    assert max(map(len, (failed, running, queued))) <= width
    assert failed.startswith("✗ failed")
    assert "2 h" in failed
    assert failed.endswith("…")
    assert running.startswith("▸ running k ")
    assert " 40 % " in running
    assert " 60 min " in running
    assert queued.endswith("2 h in 30 s")
    assert (str(job_id) in failed) == (width >= 120)
    assert str(job_id)[:8] in failed
    assert "\x1b" not in running


async def test_everything_about_a_job_is_shown(services: Services, capsys: pytest.CaptureFixture[str]) -> None:
    """By its id, with a token that every key may have; with `--json`, as one line."""
    job_id = uuid4()
    for options in ((), ("--json",)):
        services.requests.clear()
        services.responses = [
            issued(token_for(job_id)),
            links(services, job_id),
            respond_with(200, snapshot_json(job_id, 1)),
            links(services, job_id),
            respond_with(404, "an older notifier has no details"),
        ]
        assert await headway("show", str(job_id), *options) == 0
        assert services.requests[2].headers["Authorization"] == f"Bearer {token_for(job_id)}"
    assert json.loads(services.bodies[0]) == {"filter": {}, "scope": "list details", "ttl_s": 3600}
    *text, line = capsys.readouterr().out.splitlines()
    assert text[1] == f"  id         {job_id}"
    assert json.loads(line)["version"] == 1


async def test_operators_see_details(services: Services, capsys: pytest.CaptureFixture[str]) -> None:
    """They follow the snapshot; a token that may not see details shows the snapshot alone."""
    job_id = uuid4()
    snapshot = respond_with(200, snapshot_json(job_id, 1))
    responses = [issued(token_for(job_id)), links(services, job_id), snapshot, links(services, job_id)]
    details = {"kept": True, "payload": {"pages": 1}, "error": {"type": "KeyError", "message": "7", "traceback": "T"}}
    for options in ((), ("--json",)):
        services.responses = [*responses, respond_with(200, details)]
        assert await headway("show", str(job_id), *options) == 0
    *text, line = capsys.readouterr().out.splitlines()
    assert text[-4:] == ["  error      KeyError: 7", '  payload    {"pages": 1}', "", "T"]
    assert json.loads(line)["details"]["payload"] == {"pages": 1}
    refused = respond_with(403, {"code": "forbidden", "detail": "No."})
    services.responses = [*responses, refused]
    assert await headway("show", str(job_id)) == 0
    assert "payload" not in capsys.readouterr().out


async def test_a_job_is_shown_by_its_link_or_the_beginning_of_its_id(
    services: Services, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A link has its token; the beginning of an id is searched in the list."""
    job_id = UUID("b1f6a6a0-7b7e-4c7f-9d0a-3c1c5a0e6f11")
    job = snapshot_json(job_id, 1)
    services.responses = [respond_with(200, job)]
    assert await headway("show", f"{services.url}/live/jobs/{job_id}#{token_for(job_id)}") == 0
    monkeypatch.setenv("HEADWAY_TOKEN", list_token(filter={"owner": "o"}))
    services.responses = [
        links(services),
        page(snapshot_json(UUID(int=0), 1), following="c"),
        page(job),
        links(services, job_id),
        respond_with(200, job),
    ]
    assert await headway("show", "B1F6A6a0") == 0
    output = capsys.readouterr()
    assert (output.out.count(f"  id         {job_id}\n"), output.err) == (2, "")


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("b1f6", "headway: none of the newest 2,000 jobs has an ID that begins with b1f6\n"),
        ("0000", "headway: several jobs have an ID that begins with 0000\n"),
        ("000", "headway: expected at least 4 characters of an ID, not '000'\n"),
    ],
)
async def test_the_beginning_of_an_id_must_be_of_one_job(
    services: Services, capsys: pytest.CaptureFixture[str], text: str, error: str
) -> None:
    """The error says what is wrong."""
    services.responses = [issued(), links(services), page(*(snapshot_json(UUID(int=number), 1) for number in range(2)))]
    assert await headway("show", text) == 1
    assert capsys.readouterr() == ("", error)


async def test_a_job_without_a_record_is_an_error(services: Services, capsys: pytest.CaptureFixture[str]) -> None:
    """The notifier's explanation is printed."""
    job_id = uuid4()
    services.responses = [issued(token_for(job_id)), links(services, job_id)]
    services.responses += [respond_with(404, {"code": "unknown", "detail": "There is no record of this job."})]
    assert await headway("show", str(job_id)) == 1
    assert capsys.readouterr() == ("", "headway: There is no record of this job.\n")


async def test_labels_are_submitted(services: Services, capsys: pytest.CaptureFixture[str]) -> None:
    """`headway submit` takes a name, an owner and tags, and the kind of a follow-up job."""
    receipt = services.receipt(uuid4())
    services.responses = [respond_with(202, {"id": str(receipt.id), "token": receipt.token, "links": receipt.links})]
    options = ("--name", "October", "--owner", "user:7", "--tag", "a", "--tag", "b", "--on-end", "mail")
    assert await headway("submit", "k", *options) == 0
    body = json.loads(services.bodies[0])
    assert body == {"kind": "k", "name": "October", "owner": "user:7", "tags": ["a", "b"], "on_end": "mail"}
    assert capsys.readouterr().out == f"{receipt.link}\n"
