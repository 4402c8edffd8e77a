"""`headway redrive`, `rerun`, `erase` and `bulk` against fake services."""

from __future__ import annotations

import json
from typing import Any
from uuid import uuid4

import pytest

from tests.unit.headway.cli.test_list_commands import _environment as _environment
from tests.unit.headway.cli.test_list_commands import headway, issued, links, page
from tests.unit.headway.client.conftest import _short_delays as _short_delays
from tests.unit.headway.client.conftest import services as services
from tests.unit.headway.client.fake_services import Services, list_token, respond_with, send_messages, snapshot_json


def receipt_json(services: Services, job_id: Any) -> dict[str, Any]:
    """Return the submitter's response with a receipt."""
    receipt = services.receipt(job_id)
    return {"id": str(job_id), "status": "queued", "token": receipt.token, "links": receipt.links}


def sent(services: Services) -> list[tuple[str, Any]]:
    """Return method and path of each request, and its body."""
    return [
        (f"{request.method} {request.path}", json.loads(body) if body else None)
        for request, body in zip(services.requests, services.bodies, strict=True)
    ]


async def test_jobs_are_redriven(services: Services, capsys: pytest.CaptureFixture[str]) -> None:
    """One by one, named by id, by the beginning of an id or by link; a job that is refused does not stop the others."""
    first, second, third = uuid4(), uuid4(), uuid4()
    done = [respond_with(202, {"id": str(one), "generation": 2, "status": "queued"}) for one in (first, third)]
    refused = respond_with(409, {"code": "not_ended", "detail": "The job has not ended: it is running."})
    services.responses = [issued(), links(services), page(snapshot_json(first, 1))]
    for one, response in zip((first, second, third), (done[0], refused, done[1]), strict=True):
        services.responses += [
            issued(),
            links(services),
            respond_with(200, snapshot_json(one, 1, generation=1)),
            response,
        ]
    link = f"{services.url}/jobs/{third}"
    assert await headway("redrive", "--from-start", str(first)[:8], str(second), link) == 1
    assert capsys.readouterr() == (
        f"redriven {first}, generation 2\nredriven {third}, generation 2\n",
        f"headway: {second}: The job has not ended: it is running.\n",
    )
    jobs = (first, second, third)
    redrives = [(path, body) for path, body in sent(services) if path.endswith("/redrive")]
    assert redrives == [(f"POST /jobs/{job}/redrive", {"generation": 1, "from_start": True}) for job in jobs]


async def test_a_job_is_rerun(services: Services, capsys: pytest.CaptureFixture[str]) -> None:
    """The command prints the link of the new job, or watches it; the payload may be another one."""
    old, new = uuid4(), uuid4()
    services.responses = [respond_with(202, receipt_json(services, new))]
    assert await headway("rerun", str(old)) == 0
    assert await headway("rerun", str(old), "--payload", '{"pages": 2}', "--json", "--idempotency-key", "night 7") == 0
    assert services.requests[-1].headers["Idempotency-Key"] == "night 7"
    link, receipt = capsys.readouterr().out.splitlines()
    assert link == services.receipt(new).link
    assert json.loads(receipt)["id"] == str(new)
    assert sent(services) == [(f"POST /jobs/{old}/rerun", {}), (f"POST /jobs/{old}/rerun", {"payload": {"pages": 2}})]
    services.socket_handlers = [send_messages({"job": snapshot_json(new, 1, "failed")})]
    assert await headway("rerun", str(old), "--watch") == 1
    assert capsys.readouterr().out == f"k {new} failed\n"


