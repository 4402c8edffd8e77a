"""Jobs as text: numbers and percentages."""

from __future__ import annotations

import io
import sys
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from rich.console import Console

from headway.cli.command import main
from headway.cli.progress_bars import ProgressBars
from headway.cli.text import LinePrinter, amount_text, error_text, job_line, json_line, number_text, printable_json
from headway.contracts import JobSnapshot, ProgressSnapshot, Timestamp, decode, encode

NOW = Timestamp.now()


def job(
    current: float, total: float | None = None, unit: str | None = "rows", percent: float | None = None
) -> JobSnapshot:
    """Return a running job."""
    return JobSnapshot(
        id=uuid4(),
        kind="import",
        status="running",
        version=1,
        submitted_at=NOW,
        expires_at=NOW,
        progress=ProgressSnapshot(current, total, percent, unit, None),
    )


def bar_of(shown: JobSnapshot) -> str:
    """Return the bar of a job as text."""
    output = io.StringIO()
    bars = ProgressBars(lambda: NOW)
    bars.update(shown)
    Console(file=output, width=150, force_terminal=True, color_system=None).print(bars.table())
    return output.getvalue()


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0"),
        (-0.0, "0"),
        (999, "999"),
        (1_000_000, "1,000,000"),
        (1e6, "1,000,000"),
        (1_234_567.0, "1,234,567"),
        (1234.5, "1,234.5"),
        (0.25, "0.25"),
        (1e-7, "0.0000001"),
        (1e16, "10,000,000,000,000,000"),
        (1e21, "1,000,000,000,000,000,000,000"),
        (2**53 + 1, "9,007,199,254,740,993"),
        (2**63 - 1, "9,223,372,036,854,775,807"),
        (10**30 + 1, "1,000,000,000,000,000,000,000,000,000,001"),
    ],
)
def test_number_is_shown_in_full(number: float, text: str) -> None:
    """Lines and bars show every digit, in groups of three, and no exponent."""
    assert number_text(number) == text
    assert f", {text} rows" in job_line(job(number))
    assert f" {text} rows " in bar_of(job(number))


@given(st.integers(0, 2**64) | st.floats(0, 1e300))
def test_text_of_a_number_has_its_value(number: float) -> None:
    """No digit is lost."""
    assert type(number)(number_text(number).replace(",", "")) == number


@pytest.mark.parametrize(
    ("error_type", "message", "text"),
    [
        ("ValueError", "no such file", "ValueError: no such file"),
        ("Fail", "The album is empty.", "The album is empty."),
        ("Retry", "The server is busy.", "The server is busy."),
        ("Fail", "", "Fail"),
        ("OSError", None, "OSError"),
    ],
)
def test_error_for_users_has_no_type(error_type: str, message: str | None, text: str) -> None:
    """The message of `Fail` and `Retry` says all, if there is one."""
    assert error_text(error_type, message) == text


def test_each_change_of_a_number_is_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    """Numbers that differ in any digit are different lines; the same number is one."""
    lines = LinePrinter(job_line)
    numbers = [1_234_567, 1_234_568, 1_234_999, 1_234_999.0, 2**53, 2**53 + 1]
    shown = job(0)
    for number in numbers:
        lines.print_job(replace(shown, progress=job(number).progress))
    assert len(capsys.readouterr().out.splitlines()) == len(numbers) - 1


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_output_does_not_depend_on_the_encoding_of_stdout(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """JSON keeps its value, and a bar is drawn, although the encoding lacks their characters."""
    shown = replace(job(1), kind="Straße ☂ 🎉")
    stdout = io.TextIOWrapper(io.BytesIO(), encoding)
    monkeypatch.setattr(sys, "stdout", stdout)
    with pytest.raises(SystemExit):
        main(["--version"])
    LinePrinter(json_line).print_job(shown)
    stdout.write(f"{printable_json(encode(shown).decode())}\n")
    with ProgressBars(lambda: NOW, Console(file=stdout, width=150, force_terminal=True)) as bars:
        bars.update(shown)
    stdout.seek(0)
    _version, *json_lines, rest = stdout.read().split("\n", 3)
    assert [decode(line, JobSnapshot) for line in json_lines] == [shown] * 2
    assert "Stra" in rest
    assert "running" in rest


@pytest.mark.parametrize(
    ("current", "total", "text"),
    [(99_996, 100_000, "99 %"), (0.99999, 1, "99 %"), (2**60 - 1, 2**60, "99 %"), (5, 5, "100 %"), (1, 10**9, "0 %")],
)
def test_100_percent_is_shown_only_at_the_total(current: float, total: float, text: str) -> None:
    """A notifier of version 0.1 rounds up to 100."""
    shown = job(current, total, percent=100.0)
    assert amount_text(shown.progress) == text
    assert f", {text}" in job_line(shown)
    assert f" {text} " in bar_of(shown)
