"""The JSON Schemas of payload types."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

import pytest
from msgspec import Meta, Struct
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


@pytest.mark.parametrize(
    "target", [Any, object, "no_such_type", lambda: None], ids=["Any", "object", "text", "function"]
)
def test_other_types_have_none(target: Any) -> None:
    """A payload that may be anything, or that has no schema, has none."""
    assert json_schema(target) is None
