"""Replace the containers of compose.yaml one at a time: to restart a running system, or to upgrade it.

For each replica, start a new one, wait until it is healthy and the edge sends requests to it, and then stop an old one,
which drains. New replicas get the image and the configuration of now; the number of replicas stays what it is. What
`docker compose` reads from the environment, such as COMPOSE_FILE and COMPOSE_PROJECT_NAME, applies.

After Ctrl-C or SIGTERM, a new replica that is not in use is removed, and one that drains may finish, so that the number
of replicas is as before. If a new replica does not become healthy, it is stopped, the old ones go on, and the exit code
is 1. In both cases the script can be run again.

Uses the standard library only, so that a copy of this file also rolls a system back to a version without it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass

# The services in the order of an upgrade, and a path that the edge routes to each.
ROUTES = {"notifier": "/live", "worker": None, "submitter": "/"}
HEALTHY_TIMEOUT_S = 180
EDGE_TIMEOUT_S = 60
POLL_INTERVAL_S = 0.5
REQUESTS_PER_POLL = 5  # through the edge, which spreads them over the replicas
REQUEST_TIMEOUT_S = 5
# Python code that prints the metrics of the service in its container.
PRINT_METRICS = """
import sys, urllib.request
sys.stdout.buffer.write(urllib.request.urlopen("http://127.0.0.1:9090/metrics", timeout=5).read())
"""


class RollError(Exception):
    """The system cannot be rolled; the message is for the user."""


class Interruption(Exception):
    """The user has asked to stop."""


class Signals:
    """Notes SIGINT, SIGTERM and SIGHUP, which end the script only where no replica is missing or left over."""

    def __init__(self) -> None:
        self._received = False
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._on_signal)

    def _on_signal(self, *_: object) -> None:
        self._received = True

    def check(self) -> None:
        """Raise Interruption if a signal has arrived."""
        if self._received:
            raise Interruption


@dataclass
class Container:
    """A container of a service, and its state when it was inspected."""

    id: str
    name: str
    status: str  # running, restarting, exited, …
    health: str  # starting, healthy or unhealthy
    exit_code: int
    restarts: int

    @property
    def serves(self) -> bool:
        """Whether this is a replica of the service, and not what is left of one."""
        return self.status in ("running", "restarting", "paused")


def docker(*arguments: str) -> str:
    """Run a docker command and return what it prints; raise RollError if it fails."""
    # In a session of its own, so that Ctrl-C does not end it; a second time if it came before the session.
    for _ in range(2):
        command = ["docker", *arguments]
        try:
            completed = subprocess.run(command, check=False, capture_output=True, text=True, start_new_session=True)
        except OSError as error:
            raise RollError(f"docker cannot be run: {error}") from error
        if completed.returncode >= 0:
            break
    if completed.returncode != 0:
        raise RollError(f"docker {' '.join(arguments[:4])} … failed:\n{completed.stderr.strip()}")
    return completed.stdout


def inspect(ids: Sequence[str]) -> list[Container]:
    """Return the containers with these ids."""
    return [
        Container(
            id=described["Id"],
            name=described["Name"].lstrip("/"),
            status=described["State"]["Status"],
            health=described["State"].get("Health", {}).get("Status", "healthy"),
            exit_code=described["State"]["ExitCode"],
            restarts=described["RestartCount"],
        )
        for described in (json.loads(docker("inspect", *ids)) if ids else [])
    ]


def containers(service: str) -> list[Container]:
    """Return the containers of a service, the ones that have exited included."""
    return inspect(docker("compose", "ps", "--all", "--quiet", service).split())


class Replica:
    """A new replica of a service, until it takes the place of an old one."""

    def __init__(self, service: str, container: Container, signals: Signals) -> None:
        self._service = service
        self._container = container
        self._signals = signals
        self.name = container.name

    @classmethod
    def start(cls, service: str, signals: Signals) -> Replica:
        """Start one replica more, with the image and the configuration of now."""
        before = {container.id for container in containers(service)}
        scale = f"{service}={len(before) + 1}"
        docker("compose", "up", "--detach", "--no-deps", "--no-recreate", "--no-build", "--scale", scale, service)
        started = [container for container in containers(service) if container.id not in before]
        if len(started) != 1:
            raise RollError(
                f"{service} has {len(started)} new replicas instead of one: does another command change it, too?"
            )
        say(f"  {started[0].name} starts")
        return cls(service, started[0], signals)

    def wait_until_used(self) -> None:
        """Wait until this replica is healthy and gets requests from the edge.

        Raises:
            RollError: it does not.
            Interruption: the user has asked to stop.
        """
        if not self._wait_until(self._is_healthy, HEALTHY_TIMEOUT_S):
            raise RollError(f"{self.name} does not become healthy: see docker logs {self.name}")
        path = ROUTES[self._service]
        if path is not None and not self._wait_until(lambda: self._is_reached(path), EDGE_TIMEOUT_S):
            raise RollError(f"The edge sends no requests to {self.name}: see docker compose logs edge")

    def _wait_until(self, condition: Callable[[], bool], timeout_s: float) -> bool:
        """Wait until a condition is true; return False if this replica has crashed, or after a timeout."""
        deadline = time.monotonic() + timeout_s
        while not condition():
            self._signals.check()
            if self._has_failed() or time.monotonic() > deadline:
                return False
            time.sleep(POLL_INTERVAL_S)
        return True

    def _is_healthy(self) -> bool:
        (self._container,) = inspect([self._container.id])
        return self._container.health == "healthy" and not self._has_failed()

    def _has_failed(self) -> bool:
        container = self._container
        return container.health == "unhealthy" or container.status != "running" or container.restarts > 0

    def _is_reached(self, path: str) -> bool:
        """Send requests through the edge; return whether this replica has answered one, as its metrics say."""
        address = docker("compose", "port", "edge", "8080").strip()
        for _ in range(REQUESTS_PER_POLL):
            with contextlib.suppress(OSError):  # an error status is an answer, too
                urllib.request.urlopen(f"http://{address}{path}", timeout=REQUEST_TIMEOUT_S).close()
        metrics = docker("exec", self._container.id, "python", "-IS", "-c", PRINT_METRICS)
        requests = re.findall(r"^http_requests_total\{(.*)\} (\S+)$", metrics, re.MULTILINE)
        return any(f'route="{path}"' in labels and float(count) > 0 for labels, count in requests)

    def stop(self) -> None:
        """Stop this replica, which keeps its logs."""
        docker("stop", self._container.id)

    def remove(self) -> None:
        """Stop and remove this replica."""
        self.stop()
        docker("rm", self._container.id)


def replace(service: str, old: Container, signals: Signals) -> None:
    """Start a new replica, and stop an old one as soon as the new one is used."""
    new = Replica.start(service, signals)
    try:
        new.wait_until_used()
    except Interruption:
        new.remove()
        raise
    except RollError:
        new.stop()
        raise
    say(f"  {new.name} is in use")
    drain_and_remove(old)


def drain_and_remove(container: Container) -> None:
    """Stop a container, which drains within its `stop_grace_period`, and remove it."""
    say(f"  {container.name} drains")
    started_at = time.monotonic()
    docker("stop", container.id)
    (stopped,) = inspect([container.id])
    docker("rm", container.id)
    note = f", with the exit code {stopped.exit_code}" if stopped.exit_code else ""
    say(f"  {container.name} is gone after {time.monotonic() - started_at:.0f} s{note}")


def roll(service: str, signals: Signals) -> None:
    """Replace all replicas of a service, one after the other, and remove what is left of former ones."""
    found = containers(service)
    for container in found:
        if not container.serves:
            docker("rm", container.id)
    replicas = [container for container in found if container.serves]
    say(f"{service}: {len(replicas)} to replace")
    for old in replicas:
        signals.check()
        replace(service, old, signals)


def say(text: str) -> None:
    """Print a line at once."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def main() -> int:
    """Roll the services that the command line names."""
    parser = argparse.ArgumentParser(description="Replace the containers of a running system one at a time.")
    parser.add_argument("services", nargs="*", default=list(ROUTES), help="default: %(default)s")
    services = parser.parse_args().services
    if unknown := set(services) - set(ROUTES):
        parser.error(f"unknown services: {', '.join(sorted(unknown))}")
    signals = Signals()
    try:
        docker("compose", "run", "--rm", "--no-deps", "-T", "keys")  # creates and copies the keys that are missing
        for service in services:
            roll(service, signals)
    except RollError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    except Interruption:
        sys.stderr.write("Interrupted: run it again to replace the rest.\n")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
