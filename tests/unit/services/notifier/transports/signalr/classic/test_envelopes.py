"""The envelopes and cursors of the classic hub."""

from __future__ import annotations

import json

import pytest

from services.notifier.transports.signalr.classic.calls import answer_call
from services.notifier.transports.signalr.classic.connections import ANSWERS
from services.notifier.transports.signalr.classic.envelopes import Cursor, encode_envelope, encode_error
from services.notifier.watching.snapshot import PublishedSnapshot


def snapshot(version: int, status: str = "running", percent: float | None = None) -> PublishedSnapshot:
    """Return a job's snapshot."""
    progress = {"current": 1, "total": None, "percent": percent}
    return PublishedSnapshot(
        json.dumps({"id": "one", "status": status, "version": version, "progress": progress}).encode()
    )


@pytest.mark.parametrize("cursor", [Cursor(17, b"42.5"), Cursor(17, b""), Cursor(0, b"100"), Cursor()])
def test_a_client_returns_its_cursor(cursor: Cursor) -> None:
    """What an envelope has as the cursor is read as the same position."""
    assert Cursor.parse(json.loads(encode_envelope(cursor))["C"]) == cursor


@pytest.mark.parametrize("text", [None, "", "null", "d-ABC,1", "17", "-1-2", "9" * 20 + "-1", "1-<script>"])
def test_a_cursor_of_another_server_means_nothing(text: str | None) -> None:
    """The client gets the present state."""
    assert Cursor.parse(text) == Cursor()


def test_an_envelope_always_has_a_cursor_and_a_list() -> None:
    """Without a cursor, a client connects again at once; without a list, older ones raise an error."""
    assert json.loads(encode_envelope(Cursor())) == {"C": "-", "M": []}
    assert json.loads(encode_envelope(Cursor(), initial=True)) == {"C": "-", "S": 1, "M": []}


@pytest.mark.parametrize("protocol", [(1, 2), (1, 3), (2, 0)])
def test_an_error_stops_clients_that_know_errors(protocol: tuple[int, int]) -> None:
    """The newest obey `E`, and the oldest `D`."""
    assert json.loads(encode_error(Cursor(3), '"no"', protocol)) == {"C": "3-", "M": [], "D": 1, "E": '"no"'}


@pytest.mark.parametrize("protocol", [(1, 4), (1, 5)])
def test_a_text_stops_the_clients_in_between(protocol: tuple[int, int]) -> None:
    """They have no such key, but stop when they cannot parse a message."""
    assert encode_error(Cursor(3), "forbidden: no", protocol) == b"forbidden: no"


def test_calls_of_a_snapshot() -> None:
    """The percentage comes before the snapshot; that of a job that has succeeded is 100."""
    envelope = json.loads(ANSWERS.progressed(snapshot(17, percent=42.5)))
    assert (envelope["C"], [call["M"] for call in envelope["M"]]) == ("17-42.5", ["updateProgress", "jobChanged"])
    assert envelope["M"][0] == {"H": "JobProgressHub", "M": "updateProgress", "A": [42.5]}
    envelope = json.loads(ANSWERS.progressed(snapshot(18, "succeeded", percent=50)))
    assert (envelope["C"], envelope["M"][0]["A"]) == ("18-100", [100])
    envelope = json.loads(ANSWERS.changed(snapshot(19)))
    assert (envelope["C"], envelope["M"][0]["A"][0]["version"]) == ("19-", 19)


def test_there_are_no_methods() -> None:
    """A call of a method is answered with an error, and its id as a text."""
    answer = json.loads(answer_call('{"H":"jobprogresshub","M":"Echo","A":[],"I":3}'))
    assert answer == {"I": "3", "E": "'Echo' method could not be resolved. No method found with that name."}


@pytest.mark.parametrize("text", ["", "[]", '{"M":1}', "x"])
def test_other_texts_are_no_call(text: str) -> None:
    """They are refused."""
    with pytest.raises(ValueError, match="call"):
        answer_call(text)
