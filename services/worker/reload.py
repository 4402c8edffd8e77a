"""`--reload`: in development, the worker starts anew when the code that it runs has changed.

It stops as it would on SIGTERM, so that running jobs are handed back with their checkpoints, and then becomes a new
worker with the same process id. Code that cannot be loaded is told, and the old one goes on.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import structlog

log: structlog.stdlib.BoundLogger = structlog.get_logger()

CHECK_INTERVAL_S = 0.5
INSTALLED = tuple(Path(prefix).resolve() for prefix in (sys.prefix, sys.base_prefix))
LOAD = f"import sys; from {__package__}.registry import load_jobs; load_jobs(sys.argv[1:])"


class CodeReloader:
    """Watches the files of all modules that are loaded from elsewhere than Python's own folders."""

    def __init__(self) -> None:
        self.requested = False

    async def watch(self, modules: tuple[str, ...]) -> None:
        """Ask this process to stop once the code has changed and can be loaded."""
        seen = _file_mtimes()
        while True:
            await asyncio.sleep(CHECK_INTERVAL_S)
            now = _file_mtimes()
            if now == seen:
                continue
            changed = sorted(str(file) for file in {*now, *seen} if now.get(file) != seen.get(file))
            seen = now
            if (problem := await _import_error(modules)) is not None:
                log.error("code_unloadable", changed=changed, problem=problem)
            elif not self.requested:
                log.info("code_changed", changed=changed)
                self.requested = True
                os.kill(os.getpid(), signal.SIGTERM)

    def exec_self(self) -> None:
        """Start anew in this process, once it has stopped."""
        if self.requested:
            os.execv(sys.executable, sys.orig_argv)  # noqa: S606 - itself


def _file_mtimes() -> dict[Path, int]:
    stamps = {}
    for file in set(_files()):
        try:
            stamps[file] = file.stat().st_mtime_ns
        except OSError:
            stamps[file] = 0
    return stamps


def _files() -> Iterator[Path]:
    for module in list(sys.modules.values()):
        file = getattr(module, "__file__", None)
        if file is None or _installed(file):
            continue
        yield Path(file)
        if hasattr(module, "__path__"):  # a package, to which files may be added
            yield from Path(file).parent.glob("*.py")


@cache
def _installed(file: str) -> bool:
    return any(Path(file).resolve().is_relative_to(folder) for folder in INSTALLED)


async def _import_error(modules: tuple[str, ...]) -> str | None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", LOAD, *modules, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE
    )
    _, errors = await process.communicate()
    return errors.decode(errors="replace").strip().rpartition("\n")[2] if process.returncode else None
