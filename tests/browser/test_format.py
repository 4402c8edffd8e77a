"""The texts that element and job page share, in Node.js: all cases in one process."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

from tests.browser.npm import CLIENT, run_node

PROGRAM = """
import * as format from "./format.js";
import { parseMessage } from "./json.js";
const navigator = { onLine: true };
Object.defineProperty(globalThis, "navigator", { value: navigator });
const output = JSON.parse(process.argv[1]).map(([name, argument, ...rest]) => {
  if (name === "connectionText") navigator.onLine = rest.pop();
  if (rest.length > 2) rest[2] = JSON.parse(rest[2]);
  return format[name](name === "connectionText" ? argument : parseMessage(`{"job":${argument}}`).job, ...rest);
});
console.log(JSON.stringify(output));
"""
NOW = datetime(2026, 1, 1, 12, tzinfo=UTC).timestamp()
LARGE = "9007199254740993"


def at(seconds: float) -> str:
    """Return the JSON text of a time relative to now."""
    return json.dumps(datetime.fromtimestamp(NOW + seconds, UTC).isoformat())


def snapshot(**fields: str) -> str:
    """Return the text of a snapshot; the fields are JSON texts."""
    defaults = {
        "status": '"running"',
        "progress": "null",
        "result": "null",
        "finished_at": "null",
        "started_at": "null",
    }
    times = {"due_at": "null", "lease_until": "null", "submitted_at": at(-3600), "updated_at": at(0)}
    attempts = {"version": "5", "attempt": "1", "max_attempts": "5"}
    return "{" + ",".join(f'"{name}":{text}' for name, text in (defaults | times | attempts | fields).items()) + "}"


def progress(current: str, total: str = "null", percent: str = "null", **fields: str) -> dict[str, str]:
    """Return the field `progress` with JSON texts."""
    texts = {"current": current, "total": total, "percent": percent, "unit": "null", "message": "null"} | fields
    return {"progress": "{" + ",".join(f'"{name}":{text}' for name, text in texts.items()) + "}"}


def run(cases: list[tuple[Any, ...]], locale: str = "en_US") -> list[Any]:
    """Call the functions of the cases, each with its arguments, for a reader with this locale."""
    environment = {"LC_ALL": f"{locale}.UTF-8", "TZ": "UTC"}
    completed = run_node(CLIENT, "--input-type=module", "--eval", PROGRAM, json.dumps(cases), **environment)
    assert completed.stderr == ""
    results: list[Any] = json.loads(completed.stdout)
    return results


def check(cases: dict[tuple[Any, ...], Any]) -> None:
    """Check the result of each call: a function's name and its arguments."""
    assert dict(zip(cases, run(list(cases)), strict=True)) == cases


def test_only_complete_work_is_100_percent() -> None:
    """The percentage is 100 only if the current number is the total, however the server and JavaScript round."""
    cases: dict[tuple[Any, ...], Any] = {}
    for fields, percent, text in [
        (progress("99996", "100000", "100.0"), 99.99, "99 %"),
        (progress("99.996", "100", "100.0"), 99.99, "99 %"),
        (progress("9007199254740992", LARGE, "100.0"), 99.99, "99 %"),
        (progress(LARGE, LARGE, "100.0"), 100, "100 %"),
        (progress("10000000000000000", "1e16", "100.0"), 100, "100 %"),
        (progress("5", "5", "100.0"), 100, "100 %"),
        (progress("7", "5", "100.0"), 100, "100 %"),
        (progress("0", "0", "100.0"), 100, "100 %"),
        (progress("1", "3", "33.33"), 33.33, "33 %"),
        (progress("1", "1000000", "0.0"), 0, "0 %"),
        (progress("5"), None, ""),
        ({}, None, ""),
        ({"status": '"succeeded"', **progress("4", "5", "80.0")}, 100, "100 %"),
        ({"status": '"failed"', **progress("99999", "100000", "100.0")}, 99.99, "99 %"),
    ]:
        cases["percent", snapshot(**fields)] = percent
        cases["percentText", snapshot(**fields)] = text
    check(cases)


