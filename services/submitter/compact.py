"""Removes the comments and the indentation of scripts and style sheets that are served.

They are a fifth of what a browser would load. Lines keep their numbers, so that an error of a browser leads to the
source. A comment is found without a parser where it has whole lines outside of template literals, or ends a line and
has no character that could end a literal, within which it would be; a comment elsewhere stays. A test compares the
syntax of the scripts before and after.
"""

from __future__ import annotations

import re

TEMPLATE = rb"`(?:[^`\\$]|\\.|\$(?!\{)|\$\{(?:[^`}]|%b)*\})*`"
TEMPLATES = TEMPLATE % (TEMPLATE % rb"(?!)")  # in which others may be
LINES = rb"^ */\*(?:(?!\*/).)*\*/$|^ *// (?:(?!\*/)[^\n])*$"
ENDS = rb"^([^\n'`]*[;,{(\[]) // [^\n\"`/\\]*$|(?<=[;,{(\[]) // [^\n\"'`/\\]*$"  # an apostrophe may end a literal, too
PATTERN = re.compile(rb"(%b)|%b|%b|^ +" % (TEMPLATES, LINES, ENDS), re.MULTILINE | re.DOTALL)


def compact(text: bytes) -> bytes:
    """Return a script or a style sheet without its indentation and most of its comments."""
    return PATTERN.sub(lambda match: match[1] or match[2] or b"\n" * match[0].count(b"\n"), text)
