"""The language of the code: standard terms of the field, in plain English (CONTRIBUTING.md has the vocabulary)."""

from __future__ import annotations

import ast
import io
import keyword
import re
import subprocess
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

from dev.environment import ROOT

CODE = ("headway", "services", "bench", "dev", "tests", "examples")

# Words of a former private language, and what to write instead. Identifiers are split at underscores and capitals.
REPLACEMENTS = {
    ("chassis",): "service, runtime",
    ("chief",): "latest",
    ("crowd", "somebody", "nobody", "whoever"): "the actor: client, server, worker, caller",
    ("ear", "ears", "hear", "heard", "hears"): "subscriber, receive, on_message",
    ("gate",): "fence, record script",
    ("granted",): "grant",
    ("handshakes",): "listener",
    ("hinted", "hints"): "wake-up",
    ("holding",): "lease, leased job",
    ("inlet", "inlets", "outlet", "outlets"): "connection",
    ("mint", "minted", "minting"): "issue",
    ("oracle",): "model",
    ("spell", "spells", "spelt"): "encode, format",
    ("stirred", "waker"): "notify, wake-up",
    ("tally",): "counter",
    ("told",): "report, send, error",
    ("trouble",): "error",
}
STANDARD_LIBRARY_NAMES = frozenset({"get_type_hints"})
BANNED_WORDS = frozenset(word for words in REPLACEMENTS for word in words)
BANNED_PHRASES = re.compile(
    r"""\b(
    whoever | nobody | somebody | the\ other\ side | as\ good\ as | lest | anew | spelt | mended | takes\ nothing |
    what(ever)?\ (comes|came|has\ come) | what\ is\ none | (that|which)\ (is|are)\ none |
    (that|is|are|was|were|be)\ told | (hears|heard)\ of
    )\b""",
    re.IGNORECASE | re.VERBOSE,
)
BANNED_FIRST_WORDS = re.compile(r"(Take|Tell|Spell|Hear|Be told|Let|Have|See) ")


def python_files() -> Iterator[Path]:
    """Yield the Python files of the repository, except this one."""
    for folder in CODE:
        for path in sorted((ROOT / folder).rglob("*.py")):
            if "node_modules" not in path.parts and path != Path(__file__):
                yield path


def words(identifier: str) -> list[str]:
    """Split an identifier into lower-case words."""
    return [word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[A-Z]+", identifier)]


def banned_identifiers(source: str) -> list[str]:
    """Return the identifiers of Python source that contain a banned word."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    names = {token.string for token in tokens if token.type == tokenize.NAME and not keyword.iskeyword(token.string)}
    return sorted(name for name in names - STANDARD_LIBRARY_NAMES if BANNED_WORDS & set(words(name)))


def prose(source: str) -> Iterator[str]:
    """Yield the docstrings and comments of Python source."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            docstring = ast.get_docstring(node)
            if docstring is not None:
                yield docstring
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.string


def banned_prose(text: str) -> list[str]:
    """Return what a docstring or comment contains of banned phrases, and a banned first word."""
    first = BANNED_FIRST_WORDS.match(text)
    return [
        *([first[0].strip()] if first else []),
        *(found[0] for found in BANNED_PHRASES.finditer(" ".join(text.split()))),
    ]


def text_files() -> list[Path]:
    """Return the documents, scripts and pages that users and maintainers read."""
    patterns = ("*.md", "*.lua", "*.js", "*.html", "*.yaml", "*.sh", "Makefile", "Dockerfile")
    command = ["git", "ls-files", "--", *patterns]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("this is not a git checkout")
    return [ROOT / name for name in listed.stdout.splitlines()]


@pytest.mark.parametrize("path", list(python_files()), ids=lambda path: str(path.relative_to(ROOT)))
def test_python_speaks_the_vocabulary(path: Path) -> None:
    """Identifiers, docstrings and comments use the vocabulary."""
    source = path.read_text()
    assert banned_identifiers(source) == []
    assert [phrase for text in prose(source) for phrase in banned_prose(text)] == []


def test_documents_and_scripts_speak_the_vocabulary() -> None:
    """Documents, pages, manifests and scripts are free of the banned phrases."""
    found = {
        str(path.relative_to(ROOT)): [match[0] for match in BANNED_PHRASES.finditer(path.read_text())]
        for path in text_files()
        if path.name != "CONTRIBUTING.md"
    }
    assert {name: matches for name, matches in found.items() if matches} == {}


@pytest.mark.parametrize(
    "source", ["def take_what_was_told(): ...", "class InletFactory: ...", "granted = 1", "x.tally = 2"]
)
def test_banned_identifiers_are_found(source: str) -> None:
    """A banned word is found in every kind of identifier and in every position."""
    assert len(banned_identifiers(source)) == 1


@pytest.mark.parametrize(
    "text", ["Take that it is full.", "Serve whoever asks.", "# it is\n  told later", "What comes is kept."]
)
def test_banned_prose_is_found(text: str) -> None:
    """A phrase is found across a line break and in any case."""
    assert len(banned_prose(text)) == 1


def test_words_of_other_words_are_not_banned() -> None:
    """`heartbeat`, `early` and `delegate` contain banned words only as parts of a word."""
    assert banned_identifiers("heartbeat = early = delegate = hearing = 1") == []
