"""Jobs with `process=True` for the tests of the process pool."""

from __future__ import annotations

import asyncio
import os
import subprocess
import threading
import time
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

from headway import Fail, JobContext, job


@job("pid", process=True)
def pid(ctx: JobContext, payload: int) -> int:
    """Report progress `payload` times and return the process id."""
    for number in ctx.track(range(payload)):
        ctx.progress(number, payload, "Counting")
    return os.getpid()


@job("runs-steps", process=True)
def runs_steps(ctx: JobContext, payload: list[str]) -> None:
    """Run steps, each with a step inside it."""
    for name in payload:
        with ctx.step(name), ctx.step("half"):
            ctx.progress(1, 2)


@job("exits", process=True)
def exits(_ctx: JobContext, payload: int) -> None:
    """Exit the process with a code."""
    os._exit(payload)


@job("crashes", process=True)
def crashes(_ctx: JobContext, payload: int) -> None:
    """Kill the process with a signal."""
    os.kill(os.getpid(), payload)


@job("fails", process=True)
def fails(_ctx: JobContext, payload: str) -> None:
    """Raise an exception that the payload names, by default a ValueError."""
    group = ExceptionGroup("g", [ValueError(), ExceptionGroup("h", [Fail("No")])])
    errors = {"fail": Fail("No"), "exit": SystemExit(3), "interrupt": KeyboardInterrupt(), "group": group}
    raise errors.get(payload, ValueError(payload))


@job("hangs", process=True)
def hangs(_ctx: JobContext, payload: str) -> None:
    """Sleep, with a child process that sleeps too; write both process ids to a file, and the reason of a cancel."""
    child = subprocess.Popen(["sleep", "1000"])
    temporary = Path(payload).with_suffix(".new")
    temporary.write_text(f"{os.getpid()} {child.pid}")
    temporary.rename(payload)  # readers never see a partial file
    try:
        time.sleep(1000)
    except asyncio.CancelledError as error:
        Path(payload).write_text(f"{os.getpid()} {child.pid} {error}")
        raise


@job("saves-checkpoints", process=True)
def saves_checkpoints(ctx: JobContext, _payload: Any) -> Any:
    """Save two checkpoints, log a warning, and return the checkpoint that the attempt started with."""
    ctx.checkpoint({"step": 1})
    ctx.checkpoint({"step": 2})
    ctx.log.warning("saved %d", 2, extra={"step": 2})
    return ctx.checkpoint_value


@job("checkpoint-too-large", process=True)
def checkpoint_too_large(ctx: JobContext, _payload: Any) -> str:
    """Return the message of the exception with which a checkpoint is refused, after saving another one."""
    try:
        ctx.checkpoint("too large")
    except ValueError as error:
        ctx.checkpoint("small")
        return str(error)
    return "saved"


@job("leaves-thread", process=True)
def leaves_thread(ctx: JobContext, payload: int) -> int:
    """Start a thread that reports progress even after the job has ended; return the process id."""

    def report_forever() -> None:
        while True:
            ctx.progress(payload, 1000)
            time.sleep(0.001)

    threading.Thread(target=report_forever, daemon=True).start()
    return os.getpid()


@job("ignores-cancel", process=True)
def ignores_cancel(_ctx: JobContext, payload: str) -> None:
    """Write the process id to a file and never end, not even on a cancel."""
    while True:
        try:
            Path(payload).write_text(str(os.getpid()))
            time.sleep(1000)
        except asyncio.CancelledError:
            pass


class Unprintable:
    """An object that cannot be converted to a text."""

    def __str__(self) -> str:
        raise RuntimeError("no text")


def report_odd_values(ctx: Any) -> str:
    """Report objects of many types as names, units, weights and amounts."""
    ctx.steps(Decimal(1))
    ctx.progress(float("nan"), -1, b"bytes", unit=Path("files"))
    with ctx.step(2023, weight=Fraction(1)), ctx.step(Path("a.jpg")):
        ctx.progress(Decimal(3), Fraction(4), Unprintable(), unit=Unprintable())
        ctx.progress(None, "4", Unprintable(), unit=2023)
        ctx.steps("none")
    return "done"


@job("deep-steps-process", process=True)
def deep_steps_process(ctx: JobContext, _payload: Any) -> str:
    """Enter, and never leave, more steps than the recursion of their progress can follow."""
    for number in range(2_000):
        ctx.step(f"level {number}").__enter__()
    return "done"


@job("odd-values-async")
async def odd_values_async(ctx: JobContext, _payload: Any) -> str:
    """Report odd values in the event loop."""
    return report_odd_values(ctx)


@job("odd-values-thread")
def odd_values_thread(ctx: JobContext, _payload: Any) -> str:
    """Report odd values in a thread."""
    return report_odd_values(ctx)


@job("odd-values-process", process=True)
def odd_values_process(ctx: JobContext, _payload: Any) -> str:
    """Report odd values in a process."""
    return report_odd_values(ctx)
