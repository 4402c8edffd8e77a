"""docs/operations-checklist.md: each score has its evidence, and the evidence exists."""

from __future__ import annotations

import ast
import re
from functools import cache
from typing import NamedTuple

import pytest

from dev.environment import ROOT
from tests.documents import Document

PAGE = Document("docs/operations-checklist.md")
DISASTERS = Document("docs/disaster.md")
TITLE = "The checklist of operations"
ROWS = 60
TEST = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")


class Row(NamedTuple):
    """A row of the table."""

    number: str
    area: str
    requirement: str
    score: str
    evidence: str


def rows() -> list[Row]:
    """Return the rows of the table."""
    return [Row(*cells) for cells in PAGE.table(TITLE)]


@cache
def functions_in(path: str) -> set[str]:
    """Return the names of the functions in a file, none if it does not exist."""
    file = ROOT / path
    if not file.exists():
        return set()
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    return {node.name for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, functions)}


def missing_tests(text: str) -> list[str]:
    """Return the tests that a text names and that do not exist."""
    return [f"{path}::{name}" for path, name in TEST.findall(text) if name not in functions_in(path)]


def test_every_requirement_has_a_score() -> None:
    """The rows are numbered, their scores are 0, 1 or 2, and the page has their sum."""
    assert [row.number for row in rows()] == [str(number) for number in range(1, ROWS + 1)]
    assert {row.score for row in rows()} <= {"0", "1", "2"}
    assert f"Total: {sum(int(row.score) for row in rows())} of {2 * ROWS} points." in PAGE.text


@pytest.mark.parametrize("row", rows(), ids=lambda row: row.number)
def test_evidence_exists(row: Row) -> None:
    """A full score names at least one test; every named test is in the repository."""
    named = TEST.findall(row.evidence)
    assert row.score != "2" or named
    assert row.evidence.count("tests/") == len(named)
    assert missing_tests(row.evidence) == []


def test_evidence_of_disasters_exists() -> None:
    """Each row about a loss names a test of the repository."""
    table = DISASTERS.table("What is tested")
    assert all(TEST.search(tests) for _, tests in table)
    assert missing_tests(DISASTERS.text) == []


@pytest.mark.parametrize("name", ["tests/unit/test_nothing.py::test_a", "tests/unit/test_docs.py::test_a"])
def test_missing_evidence_is_found(name: str) -> None:
    """A file that does not exist is reported, and so is a function."""
    assert missing_tests(f"| 1 | `{name}` |") == [name]
