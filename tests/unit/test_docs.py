"""The documents say what the code does."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import get_args

import msgspec
import pytest

from dev.environment import ROOT
from headway import job
from headway.contracts import ENDED, JobStatus, RejectionReason
from services.notifier.settings import NotifierSettings
from services.runtime.settings import Settings
from services.submitter.settings import SubmitterSettings
from services.worker import lease
from services.worker.outcomes import INTERRUPTION_BY_VERDICT, Interruption
from services.worker.settings import WorkerSettings

ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text()
README = (ROOT / "README.md").read_text()
LIFECYCLE = ROOT / "docs" / "lifecycle.md"
JOBS = (ROOT / "docs" / "jobs.md").read_text()
DOCUMENTS = [ROOT / "README.md", *ROOT.glob("docs/*.md"), *ROOT.glob("examples/*/README.md")]


@pytest.mark.parametrize("kind", [SubmitterSettings, WorkerSettings, NotifierSettings])
def test_every_setting_is_documented(kind: type[Settings]) -> None:
    """The table of settings names each one that a service can be told."""
    for field in msgspec.structs.fields(kind):
        names = {field.name.upper(), f"{kind.service}_{field.name}".upper()}
        assert any(f"`{name}`" in ARCHITECTURE for name in names), field.name


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: str(document.relative_to(ROOT)))
def test_links_lead_somewhere(document: Path) -> None:
    """Every relative link and picture of a document exists, and so does the heading that a link names."""
    for target, heading in re.findall(r"\]\(([^)#:]*)(?:#([^)]*))?\)", document.read_text()):
        there = document.parent / target if target else document
        assert there.exists(), target
        if heading:
            titles = re.findall(r"^#+ (.*)$", there.read_text(), re.MULTILINE)
            assert heading in [title.lower().replace(" ", "-") for title in titles], f"{target}#{heading}"


def test_the_job_of_the_readme_runs() -> None:
    """The README's job is a job: it imports, and takes the payload that the README sends."""
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    names: dict[str, object] = {"__name__": "readme"}
    exec(code, names)
    (payload,) = re.findall(r'"payload": (\{.*?\})\}', README)
    assert msgspec.json.decode(payload, type=names["Letters"]) == names["Letters"](to=["a", "b", "c"])  # type: ignore[operator]


def diagram(document: Path) -> set[tuple[str, str]]:
    """Return the ways from status to status in a document's diagram; `[*]` is before the first and after the last."""
    (text,) = re.findall(r"```mermaid\nstateDiagram-v2\n(.*?)```", document.read_text(), re.DOTALL)
    return set(re.findall(r"^ +(\S+) --> ([^\s:]+)", text, re.MULTILINE))


def table(text: str, heading: str) -> list[list[str]]:
    """Return the rows of the first table under a heading, or of a whole text."""
    lines = text[text.index(heading) :].partition("\n| ")[2].partition("\n\n")[0].splitlines()
    return [re.split(r"\s*\|\s*", line)[1:-1] for line in lines[2:]]


def test_the_diagram_has_the_statuses_and_their_ends() -> None:
    """Those of the wire, and what has ended goes on as another generation only."""
    ways = diagram(LIFECYCLE)
    assert {status for way in ways for status in way} - {"[*]"} == set(get_args(JobStatus))
    assert {before for before, after in ways if after == "[*]"} == ENDED
    assert {after for before, after in ways if before == "[*]"} == {"queued"}
    assert {(before, after) for before, after in ways if before in ENDED and after != "[*]"} == {("failed", "running")}
    assert diagram(ROOT / "docs" / "architecture.md") == ways


def test_the_diagram_can_be_read_as_a_table() -> None:
    """A row for each status, with all that may come next."""
    rows = {row[0].strip("`"): set(re.findall(r"`(\w+)`", row[2])) for row in table(LIFECYCLE.read_text(), "# ")}
    ways = diagram(LIFECYCLE)
    assert rows == {status: {after for before, after in ways if before == status} - {"[*]"} for status in rows}
    assert rows.keys() == set(get_args(JobStatus))


def test_the_verdicts_are_those_of_the_wire_and_what_the_worker_makes_of_them() -> None:
    """Each reason has its row, and the row says what its interruption does to the message."""
    rows = table(LIFECYCLE.read_text(), "## Verdicts")
    told = {verdict.strip("`"): what for verdict, _, what in rows if not verdict.startswith("accepted")}
    does = {
        Interruption.FINISHED: "stop, delete the message",
        Interruption.SUPERSEDED: "stop, leave the message alone",
    }
    assert told == {reason: does[interruption] for reason, interruption in INTERRUPTION_BY_VERDICT.items()}
    assert told.keys() == set(get_args(RejectionReason))


def test_the_lease_is_timed_as_the_lease_does() -> None:
    """In seconds, for the default and for a short one."""
    rows = [list(map(float, (row[0].split()[0], *row[1:]))) for row in table(LIFECYCLE.read_text(), "## The lease")]
    assert rows[0][0] == {field.name: field.default for field in msgspec.structs.fields(WorkerSettings)}["lease_s"]
    for lease_s, *times in rows:
        assert times == [
            lease_s / 2,
            lease_s * lease.RETRY_DELAY_FRACTION,
            lease_s * (1 - lease.STOP_MARGIN_FRACTION),
            lease_s,
        ]


def test_every_error_of_the_worker_is_documented() -> None:
    """A user who looks for an `error.type` finds out what it means."""
    code = "".join(path.read_text() for path in ROOT.glob("services/worker/**/*.py"))
    types = set(re.findall(r'(?:Finished\.failed|JobError)\(\s*"(\w+)"', code)) - {"CancelledError"}
    assert types >= {"Fail", "Retry", "Timeout", "AttemptsUsedUp", "InvalidMessage"}
    assert sorted(name for name in types if f"`{name}`" not in JOBS + LIFECYCLE.read_text()) == []


def test_the_options_of_a_job_are_documented() -> None:
    """Each with its default."""
    told: dict[str, str] = {}
    for names, defaults, _ in table(JOBS, "- Each is at most"):
        told |= zip(re.findall(r"`(\w+)`", names), defaults.strip("`").split(", "), strict=True)
    options = list(inspect.signature(job).parameters.values())[1:]
    assert told == {one.name: str(one.default).removesuffix(".0").replace("None", "none") for one in options}


def test_the_reasons_to_stop_are_documented() -> None:
    """All words that a handler may be told."""
    reasons = [reason.strip("`") for reason, *_ in table(JOBS, "The reason is the")]
    assert set(reasons) == {one.reason for one in Interruption} | {"timeout"}
