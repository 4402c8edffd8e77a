"""The arithmetic and the texts of the notifier's benchmark. No test asserts what it measures."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree as ET

import msgspec
import pytest

from bench.figures import MACHINE, Row, read_csv, round_medians
from bench.notifier import reports
from bench.notifier.goals import GOALS, Goal, Verdict, missed, ratios
from bench.notifier.load import TurnResult
from bench.notifier.measuring import FLAWS
from bench.notifier.page import BEGIN, END, page, update_document
from bench.notifier.plot import MAX_BAR_RATIO, PANELS, bars, plot
from bench.notifier.reports import SEQUENCE_PLACEHOLDER, TIME_PLACEHOLDER, WATCHED_BYTES, ReportTemplate
from bench.notifier.scenarios import FANOUT, IDLE, JOBS, SCENARIOS
from bench.notifier.systems import FASTAPI, HEADWAY, LIMIT, ORDER, SOCKETIO, System, systems
from bench.notifier.tables import remarks, tables
from dev.environment import ROOT
from headway.contracts import JobReport, decode, encode, to_progress_snapshot
from headway.tokens import TokenSigner, TokenVerifier, make_keys

DOCUMENT, PLOT = ROOT / "docs/performance.md", ROOT / "docs/performance-notifier.svg"
TO_LIMIT = GOALS[0]  # at most
TO_SOCKETIO = GOALS[1]  # at least
HEADWAY_NOTIFIER = System(HEADWAY, (), protocol="headway")
PEER = System(FASTAPI, ())


def deliveries(**costs: list[float]) -> list[Row]:
    """Return rows of CPU times per delivery, one per system and round."""
    names = {"ours": HEADWAY, "limit": LIMIT, "socketio": SOCKETIO}
    return [
        Row(number, names[name], FANOUT.measure("delivery_us"), value)
        for name, measured in costs.items()
        for number, value in enumerate(measured, 1)
    ]


def turn_result(**measured: object) -> TurnResult:
    """Return the result of a turn without flaws, with these changes."""
    valid: dict[str, object] = {"unwatching": 0, "lost": 0, "reported": 10, "delivered": 10_000, "expected": 10_000}
    return msgspec.convert({**valid, "first_error": "", **measured}, TurnResult)


@pytest.fixture
def signer(tmp_path: Path) -> TokenSigner:
    """Return a signer with a new key."""
    make_keys(tmp_path)
    return TokenSigner((tmp_path / "token.pem").read_text())


@pytest.mark.parametrize(
    ("ours", "limit", "verdict"),
    [
        ([12.5, 12.5, 99], [10, 10, 10], Verdict.MET),
        ([16], [10], Verdict.PASSED),
        ([16.1], [10], Verdict.MISSED),
        ([], [10], Verdict.UNMEASURED),
    ],
)
def test_a_ratio_can_have_an_upper_bound(ours: list[float], limit: list[float], verdict: Verdict) -> None:
    """The median of the turns is compared, and a ratio equal to a bound meets it."""
    assert TO_LIMIT.verdict(deliveries(ours=ours, limit=limit)) is verdict


@pytest.mark.parametrize(("socketio", "verdict"), [(20, Verdict.MET), (15, Verdict.PASSED), (14.9, Verdict.MISSED)])
def test_a_ratio_can_have_a_lower_bound(socketio: float, verdict: Verdict) -> None:
    """The peer's cost is divided by Headway's."""
    assert TO_SOCKETIO.verdict(deliveries(ours=[10], socketio=[socketio])) is verdict


def test_a_ratio_compares_turns_of_the_same_round() -> None:
    """A slow round slows both systems; a round that only one of them has is ignored."""
    slow = [Row(2, name, FANOUT.measure("delivery_us"), value) for name, value in ((HEADWAY, 36), (LIMIT, 30))]
    alone = Row(3, HEADWAY, FANOUT.measure("delivery_us"), 99)
    assert TO_LIMIT.ratio([*deliveries(ours=[12], limit=[10]), *slow, *slow, alone]) == pytest.approx(1.2)


def test_a_threshold_without_a_valid_run_is_missed() -> None:
    """A system that loses deliveries has no figures, and does not pass for that reason."""
    rows = [*deliveries(limit=[10]), Row(1, HEADWAY, FANOUT.measure(FLAWS), 1)]
    assert TO_LIMIT.verdict(rows) is Verdict.FLAWED
    assert TO_LIMIT in missed(rows)
    assert TO_LIMIT.verdict([*rows, *deliveries(ours=[11])]) is Verdict.MET


def test_a_goal_is_stricter_than_its_threshold() -> None:
    """A ratio that meets its goal also meets its threshold."""
    assert all((goal.goal < goal.threshold) is goal.at_most for goal in GOALS)


def test_every_goal_compares_measured_figures() -> None:
    """Both systems run the goal's scenario, and the scenario has its figure."""
    assert {system.name for system in systems()} <= set(ORDER)
    runs = {(system.name, name) for system in systems() for name in system.scenarios}
    assert [goal.title for goal in GOALS if not _measured(goal, runs)] == []


