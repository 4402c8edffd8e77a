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

LOG = "EFFECTS_LOG"  # the variable that names the file to a worker
_runs = itertools.count()


class Effect(NamedTuple):
    """What a handler did."""

    at: float  # monotonic
    job_id: str
    run: str  # one call of a handler, in any worker
    worker: int  # its process id
    attempt: int
    what: str  # "start", "step 3", "saved 3", "cancelled lease", "raised Fail", "end"


@contextmanager
def journal(ctx: JobContext, worker: int | None = None) -> Iterator[Callable[[str], None]]:
    """Write down when a handler starts, what it says, and how it ends."""
    worker, run = worker or os.getpid(), f"{os.getpid()}.{next(_runs)}"
    file = os.open(os.environ[LOG], os.O_WRONLY | os.O_APPEND | os.O_CREAT)

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


class Effects(tuple[Effect, ...]):
    """What handlers did, in the order of its happening."""

    __slots__ = ()

    @classmethod
    def read(cls, path: Path) -> Effects:
        """Read what has been written so far."""
        text = path.read_text() if path.exists() else ""
        *lines, _ = text.split("\n")  # the last one may still be on its way
        fields = (line.split(" ", 5) for line in lines)
        return cls(
            sorted(
                Effect(float(at), job_id, run, int(worker), int(attempt), what)
                for at, job_id, run, worker, attempt, what in fields
            )
        )

    def of(self, job_id: str) -> Effects:
        """Return those of one job."""
        return Effects(effect for effect in self if effect.job_id == job_id)

    def that(self, what: str) -> Effects:
        """Return those whose text begins so."""
        return Effects(effect for effect in self if effect.what.startswith(what))

    def by(self, worker: int) -> Effects:
        """Return those of one worker."""
        return Effects(effect for effect in self if effect.worker == worker)

    @property
    def jobs(self) -> set[str]:
        """Name the jobs."""
        return {effect.job_id for effect in self}

    @property
    def runs(self) -> list[Effects]:
        """Return the calls of handlers, each with its own effects, in the order of their starts."""
        found: dict[str, list[Effect]] = defaultdict(list)
        for effect in self:
            found[effect.run].append(effect)
        return [Effects(effects) for effects in found.values()]

    @property
    def by_job(self) -> dict[str, Effects]:
        """Return each job's own."""
        found: dict[str, list[Effect]] = defaultdict(list)
        for effect in self:
            found[effect.job_id].append(effect)
        return {job_id: Effects(effects) for job_id, effects in found.items()}

    def late(self, allowed_s: float) -> list[Effect]:
        """Return what a handler still did when its job had been another's for longer than allowed."""
        return [
            effect
            for effects in self.by_job.values()
            for earlier, later in itertools.pairwise(effects.runs)
            for effect in earlier
            if effect.at > later[0].at + allowed_s
        ]

    def started_after(self, moment: Timestamp) -> list[Effect]:
        """Return the starts after a moment of the wall clock, such as a job's end."""
        monotonic = moment / 1000 - (time.time() - time.monotonic())
        return [effect for effect in self.that("start") if effect.at > monotonic]

    def repeated(self) -> int:
        """Count the steps that one job did more than once."""
        steps = [effect.what for effect in self.that("step ")]
        return len(steps) - len(set(steps))


def written(effects: Iterable[Effect]) -> str:
    """Show effects, for whoever has to find out what went wrong."""
    return "\n".join(
        f"{effect.at:.3f} {effect.job_id} {effect.run} {effect.attempt} {effect.what}" for effect in effects
    )
