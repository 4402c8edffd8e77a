"""JSON of the values of job authors: numbers that JSON cannot represent, and types that cannot be decoded."""

from __future__ import annotations

import asyncio
import dataclasses
import enum
import pathlib
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated, Any, NamedTuple, TypedDict
from uuid import UUID

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Meta, Struct

from headway.contracts import (
    InvalidValue,
    JobMessage,
    Json,
    Timestamp,
    ValueTooLarge,
    check_decodable,
    decode,
    encode,
    encode_value,
)

NAN, INFINITY = float("nan"), float("inf")


class Losses(Struct):
    """A struct with numbers."""

    losses: list[float]
    best: float | None = None


class Renamed(Struct, rename="camel"):
    """A struct whose fields have other names in JSON."""

    best_loss: float


@dataclasses.dataclass
class Point:
    """A data class."""

    x: float


class Pair(NamedTuple):
    """A named tuple, which is an array in JSON."""

    left: float
    right: float


class Color(enum.Enum):
    """An enumeration."""

    RED = "red"


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (NAN, "result is nan"),
        (-INFINITY, "result is -inf"),
        ({"losses": [1.0, 0.5, None, NAN]}, "result.losses[3] is nan"),
        ({"a": [{"b": (1, INFINITY)}]}, "result.a[0].b[1] is inf"),
        ({1: NAN}, "result.1 is nan"),
        (Losses([1.0, NAN]), "result.losses[1] is nan"),
        (Losses([], INFINITY), "result.best is inf"),
        ([Renamed(NAN)], "result[0].bestLoss is nan"),
        (Point(NAN), "result.x is nan"),
        (Pair(1.0, NAN), "result[1] is nan"),
        ({NAN}, "result[0] is nan"),
        (frozenset([INFINITY]), "result[0] is inf"),
        ([Json(b'{"a":null}'), {"at": Timestamp(0)}, NAN], "result[2] is nan"),
        ([[NAN, INFINITY], NAN], "result[0][0] is nan"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_a_number_that_json_cannot_represent_is_refused(value: Any, problem: str) -> None:
    """The message has the path of the first one; msgspec would write null."""
    assert b"null" in encode(value)
    with pytest.raises(InvalidValue) as raised:
        encode_value("result", value)
    assert str(raised.value) == f"{problem}, which JSON cannot represent"


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text(),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=4),
        max_leaves=12,
    )
)
def test_a_value_survives_or_is_refused(value: Any) -> None:
    """What is encoded can be decoded to the same value; nothing becomes null on the way."""
    if "nan" in repr(value) or "inf" in repr(value):
        with suppress(InvalidValue):  # or it is a text
            assert decode(bytes(encode_value("value", value)), Any) == value
    else:
        assert decode(bytes(encode_value("value", value)), Any) == value


@pytest.mark.parametrize(
    "value",
    [
        None,
        [None, {"a": None}, "null", b"null", 1e308],
        {"null": 1.5},
        Losses([0.5]),
        [Json(b"null"), UUID(int=1), datetime(2026, 1, 1, tzinfo=UTC), Decimal("NaN"), Color.RED, Timestamp(0), None],
        [None] * 10_000,
    ],
    ids=lambda value: type(value).__name__,
)
def test_other_values_are_encoded_as_msgspec_does(value: Any) -> None:
    """A value with null in it is looked through, and its text stays the same."""
    assert bytes(encode_value("result", value)) == encode(value)


def test_limits_are_checked_before_the_value_is_looked_through() -> None:
    """A value over a limit has the error of that limit."""
    assert bytes(encode_value("result", "x" * 8, 10)) == b'"xxxxxxxx"'
    with pytest.raises(ValueTooLarge, match=r"^The result has 11 bytes; the limit is 10\.$"):
        encode_value("result", "x" * 9, 10)
    deep: list[Any] = [None]
    for _ in range(600):
        deep = [deep]
    with pytest.raises(InvalidValue, match=r"^The checkpoint is nested more than 500 levels deep\.$"):
        encode_value("checkpoint", deep)


async def coroutine() -> int:
    """Return a number."""
    return 1


def generator() -> Iterator[int]:
    """Yield a number."""
    yield 1


async def test_a_coroutine_is_named_and_closed() -> None:
    """The error says what to do, and Python does not warn about a coroutine that was never awaited."""
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    for value in (coroutine(), {"a": [coroutine()]}, future):
        with pytest.raises(TypeError, match=r"(coroutine|Future) was not awaited.*`async def`"):
            encode_value("result", value)
    with pytest.raises(TypeError, match="generator cannot be encoded"):
        encode_value("result", generator())


@pytest.mark.parametrize(("literal", "value"), [("NaN", "nan"), ("Infinity", "inf"), ("-Infinity", "-inf")])
@pytest.mark.parametrize(("target", "path"), [(JobMessage, "$.payload.losses[1]"), (Any, "$.payload.losses[1]")])
def test_a_literal_that_json_does_not_have_is_named(literal: str, value: str, target: Any, path: str) -> None:
    """Python's `json` writes such literals; the error names the place, wherever such JSON is decoded."""
    text = f'{{"id":"00000000-0000-0000-0000-000000000001","payload":{{"losses":[1,{literal}]}}}}'
    with pytest.raises(msgspec.DecodeError) as raised:
        decode(text, target)
    assert str(raised.value) == f"JSON is malformed: {path} is {value}, which JSON cannot represent"


def test_other_malformed_json_keeps_its_error() -> None:
    """The error of msgspec names the position."""
    for text in ('{"a":', "nan", "[" * 5_000 + "NaN", '{"a":' + "9" * 5_000 + "}}"):
        with pytest.raises(msgspec.DecodeError) as raised:
            decode(text, Any)
        assert "represent" not in str(raised.value)


class Recursive(Struct):
    """A type that refers to itself."""

    children: list[Recursive]
    at: Timestamp | None = None


class WithPath(Struct):
    """A type that contains one that JSON does not have."""

    folder: pathlib.Path


class WithPaths(TypedDict):
    """The same in a typed dictionary."""

    folders: dict[str, list[WithPath]]


class Opaque:
    """A class that JSON does not have."""


@pytest.mark.parametrize(
    "target",
    [
        Any,
        None,
        int,
        Annotated[int, Meta(ge=1)],
        Annotated[dict[str, int], Meta(extra={"a": []})],
        Losses,
        Point,
        Pair,
        Color,
        Recursive,
        list[Losses] | None,
        tuple[int, str],
        Timestamp,
        Json,
        datetime,
    ],
    ids=str,
)
def test_a_type_of_msgspec_can_be_decoded(target: Any) -> None:
    """All types that msgspec decodes are accepted."""
    check_decodable(target)


@pytest.mark.parametrize(
    ("target", "name"),
    [
        (Opaque, "Opaque"),
        (pathlib.Path, "Path"),
        (WithPath, "Path"),
        (list[WithPaths], "Path"),
        (dict[str, Opaque], "Opaque"),
        (Opaque | None, "Opaque"),
        (object, "object"),
        (complex, "complex"),
        (list[int] | set[str], "union"),
    ],
    ids=str,
)
def test_any_other_type_is_refused(target: Any, name: str) -> None:
    """A class that JSON does not have, at any depth, is named before a payload comes."""
    with pytest.raises(TypeError, match=name):
        check_decodable(target)
