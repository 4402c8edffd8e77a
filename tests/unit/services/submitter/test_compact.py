"""The comments and the indentation that are removed from scripts, and what only looks like them."""

from __future__ import annotations

import pytest

from services.submitter.compact import compact


@pytest.mark.parametrize(
    ("script", "served"),
    [
        ("/** a\n * b */\nf();", "\n\nf();"),
        ("  // a\nf();", "\nf();"),
        ("/* a\n   b */\nmain { color: red; } /* c */", "\n\nmain { color: red; } /* c */"),
        ("f(a, // b\n  c);", "f(a,\nc);"),
        ("f(\n  a,\n\n  `\n  b`,\n);", "f(\na,\n\n`\n  b`,\n);"),
        ("const x = `a`; // b", "const x = `a`;"),
        ("x = 1; // the job's", "x = 1;"),
        ("// `a\nf(`b`);\n// c`", "\nf(`b`);\n"),
    ],
)
def test_comments_and_indentation_are_removed(script: str, served: str) -> None:
    """Whole lines of comments are, and those at the ends of lines; a template literal keeps its spaces."""
    assert compact(script.encode()).decode() == served


@pytest.mark.parametrize(
    "script",
    [
        "/** a */ export const x = 1;\n/** b */ f();",
        'const x = "a, // b";',
        "const x = 'a, // b';",
        'const x = "{ // …";',
        "f(/a, // b/);",
        'const x = "a, // b \\\nc";',
        "const x = `a, // b`;",
        "const x = `\n// a\n/** b */\n c, // d\n  e\n`;",
        "const x = `\\`\n// a\n`;",
        "const x = `$\n// a\n${b}\n// c\n`;",
        "const x = `${a.map((b) => `\n// b\n`)}\n// c\n`;",
        "const x = `${{ a: 1 }}\n// b\n`;",
        "/*\n// a */ f();",
    ],
)
def test_other_texts_stay(script: str) -> None:
    """Neither what follows a comment nor a part of a literal is one."""
    assert compact(script.encode()).decode() == script


def test_a_comment_ends_at_its_end() -> None:
    """The next comment is another one, and what is between them stays."""
    assert compact(b"/** a */ export const x = 1;\n/** b */\n") == b"/** a */ export const x = 1;\n\n"
