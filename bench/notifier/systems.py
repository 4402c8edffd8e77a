"""The systems that are compared: the command and the protocol of each server."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import NamedTuple

from bench.notifier.scenarios import FANOUT, IDLE, JOBS, REPLICAS, SLOW_CONSUMERS, TRANSPORTS
from dev import node
from dev.environment import ROOT, SetupError

BUILD = ROOT / "bench/notifier/build"  # created by the Makefile
LOAD, LIMIT_SERVER = BUILD / "load", BUILD / "limit"
PEERS = "bench.notifier.peers"
PEERS_PYTHON = str(ROOT / ".venv-bench/bin/python")
NCHAN_CONFIG = ROOT / "bench/notifier/peers/nchan.conf"
NCHAN_SKIPPED = "Nchan is not installed and was skipped (apt-get install nginx libnginx-mod-nchan)"
SOCKETIO_PATH = "/socket.io/?EIO=4&transport=websocket&job=%d"

# The watchers' requests of a transport name the job, with a token, and those of SignalR 2 a negotiated connection.
HUB_PATH = "/hubs/job-progress?access_token={token}"
CLASSIC_PATH = (  # a template of printf, for the number of the job and the token of the connection
    "/signalr/connect?transport={transport}&job=%1$d&connectionToken=%2$s&token={token}"
    "&connectionData=%%5B%%7B%%22name%%22:%%22jobprogresshub%%22%%7D%%5D"
)
EVENTS_PATH = "/live/jobs/{job_id}/events?access_token={token}"

HEADWAY, LIMIT, NCHAN = "Headway", "C limit", "Nchan + Redis"
HEADWAY_10, HEADWAY_100 = "Headway, 10 per request", "Headway, 100 per request"
HEADWAY_SLOW_CONSUMERS = "Headway, with slow consumers"
EVENT_STREAM = "Headway, event stream"
SIGNALR, SIGNALR_MESSAGEPACK = "Headway, SignalR", "Headway, SignalR with MessagePack"
SIGNALR_2, SIGNALR_2_EVENT_STREAM = "Headway, SignalR 2", "Headway, SignalR 2, event stream"
SOCKETIO, PYTHON_SOCKETIO = "Socket.IO + Redis", "python-socketio + Redis"
FASTAPI, CHANNELS = "FastAPI + Redis", "Channels + Redis"

ORDER = (
    LIMIT,
    HEADWAY,
    HEADWAY_10,
    HEADWAY_100,
    HEADWAY_SLOW_CONSUMERS,
    EVENT_STREAM,
    SIGNALR,
    SIGNALR_MESSAGEPACK,
    SIGNALR_2,
    SIGNALR_2_EVENT_STREAM,
    NCHAN,
    SOCKETIO,
    PYTHON_SOCKETIO,
    FASTAPI,
    CHANNELS,
)

WITHOUT_REDIS = (FANOUT.name, JOBS.name)
ALL = (*WITHOUT_REDIS, IDLE.name)


class System(NamedTuple):
    """A server; `{port}` in its command stands for the watchers' port, `{folder}` for the server's own folder."""

    name: str
    command: tuple[str, ...]
    scenarios: tuple[str, ...] = ALL
    protocol: str = "plain"
    watch_path: str = "/ws/%d"
    reports_per_request: int = 1
    slow_consumers: int = 0

    @property
    def is_headway(self) -> bool:
        """Whether the server is Headway's notifier."""
        return self.name.startswith(HEADWAY)

    @property
    def has_connection_tokens(self) -> bool:
        """Whether each watcher needs the token of a negotiated connection."""
        return "%2$s" in self.watch_path


def systems() -> list[System]:
    """Return the systems that are installed on this machine.

    Raises:
        SetupError: Node.js is not installed.
    """
    found = node.find_node()
    if found is None:
        raise SetupError("Node.js is not installed: run `make bench-notifier`, which installs it")
    headway = System(HEADWAY, (sys.executable, "-m", "services.notifier"), protocol="headway", watch_path="/live")
    socketio = System(
        SOCKETIO, (found.node, str(ROOT / "bench/node/socketio.mjs")), (*ALL, REPLICAS.name), "socketio", SOCKETIO_PATH
    )
    return [
        System(LIMIT, (str(LIMIT_SERVER), "{port}"), WITHOUT_REDIS),
        headway._replace(scenarios=(*ALL, SLOW_CONSUMERS.name, REPLICAS.name, TRANSPORTS.name)),
        headway._replace(name=HEADWAY_10, scenarios=(JOBS.name,), reports_per_request=10),
        headway._replace(name=HEADWAY_100, scenarios=(JOBS.name,), reports_per_request=100),
        headway._replace(name=HEADWAY_SLOW_CONSUMERS, scenarios=(SLOW_CONSUMERS.name,), slow_consumers=1_000),
        *_transports(headway),
        *_nchan(),
        socketio,
        System(PYTHON_SOCKETIO, _uvicorn("python_socketio"), ALL, "socketio", SOCKETIO_PATH),
        System(FASTAPI, _uvicorn("fastapi_sockets")),
        System(CHANNELS, _uvicorn("django_channels")),
    ]


def _transports(headway: System) -> list[System]:
    """Return Headway with transports whose clients name their job in the URL."""
    paths = {
        EVENT_STREAM: ("events", EVENTS_PATH),
        SIGNALR: ("hub-json", HUB_PATH),
        SIGNALR_MESSAGEPACK: ("hub-messagepack", HUB_PATH),
        SIGNALR_2: ("plain", CLASSIC_PATH.replace("{transport}", "webSockets")),
        SIGNALR_2_EVENT_STREAM: ("events", CLASSIC_PATH.replace("{transport}", "serverSentEvents")),
    }
    return [
        headway._replace(name=name, scenarios=(TRANSPORTS.name,), protocol=protocol, watch_path=path)
        for name, (protocol, path) in paths.items()
    ]


def _uvicorn(module: str) -> tuple[str, ...]:
    quiet = ("--no-access-log", "--log-level", "warning")
    fast = ("--loop", "uvloop", "--http", "httptools", "--ws-per-message-deflate", "false", "--backlog", "2048")
    return (PEERS_PYTHON, "-m", "uvicorn", f"{PEERS}.{module}:app", "--port", "{port}", *quiet, *fast)


def nchan_module() -> Path | None:
    """Return the path of nginx's Nchan module as Debian installs it, or None."""
    nginx = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    module = Path(nginx).parent.parent / "lib/nginx/modules/ngx_nchan_module.so" if nginx else None
    return module if module is not None and module.exists() else None


def _nchan() -> list[System]:
    module = nchan_module()
    if module is None:
        return []
    nginx = module.parents[3] / "sbin/nginx"
    return [System(NCHAN, (str(nginx), "-p", "{folder}", "-c", "{folder}/nchan.conf"))]
