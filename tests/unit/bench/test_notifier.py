"""The arithmetic of the notifier's bench; what it measures is asserted nowhere."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree as ET

import msgspec
import pytest

from bench.figures import MACHINE, Row, read, values
from bench.notifier import reports
from bench.notifier.goals import GOALS, Goal, Verdict, missed, ratios
from bench.notifier.load import Outcome
from bench.notifier.measuring import FLAWS
from bench.notifier.page import BEGIN, END, page, renewed
from bench.notifier.plot import CUT, PANELS, bars, plot
from bench.notifier.reports import SEEN_BYTES, SENT, SEQUENCE, Pieces
from bench.notifier.scenarios import FANOUT, IDLE, JOBS, SCENARIOS
from bench.notifier.systems import FASTAPI, HEADWAY, LIMIT, ORDER, SOCKETIO, System, systems
from bench.notifier.tables import remarks, tables
from dev.environment import ROOT
from headway.contracts import JobReport, decode, encode, to_progress_snapshot
from headway.tokens import TokenSigner, TokenVerifier, make_keys

DOCUMENT, PLOT = ROOT / "docs/performance.md", ROOT / "docs/performance-notifier.svg"
TO_LIMIT = GOALS[0]  # at most
TO_SOCKETIO = GOALS[1]  # at least
OURS = System(HEADWAY, (), protocol="headway")
PEER = System(FASTAPI, ())


def deliveries(**costs: list[float]) -> list[Row]:
    """Make rows of what a delivery costs, round by round."""
    names = {"ours": HEADWAY, "limit": LIMIT, "socketio": SOCKETIO}
    return [
        Row(number, names[name], FANOUT.measure("delivery_us"), value)
        for name, measured in costs.items()
        for number, value in enumerate(measured, 1)
    ]


def outcome(**found: object) -> Outcome:
    """Make what a turn of reports without flaws has found, but for what is given."""
    whole: dict[str, object] = {"unwatching": 0, "lost": 0, "reported": 10, "delivered": 10_000, "expected": 10_000}
    return msgspec.convert({**whole, "complaint": "", **found}, Outcome)


@pytest.fixture
def signer(tmp_path: Path) -> TokenSigner:
    """Make a key."""
    make_keys(tmp_path)
    return TokenSigner((tmp_path / "token.pem").read_text())


@pytest.mark.parametrize(
    ("ours", "limit", "verdict"),
    [
        ([12.5, 12.5, 99], [10, 10, 10], Verdict.MET),
        ([15], [10], Verdict.PASSED),
        ([15.1], [10], Verdict.MISSED),
        ([], [10], Verdict.UNMEASURED),
    ],
)
def test_a_ratio_may_be_bounded_above(ours: list[float], limit: list[float], verdict: Verdict) -> None:
    """The median of the turns counts, and gate and goal themselves still hold."""
    assert TO_LIMIT.verdict(deliveries(ours=ours, limit=limit)) is verdict


@pytest.mark.parametrize(("socketio", "verdict"), [(20, Verdict.MET), (16, Verdict.PASSED), (15.9, Verdict.MISSED)])
def test_a_ratio_may_be_bounded_below(socketio: float, verdict: Verdict) -> None:
    """What a peer costs is over what we do."""
    assert TO_SOCKETIO.verdict(deliveries(ours=[10], socketio=[socketio])) is verdict


def test_a_ratio_is_of_turns_side_by_side() -> None:
    """What slowed the machine down for a while slowed both; a round that only one of them has is left out."""
    slow = [Row(2, name, FANOUT.measure("delivery_us"), value) for name, value in ((HEADWAY, 36), (LIMIT, 30))]
    alone = Row(3, HEADWAY, FANOUT.measure("delivery_us"), 99)
    assert TO_LIMIT.ratio([*deliveries(ours=[12], limit=[10]), *slow, *slow, alone]) == pytest.approx(1.2)


def test_a_gate_without_a_good_run_is_missed() -> None:
    """Otherwise a system that loses deliveries would pass by having no figures."""
    rows = [*deliveries(limit=[10]), Row(1, HEADWAY, FANOUT.measure(FLAWS), 1)]
    assert TO_LIMIT.verdict(rows) is Verdict.FLAWED
    assert TO_LIMIT in missed(rows)
    assert TO_LIMIT.verdict([*rows, *deliveries(ours=[11])]) is Verdict.MET


def test_a_goal_is_beyond_its_gate() -> None:
    """Who meets a goal passes its gate."""
    assert all((goal.goal < goal.gate) is goal.at_most for goal in GOALS)


def test_every_goal_is_of_what_is_measured() -> None:
    """Its systems run its scenario, which has its figure."""
    assert {system.name for system in systems()} <= set(ORDER)
    runs = {(system.name, name) for system in systems() for name in system.scenarios}
    assert [goal.what for goal in GOALS if not _measured(goal, runs)] == []


def _measured(goal: Goal, runs: set[tuple[str, str]]) -> bool:
    both = {(goal.over, goal.scenario.name), (goal.under, goal.scenario.name)}
    return both <= runs and goal.figure in goal.scenario.columns


def test_the_ratios_name_gate_goal_and_verdict() -> None:
    """What was not measured has a dash."""
    lines = ratios(deliveries(ours=[12, 14, 13], limit=[10, 10, 10])).splitlines()
    what = "CPU a delivery, 1,000 watchers: Headway to the C limit"
    assert lines[2] == f"| {what} | 1.30 | at most 1.5 | 1.25 | gate passed |"
    assert lines[3].endswith("| - | at least 1.6 | 2 | not measured |")
    assert len(lines) == 2 + len(GOALS)


def test_a_table_tells_one_scenario() -> None:
    """It has the systems in their order, however they came, and no others."""
    rows = [*deliveries(ours=[20, 10, 30], limit=[10]), Row(1, HEADWAY, JOBS.measure("report_us"), 500)]
    found = tables(rows)
    assert list(found) == [FANOUT.title, JOBS.title]
    assert found[FANOUT.title].splitlines() == [
        "| system | server CPU a delivery, µs |",
        "| --- | ---: |",
        "| C limit | 10.0 |",
        "| Headway | 20.0 (10.0 to 30.0) |",
    ]


def test_runs_with_flaws_are_named() -> None:
    """They are said to be left out, as is a peer that is not installed."""
    found = remarks([Row(2, SOCKETIO, JOBS.measure(FLAWS), 3)])
    assert found[0] == f"Round 2: {SOCKETIO} had flaws in `jobs`; that run is left out."
    assert "apt-get install nginx libnginx-mod-nchan" in found[1]


@pytest.mark.parametrize(
    ("found", "flaw"),
    [
        ({"unwatching": 10}, "10 watchers are not watching"),
        ({"lost": 1}, "1 watchers were lost"),
        ({"refused": 2}, "2 reports were refused"),
        ({"delivered": 9_999}, "1 deliveries are missing"),
        ({"delivered": 10_001}, "1 deliveries came twice"),
        ({"reported": 0, "expected": 0, "delivered": 0}, "1 turn had no report"),
    ],
)
def test_flaws_are_told(found: dict[str, int], flaw: str) -> None:
    """A turn that is not whole says what is wrong with it; one that has no reports need have none."""
    assert outcome().flaws() == []
    assert outcome(**found, complaint="why").flaws() == [flaw, "why"]
    assert outcome(reported=None, delivered=0, expected=0).flaws() == []


def test_figures_have_the_units_of_their_titles() -> None:
    """Latencies are milliseconds; a peer, whose upgrade is its watch, has no figures of a watch apart."""
    assert outcome(delivery_us=12.5, p50_us=4_500, rate=50).figures(FANOUT, OURS) == {
        "delivery_us": 12.5,
        "p50_ms": 4.5,
        "rate": 50,
    }
    assert outcome(upgrade_us=1, watch_us=2, idle_bytes=3).figures(IDLE, OURS) == {
        "upgrade_us": 1,
        "watch_us": 2,
        "idle_bytes": 3,
    }
    assert outcome(upgrade_us=1, watch_us=0).figures(IDLE, PEER) == {"upgrade_us": 1}


def test_a_report_is_cut_where_the_load_client_writes(signer: TokenSigner, tmp_path: Path) -> None:
    """Its pieces, a number and a time make a report; the token is for its job."""
    (job,) = reports.headway(signer, 1)
    report = decode(f"{job.head}7{job.middle}{SENT}{job.tail}", JobReport)
    assert (report.sequence, report.status, report.lease_until is not None) == (7, "running", True)
    assert len(encode(to_progress_snapshot(report.progress))) == SEEN_BYTES
    assert TokenVerifier(signer.public_pem).verify(job.token).job_id == report.job_id
    path = reports.write([job], tmp_path / "jobs")
    assert path.read_text() == f"{job.token}\t{job.head}\t{job.middle}\t{job.tail}\n"


def test_the_filler_is_the_same_job_with_a_long_result(signer: TokenSigner) -> None:
    """It is as valid as the others."""
    (job,) = reports.headway(signer, 1)
    full = reports.filler(job)
    report = decode(f"{full.head}7{full.middle}{SENT}{full.tail}", JobReport)
    assert len(report.result) == reports.FILLER_BYTES + 2


def test_a_peers_report_is_as_long() -> None:
    """Its watchers get it as it is."""
    jobs = reports.plain(12)
    whole = [f"{job.head}{SEQUENCE}{job.middle}{SENT}{job.tail}" for job in jobs]
    assert {len(text) for text in whole} == {SEEN_BYTES}
    assert isinstance(jobs[0], Pieces)


def test_a_round_counts_once_however_many_turns_it_has() -> None:
    """Its figure is the median of its turns."""
    measure = FANOUT.measure("delivery_us")
    rows = [Row(1, LIMIT, measure, value) for value in (1, 2, 9)] + [Row(2, LIMIT, measure, 3)]
    assert values(rows, LIMIT, measure) == [2, 3]


def test_the_plot_has_a_bar_for_each_median() -> None:
    """It is XML; the shortest bar is first, ours stands out, and one that is far too long is cut."""
    rows = deliveries(ours=[10, 12, 11], limit=[8], socketio=[11 * CUT * 2])
    found = bars(rows, FANOUT.measure("delivery_us"))
    assert [bar.system for bar in found] == [LIMIT, HEADWAY, SOCKETIO]
    assert found[1][1:] == (10, 11, 12)
    drawn = plot(rows)
    ET.fromstring(drawn)
    assert (drawn.count("<rect"), drawn.count('class="bar ours"'), drawn.count('class="cut"')) == (3, 1, 1)
    assert "prefers-color-scheme: dark" in drawn
    assert drawn.count('class="title"') == len(PANELS)


def test_a_page_is_put_between_its_marks() -> None:
    """What stands around it stays, and so does the page when it is put there again."""
    rows = [*deliveries(ours=[12], limit=[10]), Row(1, MACHINE, "load_average", 2.04)]
    once = renewed(f"before\n{BEGIN}\nold\n{END}\nafter\n", rows)
    assert once == f"before\n{BEGIN}\n\n{page(rows)}\n\n{END}\nafter\n"
    assert renewed(once, rows) == once
    assert page(rows).startswith("In one round; the machine's load average (5 minutes) was 2.0 afterwards")
    assert ratios(rows) in page(rows)


def test_the_document_tells_what_was_measured() -> None:
    """docs/performance.md has the page of the raw rows, all scenarios in it, and its plot is theirs."""
    rows, text = read(ROOT / "bench/results/notifier.csv"), DOCUMENT.read_text()
    assert renewed(text, rows) == text
    assert set(tables(rows)) == {scenario.title for scenario in SCENARIOS}
    assert plot(rows) == PLOT.read_text()
