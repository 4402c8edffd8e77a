"""The documents match the code."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import get_args

import msgspec
import pytest

from dev.demo import JOBS as DEMO_JOBS
from dev.environment import ROOT
from headway import Job
from headway.contracts import ENDED, JobStatus, RejectionReason
from headway.grants import SCOPES
from headway.labels import MAX_LABELS_BYTES, MAX_TAGS
from services.notifier.records.index import query
from services.notifier.records.index.changes import MAX_LISTED
from services.notifier.redis_client.url import redis_from_url
from services.notifier.settings import NotifierSettings
from services.notifier.transports.list_queries import MAX_LIVE_JOBS, ListParameters
from services.notifier.transports.websocket.connection import MAX_LISTS
from services.notifier.watching.live_lists import MAX_POLLED, MAX_QUERIES_PER_FILTER
from services.submitter.issue_token import MAX_TTL_S
from services.submitter.settings import SubmitterSettings
from services.worker import lease
from services.worker.jobs.countdown import Countdown
from services.worker.outcomes import INTERRUPTION_BY_VERDICT, Interruption
from services.worker.settings import WorkerSettings
from tests.documents import Document

README = Document("README.md")
GET_STARTED = Document("docs/get-started.md")
CONCEPTS = Document("docs/concepts.md")
JOBS = Document("docs/write-jobs.md")
LISTS = Document("docs/lists-and-tokens.md")
DOCUMENTS = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")),
    *ROOT.glob("docs/**/*.md"),
    *ROOT.glob("deploy/**/*.md"),
    *ROOT.glob("examples/*/README.md"),
]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: str(document.relative_to(ROOT)))
def test_links_are_valid(document: Path) -> None:
    """The file of every relative link or picture exists, and so does the heading that a link names."""
    for target, heading in re.findall(r"\]\(([^)#:]*)(?:#([^)]*))?\)", document.read_text()):
        target_file = document.parent / target if target else document
        assert target_file.exists(), target
        if heading:
            titles = re.findall(r"^#+ (.*)$", target_file.read_text(), re.MULTILINE)
            assert heading in map(anchor, titles), f"{target}#{heading}"


def anchor(title: str) -> str:
    """Return the fragment that leads to a heading on GitHub: lower case, without punctuation, hyphens for spaces."""
    return re.sub(r"[^\w -]", "", title).lower().replace(" ", "-")


def test_the_readme_is_short() -> None:
    """The README has at most 120 lines, and its examples need twenty from the job to its bar."""
    assert len(README.text.splitlines()) <= 120
    code = [text for title, text in README.examples("python", "sh", "html") if title.startswith("Twenty lines")]
    assert len([line for line in "".join(code).splitlines() if line]) <= 20


def test_the_commands_of_the_readme_exist() -> None:
    """The commands are targets of the Makefile, and the demo has as many jobs as the README says.

    A countdown takes as long as the README says.
    """
    targets = re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE)
    install, break_it = (text for title, text in README.examples("sh") if title == "Try it")
    _clone, up, demo = install.splitlines()
    assert [line.split("#")[0].split() for line in (up, demo)] == [["make", "up"], ["make", "demo"]]
    (stores,) = re.findall(r"^make (\w+)$", GET_STARTED.text, re.MULTILINE)
    assert {"up", "demo", stores} <= set(targets)
    (payload,) = re.findall(r"^.venv/bin/headway submit countdown --payload '(.*)'$", break_it, re.MULTILINE)
    job_of_the_readme = msgspec.json.decode(payload, type=Countdown)
    assert job_of_the_readme.steps * job_of_the_readme.delay_s == 40
    assert "a job of forty seconds" in README.text
    assert len(DEMO_JOBS) == 5
    assert "five jobs" in demo


def test_the_index_lists_every_page() -> None:
    """The index of the documentation and the README link to each page, and the index to the one of the runbooks."""
    pages = {path.name for path in (ROOT / "docs").glob("*.md")} - {"README.md"}
    assert set(re.findall(r"\]\(([\w/-]+\.md)\)", Document("docs/README.md").text)) == pages | {"runbooks/README.md"}
    assert set(re.findall(r"\]\(docs/([\w-]+\.md)\)", README.text)) == pages


def diagram(document: Document) -> set[tuple[str, str]]:
    """Return the transitions between statuses in a page's diagram; `[*]` is its start and its end."""
    (text,) = [text for _, text in document.examples("mermaid") if text.startswith("stateDiagram-v2")]
    return set(re.findall(r"^ +(\S+) --> ([^\s:]+)", text, re.MULTILINE))


def test_the_diagram_has_all_statuses() -> None:
    """The diagram has the statuses of the wire, and an ended job changes only by a redrive."""
    transitions = diagram(CONCEPTS)
    assert {status for transition in transitions for status in transition} - {"[*]"} == set(get_args(JobStatus))
    assert {before for before, after in transitions if after == "[*]"} == ENDED
    assert {after for before, after in transitions if before == "[*]"} == {"queued"}
    assert {(before, after) for before, after in transitions if before in ENDED and after != "[*]"} == {
        ("failed", "running"),
        *((status, "queued") for status in ENDED),
    }


def test_the_table_of_statuses_matches_the_diagram() -> None:
    """The table has a row for each status, which lists the statuses that may follow."""
    rows = {row[0].strip("`"): set(re.findall(r"`(\w+)`", row[2])) for row in CONCEPTS.table("The life of a job")}
    transitions = diagram(CONCEPTS)
    assert rows == {status: {after for before, after in transitions if before == status} - {"[*]"} for status in rows}
    assert rows.keys() == set(get_args(JobStatus))


