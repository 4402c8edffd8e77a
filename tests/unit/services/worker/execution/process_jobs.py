"""Jobs that run in processes of their own."""

from __future__ import annotations

import asyncio
import os
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

from headway import Fail, JobContext, job


@job("pid", process=True)
def pid(ctx: JobContext, payload: int) -> int:
    """Say which process it is."""
    for number in ctx.track(range(payload)):
        ctx.progress(number, payload, "Counting")
    return os.getpid()


@job("exits", process=True)
def exits(_ctx: JobContext, payload: int) -> None:
    """End the process."""
    os._exit(payload)


@job("crashes", process=True)
def crashes(_ctx: JobContext, payload: int) -> None:
    """End the process by a signal."""
    os.kill(os.getpid(), payload)


@job("fails", process=True)
def fails(_ctx: JobContext, payload: str) -> None:
    """Fail in the given way."""
    raise {"fail": Fail("No"), "exit": SystemExit(3)}.get(payload, ValueError(payload))


@job("hangs", process=True)
def hangs(_ctx: JobContext, payload: str) -> None:
    """Never end, with a child that does not end either; write down both process ids, and why it was to end."""
    child = subprocess.Popen(["sleep", "1000"])
    draft = Path(payload).with_suffix(".new")
    draft.write_text(f"{os.getpid()} {child.pid}")
    draft.rename(payload)
    try:
        time.sleep(1000)
    except asyncio.CancelledError as error:
        Path(payload).write_text(f"{os.getpid()} {child.pid} {error}")
        raise


@job("keeps", process=True)
def keeps(ctx: JobContext, _payload: Any) -> Any:
    """Keep two checkpoints, log, and return what there was."""
    ctx.checkpoint({"step": 1})
    ctx.checkpoint({"step": 2})
    ctx.log.warning("kept %d", 2, extra={"step": 2})
    return ctx.checkpoint_value


@job("leaves", process=True)
def leaves(ctx: JobContext, payload: int) -> int:
    """Leave a thread behind that goes on showing progress."""

    def go_on() -> None:
        while True:
            ctx.progress(payload, 1000)
            time.sleep(0.001)

    threading.Thread(target=go_on, daemon=True).start()
    return os.getpid()


@job("stubborn", process=True)
def stubborn(_ctx: JobContext, payload: str) -> None:
    """Never end, whatever is asked."""
    while True:
        try:
            Path(payload).write_text(str(os.getpid()))
            time.sleep(1000)
        except asyncio.CancelledError:
            pass
