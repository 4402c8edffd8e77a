"""JSON Schemas of payload types: any type that msgspec decodes, or a Pydantic model."""

from __future__ import annotations

from typing import Any

import msgspec

from headway import pydantic_models
from headway.json_codec import encode
from headway.timestamp import Timestamp


def json_schema(target: Any) -> bytes | None:
    """Return the JSON Schema of a type as JSON; None if it has none, or none that says anything."""
    try:
        schema = (
            pydantic_models.schema(target)
            if pydantic_models.is_model(target)
            else msgspec.json.schema(target, schema_hook=_schema_of)
        )
        return encode(schema) if schema else None
    except Exception:  # noqa: BLE001 - of the author's types, such as a name that is not defined
        return None


def _schema_of(target: type) -> dict[str, Any]:
    """Return the schema of a type that msgspec does not know."""
    if target is Timestamp:
        return {"type": "string", "format": "date-time"}
    if pydantic_models.is_model(target):
        schema = pydantic_models.schema(target)
        schema.pop("$defs", None)
        return schema
    raise NotImplementedError
