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

from . import logs, metrics
from .cors import CorsPolicy
from .middleware import access_log_middleware, error_middleware
from .request_timeout import HEAD_TIMEOUTS, HeadTimeouts, ListenerProtocolFactory, ProtocolFactory
from .settings import Settings, SettingsError, environment, load

log: structlog.stdlib.BoundLogger = structlog.get_logger()
S = TypeVar("S", bound=Settings)

SHUTDOWN_TIMEOUT_S = 3.0  # what requests in flight get once a listener closes
LINGER_TIMEOUT_S = 2.0  # how long what still comes of a refused body is read, so that its sender sees the answer
KEEPALIVE_TIMEOUT_S = 75.0  # how long a connection is kept for a further whole request: longer than proxies keep theirs


async def _no_drain() -> None:
    """Drain nothing."""


@dataclass
class ServiceSpec:
    """What one running service hands to the chassis."""

    public: Iterable[web.RouteDef] | None = None
    public_port: int = 0
    cors: CorsPolicy | None = None  # the pages that may ask the public listener; None: any
    internal: Iterable[web.RouteDef] = ()
    protocol_factory: ProtocolFactory | None = None  # what speaks first to whoever connects to the internal listener
    tasks: dict[str, Callable[[], Awaitable[object]]] = field(default_factory=dict)
    unready_reasons: Callable[[], list[str]] = list  # what readiness still waits for
    is_alive: Callable[[], bool] = lambda: True
    drain: Callable[[], Awaitable[None]] = _no_drain


def run(kind: type[S], open_service: Callable[[S], AbstractAsyncContextManager[ServiceSpec]]) -> None:
    """Run a service until SIGTERM or SIGINT; exits 0 then, 1 when a part of it crashed, 2 on wrong settings."""
    try:
        settings = load(kind, environment())
        logs.configure(kind.service, settings.log_level, settings.log_format)
        raise_fd_limit()
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_serve(settings, open_service))
    except SettingsError as error:
        sys.exit(print_settings_errors(kind.service, error))
    except Exception:
        log.exception("service_crashed")
        sys.exit(1)


def raise_fd_limit() -> None:
    """Take as many descriptors as this process may: the soft limit is often 1,024, and each connection is one."""
    _, hard_limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):  # macOS calls unlimited what it does not give
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard_limit, hard_limit))


def print_settings_errors(service: str, error: SettingsError) -> int:
    """Write all settings errors to stderr and return the exit code 2."""
    sys.stderr.write(f"{service}: the settings do not fit:\n")
    sys.stderr.writelines(f"  {problem}\n" for problem in str(error).splitlines())
    return 2


async def _serve(settings: S, open_service: Callable[[S], AbstractAsyncContextManager[ServiceSpec]]) -> None:
    started, stopping = asyncio.Event(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    async with AsyncExitStack() as stack:
        service = await stack.enter_async_context(open_service(settings))
        internal = health_app(service, started, stopping)
        internal.add_routes(service.internal)
        await start_listener(stack, internal, settings.bind_host, settings.internal_port, service.protocol_factory)
        async with asyncio.TaskGroup() as group, AsyncExitStack() as public:
            tasks = [
                group.create_task(run_forever(task), name=name)
                for name, task in {"loop": metrics.monitor_loop_lag, **service.tasks}.items()
            ]
            if service.public is not None:
                app = web.Application(middlewares=[access_log_middleware, error_middleware])
                if service.cors is not None:
                    service.cors.install(app)
                app.add_routes(service.public)
                await start_listener(public, app, settings.bind_host, service.public_port)
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


async def run_forever(task: Callable[[], Awaitable[object]]) -> None:
    """Run a long task; its crash, or its end, ends the service."""
    await task()
    raise RuntimeError("a task that should run for as long as its service has ended")


async def start_listener(
    stack: AsyncExitStack, app: web.Application, host: str, port: int, protocol_factory: ProtocolFactory | None = None
) -> None:
    """Serve an application on a port until the exit stack closes."""
    runner = web.AppRunner(
        app,
        access_log=None,
        handle_signals=False,
        shutdown_timeout=SHUTDOWN_TIMEOUT_S,
        keepalive_timeout=KEEPALIVE_TIMEOUT_S,
        lingering_time=LINGER_TIMEOUT_S,
    )
    app[HEAD_TIMEOUTS] = HeadTimeouts()
    factory = ListenerProtocolFactory(runner, protocol_factory)
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    listener = await asyncio.get_running_loop().create_server(factory, host, port, backlog=1024)
    stack.callback(listener.close)


def health_app(service: ServiceSpec, started: asyncio.Event, stopping: asyncio.Event) -> web.Application:
    """Create the internal application, with the probes and the metrics."""

    async def livez(_request: web.Request) -> web.Response:
        alive = service.is_alive()
        return web.json_response({"alive": alive}, status=200 if alive else 503)

    async def readyz(_request: web.Request) -> web.Response:
        reasons = service.unready_reasons()
        if stopping.is_set() or not started.is_set():
            reasons = ["draining" if stopping.is_set() else "the public listener"]
        body = {"ready": not reasons, "waiting_for": reasons}
        return web.json_response(body, status=503 if reasons else 200)

    app = web.Application(middlewares=[error_middleware])
    app.router.add_get("/livez", livez)
    app.router.add_get("/readyz", readyz)
    app.router.add_get("/metrics", make_aiohttp_handler())
    return app
