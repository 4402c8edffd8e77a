"""The request that submits a job."""

from __future__ import annotations

import pytest

from headway.client.submission import one_or_more, submission_request


def test_labels_are_fields_of_a_submission() -> None:
    """What is not set is not sent."""
    for options, expected in (
        (
            {"name": "October", "owner": "user:7", "tags": ("a", "b")},
            b',"name":"October","owner":"user:7","tags":["a","b"]',
        ),
        ({"tags": "march"}, b',"tags":["march"]'),
        ({"name": None, "owner": None, "tags": [], "on_end": None}, b""),
        ({"on_end": "mail"}, b',"on_end":"mail"'),
    ):
        assert submission_request("k", **options)[1] == b'{"kind":"k"%b}' % expected


def test_an_option_with_a_typing_error_is_rejected() -> None:
    """It raises before anything is sent."""
    with pytest.raises(TypeError, match="dely_s"):
        submission_request("k", dely_s=1)  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("texts", "expected"), [(None, []), ("ab", ["ab"]), (("a", "b"), ["a", "b"]), (iter("a"), ["a"])]
)
def test_one_text_is_a_list_of_one(texts: object, expected: list[str]) -> None:
    """A text is not taken apart into its characters."""
    assert one_or_more(texts) == expected  # type: ignore[arg-type]
