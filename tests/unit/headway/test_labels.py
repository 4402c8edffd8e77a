"""Labels and filters."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from headway.contracts import decode, encode
from headway.labels import JobFilter, Labels


@pytest.mark.parametrize(
    ("labels", "field"),
    [
        ({"name": ""}, "name"),
        ({"name": "a" * 201}, "name"),
        ({"name": " "}, "name"),
        ({"name": "\u00a0\u3000" * 100}, "name"),
        ({"name": "March\n"}, "name"),
        ({"name": "\tMarch"}, "name"),
        ({"name": "Ma\x00rch"}, "name"),
        ({"name": "\x1b[31mMarch"}, "name"),
        ({"name": "Ma\u2028rch"}, "name"),
        ({"name": "Ma\x85rch"}, "name"),
        ({"owner": "a b"}, "owner"),
        ({"owner": "a{b"}, "owner"),
        ({"owner": "a\n"}, "owner"),
        ({"owner": "a" * 129}, "owner"),
        ({"tags": ["a" * 65]}, "tags"),
        ({"tags": ["a}"]}, "tags"),
        ({"tags": ["a\n"]}, "tags"),
        ({"tags": [""]}, "tags"),
        ({"tags": list("abcdefghi")}, "tags"),
    ],
)
def test_invalid_labels_are_refused(labels: dict[str, Any], field: str) -> None:
    """The error names the field."""
    with pytest.raises(msgspec.ValidationError, match=field):
        decode(encode(labels), Labels)


@pytest.mark.parametrize("name", [".", " March ", "Größe 3", "数学", "👩‍🚀", "a" * 200])
def test_a_name_is_a_line_of_any_language(name: str) -> None:
    """A name may have spaces around it, and any character that can be seen."""
    assert decode(encode({"name": name}), Labels) == Labels(name=name)


def test_empty_labels_are_left_out() -> None:
    """Only the labels that are set are written."""
    assert encode(Labels(owner="auth0|7", tags=("größe:xl", "a/b@c.d-e"))) == (
        '{"owner":"auth0|7","tags":["größe:xl","a/b@c.d-e"]}'.encode()
    )
    assert encode(Labels()) == b"{}"


@pytest.mark.parametrize(
    ("job_filter", "matches"),
    [
        (JobFilter(), True),
        (JobFilter(owner="7", tag="a", kind="letters"), True),
        (JobFilter(owner="8"), False),
        (JobFilter(tag="c"), False),
        (JobFilter(kind="letter"), False),
        (JobFilter(owner="7", tag="c"), False),
    ],
)
def test_filter(job_filter: JobFilter, *, matches: bool) -> None:
    """A filter selects the jobs that match all of its fields."""
    assert job_filter.matches("letters", Labels(owner="7", tags=("a", "b"))) is matches
    assert JobFilter(owner="7").matches("letters", Labels()) is False
