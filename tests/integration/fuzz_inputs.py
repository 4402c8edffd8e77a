"""Generated inputs: valid, almost valid and random. Most are valid, so that they get past decoding.

The generator writes JSON as text, because a JSON encoder never writes many of the forms that JSON allows. Hypothesis
would need ten times as long for as many inputs.
"""

from __future__ import annotations

import json
import random
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from typing import Any, TypeVar

from headway.contracts import MAX_NESTING_DEPTH

T = TypeVar("T")

IDS = [str(uuid.UUID(int=number)) for number in range(1, 5)]
JOB_PLACEHOLDERS = ["<job 1>", "<job 2>", "<job 3>"]  # the test replaces them with the ids of new jobs
MAX_INTEGER = 2**53 - 1
STATUSES = ["queued", "running", "retrying", "succeeded", "failed", "cancelled"]
CHARACTERS = 'aZ09 "\\/{}[]:,%$\0\t\r\n\x1f\x7f\u00e9\u2028\u2029\ufeff\uffff\U0001f600'
TIMESTAMPS = [
    "0001-01-01T00:00:00Z",
    "9999-12-31T23:59:59.999Z",
    "2026-02-28T00:00:00+00:00",
    "2026-01-01T23:59:59.9995Z",
]
UNUSUAL_JSON = [
    "-0",
    "1E+2",
    "1e400",
    "-" + "9" * 400,
    "0.1e-400",
    '"\\ud800"',
    '"\\u0000"',
    '"\u2028\u2029"',
    '{"a":1,"a":2}',
    "[" * MAX_NESTING_DEPTH + "]" * MAX_NESTING_DEPTH,
    '{"a":' * MAX_NESTING_DEPTH + "1" + "}" * MAX_NESTING_DEPTH,
    '"' + "x" * 32_000 + '"',
    " \r\n\t1 ",
    '"]}"',
    '"<job 1>"',
    '{"$ref":"#"}',
]
INVALID_VALUES = [
    "}",
    "",
    "NaN",
    "\x001",
    '"\x01"',
    "[" * 10_000,
    "[" * (MAX_NESTING_DEPTH + 1) + "]" * (MAX_NESTING_DEPTH + 1),
    '"\ud800"',
    '"' + "x" * 33_000 + '"',
    "-1",
    "1.5",
    "9" * 400,
    "true",
    '"1"',
    '"2026-01-01"',
    '"x"',
    "[]",
    "{}",
]
MESSAGE_FIELDS = ["watch", "version", "unwatch", "cancel", "hello", "job", "watch ", ""]
OPCODES = [0x81, 0x88, 0x89, 0x89, 0x8A]  # text, close, ping and pong
REQUIRED_FIELDS = 8  # the number of required fields at the start of `FuzzInputs._fields`


