"""Code reloading for development: with `--reload`, the worker restarts when its code changes.

It drains as on SIGTERM, which releases running jobs with their checkpoints, and then replaces itself with `exec`, which
keeps the process id. If the changed code cannot be imported, the worker logs the error and keeps running the old code.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from contextlib import suppress
from functools import cache
from pathlib import Path

import structlog

from .python_command import python_command

log: structlog.stdlib.BoundLogger = structlog.get_logger()

CHECK_INTERVAL_S = 0.5
PYTHON_FOLDERS = tuple(Path(prefix).resolve() for prefix in (sys.prefix, sys.base_prefix))
IMPORT_CHECK = f"from {__package__}.registry import load_jobs; load_jobs(sys.argv[1:])"


class CodeReloader:
    """Monitors the source files of all loaded modules, except those of Python and of installed packages."""

    def __init__(self) -> None:
        self.requested = False

    async def watch(self, modules: tuple[str, ...]) -> None:
        """Send SIGTERM to this process once the code has changed and `modules` can be imported."""
        previous = _file_mtimes()
        while True:
            await asyncio.sleep(CHECK_INTERVAL_S)
            current = _file_mtimes()
            if current == previous:
                continue
            files = {*current, *previous}
            changed = sorted(file for file in files if current.get(file) != previous.get(file))
            previous = current
            if (problem := await _import_error(modules)) is not None:
                log.error("code_import_failed", changed=changed, problem=problem)
            elif not self.requested:
                log.info("code_changed", changed=changed)
                self.requested = True
                os.kill(os.getpid(), signal.SIGTERM)

    def exec_self(self) -> None:
        """Replace this process with a new worker if a reload was requested; call it after the worker has stopped."""
        if self.requested:
            os.execv(sys.executable, sys.orig_argv)  # noqa: S606 - its own command line


def _file_mtimes() -> dict[str, int]:
    """Return the modification times of the files to monitor in ns, by path; 0 for a file that cannot be read."""
    mtimes: dict[str, int] = {}
    for module in list(sys.modules.values()):
        file = getattr(module, "__file__", None)
        if file is None or _is_installed(file):
            continue
        if hasattr(module, "__path__"):  # a package: new files count as a change
            with suppress(OSError), os.scandir(Path(file).parent) as entries:
                mtimes.update((entry.path, _mtime(entry)) for entry in entries if entry.name.endswith(".py"))
        elif file not in mtimes:
            mtimes[file] = _mtime(Path(file))
    return mtimes


def _mtime(file: Path | os.DirEntry[str]) -> int:
    try:
        return file.stat().st_mtime_ns
    except OSError:
        return 0


@cache
def _is_installed(file: str) -> bool:
    return any(Path(file).resolve().is_relative_to(folder) for folder in PYTHON_FOLDERS)


async def _import_error(modules: tuple[str, ...]) -> str | None:
    command = python_command(IMPORT_CHECK, *modules)
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE
    )
    _, errors = await process.communicate()
    return errors.decode(errors="replace").strip().rpartition("\n")[2] if process.returncode else None
