"""What `headway submit`, `watch` and `cancel` do."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import sys
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from headway.client import Client, InvalidToken, Problem, Receipt, Unreachable
from headway.contracts import JobSnapshot, JobStatus, encode
from headway.lines import Lines, json_line, line
from headway.links import Link

if TYPE_CHECKING:
    from headway.bars import Bars

SUCCEEDED, FAILED, MISUSED, CANCELLED = 0, 1, 2, 130
CODES: dict[JobStatus, int] = {"succeeded": SUCCEEDED, "failed": FAILED, "cancelled": CANCELLED}
MISFITS = (400, 413, 422)  # statuses that say that the submission itself is wrong


def run(command: Callable[[argparse.Namespace], Coroutine[None, None, int]], options: argparse.Namespace) -> int:
    """Run a command; what a service refuses is a line on stderr and an exit code."""
    if logging.lastResort is not None:  # where the client's warnings go
        logging.lastResort.setFormatter(logging.Formatter("headway: %(message)s"))
    try:
        return asyncio.run(command(options))
    except (Problem, InvalidToken, Unreachable) as trouble:
        return _complain(trouble)


async def submit(options: argparse.Namespace) -> int:
    """Submit a job; print its link, or watch it to its end."""
    async with _client(options) as client:
        receipt = await client.submit(
            options.kind,
            options.payload,
            delay_s=options.delay,
            max_attempts=options.max_attempts,
            timeout_s=options.timeout,
            idempotency_key=options.idempotency_key,
        )
        if options.watch:
            return await _follow(client, [receipt], options)
        print(encode(receipt).decode() if options.json else receipt.link, flush=True)
        return SUCCEEDED


async def watch(options: argparse.Namespace) -> int:
    """Watch jobs to their ends."""
    async with Client() as client:
        return await _follow(client, options.links, options)


async def cancel(options: argparse.Namespace) -> int:
    """Ask for a job's cancellation and print where it is."""
    async with Client() as client:
        for link in options.links:
            snapshot = await client.cancel(link)
            print((json_line if options.json else line)(snapshot), flush=True)
    return SUCCEEDED


def _client(options: argparse.Namespace) -> Client:
    file: Path | None = options.api_key_file
    key = os.environ.get("HEADWAY_API_KEY") if file is None else file.read_text().strip()
    return Client(options.url, key or None)


async def _follow(client: Client, jobs: Sequence[Receipt | Link], options: argparse.Namespace) -> int:
    """Show jobs until all have ended; Ctrl-C ends the showing, not the jobs."""

    async def follow(job: Receipt | Link) -> int:
        try:
            async for snapshot in client.watch(job):
                show(snapshot)
        except (Problem, InvalidToken, Unreachable) as trouble:
            return _complain(trouble)
        return CODES[snapshot.status]

    try:
        with shown(as_json=options.json) as show:
            codes = await asyncio.gather(*map(follow, jobs))
    except asyncio.CancelledError:
        print("headway: no longer watched; what runs goes on running", file=sys.stderr)
        if sys.stderr.isatty():  # for a person, who could not come back otherwise; not for a log
            for job in jobs:
                if isinstance(job, Receipt):
                    print(f"headway: to come back: {job.link}", file=sys.stderr)
        raise
    return next((code for code in (FAILED, CANCELLED) if code in codes), SUCCEEDED)


@contextmanager
def shown(*, as_json: bool) -> Iterator[Callable[[JobSnapshot], None]]:
    """Yield what shows a snapshot: as a bar on a terminal, as a line anywhere else and where rich is not installed."""
    bars = None if as_json or not sys.stdout.isatty() else _bars()
    if bars is None:
        yield Lines(json_line if as_json else line).show
    else:
        with bars:
            yield bars.show


def _bars() -> Bars | None:
    try:
        from headway.bars import Bars
    except ModuleNotFoundError:
        print("headway: for bars, install rich: pip install 'headway[cli]'", file=sys.stderr)
        return None
    return Bars()


def _complain(trouble: Exception) -> int:
    print(f"headway: {trouble}", file=sys.stderr)
    return MISUSED if isinstance(trouble, Problem) and trouble.status in MISFITS else FAILED
