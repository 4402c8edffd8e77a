"""The lifecycle of every service: two listeners, probes, metrics, supervised tasks and an orderly shutdown.

aiohttp stops its listeners before it calls its shutdown handlers. SIGTERM is therefore handled here: readiness goes
false first, then the service drains while its public listener still answers, and the internal listener closes last.
"""

from __future__ import annotations

import asyncio
import errno
import gc
import multiprocessing
import os
import resource
import sys
import threading
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, suppress
from dataclasses import dataclass, field
from typing import TypeVar

import structlog
from aiohttp import web
from aiohttp.typedefs import Middleware
from prometheus_client.aiohttp import make_aiohttp_handler

from . import event_loop, logs, metrics
from .cors import CorsPolicy
from .exception_tree import leaf_exceptions
from .forked_child import isolate_forked_children
from .host_policy import HostPolicy
from .middleware import access_log_middleware, create_series, error_middleware, job_id_middleware
from .process_signals import ProcessSignals
from .request_timeout import HEAD_TIMEOUTS, HeadTimeouts, ListenerProtocolFactory
from .settings import Settings, SettingsError, environment, load
from .tracebacks import error_fields

log: structlog.stdlib.BoundLogger = structlog.get_logger()
S = TypeVar("S", bound=Settings)

SHUTDOWN_TIMEOUT_S = 3.0  # for requests in flight, once a listener closes
LINGER_TIMEOUT_S = 2.0  # how long to keep reading a rejected body, so that the client receives the response
KEEPALIVE_TIMEOUT_S = 75.0  # of an idle connection; longer than the timeout of usual proxies
EXIT_TIMEOUT_S = 3.0  # for the event loop to close and Python to exit, once the service has stopped


async def _no_drain() -> None:
    """Return immediately: there is nothing to drain."""


@dataclass
class ServiceSpec:
    """The parts of one service that `run` serves and supervises."""

    public: Iterable[web.RouteDef] | None = None
    public_port: int = 0
    cors: CorsPolicy | None = None  # of the public listener; None: no policy
    hosts: HostPolicy | None = None  # of the public listener; None: any Host
    middlewares: Iterable[Middleware] = ()  # of the public listener, within all others
    internal: Iterable[web.RouteDef] = ()
    tasks: dict[str, Callable[[], Awaitable[object]]] = field(default_factory=dict)
    unready_reasons: Callable[[], list[str]] = list  # why the service is not ready; empty if it is
    is_alive: Callable[[], bool] = lambda: True
    drain: Callable[[], Awaitable[None]] = _no_drain
    started_fields: Mapping[str, object] = field(default_factory=dict)  # of the log line `service_started`


def run(settings_type: type[S], open_service: Callable[[S], AbstractAsyncContextManager[ServiceSpec]]) -> None:
    """Run a service until SIGTERM or SIGINT.

    Returns after an orderly shutdown (exit code 0). Exits with code 1 if a part of the service crashed, and with code 2
    if the settings are invalid or a port is in use.
    """
    try:
        settings = load(settings_type, environment())
        logs.configure(
            settings_type.service, settings.log_level, settings.log_format, tracebacks=settings.log_tracebacks
        )
        metrics.set_build_info(environment())
        raise_fd_limit()
        event_loop.run(_serve_and_exit(settings, open_service))
    except BaseException as error:
        settings_error = find_settings_error(error)
        if settings_error is not None:
            sys.exit(print_settings_errors(settings_type.service, settings_error))
        if isinstance(error, Exception):
            log.exception("service_crashed")
        else:  # of a handler, so its text may contain a payload
            log.critical("service_crashed", **error_fields(error))
        sys.exit(1)


def limit_exit_time(exit_code: int) -> None:
    """End this process within EXIT_TIMEOUT_S, although Python waits for threads and child processes that still run.

    Child processes of `multiprocessing` are terminated.
    """

    def exit_now() -> None:
        for child in multiprocessing.active_children():
            child.kill()
        os._exit(exit_code)

    for child in multiprocessing.active_children():
        child.terminate()
    timer = threading.Timer(EXIT_TIMEOUT_S, exit_now)
    timer.daemon = True
    timer.start()


def find_settings_error(error: BaseException) -> SettingsError | None:
    """Return the settings error that an exception is or, as a group of exceptions, contains."""
    return next((leaf for leaf in leaf_exceptions(error) if isinstance(leaf, SettingsError)), None)


def raise_fd_limit() -> None:
    """Raise the soft limit of file descriptors, often 1,024, to the hard limit: each connection needs a descriptor."""
    _, hard_limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):  # macOS reports an unlimited hard limit but does not accept it
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard_limit, hard_limit))


