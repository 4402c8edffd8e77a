"""The commands `headway workers` and `headway kinds`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from headway.cli import arguments, client_command
from headway.cli.text import encodable_json, printable
from headway.contracts import encode

if TYPE_CHECKING:
    from headway.client import Client
    from headway.fleet import Kind, Worker

WORKER_COLUMNS = ("HOST", "WORKER", "VERSION", "QUEUE", "WAITING", "RUNNING", "KINDS")
KIND_COLUMNS = ("KIND", "WORKERS", "PER HOUR", "FAILED", "HALF WITHIN", "95 % WITHIN")


def add_commands(commands: Any) -> None:
    """Add the commands and their options."""
    workers, kinds = "list the workers that run", "list the kinds of jobs, with their numbers of the last 24 hours"
    _add(commands.add_parser("workers", help=workers, epilog="The API key needs the role operate."), _workers)
    _add(commands.add_parser("kinds", help=kinds, epilog="Any API key will do."), _kinds)


def _add(parser: argparse.ArgumentParser, command: Callable[[Client, argparse.Namespace], Any]) -> None:
    parser.add_argument("--json", action="store_true", help="print a line of JSON for each")
    arguments.add_submitter_options(parser)
    arguments.add_token_option(parser, "a list token without a filter")
    parser.set_defaults(run=lambda options: client_command.run(command, options))


async def _workers(client: Client, options: argparse.Namespace) -> None:
    workers = await client.workers(arguments.token(options))
    _print(workers, options, WORKER_COLUMNS, _worker_row)
    if not workers:
        print("headway: no worker runs", file=sys.stderr)


async def _kinds(client: Client, options: argparse.Namespace) -> None:
    _print(await client.kinds(arguments.token(options)), options, KIND_COLUMNS, _kind_row)


def _print(
    items: Iterable[Any], options: argparse.Namespace, columns: Sequence[str], row: Callable[[Any], Sequence[str]]
) -> None:
    """Print a line of JSON for each item, or a table whose columns are aligned."""
    if options.json:
        for item in items:
            print(encodable_json(encode(item).decode()))
        return
    rows = [columns, *([printable(cell) for cell in row(item)] for item in items)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for cells in rows if len(rows) > 1 else []:
        print("  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip())


def _worker_row(worker: Worker) -> tuple[str, ...]:
    waiting = "" if worker.queue_depth is None else str(worker.queue_depth)
    running = f"{worker.running} of {worker.slots}"
    return worker.host, worker.id, worker.version, worker.queue, waiting, running, ", ".join(worker.kinds)


def _kind_row(kind: Kind) -> tuple[str, ...]:
    failed = "" if kind.failure_share is None else f"{100 * kind.failure_share:.1f} %"
    durations = (
        ("", "") if kind.duration_s is None else (f"{kind.duration_s.p50:.1f} s", f"{kind.duration_s.p95:.1f} s")
    )
    return kind.kind, str(kind.workers), f"{kind.rate_per_h:.1f}", failed, *durations