def test_the_verdicts_are_documented() -> None:
    """Each reason of a rejection has its row, with what the worker does to the message."""
    rows = CONCEPTS.table("The fence")
    documented = {verdict.strip("`"): action for _, verdict, action in rows if verdict != "accepted"}
    actions = {
        Interruption.FINISHED: "stop, delete the message",
        Interruption.SUPERSEDED: "stop, leave the message alone",
    }
    assert documented == {reason: actions[interruption] for reason, interruption in INTERRUPTION_BY_VERDICT.items()}
    assert documented.keys() == set(get_args(RejectionReason))


def test_the_times_of_a_lease_are_documented() -> None:
    """The table has the times in seconds, for the default lease and for a short one."""
    rows = [list(map(float, (row[0].split()[0], *row[1:]))) for row in CONCEPTS.table("The lease")]
    assert rows[0][0] == {field.name: field.default for field in msgspec.structs.fields(WorkerSettings)}["lease_s"]
    for lease_s, *times in rows:
        assert times == [
            lease_s / 2,
            lease_s * lease.RETRY_DELAY_FRACTION,
            lease_s * (1 - lease.STOP_MARGIN_FRACTION),
            lease_s,
        ]


def test_the_limits_have_their_defaults() -> None:
    """The table of limits has the default of each setting that it names."""
    fields = [*msgspec.structs.fields(NotifierSettings), *msgspec.structs.fields(SubmitterSettings)]
    defaults = {field.name.upper(): field.default for field in fields}
    documented = {
        name: float(default.split()[0])
        for limit, default, _ in Document("docs/http-api.md").table("Limits")
        for name in re.findall(r"`([A-Z_]+)`", limit)
    }
    assert len(documented) == 6
    assert documented == {name: defaults[name] for name in documented}


def test_the_limits_of_lists_are_documented() -> None:
    """The tables of docs/lists-and-tokens.md have the limits, the filters and the scopes of the code."""
    limits = [cell.replace("newest ", "") for _, cell, _ in LISTS.table("Limits")]
    assert limits == [
        f"1 to {query.MAX_PAGE}, {query.DEFAULT_PAGE} by default",
        f"1 to {MAX_LIVE_JOBS}, {query.DEFAULT_PAGE} by default",
        str(MAX_LISTS),
        f"`MAX_CONNECTIONS`; {MAX_POLLED}",
        str(MAX_QUERIES_PER_FILTER),
        f"the {MAX_LISTED}",
        f"{MAX_TAGS}, {MAX_LABELS_BYTES // 1024} KiB",
        "a day",
    ]
    assert MAX_TTL_S == 86_400
    filters = {name for row in LISTS.table("Filters") for name in re.findall(r"`(\w+)`", row[0])}
    assert filters == {field.name for field in msgspec.structs.fields(ListParameters)} - {"limit", "cursor"}
    assert {name.strip("`") for name, _ in LISTS.table("Scopes")} == set(SCOPES)


def test_the_documented_urls_of_redis_are_valid() -> None:
    """The notifier accepts each form of REDIS_URL that the documentation shows, with and without TLS."""
    for url, _ in Document("docs/run-in-production.md").table("Redis"):
        assert redis_from_url(url.strip("`"))
        assert redis_from_url(url.strip("`").replace("redis", "rediss", 1))


def test_every_error_of_the_worker_is_documented() -> None:
    """Each `error.type` that the worker reports is explained."""
    code = "".join(path.read_text() for path in ROOT.glob("services/worker/**/*.py"))
    types = set(re.findall(r'(?:Finished\.failed|public_failure|JobError)\(\s*"(\w+)"', code)) - {"CancelledError"}
    assert types >= {"Fail", "Retry", "Timeout", "AttemptsUsedUp", "InvalidMessage"}
    assert sorted(name for name in types if f"`{name}`" not in JOBS.text + CONCEPTS.text) == []


def test_the_options_of_a_job_are_documented() -> None:
    """Each option of the `job` decorator is documented with its default."""
    documented: dict[str, str] = {}
    for names, defaults, _ in JOBS.table("A job"):
        documented |= zip(re.findall(r"`(\w+)`", names), defaults.strip("`").split(", "), strict=True)
    options = list(inspect.signature(Job).parameters.values())[2:]
    assert documented == {
        option.name: str(option.default).removesuffix(".0").replace("None", "none") for option in options
    }


def test_the_reasons_of_a_cancellation_are_documented() -> None:
    """Each reason that a cancelled handler may get is documented."""
    reasons = [reason.strip("`") for reason, *_ in JOBS.table("Cancellation")]
    assert set(reasons) == {interruption.reason for interruption in Interruption} | {"timeout"}


def test_the_role_of_the_worker_may_renew_leases() -> None:
    """The role in docs/security.md permits all requests of the worker; Azurite would not notice a missing right."""
    ((_, text),) = Document("docs/security.md").examples("json")
    role = msgspec.json.decode(text)
    rights = {right.rpartition("queueServices/")[2] for right in (*role["Actions"], *role["DataActions"])}
    receive = {"queues/messages/read", "queues/messages/process/action"}
    renew_or_copy, settle, measure = "queues/messages/write", "queues/messages/delete", "queues/read"
    assert rights == {*receive, renew_or_copy, settle, measure}
