"""The messages of a client of the hub at `/hubs/job-progress`, in JSON."""

from __future__ import annotations

import json
from typing import Any

PATH = "/hubs/job-progress"
HANDSHAKE = {"protocol": "json", "version": 1}
SEPARATOR = b"\x1e"


def encode(*messages: dict[str, Any]) -> bytes:
    """Return messages as a client sends them."""
    return b"".join(json.dumps(message).encode() + SEPARATOR for message in messages)


def decode(data: bytes) -> list[dict[str, Any]]:
    """Return the messages in what the server has sent."""
    return [json.loads(message) for message in data.split(SEPARATOR)[:-1]]