async def test_jobs_are_erased(
    services: Services, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With a token of the scope `operate` no key is needed; an argument that names no job is refused."""
    monkeypatch.setenv("HEADWAY_TOKEN", list_token())
    job_id = uuid4()
    services.responses = [respond_with(204)]
    assert await headway("erase", "x", str(job_id)) == 1
    assert capsys.readouterr() == (
        f"erased {job_id}\n",
        "headway: x: expected at least 4 characters of an ID, not 'x'\n",
    )
    assert sent(services) == [(f"DELETE /jobs/{job_id}", None)]
    assert services.requests[0].headers["Authorization"] == f"Bearer {list_token()}"


def preview(count: int, **fields: Any) -> Any:
    """Return the response to a dry run."""
    example = {"id": str(uuid4()), "kind": "k", "name": "a\x1b", "status": "failed", "error_type": "OSError"}
    return respond_with(200, {"count": count, "complete": True, "examples": [example][:count], **fields})


async def test_a_bulk_action_is_previewed_and_confirmed(
    services: Services, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without a confirmation nothing is done; otherwise the job that acts is shown."""
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    bulk_id, questions = uuid4(), []

    def answer(text: str) -> str:
        questions.append(text)
        return "y" if len(questions) > 1 else ""

    monkeypatch.setattr("builtins.input", answer)
    options = ("bulk", "redrive", "--failed", "--tag", "a", "--since", "2026-01-01T00:00:00Z")
    services.responses = [preview(12)]
    assert await headway(*options) == 1
    services.responses = [preview(12, complete=False), respond_with(202, receipt_json(services, bulk_id))]
    services.socket_handlers = [send_messages({"job": snapshot_json(bulk_id, 1, "succeeded", result={"done": 12})})]
    assert await headway(*options) == 0
    assert questions == ["Redrive them? [y/N] "] * 2
    output = capsys.readouterr()
    assert output.out == f'k {bulk_id} succeeded, {{"done": 12}}\n'
    assert "redrive: 12 jobs\n  k " in output.err
    assert "redrive: 12 jobs or more\n" in output.err
    assert "failed, a , OSError\n  …\n" in output.err
    action = {"action": "redrive", "filter": {"status": ["failed"], "tag": ["a"], "since": "2026-01-01T00:00:00.000Z"}}
    dry_run = ("POST /bulk", {**action, "dry_run": True})
    assert sent(services) == [dry_run, dry_run, ("POST /bulk", action)]


async def test_the_end_of_stdin_is_no_confirmation(
    services: Services, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ctrl-D at the question ends the command as a no does."""

    def end(_text: str) -> str:
        raise EOFError

    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    monkeypatch.setattr("builtins.input", end)
    services.responses = [preview(1)]
    assert await headway("bulk", "redrive", "--failed") == 1
    assert "Traceback" not in capsys.readouterr().err
    assert [path for path, _ in sent(services)] == ["POST /bulk"]


async def test_a_bulk_action_without_a_terminal(services: Services, capsys: pytest.CaptureFixture[str]) -> None:
    """A script must say that it means it, or asks what would be done."""
    assert await headway("bulk", "cancel", "--kind", "k") == 1
    assert "--yes" in capsys.readouterr().err
    services.responses = [preview(1)]
    assert await headway("bulk", "cancel", "--kind", "k", "--dry-run") == 0
    assert capsys.readouterr().out.startswith("cancel: 1 job\n")
    services.responses = [preview(0)]
    assert await headway("bulk", "cancel", "--kind", "k", "--yes", "--json") == 0
    assert json.loads(capsys.readouterr().out)["count"] == 0
    bulk_id = uuid4()
    services.responses = [preview(1), respond_with(202, receipt_json(services, bulk_id))]
    services.socket_handlers = [send_messages({"job": snapshot_json(bulk_id, 1, "cancelled")})]
    assert await headway("bulk", "cancel", "--kind", "k", "--yes", "--idempotency-key", "night 7") == 130
    keys = [request.headers.get("Idempotency-Key") for request in services.requests if request.path == "/bulk"]
    assert keys[-2:] == [None, "night 7"]
    services.responses = [respond_with(422, {"code": "invalid", "detail": "No.", "field": "filter.status"})]
    assert await headway("bulk", "rerun", "--yes") == 2
