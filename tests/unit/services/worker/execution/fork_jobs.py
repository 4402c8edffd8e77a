"""Jobs with `process=True` that fork, leave processes behind, and write unusual log records."""

from __future__ import annotations

import ctypes
import logging
import multiprocessing
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from headway import JobContext, job
from tests.unit.services.runtime.unusual_records import log_unusual_records

DESCRIPTORS = Path("/proc/self/fd")


def wait_for(pid: int) -> int:
    """Wait for a child process and return its exit code."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@job("forks", process=True)
def forks(ctx: JobContext, payload: str) -> Any:
    """Fork a child that does what the payload names, and return the child's exit code."""
    fork = ctypes.PyDLL(None).fork if payload.startswith("unnoticed") else os.fork
    child = fork()
    if child:
        return wait_for(child)
    match payload.removeprefix("unnoticed "):
        case "returns":
            return "of the child"
        case "raises":
            raise ValueError("of the child")
        case "exits":
            sys.exit(3)
        case "fails-to-exec":
            os.execv("/nonexistent/program", ["program"])
        case "reports":
            ctx.progress(1, 1, "of the child")
            ctx.checkpoint("of the child")
        case "logs":
            logging.getLogger().warning("of the child")
            os._exit(0)
    return None


def terminate(method: str) -> int | None:
    """Terminate a child of `multiprocessing` and return its exit code."""
    process: BaseProcess = multiprocessing.get_context(method).Process(  # type: ignore[attr-defined]
        target=time.sleep, args=(1000,)
    )
    process.start()
    process.terminate()
    process.join()
    return process.exitcode


def terminate_subprocess() -> int:
    """Terminate a program and return its exit code."""
    with subprocess.Popen(["sleep", "1000"]) as program:
        program.terminate()
        return program.wait()


def terminate_pool() -> int | None:
    """Terminate a pool and return the exit code of its process."""
    with multiprocessing.get_context("fork").Pool(1) as pool:
        pool.apply(os.getpid)
        (process,) = multiprocessing.active_children()
    process.join()
    return process.exitcode or -15  # it may have exited before


def terminate_executor() -> int | None:
    """Terminate the process of an executor and return its exit code."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("fork")) as executor:
        executor.submit(os.getpid).result()
        (process,) = multiprocessing.active_children()
        process.terminate()
        process.join()
        return process.exitcode


TERMINATIONS: dict[str, Callable[[], int | None]] = {
    "fork": lambda: terminate("fork"),
    "spawn": lambda: terminate("spawn"),
    "subprocess": terminate_subprocess,
    "pool": terminate_pool,
    "executor": terminate_executor,
}


@job("terminates-children", process=True)
def terminates_children(_ctx: JobContext, _payload: Any) -> dict[str, int | None]:
    """Terminate children of each sort at once and return their exit codes."""
    return {name: termination() for name, termination in TERMINATIONS.items()}


@job("crashes-but-stays-connected", process=True)
def crashes_but_stays_connected(_ctx: JobContext, payload: str) -> None:
    """Leave a program behind that keeps the connection to the worker open; write its process id to a file; crash."""
    for link in DESCRIPTORS.iterdir():
        with suppress(OSError):  # the descriptor of the listing
            os.set_inheritable(int(link.name), True)
    program = os.spawnlp(os.P_NOWAIT, "setsid", "setsid", "sleep", "1000")
    Path(payload).write_text(str(program))
    os._exit(3)


@job("open-descriptors", process=True)
def open_descriptors(_ctx: JobContext, _payload: Any) -> list[str]:
    """Return the sockets that a program inherits, and those that a forked child has."""
    child_end, parent_end = os.pipe()
    if os.fork() == 0:
        os.write(parent_end, " ".join(sockets()).encode() or b" ")
        os._exit(0)
    in_child = os.read(child_end, 1000).decode().split()
    return [*filter(lambda name: os.get_inheritable(int(name)), sockets()), *in_child]


def sockets() -> list[str]:
    """Return the descriptors of this process that are sockets."""
    return [link.name for link in DESCRIPTORS.iterdir() if link.is_socket()]


@job("talks-afterwards", process=True)
def talks_afterwards(_ctx: JobContext, _payload: Any) -> int:
    """Leave a thread behind that logs for ever; return the process id."""

    def log_forever() -> None:
        while True:
            logging.getLogger().warning("still here")
            time.sleep(0.001)

    threading.Thread(target=log_forever, daemon=True).start()
    return os.getpid()


@job("allocates", process=True)
def allocates(_ctx: JobContext, payload: int) -> int:
    """Keep this many bytes; return the process id."""
    vars(multiprocessing).setdefault("_kept", []).append(b"x" * payload)
    return os.getpid()


@job("twice", process=True, max_jobs=2)
def twice(_ctx: JobContext, _payload: Any) -> int:
    """Return the process id."""
    return os.getpid()


@job("logs-unusual-records", process=True)
def logs_unusual_records(_ctx: JobContext, _payload: Any) -> str:
    """Log what no log handler expects."""
    log_unusual_records()
    return "done"


@job("raises-surrogate", process=True)
def raises_surrogate(_ctx: JobContext, _payload: Any) -> None:
    """Raise an exception whose message UTF-8 cannot encode."""
    raise ValueError(os.fsdecode(b"caf\xe9"))