def test_amounts_are_plain_and_exact_numbers() -> None:
    """Amounts are grouped, never in scientific notation below 10^21, never rounded up, and exact beyond 2^53."""
    texts = {
        ("1e+06", "null"): "1,000,000 rows",
        ("1234567", "2e6"): "1,234,567 of 2,000,000 rows",
        (LARGE, "9223372036854775807"): "9,007,199,254,740,993 of 9,223,372,036,854,775,807 rows",
        ("9007199254740993.75", "1e+20"): "9,007,199,254,740,993 of 100,000,000,000,000,000,000 rows",
        ("5", "1e400"): "5 of 1e400 rows",
        ("99.96", "100"): "99.9 of 100 rows",
        ("1.99", "2.0"): "1.9 of 2 rows",
        ("32.3", "64.1"): "32.3 of 64.1 rows",
        ("1234.5", "null"): "1,234.5 rows",
        ("0.04", "1"): "0.04 of 1 rows",
        ("0.0333333333", "0.1"): "0.033 of 0.1 rows",
        ("1e-9", "0"): "1e-9 of 0 rows",
        ("-0", "null"): "0 rows",
        ("-0.0", "10"): "0 of 10 rows",
    }
    cases: dict[tuple[Any, ...], Any] = {
        ("amountText", snapshot(**progress(*numbers, unit='"rows"'))): text for numbers, text in texts.items()
    }
    cases["amountText", snapshot(**progress("40", "100", unit='"%"'))] = ""
    cases["amountText", snapshot()] = ""
    check(cases)


def test_numbers_and_times_follow_the_locale_of_the_reader() -> None:
    """Numbers and times are written as the reader's country writes them."""
    now = NOW * 1000
    rows = progress("1234567", "1234567.5", unit='"rows"')
    cases: list[tuple[Any, ...]] = [
        ("amountText", snapshot(**rows)),
        ("amountText", snapshot(**progress(LARGE))),
        ("amountText", snapshot(**progress("0.04", "1"))),
        ("preciseDurationText", "1500"),
        *[("timestampText", json.dumps(time), now) for time in ("2026-01-01T09:05:00Z", "2025-12-31T09:05:00Z")],
        ("timestampText", json.dumps("2026-01-01T09:05:00Z"), now + 86_400_000),
    ]
    german = ["1.234.567 of 1.234.567,5 rows", "9.007.199.254.740.993", "0,04 of 1", "1,5 s"]
    american = ["1,234,567 of 1,234,567.5 rows", "9,007,199,254,740,993", "0.04 of 1", "1.5 s"]
    german += ["09:05:00", "31. Dez. 2025, 09:05", "1. Jan., 09:05"]
    american += ["9:05:00 AM", "Dec 31, 2025, 9:05 AM", "Jan 1, 9:05 AM"]
    for locale, texts in (("de_DE", german), ("en_US", american)):
        assert [text.replace("\u202f", " ") for text in run(cases, locale)] == texts


def test_durations_have_one_unit_or_two() -> None:
    """A short text has the largest unit only. A precise one has the next unit too, and decimals or milliseconds."""
    texts = {
        -5: ("0 s", "0 s"),
        0: ("0 s", "0 s"),
        40.9: ("0 s", "40 ms"),
        260: ("0 s", "0.2 s"),
        9_999: ("9 s", "9.9 s"),
        48_700: ("48 s", "48 s"),
        130_000: ("2 min", "2 min 10 s"),
        3_600_000: ("1 h", "1 h"),
        3_659_000: ("1 h", "1 h"),
        100_000_000: ("1 d", "1 d 3 h"),
        172_800_000_000: ("2,000 d", "2,000 d"),
    }
    short = {("durationText", str(ms)): text for ms, (text, _) in texts.items()}
    check(short | {("preciseDurationText", str(ms)): text for ms, (_, text) in texts.items()})


