"""`make up`: Valkey, Azurite and the three services, started in order, kept running, and stopped in order."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from dev.environment import ROOT, Program, Unusable, check_ports, folder, prepare, programs, settings

DEATHS, WINDOW_S = 3, 10.0
DELAY_S, DELAY_CAP_S = 0.25, 5.0  # before the second restart, doubled with each; the first comes at once
LAST_LINES = 20
POLL_S = 0.05
PARENT_S = 0.5
COLOURS = {"submitter": 36, "notifier": 32, "worker": 33, "azurite": 34, "valkey": 35}
COLOURED = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
ESCAPES = re.compile(r"\x1b\[[0-9;]*m")


class Hopeless(Exception):  # noqa: N818 - reads as what it is
    """A process died three times in ten seconds; the message has its last lines."""


class Process:
    """Keeps a program running, in a session of its own, with its current process id in `pid/<name>`."""

    def __init__(self, program: Program, env: Mapping[str, str], state: Path) -> None:
        self.program = program
        self._env = env
        self._pid_file = state / "pid" / program.name
        self._log = (state / "logs" / f"{program.name}.log").open("w", buffering=1)
        self._last: deque[str] = deque(maxlen=LAST_LINES)
        self._running: asyncio.subprocess.Process | None = None
        self._stopping = False

    async def keep(self) -> None:
        """Run the program until it is stopped; Hopeless when it dies again and again."""
        clock = asyncio.get_running_loop().time
        deaths: deque[float] = deque([-WINDOW_S] * DEATHS, maxlen=DEATHS)
        restarts = 0
        while True:
            born = clock()
            code = await self._run()
            if self._stopping:
                return
            deaths.append(clock())
            if deaths[-1] - deaths[0] < WINDOW_S:
                last = "".join(f"\n  {line}" for line in self._last)
                raise Hopeless(f"{self.program.name} died {DEATHS} times in {WINDOW_S:g} s; its last lines:{last}")
            restarts = 0 if deaths[-1] - born > WINDOW_S else restarts
            say(f"{self.program.name} ended with {code} and is started again")
            await asyncio.sleep(min(DELAY_CAP_S, DELAY_S * 2**restarts) if restarts else 0)
            restarts += 1

    async def stop(self) -> None:
        """Ask the process to end, and kill it with its children after its grace."""
        self._stopping = True
        if (process := self._running) is not None:
            self.signal(signal.SIGTERM)
            with suppress(TimeoutError):
                await asyncio.wait_for(process.wait(), self.program.grace_s)
        self.signal(signal.SIGKILL)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the process and its children."""
        if self._running is not None:
            with suppress(ProcessLookupError, PermissionError):  # macOS refuses when only zombies are left
                os.killpg(self._running.pid, number)

    async def _run(self) -> int:
        self._running = await asyncio.create_subprocess_exec(
            *self.program.command, cwd=ROOT, env=self._env, start_new_session=True, limit=1 << 20,
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        draft = self._pid_file.with_suffix(".new")
        draft.write_text(f"{self._running.pid}\n")
        draft.replace(self._pid_file)  # whoever reads sees the old one or the new one
        assert self._running.stdout is not None  # noqa: S101 - a pipe was asked for
        async for line in self._running.stdout:
            self._show(line.decode(errors="replace").rstrip())
        code = await self._running.wait()
        self._pid_file.unlink(missing_ok=True)
        return code

    def _show(self, line: str) -> None:
        plain = ESCAPES.sub("", line)
        self._last.append(plain)
        self._log.write(plain + "\n")
        prefix = f"{self.program.name:9} | "
        say(f"\x1b[{COLOURS[self.program.name]}m{prefix}\x1b[0m{line}" if COLOURED else prefix + plain)


def say(line: str) -> None:
    """Show a line; that nobody reads it any more is no reason to stop."""
    with suppress(OSError):
        print(line, flush=True)


async def run(env: Mapping[str, str], state: Path) -> None:
    """Start the stores, then the services; when asked to stop, or when one is hopeless, stop them in reverse."""
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    groups = [[Process(program, env, state) for program in group] for group in programs(env, state)]
    keeping: list[asyncio.Task[None]] = []
    stopping = [asyncio.create_task(stop.wait()), asyncio.create_task(left_alone(os.getppid()))]
    for group in groups:
        keeping += [asyncio.create_task(process.keep()) for process in group]
        answering = asyncio.create_task(answer(group))
        await asyncio.wait([answering, *keeping, *stopping], return_when=asyncio.FIRST_COMPLETED)
        if not answering.done():
            answering.cancel()
            break
    else:
        say(f"Headway is ready: {env['SUBMITTER_URL'].rstrip('/')}/")
        await asyncio.wait([*keeping, *stopping], return_when=asyncio.FIRST_COMPLETED)
    for group in reversed(groups):
        await asyncio.gather(*(process.stop() for process in group))
    for task in stopping:
        task.cancel()
    await asyncio.gather(*keeping)


async def answer(group: Sequence[Process]) -> None:
    """Wait until all of them answer."""
    for process in group:
        while not await process.program.answers():  # noqa: ASYNC110 - another process does not tell
            await asyncio.sleep(POLL_S)


async def left_alone(parent: int) -> None:
    """Wait until the parent, usually make, has been killed without a word."""
    while os.getppid() == parent:  # noqa: ASYNC110
        await asyncio.sleep(PARENT_S)


def main() -> int:
    """Run until stopped; return 1 when something is in the way or a process dies again and again."""
    state = folder(os.environ)
    chosen = settings(state, os.environ)
    colour = {"FORCE_COLOR": "1"} if COLOURED else {}
    try:
        check_ports(chosen)
        prepare(state, chosen)
        asyncio.run(run({**os.environ, **chosen, **colour, "PYTHONUNBUFFERED": "1"}, state))
    except (Unusable, Hopeless) as problem:
        print(problem, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
