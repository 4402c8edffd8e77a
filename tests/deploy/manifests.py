"""The rendered Kubernetes manifests and compose.yaml, and the settings that a service gets from them."""

from __future__ import annotations

import json
import os
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
from services.notifier.transports.websocket.base import CLOSE_TIMEOUT_S
from services.runtime.service import SHUTDOWN_TIMEOUT_S
from services.runtime.settings import Secret, Settings, load
from services.submitter.settings import SubmitterSettings
from services.worker.consumer import SETTLE_TIMEOUT_S
from services.worker.settings import WorkerSettings

FOLDERS = ["base", "overlays/dev", "overlays/production"]
SERVICES: dict[str, type[Settings]] = {
    settings_type.service: settings_type for settings_type in (SubmitterSettings, NotifierSettings, WorkerSettings)
}
# The services of compose.yaml, with the defaults of its variables.
COMPOSE: dict[str, Any] = yaml.safe_load(re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", (ROOT / "compose.yaml").read_text()))[
    "services"
]
SECRETS_DIR = "/etc/headway"  # where secrets are mounted as files
SECRETS = {  # valid contents of these files
    "REDIS_URL_FILE": "redis://redis",
    "QUEUE_CONNECTION_STRING_FILE": "AccountName=account;AccountKey=c2VjcmV0",
}
SHUTDOWN_MARGIN_S = 5
MIN_KUBECTL_VERSION = (1, 25)  # older versions of kustomize cannot render the manifests

Object = dict[str, Any]


@cache
def kubectl_problem() -> str | None:
    """Return why kubectl cannot render the manifests, None if it can."""
    if shutil.which("kubectl") is None:
        return "kubectl is not installed"
    completed = subprocess.run(["kubectl", "version", "--client", "--output=json"], capture_output=True, text=True)
    version = json.loads(completed.stdout)["clientVersion"]["gitVersion"]
    major_minor = tuple(map(int, re.findall(r"\d+", version)[:2]))
    return None if major_minor >= MIN_KUBECTL_VERSION else f"kubectl {version} is older than 1.25"


@cache
def render(folder: str) -> list[Object]:
    """Return the objects in a folder of deploy/k8s, rendered with kustomize; fail on its warnings."""
    if (reason := kubectl_problem()) is not None:
        pytest.skip(reason)
    completed = subprocess.run(["kubectl", "kustomize", ROOT / "deploy/k8s" / folder], capture_output=True, text=True)
    assert (completed.returncode, completed.stderr) == (0, "")
    return list(yaml.safe_load_all(completed.stdout))


def write_overlay(folder: Path, lines: str, env: str = "") -> str:
    """Write an overlay of the production overlay; return its folder for `render`.

    Args:
        folder: an empty folder.
        lines: lines of the overlay's `kustomization.yaml`.
        env: the overlay's `headway.env`.
    """
    kustomization: Object = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "namespace": "headway",
        "resources": [os.path.relpath((ROOT / "deploy/k8s/overlays/production").resolve(), folder.resolve())],
        "configMapGenerator": [{"name": "headway", "behavior": "merge", "envs": ["headway.env"]}],
    }
    (folder / "headway.env").write_text(env)
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(kustomization) + lines)
    return os.path.relpath(folder, ROOT / "deploy/k8s")


def objects_of_kind(objects: list[Object], kind: str) -> dict[str, Object]:
    """Return the objects of a kind by name."""
    return {obj["metadata"]["name"]: obj for obj in objects if obj["kind"] == kind}


def pod_spec(workload: Object) -> Object:
    """Return the spec of a workload's pods."""
    spec: Object = workload["spec"]["template"]["spec"]
    return spec


def selector_matches(selector: Object, labels: dict[str, str]) -> bool:
    """Return whether a label selector matches these labels."""
    labels_match = selector.get("matchLabels", {}).items() <= labels.items()
    return labels_match and all(
        expression["operator"] == "In" and labels.get(expression["key"]) in expression["values"]
        for expression in selector.get("matchExpressions", [])
    )


def max_shutdown_s(settings: Settings) -> float:
    """Return the longest time that a service takes to shut down after SIGTERM, with a margin."""
    match settings:
        case NotifierSettings():
            service_s = settings.drain_s + CLOSE_TIMEOUT_S
        case WorkerSettings():
            receive_s = CONNECT_TIMEOUT_S + READ_TIMEOUT_S  # the worker first waits for a receive in flight
            service_s = receive_s + settings.grace_s + SETTLE_TIMEOUT_S
        case _:
            service_s = 0.0
    return service_s + 2 * SHUTDOWN_TIMEOUT_S + SHUTDOWN_MARGIN_S  # two listeners


def load_settings(service: str, env: dict[str, str], folder: Path) -> Settings:
    """Load a service's settings from an environment, after checking that every variable is a known setting.

    Files of secrets are created in `folder` instead of `SECRETS_DIR`.
    """
    known = {
        prefix + field.upper() + suffix
        for settings_type in SERVICES.values()
        for field in settings_type.__struct_fields__
        for prefix in ("", f"{settings_type.service.upper()}_")
        for suffix in ("", "_FILE")
        if not suffix
        or field.endswith("_file")
        or Secret in (get_type_hints(settings_type)[field], *get_args(get_type_hints(settings_type)[field]))
    }
    names = {name for name in env if not name.startswith("AZURE_")}  # AZURE_... are read by the azure-identity library
    assert names <= known, names - known
    relocated = {name: value.replace(SECRETS_DIR, str(folder)) for name, value in env.items()}
    for name, value in relocated.items():
        if name.endswith("_FILE") and value:
            assert value != env[name], f"{name} is not in {SECRETS_DIR}"
            Path(value).write_text(SECRETS.get(name, "secret"))
    return load(SERVICES[service], relocated)
