"""The jobs of the poison queue: its messages, decoded and grouped by job."""

from __future__ import annotations

from collections.abc import Iterable
from uuid import UUID

import msgspec
from msgspec import Struct

from headway.azure.job_queue import PeekedMessage, ReceivedMessage
from headway.contracts import JobMessage, Timestamp
from headway.message_codec import decode_message, extract_job_id
from headway.message_rewriting import redriven_message


class CannotRedrive(ValueError):
    """Raised if a message cannot be redriven. It stays on the poison queue."""


class PoisonMessage(Struct, frozen=True):
    """A message on the poison queue. If it cannot be decoded, `message` is None and `problem` is the reason."""

    received: ReceivedMessage | PeekedMessage
    message: JobMessage | None
    job_id: UUID | None
    problem: str | None

    @classmethod
    def read(cls, received: ReceivedMessage | PeekedMessage) -> PoisonMessage:
        """Decode a message."""
        try:
            message = decode_message(received.text)
        except msgspec.DecodeError as error:
            return cls(received, None, extract_job_id(received.text), str(error))
        return cls(received, message, message.id, None)


class PoisonedJob(Struct, frozen=True):
    """All poison messages of one job, the latest first; or one message without a job ID."""

    messages: tuple[PoisonMessage, ...]

    @property
    def latest(self) -> PoisonMessage:
        """The message of the highest generation; messages that cannot be decoded come last."""
        return self.messages[0]

    @property
    def id(self) -> str:
        """The job's ID, or the message's ID if it has no job ID."""
        return str(self.latest.job_id or self.latest.received.id)

    def matches(self, text: str) -> bool:
        """Return whether a text is the ID of the job or of one of its messages."""
        try:
            job_id = UUID(text)
        except ValueError:
            job_id = None
        is_job_id = job_id is not None and job_id == self.latest.job_id
        return is_job_id or any(message.received.id == text for message in self.messages)

    def older_than(self, generation: int) -> PoisonedJob | None:
        """Return the job with the messages of earlier generations only, or None if it has none."""
        older = [one for one in self.messages if one.message is not None and one.message.generation < generation]
        return PoisonedJob(tuple(older)) if older else None

    def redriven_text(self, expires_at: Timestamp, *, min_generation: int = 0, from_start: bool = False) -> str:
        """Return the text to send: the same job in the next generation, with all its attempts and without progress.

        Args:
            expires_at: when the job expires.
            min_generation: the lowest generation that the record of the job permits.
            from_start: whether to drop the checkpoint.

        Raises:
            CannotRedrive: the latest message cannot be decoded.
        """
        message, received = self.latest.message, self.latest.received
        if message is None:
            raise CannotRedrive(
                f"poison message {self.id} cannot be redriven, because it cannot be read: {self.latest.problem}"
            )
        return redriven_message(
            received.text,
            generation=max(min_generation, message.generation + 1),
            submitted_at=message.submitted_at or received.inserted_at,
            expires_at=expires_at,
            from_start=from_start,
        )


def group_by_job(messages: Iterable[PoisonMessage]) -> list[PoisonedJob]:
    """Group messages by job, the oldest first."""
    groups: dict[str, list[PoisonMessage]] = {}
    for message in messages:
        groups.setdefault(str(message.job_id or message.received.id), []).append(message)
    jobs = [PoisonedJob(tuple(sorted(group, key=_precedence, reverse=True))) for group in groups.values()]
    return sorted(jobs, key=lambda job: (job.latest.received.inserted_at, job.id))


def _precedence(poison: PoisonMessage) -> tuple[int, Timestamp]:
    generation = -1 if poison.message is None else poison.message.generation
    return generation, poison.received.inserted_at