def test_end_does_not_contradict_itself() -> None:
    """After success, amount and message are hidden; after another end, the message is called the last one."""
    fields = progress("4", "5", "80.0", message='"Resizing"')
    ended = {**fields, "finished_at": at(0)}
    check(
        {
            ("amountText", snapshot(**ended, status='"succeeded"')): "",
            ("messageText", snapshot(**ended, status='"succeeded"')): "",
            ("amountText", snapshot(**ended, status='"failed"')): "4 of 5",
            ("messageText", snapshot(**ended, status='"failed"')): "Last message: Resizing",
            ("messageText", snapshot(**ended, status='"cancelled"')): "Last message: Resizing",
            ("messageText", snapshot(**fields)): "Resizing",
            ("messageText", snapshot()): "",
        }
    )


def test_result_has_the_original_numbers() -> None:
    """A result is indented JSON with its original numbers."""
    check(
        {
            ("resultText", snapshot()): "",
            ("resultText", snapshot(result='{"a":1234567890123456789,"b":[1.10]}')): (
                '{\n  "a": 1234567890123456789,\n  "b": [\n    1.10\n  ]\n}'
            ),
            ("resultText", snapshot(result='{"a":[1]}')): '{\n  "a": [\n    1\n  ]\n}',
            ("resultText", snapshot(result="false")): "false",
        }
    )


def test_next_step_is_explained() -> None:
    """A job says what it waits for; a worker is lost only if the connection outlived its lease."""
    now = NOW * 1000
    queued = {"status": '"queued"'}
    lost = {"lease_until": at(-1), "updated_at": at(-60)}
    ages = {0: "just now", -59: "59 s ago", -61: "1 min ago", -3600: "1 h ago", -200_000: "2 d ago", 60: "just now"}
    cases: dict[tuple[Any, ...], Any] = {
        ("nextStepText", snapshot(**queued, version="0", submitted_at=at(seconds)), now): (
            f"No worker has reported yet · submitted {text}"
        )
        for seconds, text in ages.items()
    }
    cases |= {
        ("nextStepText", snapshot(**queued), now): "Waiting for a worker · submitted 1 h ago",
        ("nextStepText", snapshot(**queued, redriven_at=at(-61)), now): "Waiting for a worker · run again 1 min ago",
        ("nextStepText", snapshot(**queued, started_at=at(-10)), now): "",
        ("nextStepText", snapshot(**queued, version="0", due_at=at(12)), now): "starts in 12 s",
        ("nextStepText", snapshot(**lost), now): "Worker lost, next attempt soon",
        ("nextStepText", snapshot(**lost), now, now - 10_000): "Worker lost, next attempt soon",
        ("nextStepText", snapshot(**lost), now, now - 13_000): "",
        ("nextStepText", snapshot(lease_until=at(14), updated_at=at(-46)), now): "",  # renewed, but not reported yet
        ("nextStepText", snapshot(**lost), now, now - 30_000): "",
        ("nextStepText", snapshot(**lost), now, 0): "",
        ("nextStepText", snapshot(), now): "",
    }
    check(cases)


def test_position_is_shown_while_others_wait_before() -> None:
    """A queued job that is due says how many jobs wait before it, unless that is unknown or none does."""
    now = NOW * 1000
    queued = {"status": '"queued"'}
    cases: dict[tuple[Any, ...], Any] = {
        ("nextStepText", snapshot(**queued), now, now, None): "Waiting for a worker · submitted 1 h ago",
        ("nextStepText", snapshot(**queued, due_at=at(12)), now, now, '{"before": 9}'): "starts in 12 s",
        ("isWaiting", snapshot(**queued), now): True,
        ("isWaiting", snapshot(**queued, due_at=at(-1)), now): True,
        ("isWaiting", snapshot(**queued, due_at=at(1)), now): False,
        ("isWaiting", snapshot(**queued, version="0"), now): False,
        ("isWaiting", snapshot(), now): False,
    }
    for before, text in {
        "null": "Waiting for a worker",
        "0": "Waiting for a worker",
        "1": "About 1 job before this one",
        "1240": "About 1,240 jobs before this one",
    }.items():
        position = f'{{"before": {before}, "complete": true}}'
        cases["nextStepText", snapshot(**queued), now, now, position] = f"{text} · submitted 1 h ago"
        released = text if "About" in text else ""
        cases["nextStepText", snapshot(**queued, started_at=at(-10)), now, now, position] = released
    check(cases)


