"""Rewriting of queue messages: a worker or an operator replaces some fields and keeps all others."""

from __future__ import annotations

import base64
from typing import Any
from uuid import UUID

from headway.contracts import Json, Timestamp, decode, encode
from headway.message_codec import message_json

_Fields: Any = dict[str, Json] | UUID  # a JSON string with a UUID is a message, too


def rewrite_message(text: str, **changes: Any) -> str:
    """Return a queue message, encoded as `encode_message` does, with some fields replaced.

    All other fields stay as they are, byte for byte, including those that only a newer version knows.

    Args:
        text: the encoded message.
        changes: the new values by field; None removes a field, so that its default applies.

    Raises:
        msgspec.DecodeError: the text is not a queue message.
    """
    fields = decode(message_json(text), _Fields)
    if isinstance(fields, UUID):
        fields = {"id": fields}
    fields |= changes
    return base64.b64encode(encode({name: value for name, value in fields.items() if value is not None})).decode()


def redriven_message(
    text: str, *, generation: int, submitted_at: Timestamp, expires_at: Timestamp, from_start: bool = False
) -> str:
    """Return the message of a job that runs again at once, with all its attempts and without progress.

    Args:
        text: the encoded message.
        generation: the new generation.
        submitted_at: when the job was first submitted.
        expires_at: when the job expires.
        from_start: whether to drop the checkpoint.

    Raises:
        msgspec.DecodeError: the text is not a queue message.
    """
    progress = dict.fromkeys(("releases", "drains", "progress", "progress_attempt"))
    checkpoint = {"checkpoint": None} if from_start else {}
    times = {"submitted_at": submitted_at, "due_at": None, "expires_at": expires_at}
    return rewrite_message(text, generation=generation, **times, **progress, **checkpoint)