class FuzzInputs:
    """A generator of inputs; the same seed gives the same inputs."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._fields: dict[str, Callable[[], str]] = {
            "job_id": lambda: json.dumps(self._choice(JOB_PLACEHOLDERS)),
            "kind": lambda: self._text(128, 1),
            "message_id": lambda: self._text(128, 1) if self._chance(0.5) else '"m"',
            "delivery": lambda: self._integer(1, MAX_INTEGER),
            "sequence": lambda: self._integer(0, MAX_INTEGER),
            "status": lambda: json.dumps(self._choice(STATUSES)),
            "submitted_at": self._time,
            "expires_at": self._time,
            # Optional fields.
            "generation": lambda: self._integer(0, MAX_INTEGER),
            "attempt": lambda: self._integer(1, MAX_INTEGER),
            "max_attempts": lambda: self._integer(1, 1_000),
            "progress": lambda: self._or_null(self._progress),
            "result": self._json,
            "error": lambda: self._or_null(self._error),
            "lease_until": lambda: self._or_null(self._time),
            "due_at": lambda: self._or_null(self._time),
            "sent_at": lambda: self._or_null(self._time),
            "unknown": self._json,
        }

    def _choice(self, choices: list[T]) -> T:
        return self._random.choice(choices)

    def _chance(self, probability: float) -> bool:
        return self._random.random() < probability

    def _or_null(self, write: Callable[[], str]) -> str:
        return "null" if self._chance(0.2) else write()

    def _characters(self, max_size: int, min_size: int = 0) -> str:
        size = self._choice([min_size, max_size, *[self._random.randint(min_size, min(max_size, 12))] * 6])
        if size > 12:
            return self._random.choice(CHARACTERS) * size
        return "".join(self._random.choices(CHARACTERS, k=size))

    def _text(self, max_size: int, min_size: int = 0) -> str:
        return json.dumps(self._characters(max_size, min_size), ensure_ascii=self._chance(0.5))

    def _integer(self, minimum: int, maximum: int) -> str:
        small = self._random.randint(minimum, min(maximum, minimum + 4))
        return str(self._choice([small, small, minimum, maximum, self._random.randint(minimum, maximum)]))

    def _amount(self) -> str:
        return str(
            self._choice(
                [self._integer(0, MAX_INTEGER), repr(self._random.expovariate(0.01)), "0", "1e308", str(2**63 - 1)]
            )
        )

    def _time(self) -> str:
        zone = self._choice([UTC, UTC, timezone(timedelta(minutes=self._random.randint(-14 * 60, 14 * 60)))])
        moment = datetime.fromtimestamp(self._random.uniform(0, 4e9), zone)
        return json.dumps(self._choice([moment.isoformat(), moment.isoformat(), self._choice(TIMESTAMPS)]))

    def _object(self, parts: dict[str, str]) -> str:
        items = list(parts.items())
        self._random.shuffle(items)
        space = self._choice(["", "", " ", "\n"])
        return "{" + ",".join(f"{json.dumps(name)}:{space}{part}" for name, part in items) + "}"

    def _progress(self) -> str:
        optional: dict[str, Callable[[], str]] = {
            "total": lambda: self._or_null(self._amount),
            "unit": lambda: self._or_null(lambda: self._text(32)),
            "message": lambda: self._or_null(lambda: self._text(1_000)),
        }
        return self._object(
            {"current": self._amount()} | {name: value() for name, value in optional.items() if self._chance(0.7)}
        )

    def _error(self) -> str:
        return self._object({"type": self._text(128, 1), "message": self._text(4_000)})

    def _value(self, levels: int = 3) -> Any:
        kind = self._random.randrange(8 if levels else 6)
        if kind < 6:
            number = self._random.uniform(-1e9, 1e9)
            return self._choice([None, True, round(number), number, self._characters(40), self._choice(IDS)])
        values = [self._value(levels - 1) for _ in range(self._random.randrange(4))]
        return values if kind == 6 else {self._characters(12): value for value in values}

    def _json(self) -> str:
        if self._chance(0.3):
            return str(self._choice(UNUSUAL_JSON))
        return json.dumps(self._value(), ensure_ascii=self._chance(0.5), indent=self._choice([None, None, 1]))

    def _report(self, invalid_probability: float) -> str:
        names = [name for number, name in enumerate(self._fields) if number < REQUIRED_FIELDS or self._chance(0.7)]
        parts = {name: self._fields[name]() for name in names}
        if self._chance(invalid_probability):
            name = self._choice(names)
            if self._chance(0.3):
                del parts[name]
            else:
                parts[name] = self._choice([*INVALID_VALUES, self._json(), self._json()])
        return self._object(parts)

    def reports_body(self) -> bytes:
        """Return the body of a request with some reports."""
        count = self._random.randint(1, 8)
        reports = [self._report(0.15 / count) for _ in range(count)]
        body = ("[" + ",".join(reports) + "]").encode(errors="surrogatepass")
        if self._chance(0.05):
            position, inserted = self._random.randrange(len(body)), self._random.randbytes(self._random.randrange(4))
            body = body[:position] + inserted + body[position + 1 :]
        if self._chance(0.03):
            body = self._choice(
                [self._random.randbytes(60), b"", b"[]", b"{}", b"null", b"[null]", b"\xff", b"[" * 2_000]
            )
        return body

    def _token(self) -> tuple[str, str, int]:
        return (
            self._choice(IDS),
            self._choice(["watch", "watch cancel", "cancel", ""]),
            self._choice([60, 60, -3_600, 10**9]),
        )

    def _valid_message(self) -> Any:
        kind = self._random.randrange(4)
        if kind == 0:
            return {"watch": self._token(), "version": int(self._integer(0, MAX_INTEGER))}
        if kind == 1:
            return {"watch": self._choice([self._token(), self._token(), self._characters(4_096, 1)])}
        return {self._choice(["unwatch", "cancel"]): self._choice(IDS)}

    def _invalid_message(self) -> Any:
        return self._choice(
            [
                {self._choice(MESSAGE_FIELDS): self._value()},
                {self._choice(MESSAGE_FIELDS): self._value() for _ in range(3)},
                {"watch": self._token(), "version": self._value()},
                self._characters(40),
                json.dumps(self._value()),
                self._random.randbytes(60),
                "[" * 10_000,
                "x" * 70_000,
            ]
        )

    def messages(self) -> list[Any]:
        """Return the messages of a client: objects, whose tokens the test has to sign, text and bytes."""
        count = self._random.randint(0, 12)
        return [self._invalid_message() if self._chance(0.2) else self._valid_message() for _ in range(count)]

    def frames(self) -> list[bytes]:
        """Return raw bytes, some of which are valid WebSocket frames."""
        return [self._frame() for _ in range(self._random.randint(0, 6))]

    def _frame(self) -> bytes:
        opcode, data = self._random.randrange(256), self._random.randbytes(self._random.randrange(80))
        if self._chance(0.5):
            return bytes([opcode, self._random.randrange(256)]) + data
        return bytes([self._choice(OPCODES), 0x80 | len(data)]) + b"\0\0\0\0" + data  # a valid frame