def _measured(goal: Goal, runs: set[tuple[str, str]]) -> bool:
    both = {(goal.over, goal.scenario.name), (goal.under, goal.scenario.name)}
    return both <= runs and goal.figure in goal.scenario.columns


def test_the_table_of_ratios_has_threshold_goal_and_verdict() -> None:
    """A ratio that was not measured is a dash."""
    lines = ratios(deliveries(ours=[12, 14, 13], limit=[10, 10, 10])).splitlines()
    title = "CPU per delivery, 1,000 watchers: Headway / C limit"
    assert lines[2] == f"| {title} | 1.30 | at most 1.6 | 1.25 | threshold met |"
    assert lines[3].endswith("| - | at least 1.5 | 2 | not measured |")
    assert len(lines) == 2 + len(GOALS)


def test_each_scenario_has_a_table() -> None:
    """A table has only the systems that were measured, in a fixed order."""
    rows = [*deliveries(ours=[20, 10, 30], limit=[10]), Row(1, HEADWAY, JOBS.measure("report_us"), 500)]
    measured = tables(rows)
    assert list(measured) == [FANOUT.title, JOBS.title]
    assert measured[FANOUT.title].splitlines() == [
        "| system | server CPU per delivery, µs |",
        "| --- | ---: |",
        "| C limit | 10.0 |",
        "| Headway | 20.0 (10.0 to 30.0) |",
    ]


def test_invalid_runs_are_listed() -> None:
    """The remarks name invalid runs and a peer that is not installed."""
    measured = remarks([Row(2, SOCKETIO, JOBS.measure(FLAWS), 3)])
    assert measured[0] == f"Round 2: {SOCKETIO} had an invalid turn in `jobs` and is left out."
    assert "apt-get install nginx libnginx-mod-nchan" in measured[1]


@pytest.mark.parametrize(
    ("measured", "flaw"),
    [
        ({"unwatching": 10}, "10 watchers are not watching"),
        ({"lost": 1}, "1 watchers were lost"),
        ({"refused": 2}, "2 reports were refused"),
        ({"delivered": 9_999}, "1 deliveries are missing"),
        ({"delivered": 10_001}, "1 deliveries were duplicates"),
        ({"reported": 0, "expected": 0, "delivered": 0}, "1 turn had no report"),
    ],
)
def test_an_invalid_turn_lists_its_flaws(measured: dict[str, int], flaw: str) -> None:
    """A turn of reports must have reports; a turn of connections has none."""
    assert turn_result().flaws() == []
    assert turn_result(**measured, first_error="why").flaws() == [flaw, "why"]
    assert turn_result(reported=None, delivered=0, expected=0).flaws() == []


def test_figures_have_the_units_of_their_columns() -> None:
    """Latencies are in milliseconds; a peer has no figures of a subscription, which is part of its upgrade."""
    assert turn_result(delivery_us=12.5, p50_us=4_500, rate=50).figures(FANOUT, HEADWAY_NOTIFIER) == {
        "delivery_us": 12.5,
        "p50_ms": 4.5,
        "rate": 50,
    }
    assert turn_result(upgrade_us=1, watch_us=2, idle_bytes=3).figures(IDLE, HEADWAY_NOTIFIER) == {
        "upgrade_us": 1,
        "watch_us": 2,
        "idle_bytes": 3,
    }
    assert turn_result(upgrade_us=1, watch_us=0).figures(IDLE, PEER) == {"upgrade_us": 1}


