"""Encoding and decoding of JSON: the wire contracts, and the payloads, results and checkpoints of job authors."""

from __future__ import annotations

import inspect
import json
import math
import re
from collections.abc import Hashable, Iterator
from contextlib import suppress
from functools import lru_cache
from typing import Any, TypeVar

import msgspec
from msgspec import Raw
from msgspec.inspect import CustomType, Field, Type, type_info

from headway import pydantic_models
from headway.fork_lock import fork_lock
from headway.timestamp import Timestamp
from headway.type_name import type_name

MAX_NESTING_DEPTH = 500  # of payload, result and checkpoint; some JSON parsers fail on deeper nesting
T = TypeVar("T")

_BRACKETS = re.compile(rb'"(?:[^"\\]|\\.)*"|[][{}]')  # strings match first, because brackets in them do not count
_ANALYSIS_LOCK = fork_lock()


class InvalidValue(ValueError):
    """A value is too large, is nested too deep, or contains a number that JSON cannot represent."""


class ValueTooLarge(InvalidValue):
    """The JSON of a value has more bytes than its limit."""


def encode(value: Any) -> bytes:
    """Encode a contract, or a list of them, as JSON."""
    return _encoder.encode(value)


def encode_value(name: str, value: Any, max_bytes: int | None = None) -> Raw:
    """Encode a value of a job author as JSON.

    Args:
        name: what the value is, such as `result`; error messages begin with it.
        value: any value that msgspec encodes, Pydantic models included.
        max_bytes: the limit of the JSON; None for no limit.

    Raises:
        ValueTooLarge: the JSON has more bytes than the limit.
        InvalidValue: the value is nested too deep, or contains NaN or infinity; the message has the path.
        TypeError: msgspec cannot encode the value.
    """
    text = encode(value)
    if max_bytes is not None and len(text) > max_bytes:
        raise ValueTooLarge(f"The {name} has {len(text)} bytes; the limit is {max_bytes}.")
    if nesting_depth(text) > MAX_NESTING_DEPTH:
        raise InvalidValue(f"The {name} is nested more than {MAX_NESTING_DEPTH} levels deep.")
    if b"null" in text:  # as msgspec encodes NaN and infinity
        builtins = msgspec.to_builtins(value, enc_hook=_builtins_hook)
        if (problem := _non_finite_number(name, builtins)) is not None:
            raise InvalidValue(problem)
    return Raw(text)


def decode(text: bytes | str, target: type[T]) -> T:
    """Decode JSON to a contract.

    Raises:
        msgspec.ValidationError: a field is missing or invalid; the message names it.
        msgspec.DecodeError: the text is not JSON, not UTF-8, or nested too deep.
    """
    try:
        data = text if isinstance(text, str) else text.decode()  # msgspec does not check the UTF-8 of Raw fields
        return _decoder(target).decode(data)  # type: ignore[arg-type, no-any-return]
    except UnicodeDecodeError as error:
        raise msgspec.DecodeError("JSON is malformed: not UTF-8") from error
    except RecursionError as error:
        raise msgspec.DecodeError("JSON is malformed: nested too deep") from error
    except msgspec.ValidationError:
        raise
    except msgspec.DecodeError as error:
        if (problem := _non_finite_literal(data)) is None:
            raise
        raise msgspec.DecodeError(f"JSON is malformed: {problem}") from error


def check_decodable(target: Any) -> None:
    """Raise TypeError, or the error of an annotation in it, if `decode` cannot decode JSON to a type."""
    _decoder(target)
    for custom in _custom_types(target):
        if pydantic_models.is_model(custom):
            pydantic_models.check_complete(custom)
        elif custom is not Timestamp:
            raise TypeError(f"JSON cannot be decoded to {custom.__qualname__}")


def nesting_depth(text: bytes, limit: int = MAX_NESTING_DEPTH) -> int:
    """Return the nesting depth of JSON, or 0 if it has too few brackets to exceed a limit."""
    if text.count(b"[") + text.count(b"{") <= limit:
        return 0
    level = max_level = 0
    for token in _BRACKETS.findall(text):
        level += {b"[": 1, b"{": 1, b"]": -1, b"}": -1}.get(token, 0)
        max_level = max(max_level, level)
    return max_level


def _encode_hook(value: Any) -> Any:
    if isinstance(value, Timestamp):
        return str(value)
    if pydantic_models.is_model(type(value)):
        return pydantic_models.dump(value)
    if inspect.isawaitable(value):
        if inspect.iscoroutine(value):
            value.close()  # or Python warns that it was never awaited
        raise TypeError(
            f"a {type_name(value)} was not awaited: await it, or declare the function and all wrappers around it"
            " with `async def`"
        )
    raise TypeError(f"{type_name(value)} cannot be encoded as JSON")


def _builtins_hook(value: Any) -> Any:
    return None if isinstance(value, Raw) else _encode_hook(value)  # JSON that is written as it is has no such number


def _decode_hook(target: type, value: Any) -> Any:
    if target is Timestamp:
        return Timestamp.parse(value)
    if pydantic_models.is_model(target):
        return pydantic_models.validate(target, encode(value))
    raise NotImplementedError(f"JSON cannot be decoded to {target.__name__}")


_encoder = msgspec.json.Encoder(enc_hook=_encode_hook)


@lru_cache
def _decoder(target: Hashable) -> msgspec.json.Decoder[Any]:
    # The first decoder of a struct analyzes it. msgspec 0.22 crashes if another thread, or a process that is forked
    # meanwhile, uses the incomplete analysis.
    with _ANALYSIS_LOCK:
        return msgspec.json.Decoder(target, dec_hook=_decode_hook)


def _custom_types(target: Any) -> Iterator[type]:
    """Yield the types inside a type that msgspec leaves to the decode hook."""
    pending: list[Any] = [type_info(target)]
    seen: set[int] = set()  # a recursive type refers to itself
    while pending:
        node = pending.pop()
        if isinstance(node, CustomType):
            yield node.cls
        elif isinstance(node, Type | Field) and id(node) not in seen:
            seen.add(id(node))
            pending += [getattr(node, name) for name in node.__struct_fields__]
        elif isinstance(node, tuple):
            pending += node


def _non_finite_literal(text: str) -> str | None:
    """Return the place of a literal such as NaN, which Python's `json` writes and JSON does not have, or None."""
    with suppress(ValueError, RecursionError):
        return _non_finite_number("$", json.loads(text))
    return None


def _non_finite_number(name: str, value: Any) -> str | None:
    """Return the path and the value of the first number that is NaN or infinite, or None if all are finite."""
    pending = [(name, value)]
    while pending:
        path, item = pending.pop()
        if isinstance(item, float) and not math.isfinite(item):
            return f"{path} is {item}, which JSON cannot represent"
        children: list[tuple[str, Any]] = []
        if isinstance(item, dict):
            children = [(f"{path}.{key}", child) for key, child in item.items()]
        elif isinstance(item, list | tuple):
            children = [(f"{path}[{index}]", child) for index, child in enumerate(item)]
        pending += reversed(children)
    return None
