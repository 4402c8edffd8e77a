"""Pieces of logs, as the log script publishes them, and as every transport sends them."""

from __future__ import annotations

from collections.abc import Callable

from headway.contracts import encode

Encoder = Callable[["LogPiece"], bytes]  # a module-level function, because it is the key of a cache


class LogPiece:
    """A part of a job's log, encoded once per wire format.

    Attributes:
        job_id: the job.
        start, end: the offsets of its first byte and after its last one.
        attempt: the attempt that has logged it.
        for_watchers: whether everyone who watches the job may read the log.
        line: the number of its first line, if older lines are gone; otherwise None.
        data: its bytes. At the beginning, a character may be incomplete if a client has chosen the offset.
    """

    __slots__ = ("_encoded", "attempt", "data", "end", "for_watchers", "job_id", "line", "start")

    def __init__(
        self, job_id: str, start: int, attempt: int, data: bytes, *, for_watchers: bool, line: int | None = None
    ) -> None:
        self.job_id = job_id
        self.start = start
        self.end = start + len(data)
        self.attempt = attempt
        self.for_watchers = for_watchers
        self.line = line
        self.data = data
        self._encoded: dict[Encoder, bytes] = {}

    @classmethod
    def parse(cls, job_id: str, publication: bytes) -> LogPiece:
        """Parse what the log script publishes: `<start> <attempt> <watchers>`, a line break, and the bytes.

        Raises:
            ValueError: the publication is from another program.
        """
        header, _, data = publication.partition(b"\n")
        start, attempt, for_watchers = map(int, header.split(b" "))
        return cls(job_id, start, attempt, data, for_watchers=for_watchers == 1)

    def encoded(self, encoder: Encoder) -> bytes:
        """Return the piece in the wire format of an encoder, which is called once for all connections."""
        try:
            return self._encoded[encoder]
        except KeyError:
            return self._encoded.setdefault(encoder, encoder(self))


def encode_json(piece: LogPiece) -> bytes:
    """Return a piece as JSON."""
    line = {} if piece.line is None else {"line": piece.line}
    place = {"job_id": piece.job_id, "from": piece.start, "to": piece.end, "attempt": piece.attempt, **line}
    return encode({**place, "text": piece.data.decode(errors="replace")})