def print_settings_errors(service: str, error: SettingsError) -> int:
    """Print all settings errors to stderr and return the exit code 2."""
    sys.stderr.write(f"{service}: invalid settings:\n")
    sys.stderr.writelines(f"  {problem}\n" for problem in str(error).splitlines())
    return 2


async def _serve_and_exit(settings: S, open_service: Callable[[S], AbstractAsyncContextManager[ServiceSpec]]) -> None:
    """Serve, then limit the time to exit: the loop does not close if a job has taken the exit code of a child."""
    exit_code = 1
    try:
        await _serve(settings, open_service)
        exit_code = 0
    finally:
        limit_exit_time(exit_code)


async def _serve(settings: S, open_service: Callable[[S], AbstractAsyncContextManager[ServiceSpec]]) -> None:
    isolate_forked_children(asyncio.get_running_loop())
    started, stopping = asyncio.Event(), asyncio.Event()
    signals = ProcessSignals(asyncio.get_running_loop(), stopping.set)
    async with AsyncExitStack() as stack:
        service = await stack.enter_async_context(open_service(settings))
        internal = health_app(service, started, stopping)
        internal.add_routes(service.internal)
        name = settings.service.upper()
        await start_listener(stack, internal, settings.bind_host, settings.internal_port, f"{name}_INTERNAL_PORT")
        async with asyncio.TaskGroup() as group, AsyncExitStack() as public:
            tasks = [
                group.create_task(run_forever(task), name=task_name)
                for task_name, task in {
                    "loop": metrics.monitor_loop_lag,
                    "signals": signals.keep_handlers,
                    **service.tasks,
                }.items()
            ]
            if service.public is not None:
                app = public_app(service, service.public)
                await start_listener(public, app, settings.bind_host, service.public_port, f"{name}_PORT")
            gc.freeze()  # excludes the objects loaded so far from collections: https://docs.python.org/3/library/gc.html#gc.freeze
            gc.set_threshold(50_000, 50, 50)
            signals.refuse_handlers()
            started.set()
            ports = {"port": service.public_port or None, "internal_port": settings.internal_port}
            log.info("service_started", **ports, **service.started_fields)
            await stopping.wait()
            metrics.DRAINING.set(1)
            log.info("service_draining")
            await service.drain()
            await public.aclose()
            for task in tasks:
                task.cancel()
    log.info("service_stopped")


async def run_forever(task: Callable[[], Awaitable[object]]) -> None:
    """Run a task that must not end; raise if it does, which ends the service.

    A task group ignores a task that ends with CancelledError, which other code may have caused: it can cancel what the
    task awaits.
    """
    try:
        await task()
    except asyncio.CancelledError:
        this_task = asyncio.current_task()
        if this_task is None or this_task.cancelling():
            raise
    raise RuntimeError("a background task has ended, although it should run as long as the service")


async def start_listener(stack: AsyncExitStack, app: web.Application, host: str, port: int, setting: str) -> None:
    """Serve an application on a port, which a setting names, until the exit stack closes.

    Raises:
        SettingsError: the port is in use, or this machine has no such address.
    """
    runner = web.AppRunner(
        app,
        access_log=None,
        handle_signals=False,
        shutdown_timeout=SHUTDOWN_TIMEOUT_S,
        keepalive_timeout=KEEPALIVE_TIMEOUT_S,
        lingering_time=LINGER_TIMEOUT_S,
    )
    app[HEAD_TIMEOUTS] = HeadTimeouts()
    factory = ListenerProtocolFactory(runner)
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    create_series(app)
    try:
        listener = await asyncio.get_running_loop().create_server(factory, host, port, backlog=1024)
    except (OSError, UnicodeError) as error:  # UnicodeError: the host is not a name at all
        problem = f"BIND_HOST and {setting}: cannot listen on {host!r}, port {port}: {error}"
        if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
            problem = f"port {port} is in use: stop the program that listens on it, or set {setting}"
        raise SettingsError([problem]) from error
    stack.callback(listener.close)


def public_app(service: ServiceSpec, routes: Iterable[web.RouteDef]) -> web.Application:
    """Create the application of the public listener, with the policies of the service."""
    app = web.Application(middlewares=[job_id_middleware, access_log_middleware, error_middleware])
    if service.hosts is not None:
        service.hosts.install(app)
    if service.cors is not None:
        service.cors.install(app)
    app.middlewares.extend(service.middlewares)
    app.add_routes(routes)
    return app


def health_app(service: ServiceSpec, started: asyncio.Event, stopping: asyncio.Event) -> web.Application:
    """Create the internal application with `/livez`, `/readyz` and `/metrics`."""

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