def test_stalled_job_says_since_when() -> None:
    """A running job has not advanced since its progress last rose in this delivery, as far as that is certain."""
    now = NOW * 1000
    alive = {"lease_until": at(40), "updated_at": at(-5)}
    started = {**alive, "started_at": at(-730)}
    some, none = progress("4", "10", "40.0"), progress("0", "10", "0.0")
    texts = {
        snapshot(**started, **some, advanced_at=at(-725)): "Alive, but has not advanced for 12 min",
        snapshot(**started, **progress("4"), advanced_at=at(-7200)): "Alive, but has not advanced for 12 min",
        snapshot(**started, **none): "Alive, but has not advanced for 12 min",
        snapshot(**started): "Alive, but has reported no progress for 12 min",
        snapshot(**started, **some, advanced_at=at(-119)): "",
        snapshot(**started, **some): "",  # from a server of version 0.1, which does not know it
        snapshot(**(started | {"lease_until": "null"}), **none): "Has not advanced for 12 min",
        snapshot(**(started | {"lease_until": at(-1), "updated_at": at(-60)})): "Worker lost, next attempt soon",
        snapshot(**(alive | {"started_at": at(-119)})): "",
        snapshot(**started, status='"succeeded"', finished_at=at(0)): "",
    }
    cases: dict[tuple[Any, ...], Any] = {("nextStepText", text, now): shown for text, shown in texts.items()}
    cases |= {("isStalled", text, now): "for 12 min" in shown for text, shown in texts.items()}
    stalled = snapshot(**started, **some, advanced_at=at(-725))
    cases["nextStepText", stalled, now, now - 600_000] = "Alive, but has not advanced for 2 min"
    cases["nextStepText", stalled, now, now - 610_000] = ""
    cases["nextStepText", stalled, now, 0] = ""
    check(cases)


def test_earlier_attempts_have_an_outcome() -> None:
    """An earlier attempt has an outcome in words, and its duration if a worker has started it."""
    times = {"started_at": at(-20), "ended_at": at(-7.5)}
    texts = {"failed": "failed", "lost": "worker lost", "released": "released by its worker", "paused": "paused"}
    cases: dict[tuple[Any, ...], Any] = {
        ("attemptText", snapshot(**times, attempt="2", outcome=f'"{outcome}"')): f"Attempt 2: {text} after 12 s"
        for outcome, text in texts.items()
    }
    cases["attemptText", snapshot(ended_at=at(0), outcome='"cancelled"')] = "Attempt 1: cancelled"
    check(cases)


def test_connection_has_one_text() -> None:
    """A page that is not live says why: offline, or a server that it cannot reach. An error explains a refusal."""
    texts: list[tuple[Any, ...]] = [
        ("connecting", None, True, ""),
        ("live", {}, True, ""),
        ("live", {}, False, "You are offline."),
        ("connecting", None, False, "You are offline."),
        ("reconnecting", None, False, "You are offline."),
        ("reconnecting", None, True, "The server cannot be reached. Trying again…"),
        ("reconnecting", {}, True, "Reconnecting…"),
        ("refused", None, True, ""),
    ]
    assert run([("connectionText", *arguments) for *arguments, _ in texts]) == [text for *_, text in texts]


def test_errors_are_named_unless_their_message_says_all() -> None:
    """`Fail` and `Retry` are the handler's own words: readers see the message alone, or the type if there is none."""
    texts = {
        ("ValueError", "no such file"): "ValueError: no such file",
        ("Fail", "The disk is full."): "The disk is full.",
        ("Retry", "The mail server is busy."): "The mail server is busy.",
        ("Fail", ""): "Fail",
        ("FailedImport", "row 4"): "FailedImport: row 4",
    }
    check({("errorText", json.dumps({"type": each[0], "message": each[1]})): text for each, text in texts.items()})
