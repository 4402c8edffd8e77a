"""What a client asks of a list: every invalid parameter is named, and a token limits everything."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import urlencode

import pytest
from aiohttp.test_utils import make_mocked_request
from msgspec import ValidationError

from headway.contracts import Timestamp, decode, encode
from headway.labels import JobFilter
from services.notifier.records.index.query import JobQuery
from services.notifier.transports.list_queries import ListFilter, ListParameters, read_parameters
from services.runtime.errors import Forbidden, UnprocessableContent
from tests.unit.services.notifier.transports.listed_jobs import list_grant

EVERYTHING = list_grant("list details", owner=None)


def parameters(query: str) -> ListParameters:
    """Decode a query string."""
    result = read_parameters(make_mocked_request("GET", f"/live/jobs?{query}"))
    assert isinstance(result, ListParameters)
    return result


def test_a_query_string_selects_jobs() -> None:
    """A status may be repeated or be a list with commas, a tag may be repeated; the token may be a parameter, too."""
    asked = parameters(
        "status=failed,cancelled&status=succeeded&tag=a&tag=b&owner=anna&kind=k&since=2026-01-01T00:00:00Z"
        "&until=2026-01-02T00:00:00Z&attempts_min=2&error_type=Oops&limit=7&access_token=x"
    )
    assert asked.query(EVERYTHING, asked.limit) == JobQuery(
        filter=JobFilter(owner="anna", kind="k"),
        tags=("a", "b"),
        statuses=frozenset({"failed", "cancelled", "succeeded"}),
        since=Timestamp.parse("2026-01-01T00:00:00Z"),
        until=Timestamp.parse("2026-01-02T00:00:00Z"),
        attempts_min=2,
        error_type="Oops",
        limit=7,
    )
    assert parameters("").query(EVERYTHING) == JobQuery()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("status", "done"),
        ("status", "failed,"),
        ("status", ""),
        ("kind", "k" * 129),
        ("kind", ""),
        ("tag", "t" * 65),
        ("tag", "a{b}"),
        ("tag", "a,b"),
        ("tag", [f"tag{number}" for number in range(9)]),
        ("tag", ["t"] * 400),
        ("owner", "a b"),
        ("owner", "o" * 129),
        ("owner", ["anna", "bert"]),
        ("since", "yesterday"),
        ("since", "12h"),
        ("since", "2026-01-01"),
        ("until", "2026-01-01T00:00:00"),
        ("attempts_min", "0"),
        ("attempts_min", "1.5"),
        ("error_type", ""),
        ("limit", "0"),
        ("limit", "201"),
        ("limit", "ten"),
        ("cursor", "c" * 257),
        ("page", "2"),
        ("Status", "failed"),
    ],
)
def test_an_invalid_parameter_is_named(name: str, value: Any) -> None:
    """So are an unknown one, and one that is repeated but stands for one value."""
    with pytest.raises(UnprocessableContent) as caught:
        parameters(urlencode({name: value}, doseq=True))
    assert caught.value.field == name


@pytest.mark.parametrize(("name", "allowed"), [("owner", {"owner": "anna"}), ("kind", {"kind": "letters"})])
def test_a_filter_that_contradicts_the_token_is_refused(name: str, allowed: dict[str, Any]) -> None:
    """The error names the field; a filter that repeats the token's is not wrong."""
    grant = list_grant(**allowed)
    asks: list[Callable[[str], JobQuery]] = [
        lambda value: parameters(f"{name}={value}").query(grant),
        lambda value: live(name, value).query(grant, 5),
    ]
    for ask in asks:
        assert ask(next(iter(allowed.values()))).filter == JobFilter(**allowed)
        with pytest.raises(Forbidden) as caught:
            ask("other")
        assert caught.value.field == name


def live(name: str, value: Any) -> ListFilter:
    """Return the filter of a live list."""
    return ListFilter(**{name: value})


def test_a_filter_only_narrows_that_of_the_token() -> None:
    """The token's tag stays required beside the client's, and nothing that the client leaves out widens the list."""
    grant = list_grant(owner="anna", tag="t")
    for query in (parameters("tag=u&tag=t&kind=k").query(grant), ListFilter(tag=("u", "t"), kind="k").query(grant, 50)):
        assert query == JobQuery(filter=JobFilter(owner="anna", tag="t", kind="k"), tags=("u",))
    assert parameters("").query(grant) == JobQuery(filter=grant.filter)


def test_the_type_of_an_error_needs_the_scope_details() -> None:
    """It may show what an unexpected error was, which the snapshot does not."""
    for asked in (parameters("error_type=Oops"), live("error_type", "Oops")):
        with pytest.raises(Forbidden) as caught:
            asked.query(list_grant("list watch"))
        assert caught.value.field == "error_type"


def test_a_live_filter_has_one_value_or_several() -> None:
    """The same query is read once, however it is written."""
    one = decode('{"status": "failed", "tag": "a"}', ListFilter).query(EVERYTHING, 50)
    assert one == decode('{"status": ["failed"], "tag": ["a", "a"]}', ListFilter).query(EVERYTHING, 50)
    several = decode('{"status": ["failed", "cancelled"], "tag": ["b", "a"]}', ListFilter).query(EVERYTHING, 50)
    assert (several.statuses, several.tags) == (frozenset({"failed", "cancelled"}), ("a", "b"))
    assert hash(one) == hash(decode('{"tag": "a", "status": "failed"}', ListFilter).query(EVERYTHING, 50))


def test_a_live_filter_has_the_fields_of_a_query_string() -> None:
    """A live list can show whatever a page of a list can."""
    message = """{"status": "failed,cancelled", "kind": "k", "tag": ["a", "b"], "owner": "anna", "attempts_min": 2,
        "since": "2026-01-01T00:00:00Z", "until": "2026-01-02T00:00:00Z", "error_type": "Oops"}"""
    query = "status=failed,cancelled&kind=k&tag=a&tag=b&owner=anna&attempts_min=2&since=2026-01-01T00:00:00Z"
    page = parameters(f"{query}&until=2026-01-02T00:00:00Z&error_type=Oops").query(EVERYTHING)
    assert decode(message, ListFilter).query(EVERYTHING) == page


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("status", "failed,"),
        ("status", "failed, cancelled"),
        ("status", ""),
        ("status", ["done"]),
        ("tag", "a,b"),
        ("since", "12h"),
        ("attempts_min", 0),
        ("attempts_min", "2"),
        ("error_type", ""),
        ("limit", 5),
    ],
)
def test_an_invalid_field_of_a_live_filter_is_named(name: str, value: Any) -> None:
    """A message has the types of JSON, not texts only."""
    with pytest.raises(ValidationError, match=f"`.*{name}"):
        decode(encode({name: value}), ListFilter)
