"""A separate system for a demonstration or a measurement: `make up` on free ports, with a state folder of its own."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path

from dev.environment import LOCAL, POLL_S, PORTS, ROOT

READY = "Headway is ready"


@asynccontextmanager
async def running_system(state_dir: Path, **env: str) -> AsyncIterator[str]:
    """Run the whole system for the length of the block; yield the submitter's URL.

    Args:
        state_dir: the state folder.
        env: settings of the services.
    """
    with ExitStack() as sockets:
        free_ports = [sockets.enter_context(socket.create_server((LOCAL, 0))).getsockname()[1] for _ in PORTS]
    ports = dict(zip(PORTS, map(str, free_ports), strict=True))
    log = state_dir / "output"
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "dev.up",
            cwd=ROOT,
            env={**os.environ, **ports, "HEADWAY_DIR": str(state_dir), **env},
            stdout=output,
            stderr=output,
        )
    try:
        while READY not in log.read_text(errors="replace"):
            if process.returncode is not None:
                raise SystemExit(f"The system did not start:\n{log.read_text(errors='replace')}")
            await asyncio.sleep(POLL_S)
        yield f"http://{LOCAL}:{ports['SUBMITTER_PORT']}"
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGINT)
        await process.wait()
