"""The commands `headway submit`, `watch` and `cancel`."""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from headway.cli import arguments
from headway.cli.text import LinePrinter, job_line, json_line
from headway.client import Client, InvalidToken, Receipt, RequestFailed, Unreachable
from headway.client.links import Link
from headway.contracts import JobSnapshot, JobStatus, encode
from headway.timestamp import RemoteClock

if TYPE_CHECKING:
    from headway.cli.progress_bars import ProgressBars

SUCCEEDED, FAILED, USAGE_ERROR, CANCELLED = 0, 1, 2, 130
EXIT_CODES: dict[JobStatus, int] = {"succeeded": SUCCEEDED, "failed": FAILED, "cancelled": CANCELLED}
INVALID_SUBMISSION_STATUSES = (400, 413, 422)


def run(command: Callable[[argparse.Namespace], Coroutine[None, None, int]], options: argparse.Namespace) -> int:
    """Run a command and return its exit code; print an error of a service as one line."""
    if logging.lastResort is not None:  # the handler that prints the client's warnings
        logging.lastResort.setFormatter(logging.Formatter("headway: %(message)s"))
    try:
        return asyncio.run(command(options))
    except (RequestFailed, InvalidToken, Unreachable) as error:
        return _print_error(error)


async def submit(options: argparse.Namespace) -> int:
    """Submit a job and print its link, or watch it until it ends."""
    async with Client(options.url, arguments.api_key(options)) as client:
        receipt = await client.submit(
            options.kind,
            options.payload,
            delay_s=options.delay,
            max_attempts=options.max_attempts,
            timeout_s=options.timeout,
            name=options.name,
            owner=options.owner,
            tags=options.tag or (),
            on_end=options.on_end,
            idempotency_key=options.idempotency_key,
        )
        if options.watch:
            return await watch_all(client, [receipt], options)
        print(encode(receipt).decode() if options.json else receipt.link, flush=True)
        return SUCCEEDED


async def watch(options: argparse.Namespace) -> int:
    """Watch jobs until they end."""
    async with Client() as client:
        return await watch_all(client, options.links, options)


async def cancel(options: argparse.Namespace) -> int:
    """Cancel a job and print its state."""
    async with Client() as client:
        for link in options.links:
            snapshot = await client.cancel(link)
            print((json_line if options.json else job_line)(snapshot), flush=True)
    return SUCCEEDED


async def watch_all(client: Client, jobs: Sequence[Receipt | Link], options: argparse.Namespace) -> int:
    """Display jobs until all have ended; Ctrl-C stops the display, not the jobs."""

    async def follow(job: Receipt | Link) -> int:
        try:
            async for snapshot in client.watch(job):
                display(snapshot)
        except (RequestFailed, InvalidToken, Unreachable) as error:
            return _print_error(error)
        return EXIT_CODES[snapshot.status]

    try:
        with job_display(client.clock, as_json=options.json) as display:
            codes = await asyncio.gather(*map(follow, jobs))
    except asyncio.CancelledError:
        print("headway: stopped watching; the jobs keep running", file=sys.stderr)
        if sys.stderr.isatty():  # the link contains the token, which must not get into a log
            for job in jobs:
                if isinstance(job, Receipt):
                    print(f"headway: to watch again: {job.link}", file=sys.stderr)
        raise
    return next((code for code in (FAILED, CANCELLED) if code in codes), SUCCEEDED)


@contextmanager
def job_display(clock: RemoteClock, *, as_json: bool) -> Iterator[Callable[[JobSnapshot], None]]:
    """Yield a function that displays a snapshot: as a bar on a terminal with rich, as a line otherwise."""
    bars = None if as_json or not sys.stdout.isatty() else _progress_bars(clock)
    if bars is None:
        yield LinePrinter(json_line if as_json else job_line).print_job
    else:
        with bars:
            yield bars.update


def _progress_bars(clock: RemoteClock) -> ProgressBars | None:
    try:
        from headway.cli.progress_bars import ProgressBars
    except ModuleNotFoundError:
        print("headway: install rich to see progress bars: pip install 'headway[cli]'", file=sys.stderr)
        return None
    return ProgressBars(clock.now, confirmed=clock.confirmed)


def _print_error(error: Exception) -> int:
    """Print an error and return the exit code for it."""
    print(f"headway: {error}", file=sys.stderr)
    return USAGE_ERROR if isinstance(error, RequestFailed) and error.status in INVALID_SUBMISSION_STATUSES else FAILED
