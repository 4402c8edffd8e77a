"""The log events of the services, and the document that lists them."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from dev.environment import ROOT
from tests.documents import Document

PAGE = Document("docs/log-events.md")
FOLDERS = {
    "Every service": ROOT / "services/runtime",
    "The submitter": ROOT / "services/submitter",
    "The worker": ROOT / "services/worker",
    "The notifier": ROOT / "services/notifier",
}
LEVELS = {"debug": "debug", "info": "info", "warning": "warning", "error": "error", "critical": "critical"}
LEVELS |= {"exception": "error"}  # an error with its traceback


class LogCall(NamedTuple):
    """A call that logs.

    Attributes:
        event: the event, in snake case.
        level: the level of the line.
        fields: the names of the fields that stand in the call.
        has_more: whether the call adds fields whose names do not stand in it.
    """

    event: str
    level: str
    fields: frozenset[str]
    has_more: bool


def events_of(node: ast.expr) -> list[str]:
    """Return the texts that the event of a call may be."""
    match node:
        case ast.Constant(str(text)):
            return [text]
        case ast.IfExp(body=body, orelse=orelse):
            return events_of(body) + events_of(orelse)
    raise AssertionError(f"line {node.lineno}: the event is not a text")


def log_calls(folder: Path) -> Iterator[LogCall]:
    """Yield all calls of the loggers in a folder's modules."""
    for file in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            match node:
                case ast.Call(ast.Attribute(ast.Name("log"), attr=method), [event]) if method in LEVELS:
                    names = [keyword.arg for keyword in node.keywords]
                    fields = frozenset(name for name in names if name not in (None, "exc_info", "extra"))
                    for text in events_of(event):
                        yield LogCall(text, LEVELS[method], fields, None in names or "extra" in names)


@pytest.mark.parametrize("heading", FOLDERS)
def test_every_log_event_is_documented(heading: str) -> None:
    """The table has each event with its levels and all fields that the code names, and no other event."""
    calls = list(log_calls(FOLDERS[heading]))
    rows = {row[0].strip("`"): row for row in PAGE.table(heading)}
    assert sorted(rows) == sorted({call.event for call in calls})
    for event, (_, levels, fields_cell, when) in rows.items():
        own = [call for call in calls if call.event == event]
        named = {field for call in own for field in call.fields}
        documented = {field.strip("`") for field in fields_cell.split(", ")} - {""}
        assert set(levels.split(", ")) == {call.level for call in own}, event
        assert named <= documented, (event, named - documented)
        assert documented == named or any(call.has_more for call in own), (event, documented - named)
        assert when.endswith("."), event


def test_the_table_is_sorted_by_event() -> None:
    """A reader finds an event of a log line by its first letters."""
    for heading in FOLDERS:
        events = [row[0] for row in PAGE.table(heading)]
        assert events == sorted(events)
