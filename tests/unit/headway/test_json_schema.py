"""The JSON Schemas of payload types."""

from __future__ import annotations

import json
import re
from typing import Annotated, Any, Literal

import pytest
from msgspec import Meta, Struct, defstruct
from pydantic import BaseModel, Field

from headway.contracts import Timestamp
from headway.json_schema import json_schema


class Letters(Struct):
    """Letters to print."""

    count: Annotated[int, Meta(ge=1, le=100)]
    paper: Literal["A4", "A5"] = "A4"
    due_at: Timestamp | None = None


class Photo(BaseModel):
    """A photo."""

    path: str = Field(alias="from")


class Album(Struct):
    """Photos."""

    photos: list[Photo]


class Place(BaseModel):
    """A place, with the places in it."""

    name: str
    parts: list[Place] = []


class Journey(BaseModel):
    """A journey of a model that contains another one."""

    start: Place


class Book(Struct):
    """A book with two models, which have a definition in common."""

    journey: Journey
    home: Place
    album: Album


def schema_of(target: Any) -> Any:
    """Return the decoded schema of a type."""
    text = json_schema(target)
    return None if text is None else json.loads(text)


def test_struct_has_its_fields_and_limits() -> None:
    """The schema names the fields, their limits, their values and their defaults."""
    definition = schema_of(Letters)["$defs"]["Letters"]
    assert definition["properties"]["count"] == {"type": "integer", "minimum": 1, "maximum": 100}
    assert definition["properties"]["paper"] == {"enum": ["A4", "A5"], "default": "A4"}
    assert definition["properties"]["due_at"]["anyOf"][0] == {"type": "string", "format": "date-time"}
    assert definition["required"] == ["count"]


def test_pydantic_model_has_its_aliases() -> None:
    """The schema of a model, and of a type that contains one, has the names of the JSON."""
    assert list(schema_of(Photo)["properties"]) == ["from"]
    assert "from" in json.dumps(schema_of(Album))


@pytest.mark.parametrize("target", [Book, Journey, Place, list[Book], Album | None])
def test_every_reference_has_its_definition(target: Any) -> None:
    """The definitions of models in a struct are those of the whole schema."""
    schema = schema_of(target)
    references = re.findall(r'"#/\$defs/([^"]+)"', json.dumps(schema))
    assert references
    assert set(references) <= set(schema["$defs"])


def test_two_types_of_one_name_have_no_schema() -> None:
    """A schema with the wrong definition would mislead."""
    other = defstruct("Place", [("zip", int)])
    assert json_schema(defstruct("Both", [("place", other)])) is not None
    assert json_schema(defstruct("Both", [("place", other), ("journey", Journey)])) is None


@pytest.mark.parametrize(
    "target", [Any, object, "no_such_type", lambda: None], ids=["Any", "object", "text", "function"]
)
def test_other_types_have_none(target: Any) -> None:
    """A payload that may be anything, or that has no schema, has none."""
    assert json_schema(target) is None
