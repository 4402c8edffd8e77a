"""Pydantic models as payloads and results. Headway does not depend on Pydantic: a process with a model has it."""

from __future__ import annotations

from typing import Any


def is_model(target: Any) -> bool:
    """Return whether a type is a model of Pydantic 2."""
    return isinstance(target, type) and hasattr(target, "model_validate_json")


def check_complete(model: Any) -> None:
    """Raise a NameError if an annotation of the model cannot be resolved."""
    model.model_rebuild()


def schema(model: Any) -> dict[str, Any]:
    """Return the JSON Schema of a model's input."""
    result: dict[str, Any] = model.model_json_schema(by_alias=True, mode="validation")
    return result


def dump(value: Any) -> Any:
    """Return a model as values that msgspec encodes; `validate` reads their JSON."""
    return value.model_dump(mode="json", by_alias=True)


def validate(model: Any, text: bytes) -> Any:
    """Return the model for a JSON text.

    Raises:
        ValueError: the text does not match the model; the message names the fields and contains none of their values.
    """
    try:
        return model.model_validate_json(text)
    except ValueError as error:
        validation_error: Any = error  # pydantic.ValidationError
        problems = validation_error.errors(include_url=False, include_context=False, include_input=False)
    raise ValueError("; ".join(map(_problem_text, problems)))


def _problem_text(problem: Any) -> str:
    path = ".".join(map(str, problem["loc"]))
    is_quoting = problem["type"] == "union_tag_invalid"  # the only message with a value of the text
    message = "Input tag does not match any of the expected tags" if is_quoting else str(problem["msg"])
    return f"`{path}`: {message}" if path else message