def test_a_template_becomes_a_valid_report(signer: TokenSigner, tmp_path: Path) -> None:
    """A template with a sequence number and a send time is a report; the token is for its job."""
    (job,) = reports.headway_jobs(signer, 1)
    report = decode(f"{job.head}7{job.middle}{TIME_PLACEHOLDER}{job.tail}", JobReport)
    assert (report.sequence, report.status, report.lease_until is not None) == (7, "running", True)
    assert len(encode(to_progress_snapshot(report.progress))) == WATCHED_BYTES
    assert TokenVerifier(signer.public_pem).verify(job.token).job_id == report.job_id
    path = reports.write_jobs([job], tmp_path / "jobs")
    assert path.read_text() == f"{job.token}\t{job.head}\t{job.middle}\t{job.tail}\n"


def test_the_filler_job_has_a_long_result(signer: TokenSigner) -> None:
    """The report of the filler job is valid, and its result has the intended size."""
    (job,) = reports.headway_jobs(signer, 1)
    full = reports.filler_job(job)
    report = decode(f"{full.head}7{full.middle}{TIME_PLACEHOLDER}{full.tail}", JobReport)
    assert len(report.result) == reports.FILLER_BYTES + 2


def test_a_peers_report_has_the_same_size() -> None:
    """A peer's report has the size of Headway's snapshot, because the peers forward it unchanged."""
    jobs = reports.peer_jobs(12)
    texts = [f"{job.head}{SEQUENCE_PLACEHOLDER}{job.middle}{TIME_PLACEHOLDER}{job.tail}" for job in jobs]
    assert {len(text) for text in texts} == {WATCHED_BYTES}
    assert isinstance(jobs[0], ReportTemplate)


def test_a_round_counts_once() -> None:
    """The value of a round is the median of its turns, however many it has."""
    measure = FANOUT.measure("delivery_us")
    rows = [Row(1, LIMIT, measure, value) for value in (1, 2, 9)] + [Row(2, LIMIT, measure, 3)]
    assert round_medians(rows, LIMIT, measure) == [2, 3]


def test_the_plot_has_a_bar_for_each_median() -> None:
    """The plot is XML; the shortest bar comes first, Headway's is highlighted, and a very long bar is cut off."""
    rows = deliveries(ours=[10, 12, 11], limit=[8], socketio=[11 * MAX_BAR_RATIO * 2])
    measured = bars(rows, FANOUT.measure("delivery_us"))
    assert [bar.system for bar in measured] == [LIMIT, HEADWAY, SOCKETIO]
    assert measured[1][1:] == (10, 11, 12)
    drawn = plot(rows)
    ET.fromstring(drawn)
    assert (drawn.count("<rect"), drawn.count('class="bar ours"'), drawn.count('class="cut"')) == (3, 1, 1)
    assert "prefers-color-scheme: dark" in drawn
    assert drawn.count('class="title"') == len(PANELS)


def test_the_document_is_updated_between_its_marks() -> None:
    """The rest of the document stays, and a second update changes nothing."""
    rows = [*deliveries(ours=[12], limit=[10]), Row(1, MACHINE, "load_average", 2.04)]
    once = update_document(f"before\n{BEGIN}\nold\n{END}\nafter\n", rows)
    assert once == f"before\n{BEGIN}\n\n{page(rows)}\n\n{END}\nafter\n"
    assert update_document(once, rows) == once
    assert page(rows).startswith("Measured in one round; the machine's 5-minute load average was 2.0 afterwards")
    assert ratios(rows) in page(rows)


def test_the_document_has_the_results() -> None:
    """docs/performance.md and its plot match the raw rows, which have all scenarios."""
    rows, text = read_csv(ROOT / "bench/results/notifier.csv"), DOCUMENT.read_text()
    assert update_document(text, rows) == text
    assert set(tables(rows)) == {scenario.title for scenario in SCENARIOS}
    assert plot(rows) == PLOT.read_text()
