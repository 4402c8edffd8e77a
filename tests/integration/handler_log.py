"""A log of the calls and steps of the tests' handlers, independent of Headway's reports.

Handlers append to one file, a line per event. The log survives the death of any worker, and its times are of the
machine's monotonic clock, which all processes share.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from headway import JobContext
from headway.contracts import Timestamp

LOG_VARIABLE = "HANDLER_LOG"  # the environment variable with the path of the log
_call_numbers = itertools.count()


class Entry(NamedTuple):
    """An event in a call of a handler."""

    at: float  # monotonic
    job_id: str
    call: str  # identifies one call of a handler
    worker: int  # its process id
    attempt: int
    event: str  # "start", "step 3", "saved 3", "cancelled lease", "raised Fail", "end"


@contextmanager
def log_call(ctx: JobContext, worker: int | None = None) -> Iterator[Callable[[str], None]]:
    """Log the start and the end of a handler's call; yield a function that logs events in between.

    `worker` is the process id of the worker, if the handler runs in another process.
    """
    worker, call = worker or os.getpid(), f"{os.getpid()}.{next(_call_numbers)}"
    file = os.open(os.environ[LOG_VARIABLE], os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def write(event: str) -> None:
        os.write(file, f"{time.monotonic():.6f} {ctx.job_id} {call} {worker} {ctx.attempt} {event}\n".encode())

    write("start")
    try:
        yield write
    except asyncio.CancelledError as error:
        write(f"cancelled {error.args[0] if error.args else ''}".strip())
        raise
    except BaseException as error:
        write(f"raised {type(error).__name__}")
        raise
    else:
        write("end")
    finally:
        os.close(file)


class HandlerLog(tuple[Entry, ...]):
    """Log entries in the order of their times."""

    __slots__ = ()

    @classmethod
    def read(cls, path: Path) -> HandlerLog:
        """Read the entries that have been written so far."""
        text = path.read_text() if path.exists() else ""
        *lines, _ = text.split("\n")  # the last line may be incomplete
        fields = (line.split(" ", 5) for line in lines)
        return cls(
            sorted(
                Entry(float(at), job_id, call, int(worker), int(attempt), event)
                for at, job_id, call, worker, attempt, event in fields
            )
        )

    def of_job(self, job_id: str) -> HandlerLog:
        """Return the entries of one job."""
        return HandlerLog(entry for entry in self if entry.job_id == job_id)

    def matching(self, prefix: str) -> HandlerLog:
        """Return the entries whose event starts with this text."""
        return HandlerLog(entry for entry in self if entry.event.startswith(prefix))

    def by_worker(self, worker: int) -> HandlerLog:
        """Return the entries of one worker."""
        return HandlerLog(entry for entry in self if entry.worker == worker)

    @property
    def jobs(self) -> set[str]:
        """The ids of the jobs in the log."""
        return {entry.job_id for entry in self}

    @property
    def calls(self) -> list[HandlerLog]:
        """The entries of each call of a handler, in the order of the calls' starts."""
        by_call: dict[str, list[Entry]] = defaultdict(list)
        for entry in self:
            by_call[entry.call].append(entry)
        return [HandlerLog(entries) for entries in by_call.values()]

    @property
    def by_job(self) -> dict[str, HandlerLog]:
        """The entries of each job, by its id."""
        by_job: dict[str, list[Entry]] = defaultdict(list)
        for entry in self:
            by_job[entry.job_id].append(entry)
        return {job_id: HandlerLog(entries) for job_id, entries in by_job.items()}

    def overlapping(self, allowed_s: float) -> list[Entry]:
        """Return the entries that a handler wrote more than `allowed_s` after a later call of the same job started."""
        return [
            entry
            for entries in self.by_job.values()
            for earlier, later in itertools.pairwise(entries.calls)
            for entry in earlier
            if entry.at > later[0].at + allowed_s
        ]

    def started_after(self, moment: Timestamp) -> list[Entry]:
        """Return the starts after a wall-clock time, such as a job's `finished_at`."""
        monotonic = moment / 1000 - (time.time() - time.monotonic())
        return [entry for entry in self.matching("start") if entry.at > monotonic]

    def repeated_steps(self) -> int:
        """Return how many of a job's steps were repetitions."""
        steps = [entry.event for entry in self.matching("step ")]
        return len(steps) - len(set(steps))


def format_entries(entries: Iterable[Entry]) -> str:
    """Format entries for a failure message, one per line."""
    return "\n".join(f"{entry.at:.3f} {entry.job_id} {entry.call} {entry.attempt} {entry.event}" for entry in entries)
