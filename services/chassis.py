"""The chassis of every service: two listeners, probes, metrics, supervised tasks, and a stop in the right order.

aiohttp closes its listeners before it tells anyone, so SIGTERM is handled here: readiness goes false first, then the
service drains while its public listener still answers, and the internal listener closes last.
"""

from __future__ import annotations

import asyncio
import gc
import resource
import signal
import sys
from collections.abc import Awaitable, Callable, Iterable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, suppress
from dataclasses import dataclass, field
from typing import TypeVar

import structlog
import uvloop
from aiohttp import web
from prometheus_client.aiohttp import make_aiohttp_handler

from services import logs, metrics
from services.cors import Origins
from services.handshakes import Front, Handshakes
from services.problems import answer, log_request
from services.settings import InvalidSettings, Settings, environment, load

log: structlog.stdlib.BoundLogger = structlog.get_logger()
S = TypeVar("S", bound=Settings)

SHUTDOWN_S = 3.0  # what requests in flight get once a listener closes
LINGER_S = 2.0  # how long what still comes of a refused body is read, so that its sender sees the answer
IDLE_S = 75.0  # how long a connection is kept for a further whole request: longer than proxies keep theirs


async def _nothing() -> None:
    """Drain nothing."""


@dataclass
class Service:
    """What one running service hands to the chassis."""

    public: Iterable[web.RouteDef] | None = None
    public_port: int = 0
    origins: Origins | None = None  # the pages that may ask the public listener; None: any
    internal: Iterable[web.RouteDef] = ()
    front: Front | None = None  # what speaks first to whoever connects to the internal listener
    tasks: dict[str, Callable[[], Awaitable[object]]] = field(default_factory=dict)
    waiting_for: Callable[[], list[str]] = list  # what readiness still waits for
    alive: Callable[[], bool] = lambda: True
    drain: Callable[[], Awaitable[None]] = _nothing


def run(kind: type[S], open_service: Callable[[S], AbstractAsyncContextManager[Service]]) -> None:
    """Run a service until SIGTERM or SIGINT; exits 0 then, 1 when a part of it crashed, 2 on wrong settings."""
    try:
        settings = load(kind, environment())
        logs.configure(kind.service, settings.log_level, settings.log_format)
        _allow_connections()
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_serve(settings, open_service))
    except InvalidSettings as error:
        sys.exit(_complain(kind.service, error))
    except Exception:
        log.exception("service_crashed")
        sys.exit(1)


def _allow_connections() -> None:
    """Take as many descriptors as this process may: the soft limit is often 1,024, and each connection is one."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):  # macOS calls unlimited what it does not give
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _complain(service: str, error: InvalidSettings) -> int:
    sys.stderr.write(f"{service}: the settings do not fit:\n")
    sys.stderr.writelines(f"  {problem}\n" for problem in str(error).splitlines())
    return 2


async def _serve(settings: S, open_service: Callable[[S], AbstractAsyncContextManager[Service]]) -> None:
    started, stopping = asyncio.Event(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    async with AsyncExitStack() as stack:
        service = await stack.enter_async_context(open_service(settings))
        internal = _probes(service, started, stopping)
        internal.add_routes(service.internal)
        await _listen(stack, internal, settings.bind_host, settings.internal_port, service.front)
        async with asyncio.TaskGroup() as group, AsyncExitStack() as public:
            tasks = [
                group.create_task(_supervise(task), name=name)
                for name, task in {"loop": metrics.watch_loop, **service.tasks}.items()
            ]
            if service.public is not None:
                app = web.Application(middlewares=[log_request, answer])
                if service.origins is not None:
                    service.origins.attach(app)
                app.add_routes(service.public)
                await _listen(public, app, settings.bind_host, service.public_port)
            gc.freeze()  # what is loaded now stays: https://docs.python.org/3/library/gc.html#gc.freeze
            gc.set_threshold(50_000, 50, 50)
            started.set()
            log.info("service_started", port=service.public_port or None, internal_port=settings.internal_port)
            await stopping.wait()
            metrics.DRAINING.set(1)
            log.info("service_draining")
            await service.drain()
            await public.aclose()
            for task in tasks:
                task.cancel()
    log.info("service_stopped")


async def _supervise(task: Callable[[], Awaitable[object]]) -> None:
    """Run a long task; its crash, or its end, ends the service."""
    await task()
    raise RuntimeError("a task that should run for as long as its service has ended")


async def _listen(
    stack: AsyncExitStack, app: web.Application, host: str, port: int, front: Front | None = None
) -> None:
    runner = web.AppRunner(
        app,
        access_log=None,
        handle_signals=False,
        shutdown_timeout=SHUTDOWN_S,
        keepalive_timeout=IDLE_S,
        lingering_time=LINGER_S,
    )
    handshakes = Handshakes(runner, front)
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    listener = await asyncio.get_running_loop().create_server(handshakes, host, port, backlog=1024)
    stack.callback(listener.close)


def _probes(service: Service, started: asyncio.Event, stopping: asyncio.Event) -> web.Application:
    async def livez(_request: web.Request) -> web.Response:
        alive = service.alive()
        return web.json_response({"alive": alive}, status=200 if alive else 503)

    async def readyz(_request: web.Request) -> web.Response:
        waiting_for = service.waiting_for()
        if stopping.is_set() or not started.is_set():
            waiting_for = ["draining" if stopping.is_set() else "the public listener"]
        body = {"ready": not waiting_for, "waiting_for": waiting_for}
        return web.json_response(body, status=503 if waiting_for else 200)

    app = web.Application(middlewares=[answer])
    app.router.add_get("/livez", livez)
    app.router.add_get("/readyz", readyz)
    app.router.add_get("/metrics", make_aiohttp_handler())
    return app
