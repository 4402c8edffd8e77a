"""The wire: what submitter, worker, notifier and watchers say to each other, and nowhere else is a field spelt.

Times are `Timestamp`: milliseconds since the epoch in code, RFC 3339 in UTC with milliseconds on the wire.
Payload, result and checkpoint are `Json`: the text exactly as its author wrote it, never decoded on the way.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Hashable
from functools import lru_cache
from typing import Annotated, Any, Literal, TypeVar
from uuid import UUID

import msgspec
from msgspec import Meta, Struct

from headway.timestamp import Timestamp as Timestamp

MAX_PAYLOAD_BYTES = 32 * 1024
MAX_RESULT_BYTES = 32 * 1024
MAX_CHECKPOINT_BYTES = 8 * 1024
MAX_MESSAGE_BYTES = 64 * 1024  # of a queue message as it is encoded
MAX_DEPTH = 500  # levels of payload, result and checkpoint, so that every reader can follow
MAX_REPORTS_PER_REQUEST = 500
MAX_REPORTS_BYTES = 1024 * 1024
DEFAULT_ATTEMPTS = 5
MAX_ATTEMPTS = 1000
MAX_NAME_LENGTH = 128  # characters of a kind, and of other names
MAX_PROGRESS_MESSAGE_LENGTH = 1_000  # characters of a progress message
MAX_UNIT_LENGTH = 32
MAX_ERROR_LENGTH = 4_000  # characters of an error's message

JobStatus = Literal["queued", "running", "retrying", "succeeded", "failed", "cancelled"]
Reason = Literal["superseded", "finished", "duplicate", "stale"]
ENDED: frozenset[JobStatus] = frozenset({"succeeded", "failed", "cancelled"})

_BRACKETS = re.compile(rb'"(?:[^"\\]|\\.)*"|[][{}]')  # and strings, which may have some that do not count

Json = msgspec.Raw
NULL = Json(b"null")
Name = Annotated[str, Meta(min_length=1, max_length=MAX_NAME_LENGTH)]
Natural = Annotated[int, Meta(ge=0, le=2**53 - 1)]
Number = Annotated[int, Meta(ge=0, le=2**63 - 1)] | Annotated[float, Meta(ge=0)]
Positive = Annotated[int, Meta(ge=1, le=2**53 - 1)]
Attempts = Annotated[int, Meta(ge=1, le=MAX_ATTEMPTS)]
Seconds = Annotated[float, Meta(gt=0, le=7 * 86_400)]
T = TypeVar("T")


class JobMessage(Struct, frozen=True, kw_only=True):
    """One queued job, as the message on the queue carries it."""

    id: UUID
    kind: Name = "countdown"
    payload: Json = Json(b"{}")
    submitted_at: Timestamp | None = None
    expires_at: Timestamp | None = None
    generation: Natural = 0
    max_attempts: Attempts = DEFAULT_ATTEMPTS
    timeout_s: Seconds | None = None
    releases: Natural = 0
    checkpoint: Json = NULL

    def attempt(self, delivery: int) -> int:
        """Count the attempts: a delivery that a stopping worker handed back costs none."""
        return max(1, delivery - self.releases)


class Progress(Struct, frozen=True):
    """How far a job is; `total` None says that nobody knows how much there is."""

    current: Number
    total: Number | None = None
    unit: Annotated[str, Meta(max_length=MAX_UNIT_LENGTH)] | None = None
    message: Annotated[str, Meta(max_length=MAX_PROGRESS_MESSAGE_LENGTH)] | None = None

    @property
    def percent(self) -> float | None:
        """Return 0.0 to 100.0 to two digits, or None when the total is unknown."""
        if self.total is None:
            return None
        return round(100.0 * min(1.0, self.current / self.total), 2) if self.total else 100.0


class ProgressSnapshot(Struct, frozen=True):
    """A `Progress` as watchers get it."""

    current: float | int
    total: float | int | None
    percent: float | None
    unit: str | None
    message: str | None


class JobError(Struct, frozen=True):
    """Why a job failed, fit for its user."""

    type: Name
    message: Annotated[str, Meta(max_length=MAX_ERROR_LENGTH)]


class JobReport(Struct, frozen=True, kw_only=True):
    """What a worker says about one delivery of a job: always the whole state, so that one report rebuilds a record."""

    job_id: UUID
    kind: Name
    generation: Natural = 0
    message_id: Name
    delivery: Positive
    sequence: Natural
    attempt: Positive = 1
    max_attempts: Attempts = DEFAULT_ATTEMPTS
    status: JobStatus
    progress: Progress | None = None
    result: Json = NULL
    error: JobError | None = None
    submitted_at: Timestamp
    expires_at: Timestamp
    lease_until: Timestamp | None = None
    due_at: Timestamp | None = None
    sent_at: Timestamp | None = None


class ProgressUrlReport(Struct, frozen=True, kw_only=True, rename="camel"):
    """A report as the query of one URL, for workers in any language, as in 2015; 100 is the end."""

    job_id: UUID
    progress: Annotated[float, Meta(ge=0, le=100)]
    message: Annotated[str, Meta(max_length=MAX_PROGRESS_MESSAGE_LENGTH)] | None = None
    kind: Name | None = None


class Verdict(Struct, frozen=True):
    """The gate's answer to one report."""

    job_id: UUID
    accepted: bool
    reason: Reason | None = None
    cancel_requested: bool = False
    watched: bool = False


