"""The buffer of a job's log: it holds what was written and not sent, limits the rate, and leaves out the middle.

The handler's thread writes and another thread takes. The lock is reentrant: a signal handler, or a finalizer that the
garbage collector runs, may write while the same thread holds it.
"""

from __future__ import annotations

from threading import RLock

from headway.details import MAX_APPEND_BYTES

RATE_BYTES_PER_S = 8 * 1024
BURST_BYTES = MAX_APPEND_BYTES
NOTE_BYTES = 128  # more than a note has
HALF_BYTES = (MAX_APPEND_BYTES - NOTE_BYTES) // 2  # of the text that is kept: the oldest and the newest part
CHUNK_SIZE = 4096  # characters and texts, which are encoded together
LONG_LINE_BYTES = 8 * 1024  # a longer line may be split


class LogBuffer:
    """The text of a log that has not been sent: at most one append, with a note in place of what was left out.

    Args:
        now: the monotonic time. The first `BURST_BYTES` can be taken at once.
    """

    __slots__ = (
        "_allowance",
        "_first",
        "_is_held",
        "_last",
        "_left_out_bytes",
        "_left_out_lines",
        "_lock",
        "_note_bytes",
        "_texts",
        "_texts_size",
        "_updated_at",
    )

    def __init__(self, now: float) -> None:
        self._lock = RLock()
        self._first = b""  # the oldest part, once something was left out
        self._last = bytearray()
        self._texts: list[str] = []  # written after `_last`
        self._texts_size = 0
        self._left_out_lines = 0
        self._note_bytes = 0  # how many bytes the note in front of `_last` replaces, 0 for no note
        self._allowance: float = BURST_BYTES
        self._updated_at = now
        self._is_held = False
        self._left_out_bytes = 0

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to send."""
        return not self._texts and not self._last and not self._first

    @property
    def has_line(self) -> bool:
        """Whether there is a whole line to send."""
        return self._first != b"" or b"\n" in self._last or any("\n" in text for text in self._texts)

    def write(self, text: str) -> None:
        """Add a text. This costs about as much as the print itself, so texts are collected without the lock first."""
        self._texts.append(text)  # atomic
        self._texts_size += len(text) + 1
        if self._texts_size > CHUNK_SIZE:
            with self._lock:
                self._encode_texts()

    def take(self, now: float, *, is_final: bool = False) -> str:
        """Remove and return the text to send now, at most one append; empty if there is none.

        It ends with a line, so that a secret in it can be found. An incomplete last line waits for the next call. The
        final text is all of the rest, whatever the rate is.
        """
        with self._lock:
            self._allowance = min(BURST_BYTES, self._allowance + (now - self._updated_at) * RATE_BYTES_PER_S)
            self._updated_at = now
            self._encode_texts()
            rest = self._rest()
            end = len(rest) if is_final else self._end(rest, int(self._allowance))
            if end == 0:
                return ""
            self._allowance -= end
            self._first, self._last = b"", bytearray(rest[end:])
            self._left_out_lines = self._note_bytes = 0
            return rest[:end].decode()

    def clear(self) -> int:
        """Forget the text; return how many bytes it had."""
        with self._lock:
            self._encode_texts()
            size = len(self._first) + len(self._last)
            self._first, self._last = b"", bytearray()
            self._left_out_lines = self._note_bytes = 0
            return size

    def take_left_out_bytes(self) -> int:
        """Return how many bytes were left out since the last call."""
        with self._lock:
            count, self._left_out_bytes = self._left_out_bytes, 0
            return count

    def _encode_texts(self) -> None:
        """Encode what was written; UTF-8 cannot encode a lone surrogate, so each becomes a question mark."""
        count = len(self._texts)
        texts = self._texts[:count]  # other threads append meanwhile
        del self._texts[:count]
        self._texts_size = 0
        self._last += "".join(texts).encode(errors="replace")
        if len(self._last) > 2 * HALF_BYTES:
            self._leave_out()

    def _leave_out(self) -> None:
        """Reduce the text to its oldest and its newest half, each of whole lines."""
        if self._note_bytes == 0:
            end = line_end(self._last, HALF_BYTES) or character_end(self._last, HALF_BYTES)
            self._first = bytes(self._last[:end])
            del self._last[:end]
        start = _line_start(self._last, max(0, len(self._last) - HALF_BYTES))
        self._left_out_lines += self._last.count(b"\n", 0, start)
        self._note_bytes += start
        self._left_out_bytes += start
        del self._last[:start]

    def _rest(self) -> bytes | bytearray:
        """Return all of the text, with the note."""
        if self._note_bytes == 0:
            return self._last
        if len(self._last) > HALF_BYTES:
            self._leave_out()
        count, unit = (self._left_out_lines, "line") if self._left_out_lines else (self._note_bytes, "byte")
        note = f"… {count:,} {unit}{'' if count == 1 else 's'} left out\n"
        separator = b"" if self._first.endswith(b"\n") else b"\n"
        return b"".join((self._first, separator, note.encode(), self._last))

    def _end(self, rest: bytes | bytearray, limit: int) -> int:
        """Return how many bytes of the text to take, at most `limit`."""
        end = line_end(rest, limit)
        if len(rest) <= limit:
            self._is_held = end < len(rest) and not self._is_held
            return end if self._is_held else len(rest)
        return end if end or limit < LONG_LINE_BYTES else character_end(rest, limit)


def line_end(data: bytes | bytearray, limit: int) -> int:
    """Return the end of the last line that ends within the first `limit` bytes, 0 if none does."""
    return data.rfind(b"\n", 0, limit) + 1


def character_end(data: bytes | bytearray, limit: int) -> int:
    """Return the end of the last character of UTF-8 that ends within the first `limit` bytes."""
    end = min(limit, len(data))
    while 0 < end < len(data) and data[end] & 0xC0 == 0x80:
        end -= 1
    return end


def _line_start(data: bytearray, offset: int) -> int:
    """Return the start of the first line from an offset on, or that of a character if the last line is longer."""
    start = data.find(b"\n", max(0, offset - 1)) + 1 if offset else 0
    if 0 < start < len(data) or offset == 0:
        return start
    while offset < len(data) and data[offset] & 0xC0 == 0x80:
        offset += 1
    return offset
