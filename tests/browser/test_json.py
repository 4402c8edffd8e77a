"""The browser client's JSON parser, in Node.js: it keeps the texts of the numbers that JavaScript changes."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.browser.npm import CLIENT, run_node

PROGRAM = """
import { indentJson, parseMessage } from "./json.js";
const { messages, texts } = JSON.parse(process.argv[1]);
const parsed = messages.map((text) => {
  const { job, jobs = [job] } = structuredClone(parseMessage(text));
  return jobs.map((each) => (each?.job ?? each)?.exact ?? null);
});
const stringified = texts.map((text) => JSON.stringify(JSON.parse(text), null, 2));
console.log(JSON.stringify({ parsed, stringified, indented: texts.map(indentJson) }));
"""

NESTED = r'{"a":"\"]},:","n":[{"nn":[]},{},12345678901234567890,"\\","n1.10","\u006e1.10"]}'

# The result of a snapshot, as JSON text.
CHANGED = [
    "9007199254740993",
    "-9007199254740993",
    "1e400",
    "-0",
    "1.10",
    "40.0",
    "1E5",
    "0.1000000000000000055511151231257827",
    '{"tweet":1234567890123456789}',
    NESTED,
    "[[],1.0]",
]
UNCHANGED = [
    "null",
    "0",
    "-1",
    "9007199254740991",
    "1.5",
    "0.1",
    "1e+21",
    '"12345678901234567890 1.10"',
    '["12345678901234567890", "\\" 1.10", {"1.10": 5}]',
    "{}",
    "true",
]
# Parse a list; print whether the numbers of its results are kept, and for how many seconds the processor was busy.
MEASURE = """
import { readFileSync } from "node:fs";
import { parseMessage } from "./json.js";
const text = readFileSync(0, "utf8");
const before = process.cpuUsage();
const { jobs } = parseMessage(text);
const { user, system } = process.cpuUsage(before);
console.log(JSON.stringify([jobs.every(({ exact }) => exact.result.endsWith(",1.0]")), (user + system) / 1e6]));
"""
MAX_BUSY_S = 2  # a list needs a tenth of it, and needed a minute with some texts
LARGE = {"current": "9007199254740993", "total": "9007199254740995"}
PROGRESS: list[tuple[str, dict[str, str] | None]] = [
    ('{"current":9007199254740993,"total":9007199254740995}', LARGE),
    ('{"total":9223372036854775807,"current":5}', {"total": "9223372036854775807"}),
    ('{"current":1e+22,"total":null}', {"current": "1e+22"}),
    ('{"current":1e+06,"total":2000000.0,"message":"{9007199254740993"}', None),
    ('{"current":9007199254740991,"total":null}', None),
    ("null", None),
]


def snapshot(result: str = "null", progress: str = "null") -> str:
    """Return the text of a snapshot with these fields."""
    return f'{{"id":"x","version":1767225600123,"progress":{progress},"result": {result} ,"error":null}}'


@pytest.fixture(scope="module")
def output() -> dict[str, Any]:
    """Parse and indent all texts in one process."""
    results = [*CHANGED, *UNCHANGED]
    messages = [f'{{"job":{snapshot(result)}}}' for result in results]
    messages += [f'{{"job":{snapshot(progress=progress)}}}' for progress, _ in PROGRESS]
    messages.append(f'{{"now":"x","jobs":[{",".join(map(snapshot, results))}],"errors":[]}}')
    messages += ['{"hello":{"now":"2026-01-01T00:00:00.000Z"}}', f'{{"job":{snapshot("1.10", PROGRESS[0][0])}}}']
    messages.append(f'{{"now":"x","jobs":[{{"job":{snapshot("1.10")},"labels":{{}}}}]}}')  # with a token for details
    arguments = json.dumps({"messages": messages, "texts": [*CHANGED, *UNCHANGED]})
    completed = run_node(CLIENT, "--input-type=module", "--eval", PROGRAM, arguments)
    assert completed.stderr == ""
    parsed: dict[str, Any] = json.loads(completed.stdout)
    return parsed


def test_changed_numbers_of_results_are_kept(output: dict[str, Any]) -> None:
    """A result with a number that JavaScript changes keeps its text, alone and in a list; other results do not."""
    expected = [*({"result": text.replace(r"\u006e", "n")} for text in CHANGED), *([None] * len(UNCHANGED))]
    count = len(expected)
    assert [job for (job,) in output["parsed"][:count]] == expected
    assert output["parsed"][count + len(PROGRESS)] == expected


def test_large_numbers_of_progress_are_kept(output: dict[str, Any]) -> None:
    """Progress beyond 2^53 keeps its text, independent of the result."""
    start = len(CHANGED) + len(UNCHANGED)
    assert [job for (job,) in output["parsed"][start : start + len(PROGRESS)]] == [exact for _, exact in PROGRESS]
    hello, both, detailed = output["parsed"][-3:]
    assert hello == [None]
    assert both == [{"result": "1.10", **LARGE}]
    assert detailed == [{"result": "1.10"}]


def test_indented_text_keeps_numbers(output: dict[str, Any]) -> None:
    """An indented text has the layout of `JSON.stringify`, the order of the original, and its numbers."""
    indented = dict(zip(CHANGED + UNCHANGED, output["indented"], strict=True))
    stringified = dict(zip(CHANGED + UNCHANGED, output["stringified"], strict=True))
    assert [indented[text] for text in UNCHANGED] == [stringified[text] for text in UNCHANGED]
    assert indented['{"tweet":1234567890123456789}'] == '{\n  "tweet": 1234567890123456789\n}'
    assert indented["[[],1.0]"] == "[\n  [],\n  1.0\n]"
    assert indented[NESTED] == json.dumps(json.loads(NESTED), indent=2)


@pytest.mark.parametrize(
    "texts",
    [["n" * length for length in range(1, 1500)], ["n" * 500_000], [f"n{number}n" for number in range(50_000)]],
    ids=["of all lengths", "long", "numbered"],
)
def test_texts_like_marks_are_parsed_at_once(texts: list[str]) -> None:
    """Texts of a job that look like the marks of changed numbers neither delay the page nor change."""
    jobs = 24
    parts = [json.dumps([*texts[start::jobs], *[1.10] * 1000])[:-1] + ",1.0]" for start in range(jobs)]
    message = f'{{"jobs":[{",".join(map(snapshot, parts))}]}}'
    completed = run_node(CLIENT, "--input-type=module", "--eval", MEASURE, stdin=message)
    assert completed.stderr == ""
    are_kept, busy_s = json.loads(completed.stdout)
    assert are_kept
    assert busy_s < MAX_BUSY_S
