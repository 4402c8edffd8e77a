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
        schema = pydantic_models.schema(target) if pydantic_models.is_model(target) else _schema_with_models(target)
        return encode(schema) if schema else None
    except Exception:  # noqa: BLE001 - of the author's types, such as a name that is not defined
        return None


def _schema_with_models(target: Any) -> dict[str, Any]:
    """Return the schema of a type of msgspec, which may contain models: their definitions are at its end.

    Raises:
        ValueError: two definitions have the same name.
    """
    definitions: dict[str, Any] = {}

    def schema_of(part: type) -> dict[str, Any]:
        """Return the schema of a type that msgspec does not know."""
        if part is Timestamp:
            return {"type": "string", "format": "date-time"}
        if not pydantic_models.is_model(part):
            raise NotImplementedError
        schema = pydantic_models.schema(part)
        _add(definitions, schema.pop("$defs", {}))
        return schema

    schema = msgspec.json.schema(target, schema_hook=schema_of)
    if definitions:
        _add(definitions, schema.get("$defs", {}))
        schema["$defs"] = definitions
    return schema


def _add(definitions: dict[str, Any], others: dict[str, Any]) -> None:
    for name, definition in others.items():
        if definitions.setdefault(name, definition) != definition:
            raise ValueError(f"two types have the name {name!r}")
