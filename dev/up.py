"""`make up`: start Valkey, Azurite and the three services, restart those that die, and stop them in reverse order.

`make stores` runs only Valkey and Azurite, for services that are started elsewhere.
"""

import asyncio
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from dev.console import USE_COLORS, print_line, print_process_line
from dev.environment import (
    PORTS,
    ROOT,
    STORE_PORTS,
    Program,
    SetupError,
    check_ports,
    locked_state_dir,
    programs,
    service_environment,
    state_dir,
    wait_until_ready,
)

MAX_DEATHS, WINDOW_S = 3, 10.0
RESTART_DELAY_S = 2.0  # before the second restart in that window
LAST_LINES = 20
PARENT_CHECK_INTERVAL_S = 0.5


class CrashLoop(Exception):
    """A process died three times in ten seconds; the message contains its last lines."""


class ManagedProcess:
    """A program in its own session that is restarted when it dies; `pid/<name>` contains its process ID."""

    def __init__(self, program: Program, env: Mapping[str, str], state: Path) -> None:
        self.program = program
        self._env = env
        self._pid_file = state / "pid" / program.name
        self._log = (state / "logs" / f"{program.name}.log").open("w+", buffering=1)
        self._running: asyncio.subprocess.Process | None = None
        self._stopping = asyncio.Event()
        self.task: asyncio.Task[None]

    def start(self) -> asyncio.Task[None]:
        """Keep the program running until it is stopped; the task raises CrashLoop if it keeps dying."""
        self.task = asyncio.create_task(self._keep_running())
        return self.task

    async def stop(self) -> None:
        """Terminate the process, and kill it with its children after its grace period."""
        self._stopping.set()
        self.signal(signal.SIGTERM)
        await asyncio.wait({self.task}, timeout=self.program.grace_s)
        self.signal(signal.SIGKILL)
        await asyncio.wait({self.task})

    async def _keep_running(self) -> None:
        deaths: deque[float] = deque([float("-inf")] * MAX_DEATHS, maxlen=MAX_DEATHS)
        while not self._stopping.is_set():
            code = await self._run()
            if self._stopping.is_set():
                return
            deaths.append(asyncio.get_running_loop().time())
            if deaths[-1] - deaths[0] < WINDOW_S:
                self._log.seek(0)
                last = "".join(f"  {line}" for line in deque(self._log, LAST_LINES))
                raise CrashLoop(
                    f"{self.program.name} died {MAX_DEATHS} times in {WINDOW_S:g} s; its last lines:\n{last}"
                )
            print_line(f"{self.program.name} exited with {code} and is restarted")
            if deaths[-1] - deaths[-2] < WINDOW_S:  # the first restart is immediate
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._stopping.wait(), RESTART_DELAY_S)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the process and its children."""
        if self._running is not None:
            with suppress(ProcessLookupError, PermissionError):  # macOS refuses when only zombies are left
                os.killpg(self._running.pid, number)

    async def _run(self) -> int:
        read, write = os.pipe()  # with asyncio's pipe, wait() would wait for children that hold the other end
        self._running = await asyncio.create_subprocess_exec(
            *self.program.command,
            cwd=ROOT,
            env=self._env,
            start_new_session=True,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=write,
            stderr=write,
        )
        os.close(write)
        printing = threading.Thread(target=self._print_output, args=(read,), daemon=True)
        printing.start()
        new_file = self._pid_file.with_suffix(".new")
        new_file.write_text(f"{self._running.pid}\n")
        new_file.replace(self._pid_file)  # atomic: readers see the old or the new process ID
        if self._stopping.is_set():  # stopped while the process was starting
            self.signal(signal.SIGTERM)
        code = await self._running.wait()
        self.signal(signal.SIGKILL)  # for children that are left
        self._pid_file.unlink(missing_ok=True)
        await asyncio.to_thread(printing.join, 1)
        return code

    def _print_output(self, read: int) -> None:
        """Print and log the process's output; called in a thread, because a terminal can block."""
        with os.fdopen(read, errors="replace") as output:
            for line in output:
                self._log.write(print_process_line(self.program.name, line.rstrip()) + "\n")


async def run(groups: Iterable[Iterable[Program]], ready_line: str, env: Mapping[str, str], state: Path) -> None:
    """Start one group after the other; stop them in reverse order on a signal or a crash loop."""
    stop = asyncio.Event()
    started: list[list[ManagedProcess]] = []
    hangup = [signal.SIGHUP] if signal.getsignal(signal.SIGHUP) is signal.SIG_DFL else []  # ignored under nohup
    for number in (signal.SIGINT, signal.SIGTERM, *hangup):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    stopping = [asyncio.create_task(stop.wait()), asyncio.create_task(wait_for_parent_exit(os.getppid()))]
    exit_tasks = [*stopping]  # the first of these tasks to finish ends the run
    for group in groups:
        started.append([ManagedProcess(program, env, state) for program in group])
        exit_tasks += [process.start() for process in started[-1]]
        ready = asyncio.create_task(wait_until_ready(group))
        await asyncio.wait([ready, *exit_tasks], return_when=asyncio.FIRST_COMPLETED)
        if not ready.done():
            ready.cancel()
            break
    else:
        print_line(ready_line)
        await asyncio.wait(exit_tasks, return_when=asyncio.FIRST_COMPLETED)
    for processes in reversed(started):
        await asyncio.gather(*(process.stop() for process in processes))
    for task in stopping:
        task.cancel()
    await asyncio.gather(*exit_tasks[len(stopping) :])


async def wait_for_parent_exit(parent: int) -> None:
    """Wait until the parent process, usually make, has been killed."""
    while os.getppid() == parent:  # noqa: ASYNC110
        await asyncio.sleep(PARENT_CHECK_INTERVAL_S)


def main() -> int:
    """Run until stopped, with the argument `stores` only the stores; return 1 after a setup error or a crash loop."""
    state = state_dir(os.environ)
    env = service_environment(state, os.environ)
    try:
        groups, ports = programs(env, state), tuple(PORTS)
        ready_line = f"Headway is ready: {env['SUBMITTER_URL'].rstrip('/')}/"
        if sys.argv[1:] == ["stores"]:
            groups, ports = groups[:1], STORE_PORTS
            ready_line = f"The stores are ready on the ports {' and '.join(env[port] for port in ports)}"
        check_ports(env, ports)
        color = {"FORCE_COLOR": "1"} if USE_COLORS else {}
        with locked_state_dir(state, env):
            asyncio.run(run(groups, ready_line, {**os.environ, **env, **color, "PYTHONUNBUFFERED": "1"}, state))
    except (SetupError, CrashLoop) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
