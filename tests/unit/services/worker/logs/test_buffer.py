"""The buffer of a log: bounded, in order, at a limited rate, with a note in place of what is left out."""

from __future__ import annotations

import random
import re
import threading

from hypothesis import given
from hypothesis import strategies as st

from headway.details import MAX_APPEND_BYTES
from services.worker.logs.buffer import BURST_BYTES, CHUNK_SIZE, HALF_BYTES, RATE_BYTES_PER_S, LogBuffer, line_end

NOTE = re.compile(r"^… ([\d,]+) (line|byte)s? left out\n", re.MULTILINE)


def filled(*texts: str) -> LogBuffer:
    """Return a buffer with some texts."""
    buffer = LogBuffer(0)
    for text in texts:
        buffer.write(text)
    return buffer


def test_text_is_taken_once() -> None:
    """What was written comes in order, and is gone then."""
    buffer = filled("one\n", "two\n")
    assert buffer.take(0) == "one\ntwo\n"
    assert buffer.is_empty
    assert buffer.take(1) == ""


def test_incomplete_line_waits_once() -> None:
    """A line that is being written is held back, and sent with the next text although it is still incomplete."""
    buffer = filled("one\n", "tw")
    assert buffer.take(0) == "one\n"
    buffer.write("o")
    assert buffer.take(1) == "two"
    buffer.write(".")
    assert (buffer.take(2), buffer.take(3, is_final=True)) == ("", ".")


def test_middle_of_a_flood_is_left_out() -> None:
    """The first and the last lines are kept, and the note between them counts the others exactly."""
    lines = [f"line {number}\n" for number in range(100_000)]
    buffer = filled(*lines)
    text = buffer.take(0, is_final=True)
    assert len(text.encode()) <= MAX_APPEND_BYTES
    before, count, _, after = NOTE.split(text)
    left_out = int(count.replace(",", ""))
    kept = len(before.splitlines()), len(after.splitlines())
    assert left_out + sum(kept) == len(lines)
    assert before + after == "".join(lines[: kept[0]] + lines[-kept[1] :])
    assert min(len(before), len(after)) > HALF_BYTES // 2
    assert buffer.take_left_out_bytes() == len("".join(lines)) - len(before + after)
    assert buffer.take_left_out_bytes() == 0


def test_one_line_of_any_size_is_cut_between_characters() -> None:
    """A line of many megabytes keeps its two ends, and the note counts bytes."""
    text = filled("€" * 5_000_000).take(0, is_final=True)
    assert re.fullmatch("€+\n… 14,[0-9]{3},[0-9]{3} bytes left out\n€+", text)
    assert len(text.encode()) <= MAX_APPEND_BYTES


def test_rate_is_limited() -> None:
    """After a burst the log continues at 8 KiB a second, in whole lines, whatever is written meanwhile."""
    buffer = LogBuffer(0)
    line = "x" * 99 + "\n"
    taken: list[int] = []
    for second in range(20):
        for _ in range(1000):
            buffer.write(line)
        text = buffer.take(second)
        assert text.endswith("\n")
        taken.append(len(text.encode()))
    assert BURST_BYTES - 1000 < taken[0] <= BURST_BYTES
    assert sum(taken[1:]) <= 20 * RATE_BYTES_PER_S
    assert min(taken[2:]) > RATE_BYTES_PER_S - 1000


def test_quiet_log_is_complete() -> None:
    """A job that logs less than the rate loses nothing."""
    buffer, taken, written = LogBuffer(0), "", ""
    for second in range(50):
        lines = "".join(f"{second} {number} äöü\n" for number in range(500))
        buffer.write(lines)
        written += lines
        taken += buffer.take(second)
    assert taken + buffer.take(50, is_final=True) == written
    assert buffer.take_left_out_bytes() == 0


def test_long_line_waits_until_it_can_be_sent_whole() -> None:
    """A line is not split because the rate allows only a part of it now."""
    buffer = filled("x" * (BURST_BYTES - 1000) + "\n")
    buffer.take(0)
    buffer.write("y" * 3000 + "\n" + "z\n")
    assert buffer.take(0.1) == ""
    assert buffer.take(0.5) == "y" * 3000 + "\nz\n"


def test_characters_that_utf8_cannot_encode_are_replaced() -> None:
    """NUL and escape sequences stay, a lone surrogate becomes a question mark."""
    assert filled("a\0\x1b[31m</script>\ud800\n").take(0) == "a\0\x1b[31m</script>?\n"


@given(st.lists(st.tuples(st.integers(0, 60_000), st.floats(0, 5), st.booleans()), max_size=30), st.integers())
def test_any_history_keeps_its_order_and_its_bounds(steps: list[tuple[int, float, bool]], seed: int) -> None:
    """Whatever is written and taken when, each text fits one append, and the rest are lines of the log, in order."""
    rng, buffer, now, number, texts = random.Random(seed), LogBuffer(0), 0.0, 0, []
    for size, pause_s, takes in steps:
        while size > 0:
            line = f"{number:07}{'ä' * rng.randrange(300)}\n"
            buffer.write(line)
            number, size = number + 1, size - len(line.encode())
        now += pause_s
        if takes:
            texts.append(buffer.take(now))
    texts.append(buffer.take(now, is_final=True))
    assert all(len(text.encode()) <= MAX_APPEND_BYTES for text in texts)
    numbers = [int(line[:7]) for line in NOTE.sub("", "".join(texts)).splitlines()]
    assert numbers == sorted(set(numbers))
    assert number == 0 or numbers[-1] == number - 1


def test_threads_write_while_another_takes() -> None:
    """No line is lost or torn, and a take in the middle of a write does not deadlock."""
    buffer, texts, running = LogBuffer(0), [], True

    def write(name: str) -> None:
        for number in range(200):
            buffer.write(f"{name}{number}\n")

    threads = [threading.Thread(target=write, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    while running:
        running = any(thread.is_alive() for thread in threads)
        texts.append(buffer.take(1e9))
    assert sorted("".join(texts).split()) == sorted(f"{name}{number}" for name in "abcd" for number in range(200))


def test_write_inside_a_write_does_not_deadlock() -> None:
    """A signal handler or a finalizer may print while its thread prints."""
    buffer = filled("x")
    with buffer._lock:
        buffer.write("y" * CHUNK_SIZE + "\n")
    assert buffer.take(0) == "x" + "y" * CHUNK_SIZE + "\n"


def test_line_end_is_within_the_limit() -> None:
    """Only whole lines within the limit count."""
    assert [line_end(b"a\nbc\nd", limit) for limit in range(7)] == [0, 0, 2, 2, 2, 5, 5]
