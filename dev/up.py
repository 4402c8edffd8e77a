"""`make up`: Valkey, Azurite and the three services, started in order, kept running, and stopped in order."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from typing import TYPE_CHECKING

from dev import environment, programs
from dev.console import Console, wants_colour
from dev.guard import guarded
from dev.process import Hopeless, Process

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

POLL_S = 0.05
SURROUNDINGS_POLL_S = 0.5
STORE_GRACE_S = 5
SERVICE_GRACE_S = 10


async def run(env: dict[str, str], state: Path, console: Console) -> None:
    """Start the stores, then the services; stop them the other way round when asked to; Hopeless at worst."""
    first = (programs.valkey(env, state), programs.azurite(env, state))
    second = tuple(programs.service(name, env) for name in ("notifier", "submitter", "worker"))
    stores, services = ([Process(program, env, state, console) for program in group] for group in (first, second))
    stop = asyncio.Event()
    stop_on_signals(stop, stores + services, console)
    stop_when_left(stop, surroundings())
    try:
        if await start(stores, stop) and await start(services, stop):
            console.say(f"Headway is ready: {env['SUBMITTER_URL'].rstrip('/')}/")
        await stop.wait()
    finally:
        await asyncio.gather(*(service.stop(SERVICE_GRACE_S) for service in services))
        await asyncio.gather(*(store.stop(STORE_GRACE_S) for store in stores))
    for process in stores + services:
        process.check()


async def start(processes: Sequence[Process], stop: asyncio.Event) -> bool:
    """Start the processes and wait until all of them answer; False when the run is to stop before."""
    for process in processes:
        process.start(ended=stop.set)
    waiting = [process.program for process in processes]
    while waiting and not stop.is_set():
        answers = await asyncio.gather(*(program.answers() for program in waiting))
        waiting = [program for program, answer in zip(waiting, answers, strict=True) if not answer]
        await asyncio.sleep(POLL_S if waiting else 0)
    return not stop.is_set()


def stop_on_signals(stop: asyncio.Event, processes: Sequence[Process], console: Console) -> None:
    """Let a signal stop the run, and a second Ctrl-C kill it."""

    def interrupt() -> None:
        if stop.is_set():
            for process in processes:
                process.kill()
        else:
            console.say("Stopping; Ctrl-C again kills")
            stop.set()

    loop = asyncio.get_running_loop()  # its handlers work even where SIGINT is ignored: a script's background
    loop.add_signal_handler(signal.SIGINT, interrupt)
    loop.add_signal_handler(signal.SIGTERM, stop.set)  # twice, to the group and from make, is no kill
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # nohup
        loop.add_signal_handler(signal.SIGHUP, stop.set)


def stop_when_left(stop: asyncio.Event, before: tuple[int, bool, bool]) -> None:
    """Stop the run when its parent, usually make, or its terminal is gone, of which make alone may be told."""
    if surroundings() == before:
        asyncio.get_running_loop().call_later(SURROUNDINGS_POLL_S, stop_when_left, stop, before)
    else:
        stop.set()


def surroundings() -> tuple[int, bool, bool]:
    """Return the parent, and whether input and output are a terminal."""
    return os.getppid(), os.isatty(0), os.isatty(1)


def main() -> int:
    """Run until stopped; return 1 when something is in the way or a process dies again and again."""
    state = environment.folder(os.environ)
    settings = environment.settings(state, os.environ)
    colour = wants_colour(os.environ)
    env = {**os.environ, **settings, "PYTHONUNBUFFERED": "1", **({"FORCE_COLOR": "1"} if colour else {})}
    try:
        environment.check_ports(settings)
        with (
            environment.prepared(state, settings),
            guarded(state / "pid"),
            Console(state / "logs", colour=colour) as console,
        ):
            try:
                asyncio.run(run(env, state, console))
            except Hopeless as end:
                console.say(str(end))
                return 1
    except environment.Unusable as problem:
        print(problem, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
