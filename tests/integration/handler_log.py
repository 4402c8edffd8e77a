"""The handlers' own log, which knows nothing of Headway: one line for each thing that a handler did, appended at once.

It outlives every worker, and its clock is the machine's own, the same in all processes.
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

LOG_VARIABLE = "HANDLER_LOG"  # the variable that names the file to a worker
_call_numbers = itertools.count()


class Entry(NamedTuple):
    """What a handler did."""

    at: float  # monotonic
    job_id: str
    call: str  # one call of a handler, in any worker
    worker: int  # its process id
    attempt: int
    event: str  # "start", "step 3", "saved 3", "cancelled lease", "raised Fail", "end"


@contextmanager
def log_call(ctx: JobContext, worker: int | None = None) -> Iterator[Callable[[str], None]]:
    """Write down when a handler starts, what it says, and how it ends."""
    worker, run = worker or os.getpid(), f"{os.getpid()}.{next(_call_numbers)}"
    file = os.open(os.environ[LOG_VARIABLE], os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def write(what: str) -> None:
        os.write(file, f"{time.monotonic():.6f} {ctx.job_id} {run} {worker} {ctx.attempt} {what}\n".encode())

    write("start")
    try:
        yield write
    except asyncio.CancelledError as error:
        write(f"cancelled {error.args[0] if error.args else ''}".strip())
        raise
    except Exception as error:
        write(f"raised {type(error).__name__}")
        raise
    else:
        write("end")
    finally:
        os.close(file)


class HandlerLog(tuple[Entry, ...]):
    """What handlers did, in the order of its happening."""

    __slots__ = ()

    @classmethod
    def read(cls, path: Path) -> HandlerLog:
        """Read what has been written so far."""
        text = path.read_text() if path.exists() else ""
        *lines, _ = text.split("\n")  # the last one may still be on its way
        fields = (line.split(" ", 5) for line in lines)
        return cls(
            sorted(
                Entry(float(at), job_id, run, int(worker), int(attempt), what)
                for at, job_id, run, worker, attempt, what in fields
            )
        )

    def of_job(self, job_id: str) -> HandlerLog:
        """Return those of one job."""
        return HandlerLog(effect for effect in self if effect.job_id == job_id)

    def matching(self, what: str) -> HandlerLog:
        """Return those whose text begins so."""
        return HandlerLog(effect for effect in self if effect.event.startswith(what))

    def by_worker(self, worker: int) -> HandlerLog:
        """Return those of one worker."""
        return HandlerLog(effect for effect in self if effect.worker == worker)

    @property
    def jobs(self) -> set[str]:
        """Name the jobs."""
        return {effect.job_id for effect in self}

    @property
    def calls(self) -> list[HandlerLog]:
        """Return the calls of handlers, each with its own effects, in the order of their starts."""
        found: dict[str, list[Entry]] = defaultdict(list)
        for effect in self:
            found[effect.call].append(effect)
        return [HandlerLog(effects) for effects in found.values()]

    @property
    def by_job(self) -> dict[str, HandlerLog]:
        """Return each job's own."""
        found: dict[str, list[Entry]] = defaultdict(list)
        for effect in self:
            found[effect.job_id].append(effect)
        return {job_id: HandlerLog(effects) for job_id, effects in found.items()}

    def overlapping(self, allowed_s: float) -> list[Entry]:
        """Return what a handler still did when its job had been another's for longer than allowed."""
        return [
            effect
            for effects in self.by_job.values()
            for earlier, later in itertools.pairwise(effects.calls)
            for effect in earlier
            if effect.at > later[0].at + allowed_s
        ]

    def started_after(self, moment: Timestamp) -> list[Entry]:
        """Return the starts after a moment of the wall clock, such as a job's end."""
        monotonic = moment / 1000 - (time.time() - time.monotonic())
        return [effect for effect in self.matching("start") if effect.at > monotonic]

    def repeated_steps(self) -> int:
        """Count the steps that one job did more than once."""
        steps = [effect.event for effect in self.matching("step ")]
        return len(steps) - len(set(steps))


def format_entries(effects: Iterable[Entry]) -> str:
    """Show effects, for whoever has to find out what went wrong."""
    return "\n".join(
        f"{effect.at:.3f} {effect.job_id} {effect.call} {effect.attempt} {effect.event}" for effect in effects
    )
