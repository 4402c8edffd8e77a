"""Jobs that the tests run."""

from pathlib import Path
from typing import Any

from headway import JobContext, job

calls = 0


@job("echo")
async def echo(_ctx: JobContext, payload: Any) -> Any:
    """Return the payload."""
    return payload


@job("broken")
async def broken(_ctx: JobContext, _payload: Any) -> None:
    """Raise."""
    raise ValueError("the cable is loose")


@job("count-calls")
async def count_calls(_ctx: JobContext, _payload: Any) -> int:
    """Return how often this ran in this worker."""
    global calls
    calls += 1
    return calls


@job("leave-mark")
async def leave_mark(ctx: JobContext, path: str) -> None:
    """Append the job's id to a file: a start that is counted outside Headway."""
    with Path(path).open("a") as file:
        file.write(f"{ctx.job_id}\n")