class JobSnapshot(Struct, frozen=True, kw_only=True):
    """The whole state of a job at one version, as every watcher gets it."""

    id: UUID
    kind: str
    status: JobStatus
    version: int
    generation: int = 0
    attempt: int = 1
    max_attempts: int = DEFAULT_ATTEMPTS
    progress: ProgressSnapshot | None = None
    result: Json = NULL
    error: JobError | None = None
    cancel_requested: bool = False
    submitted_at: Timestamp
    started_at: Timestamp | None = None
    updated_at: Timestamp | None = None
    finished_at: Timestamp | None = None
    due_at: Timestamp | None = None
    lease_until: Timestamp | None = None
    expires_at: Timestamp


class _MessageWithId(Struct):
    id: UUID


def _encode_hook(value: Any) -> str:
    if isinstance(value, Timestamp):
        return str(value)
    raise TypeError(f"{type(value).__name__} is not JSON")


def _decode_hook(kind: type, value: Any) -> Any:
    if kind is Timestamp:
        return Timestamp.parse(value)
    raise NotImplementedError(f"{kind.__name__} is not JSON")


_encoder = msgspec.json.Encoder(enc_hook=_encode_hook)


def encode(value: Any) -> bytes:
    """Write a contract, or a list of them, as JSON."""
    return _encoder.encode(value)


def decode(text: bytes | str, kind: type[T]) -> T:
    """Read JSON as a contract.

    Raises:
        msgspec.ValidationError: it does not fit; the message names the field.
        msgspec.DecodeError: it is not JSON, not UTF-8, or nested too deep.
    """
    try:
        data = text if isinstance(text, str) else text.decode()  # what is Raw inside is not checked for UTF-8
        return _decoder(kind).decode(data)  # type: ignore[arg-type, no-any-return]
    except UnicodeDecodeError as error:
        raise msgspec.DecodeError("JSON is malformed: not UTF-8") from error
    except RecursionError as error:
        raise msgspec.DecodeError("JSON is malformed: nested too deep") from error


@lru_cache
def _decoder(kind: Hashable) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(kind, dec_hook=_decode_hook)


def uuid_str(job_id: UUID) -> str:
    """Spell a job's id as `str` does, in a third of the time."""
    return encode(job_id)[1:-1].decode()


def encode_message(message: JobMessage) -> str:
    """Write a queue message's text: base64 of JSON, as the WebJobs SDK and Azure Functions expect it."""
    return base64.b64encode(encode(message)).decode()


def decode_message(text: str) -> JobMessage:
    """Read a queue message's text: base64 or plain; a bare UUID string is a `countdown` job, as in 2015.

    Raises what `decode` raises.
    """
    data = _message_json(text)
    if data.lstrip().startswith(b'"'):
        return JobMessage(id=decode(data, UUID))
    return decode(data, JobMessage)


def extract_job_id(text: str) -> UUID | None:
    """Find the job's id in a queue message that does not fit otherwise, if it has one."""
    try:
        return decode(_message_json(text), _MessageWithId).id
    except msgspec.DecodeError:
        return None


def _message_json(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except ValueError:
        return text.encode()


def nesting_depth(text: bytes) -> int:
    """Count how deep JSON is nested."""
    if text.count(b"[") + text.count(b"{") <= MAX_DEPTH:
        return 0  # no more than that, which is all that anybody asks
    level = deepest = 0
    for token in _BRACKETS.findall(text):
        level += {b"[": 1, b"{": 1, b"]": -1, b"}": -1}.get(token, 0)
        deepest = max(deepest, level)
    return deepest


def truncate(text: str, max_length: int) -> str:
    """Make any text fit for the wire: at most so many characters, and no lone surrogates, as file names have them."""
    fitting = text if len(text) <= max_length else text[: max_length - 1] + "…"
    return fitting.encode(errors="replace").decode()


def to_progress_snapshot(progress: Progress | None) -> ProgressSnapshot | None:
    """Turn a worker's progress into what watchers see."""
    if progress is None:
        return None
    return ProgressSnapshot(progress.current, progress.total, progress.percent, progress.unit, progress.message)
