"""The rendered Kubernetes manifests and compose.yaml, and the settings that a service gets from them."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, get_args, get_type_hints

import msgspec
import pytest
import yaml  # type: ignore[import-untyped]

from dev.environment import ROOT
from headway.azure.sdk_requests import CONNECT_TIMEOUT_S, READ_TIMEOUT_S
from services.notifier.settings import NotifierSettings
from services.notifier.transports.websocket.base import CLOSE_TIMEOUT_S
from services.runtime.service import SHUTDOWN_TIMEOUT_S
from services.runtime.settings import Secret, Settings, load
from services.runtime.tracer import FLUSH_TIMEOUT_S
from services.runtime.tracing import TracingSettings
from services.submitter.settings import SubmitterSettings
from services.worker.consumer import SETTLE_TIMEOUT_S
from services.worker.settings import WorkerSettings
from tests.documents import Document

K8S = ROOT / "deploy/k8s"
FOLDERS = ["base", "overlays/dev", "overlays/production", "overlays/azure"]
COMPONENTS = sorted(path.name for path in (K8S / "components").iterdir())
SCALERS = {  # the components that scale a service
    "keda-worker": "worker",
    "keda-notifier": "notifier",
    "hpa-notifier": "notifier",
    "hpa-submitter": "submitter",
}
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
WithComponents = Callable[..., list[Object]]  # of the fixture `with_components`


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
    completed = kustomize(folder)
    assert (completed.returncode, completed.stderr) == (0, "")
    return list(yaml.load_all(completed.stdout, Loader=yaml.CSafeLoader))  # ten times as fast as the one in Python


def kustomize(folder: str) -> subprocess.CompletedProcess[str]:
    """Render a folder of deploy/k8s with kustomize; skip the test if kubectl cannot do that."""
    if (reason := kubectl_problem()) is not None:
        pytest.skip(reason)
    return subprocess.run(["kubectl", "kustomize", K8S / folder], capture_output=True, text=True)


def path_to_k8s(folder: Path) -> str:
    """Return the relative path from a folder to deploy/k8s; kustomize accepts no absolute one."""
    return os.path.relpath(K8S.resolve(), folder.resolve())


def write_overlay(
    folder: Path, lines: str = "", env: str = "", *, of: str = "base", components: Sequence[str] = ()
) -> str:
    """Write an overlay; return its folder for `render`.

    Args:
        folder: an empty folder.
        lines: lines of the overlay's `kustomization.yaml`.
        env: the overlay's `headway.env`.
        of: the folder below it.
        components: the names of its components, in their order.
    """
    below = path_to_k8s(folder)
    kustomization: Object = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "namespace": "headway",
        "resources": [f"{below}/{of}"],
        "components": [f"{below}/components/{name}" for name in components],
        "configMapGenerator": [{"name": "headway", "behavior": "merge", "envs": ["headway.env"]}],
    }
    (folder / "headway.env").write_text(env)
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(kustomization) + lines)
    return os.path.relpath(folder, K8S)


def documented_components() -> list[str]:
    """Return the names of the components in the table of the README, in which they work in this order."""
    return [row[0].strip("`") for row in Document("deploy/k8s/README.md").table("Kubernetes manifests")]


def kustomization_files() -> list[Path]:
    """Return the `kustomization.yaml` of the base, of each component and of each overlay."""
    return sorted(K8S.rglob("kustomization.yaml"))


def objects_of_kind(objects: list[Object], kind: str) -> dict[str, Object]:
    """Return the objects of a kind by name."""
    return {obj["metadata"]["name"]: obj for obj in objects if obj["kind"] == kind}


def pod_spec(workload: Object) -> Object:
    """Return the spec of a workload's pods."""
    spec: Object = workload["spec"]["template"]["spec"]
    return spec


def workloads(objects: list[Object]) -> dict[str, Object]:
    """Return the Deployments and StatefulSets by name."""
    return objects_of_kind(objects, "Deployment") | objects_of_kind(objects, "StatefulSet")


def pod_labels(workload: Object) -> dict[str, str]:
    """Return the labels of a workload's pods."""
    labels: dict[str, str] = workload["spec"]["template"]["metadata"]["labels"]
    return labels


def images(workload: Object) -> list[str]:
    """Return the images of a workload's containers."""
    spec = pod_spec(workload)
    return [container["image"] for container in [*spec["containers"], *spec.get("initContainers", [])]]


def named_ports(spec: Object) -> dict[str, int]:
    """Return a pod's ports by name."""
    ports = [port for container in spec["containers"] for port in container.get("ports", [])]
    return {port["name"]: port["containerPort"] for port in ports}


def deployment(objects: list[Object], service: str) -> tuple[Object, Object]:
    """Return the spec of a service's pods, and their container."""
    spec = pod_spec(objects_of_kind(objects, "Deployment")[service])
    (container,) = spec["containers"]
    return spec, container


def environment(objects: list[Object], service: str) -> dict[str, str]:
    """Return the environment variables of a service."""
    _, container = deployment(objects, service)
    (source,) = container["envFrom"]
    data: dict[str, str] = objects_of_kind(objects, "ConfigMap")[source["configMapRef"]["name"]]["data"]
    return data | {variable["name"]: variable["value"] for variable in container.get("env", [])}


def settings_of(objects: list[Object], service: str, directory: Path) -> Any:
    """Return the settings of a service, with an open submitter unless the manifests decide who may submit."""
    env = environment(objects, service)
    additional = {} if {"SUBMITTER_OPEN", "SUBMITTER_API_KEYS"} & env.keys() else {"SUBMITTER_OPEN": "true"}
    return load_settings(service, env | additional, directory)


def default(settings_type: type[Settings], setting: str) -> Any:
    """Return the default of a setting."""
    return {field.name: field.default for field in msgspec.structs.fields(settings_type)}[setting]


def secret_files(objects: list[Object], service: str) -> set[str]:
    """Return the names of the files that a service's settings expect in `SECRETS_DIR`."""
    other_prefixes = tuple(f"{other.upper()}_" for other in SERVICES if other != service)
    fields = {field.upper() for field in SERVICES[service].__struct_fields__}
    return {
        Path(value).name
        for name, value in environment(objects, service).items()
        if value.startswith(SECRETS_DIR)
        and not name.startswith(other_prefixes)
        and {name.removeprefix(f"{service.upper()}_"), name, name.removesuffix("_FILE")} & fields
        and (service, name) != ("submitter", "NOTIFIER_TOKEN_PUBLIC_KEY_FILE")
    }


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
    flush_s = FLUSH_TIMEOUT_S if isinstance(settings, TracingSettings) else 0.0
    return service_s + 2 * SHUTDOWN_TIMEOUT_S + flush_s + SHUTDOWN_MARGIN_S  # two listeners


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
