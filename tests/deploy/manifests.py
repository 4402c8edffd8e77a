"""Manifests as they are applied, and the settings that they give to a service."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
import yaml  # type: ignore[import-untyped]

from dev.environment import ROOT
from headway.azure.job_queue import CONNECT_TIMEOUT_S, READ_TIMEOUT_S
from services.notifier.settings import NotifierSettings
from services.notifier.transports.websocket.connection import CLOSE_TIMEOUT_S
from services.runtime.service import SHUTDOWN_TIMEOUT_S
from services.runtime.settings import Secret, Settings, load
from services.submitter.settings import SubmitterSettings
from services.worker.consumer import SETTLE_TIMEOUT_S
from services.worker.settings import WorkerSettings

FOLDERS = ["base", "overlays/dev", "overlays/production"]
SERVICES: dict[str, type[Settings]] = {
    kind.service: kind for kind in (SubmitterSettings, NotifierSettings, WorkerSettings)
}
COMPOSE: dict[str, Any] = yaml.safe_load(re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", (ROOT / "compose.yaml").read_text()))[
    "services"
]  # with the defaults of its variables
SECRETS = "/etc/headway"  # where files with secrets are mounted
MARGIN_S = 5
OLDEST = (1, 25)  # whose kustomize knows all that is used here

Object = dict[str, Any]


@cache
def unusable() -> str | None:
    """Say why kubectl cannot render, `None` when it can."""
    if shutil.which("kubectl") is None:
        return "kubectl is not installed"
    told = subprocess.run(["kubectl", "version", "--client", "--output=json"], capture_output=True, text=True)
    version = json.loads(told.stdout)["clientVersion"]["gitVersion"]
    found = tuple(map(int, re.findall(r"\d+", version)[:2]))
    return None if found >= OLDEST else f"kubectl {version} is older than 1.25"


@cache
def rendered(folder: str) -> list[Object]:
    """Render a folder of deploy/k8s; a warning is an error."""
    if (reason := unusable()) is not None:
        pytest.skip(reason)
    told = subprocess.run(["kubectl", "kustomize", ROOT / "deploy/k8s" / folder], capture_output=True, text=True)
    assert (told.returncode, told.stderr) == (0, "")
    return list(yaml.safe_load_all(told.stdout))


def of_kind(objects: list[Object], kind: str) -> dict[str, Object]:
    """Return the objects of a kind by their names."""
    return {one["metadata"]["name"]: one for one in objects if one["kind"] == kind}


def pod(workload: Object) -> Object:
    """Return a workload's pod."""
    spec: Object = workload["spec"]["template"]["spec"]
    return spec


def matches(selector: Object, labels: dict[str, str]) -> bool:
    """Tell whether a label selector takes these labels."""
    named = selector.get("matchLabels", {}).items() <= labels.items()
    return named and all(
        expression["operator"] == "In" and labels.get(expression["key"]) in expression["values"]
        for expression in selector.get("matchExpressions", [])
    )


def stopping_s(settings: Settings) -> float:
    """Return the longest that a service takes from SIGTERM to its end, and a margin."""
    match settings:
        case NotifierSettings():
            own = settings.drain_s + CLOSE_TIMEOUT_S
        case WorkerSettings():
            own = (
                CONNECT_TIMEOUT_S + READ_TIMEOUT_S + settings.grace_s + SETTLE_TIMEOUT_S
            )  # a receive in flight is awaited first
        case _:
            own = 0.0
    return own + 2 * SHUTDOWN_TIMEOUT_S + MARGIN_S  # of both listeners


def understood(service: str, env: dict[str, str], folder: Path) -> Settings:
    """Read an environment as the service does, with every file of a secret in place; nothing is unknown."""
    known = {
        prefix + field.upper() + suffix
        for kind in SERVICES.values()
        for field in kind.__struct_fields__
        for prefix in ("", f"{kind.service.upper()}_")
        for suffix in ("", "_FILE")
        if not suffix
        or field.endswith("_file")
        or Secret in (get_type_hints(kind)[field], *get_args(get_type_hints(kind)[field]))
    }
    own = {name for name in env if not name.startswith("AZURE_")}  # those are the identity's
    assert own <= known, own - known
    moved = {name: value.replace(SECRETS, str(folder)) for name, value in env.items()}
    for name, value in moved.items():
        if name.endswith("_FILE") and value:
            assert value != env[name], f"{name} is not in {SECRETS}"
            Path(value).write_text("redis://redis" if name == "REDIS_URL_FILE" else "secret")
    return load(SERVICES[service], moved)
