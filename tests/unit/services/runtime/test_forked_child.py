"""Forked children of a service: they have default signal handling, and the service does not notice what they do."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.waiting import PATIENCE_S, free_ports, is_running, wait_until

ROOT = Path(__file__).parents[4]
PROGRAM = """
import asyncio, json, multiprocessing, os, signal, subprocess, sys, threading, time
from concurrent.futures import ProcessPoolExecutor
from contextlib import asynccontextmanager
from typing import ClassVar
from aiohttp import web
from services.runtime.forked_child import ForkBarrier
from services.runtime.service import ServiceSpec, run
from services.runtime.settings import Settings

class SampleSettings(Settings, frozen=True, kw_only=True):
    service: ClassVar[str] = "sample"

def terminate(method):
    child = multiprocessing.get_context(method).Process(target=time.sleep, args=(1000,))
    child.start()
    child.terminate()
    child.join()
    return child.exitcode

def terminate_pool():
    with multiprocessing.get_context("fork").Pool(1) as pool:
        pool.apply(os.getpid)
        child, = multiprocessing.active_children()
    child.join()
    # It may exit before it is terminated; Python's code is then 1 in a thread of an executor.
    return -15 if child.exitcode in (0, 1) else child.exitcode

def terminate_executor():
    with ProcessPoolExecutor(1, multiprocessing.get_context("fork")) as executor:
        executor.submit(os.getpid).result()
        child, = multiprocessing.active_children()
        child.terminate()
        child.join()
        return child.exitcode

def terminate_program():
    with subprocess.Popen(["sleep", "1000"]) as program:
        program.terminate()
        return program.wait()

def signal_at_once():
    codes = set()
    for number in [signal.SIGTERM, signal.SIGINT] * 20:
        try:
            child = os.fork()
            while not child:
                time.sleep(0.01)  # a longer one could begin just after the signal, and miss it
        except KeyboardInterrupt:
            os._exit(130)
        os.kill(child, number)
        codes.add(wait_for(child))
    return sorted(codes)

TERMINATIONS = {method: lambda method=method: terminate(method) for method in ("fork", "spawn", "forkserver")} | {
    "pool": terminate_pool, "executor": terminate_executor, "program": terminate_program
}

def terminations():
    return {name: function() for name, function in TERMINATIONS.items()}

def wait_for(child):
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

only_watched_by_service = []
os.register_at_fork(after_in_child=lambda: [os.close(descriptor) for descriptor in only_watched_by_service])

async def forks_while_service_opens_files(name):
    reading_end, writing_end = os.pipe()
    asyncio.get_running_loop().add_reader(reading_end, print)
    only_watched_by_service.append(reading_end)
    return await forks(name)

async def forks(name):
    if name.startswith("barrier "):
        with ForkBarrier():
            return await forks(name.removeprefix("barrier "))
    if child := os.fork():
        return child if name == "sleeps" else wait_for(child)
    match name:
        case "returns": return "of the child"
        case "awaits": await asyncio.sleep(0)
        case "waits": await asyncio.Event().wait()
        case "raises": raise ValueError("of the child")
        case "sys-exits": sys.exit(4)
        case "exits": os._exit(5)
        case "executes": os.execvp("false", ["false"])
        case "fails-to-execute": os.execv("/nonexistent/program", ["program"])
        case "sleeps": time.sleep(1000)
        case "runs-a-loop": os._exit(asyncio.run(asyncio.sleep(0, 6)))

async def forks_in_callback(name):
    done = asyncio.get_running_loop().create_future()
    def callback():
        child = os.fork()
        done.set_result(child and wait_for(child))
    asyncio.get_running_loop().call_soon(callback)
    return await done

async def leaves_children(name):
    child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(1000,))
    child.start()
    threading.Thread(target=time.sleep, args=(1000,)).start()
    return child.pid

async def call(request):
    name = request.query.get("name")
    function = globals()[request.match_info["function"]]
    if asyncio.iscoroutinefunction(function):
        answer = await asyncio.create_task(function(name))  # aiohttp's own task may be eager
    else:
        answer = await asyncio.to_thread(function) if name == "thread" else function()
    return web.Response(text=json.dumps(answer))

async def pid(request):
    return web.Response(text=str(os.getpid()))

@asynccontextmanager
async def sample(settings):
    yield ServiceSpec(internal=[web.get("/call/{function}", call), web.get("/pid", pid)])

run(SampleSettings, sample)
"""


class Service:
    """A running service whose routes fork."""

    def __init__(self, process: subprocess.Popen[bytes], port: int) -> None:
        self.process = process
        self.port = port

    def get(self, path: str) -> Any:
        """Return the decoded body of a response."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=PATIENCE_S) as response:
            return json.loads(response.read())

    def is_up(self) -> bool:
        """Return whether the service answers."""
        with suppress(OSError):
            return bool(self.get("/livez")["alive"])
        return False

    def answering(self) -> set[int]:
        """Return the ids of the processes that answer a number of new connections."""
        return {self.get("/pid") for _ in range(20)}

    def stop(self) -> int:
        """Send SIGTERM and return the exit code."""
        self.process.terminate()
        return self.process.wait(PATIENCE_S)


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Service]:
    """Run the service."""
    (port,) = free_ports(1)
    env = {**os.environ, "INTERNAL_PORT": str(port), "BIND_HOST": "127.0.0.1", "PYTHONWARNINGS": "ignore"}
    with subprocess.Popen([sys.executable, "-c", PROGRAM], cwd=ROOT, env=env, start_new_session=True) as process:
        try:
            service = Service(process, port)
            await wait_until(service.is_up)
            yield service
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


async def test_children_have_default_signal_handling(service: Service) -> None:
    """A child that is signaled at once ends by the signal, and the service neither stops nor waits for it."""
    for thread in ("", "thread"):
        assert set(service.get(f"/call/terminations?name={thread}").values()) == {-15}
        assert {-15} < set(service.get(f"/call/signal_at_once?name={thread}")) <= {-15, -2, 130}
    assert service.answering() == {service.process.pid}
    assert service.stop() == 0


async def test_child_cannot_act_as_the_service(service: Service) -> None:
    """Whatever a child does, the service answers all connections, and the child exits when it returns to the loop."""
    codes = {
        "returns": 1,
        "awaits": 1,
        "waits": 1,
        "raises": 1,
        "exits": 5,
        "executes": 1,
        "fails-to-execute": 1,
        "runs-a-loop": 6,
        "barrier returns": 0,
        "barrier raises": 1,
        "barrier sys-exits": 4,
        "barrier awaits": 1,
    }
    assert {name: service.get(f"/call/forks?name={name.replace(' ', '+')}") for name in codes} == codes
    assert service.get("/call/forks_while_service_opens_files?name=returns") == 1
    assert service.get("/call/forks_in_callback") in (1, -signal.SIGABRT)  # libuv may abort before the child exits
    assert service.answering() == {service.process.pid}
    assert service.stop() == 0


async def test_child_that_stays_holds_nothing(service: Service) -> None:
    """The service stops at once, and its port is free, while a child that it has forked still runs."""
    child = service.get("/call/forks?name=sleeps")
    assert service.answering() == {service.process.pid}
    assert service.stop() == 0
    assert is_running(child)
    socket.create_server(("127.0.0.1", service.port)).close()


async def test_exit_does_not_wait_for_children_and_threads(service: Service) -> None:
    """The service ends the children of `multiprocessing`, and exits although a thread runs on."""
    child = service.get("/call/leaves_children")
    assert service.stop() == 0
    await wait_until(lambda: not is_running(child))
