"""The manifests and the code say the same."""

from __future__ import annotations

import asyncio
import os
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from dev.environment import ROOT
from services.runtime.service import ServiceSpec, health_app
from tests.deploy.manifests import (
    FOLDERS,
    SECRETS,
    SERVICES,
    Object,
    matches,
    of_kind,
    pod,
    rendered,
    stopping_s,
    understood,
)

each_folder = pytest.mark.parametrize("folder", FOLDERS)
each_service = pytest.mark.parametrize("service", SERVICES)


def deployment(folder: str, service: str) -> tuple[Object, Object]:
    """Return a service's pod and its container."""
    spec = pod(of_kind(rendered(folder), "Deployment")[service])
    (container,) = spec["containers"]
    return spec, container


def workloads(folder: str) -> dict[str, Object]:
    """Return all that has pods."""
    objects = rendered(folder)
    return of_kind(objects, "Deployment") | of_kind(objects, "StatefulSet")


def environment(folder: str, service: str) -> dict[str, str]:
    """Return what a service is told."""
    _, container = deployment(folder, service)
    (source,) = container["envFrom"]
    data: dict[str, str] = of_kind(rendered(folder), "ConfigMap")[source["configMapRef"]["name"]]["data"]
    return data | {one["name"]: one["value"] for one in container.get("env", [])}


def settings_of(folder: str, service: str, directory: Path) -> Any:
    """Return a service's settings; the base leaves open who may submit."""
    env = environment(folder, service)
    told = {} if {"SUBMITTER_OPEN", "SUBMITTER_API_KEYS"} & env.keys() else {"SUBMITTER_OPEN": "true"}
    return understood(service, env | told, directory)


def named_ports(spec: Object) -> dict[str, int]:
    """Return a pod's ports by their names."""
    return {port["name"]: port["containerPort"] for one in spec["containers"] for port in one.get("ports", [])}


@each_service
@each_folder
def test_settings_fit(folder: str, service: str, tmp_path: Path) -> None:
    """The service would start with them, its ports are those of the pod, and secrets come as files."""
    settings = settings_of(folder, service, tmp_path)
    spec, container = deployment(folder, service)
    assert container["command"] == ["python", "-m", f"services.{service}"]
    ports = named_ports(spec)
    assert ports.pop("internal") == settings.internal_port
    assert ports == ({"http": settings.port} if hasattr(settings, "port") else {})
    assert {"name": "secrets", "mountPath": SECRETS, "readOnly": True} in container["volumeMounts"]


def test_the_base_leaves_open_who_may_submit() -> None:
    """An overlay must say it, or the submitter does not start."""
    env = environment("base", "submitter")
    assert not {"SUBMITTER_OPEN", "SUBMITTER_API_KEYS"} & env.keys()


@each_service
@each_folder
def test_there_is_time_to_stop(folder: str, service: str, tmp_path: Path) -> None:
    """The grace covers the hook before SIGTERM, the drain, what is in flight, and a margin."""
    spec, container = deployment(folder, service)
    hook = container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
    assert spec["terminationGracePeriodSeconds"] >= hook + stopping_s(settings_of(folder, service, tmp_path))
    assert (hook > 0) == ("http" in named_ports(spec))  # who is routed to is told of first


@each_service
@each_folder
async def test_probes_ask_what_there_is(folder: str, service: str) -> None:
    """All three ask the internal listener, for something that it answers."""
    _, container = deployment(folder, service)
    app = health_app(ServiceSpec(), asyncio.Event(), asyncio.Event())
    routes = {resource.canonical for resource in app.router.resources()}
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        asked = container[probe]["httpGet"]
        assert asked["port"] == "internal"
        assert asked["path"] in routes
    assert container["livenessProbe"]["httpGet"]["path"] == "/livez"
    assert container["readinessProbe"]["httpGet"]["path"] == "/readyz"


@each_folder
def test_selectors_find_their_pods(folder: str) -> None:
    """Each Service, budget and policy is for pods that there are, and names ports that those have."""
    objects, pods = rendered(folder), [one["spec"]["template"] for one in workloads(folder).values()]

    def chosen(selector: Object) -> list[Object]:
        return [one["spec"] for one in pods if matches(selector, one["metadata"]["labels"])]

    for service in of_kind(objects, "Service").values():
        (found,) = chosen({"matchLabels": service["spec"]["selector"]})
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= named_ports(found).keys()
    for workload in workloads(folder).values():
        assert matches(workload["spec"]["selector"], workload["spec"]["template"]["metadata"]["labels"])
        for spread in pod(workload).get("topologySpreadConstraints", []):
            assert matches(spread["labelSelector"], workload["spec"]["template"]["metadata"]["labels"])
    for budget in of_kind(objects, "PodDisruptionBudget").values():
        assert len(chosen(budget["spec"]["selector"])) == 1
    for policy in of_kind(objects, "NetworkPolicy").values():
        own = chosen(policy["spec"]["podSelector"])
        assert own
        for rule in policy["spec"].get("ingress", []):
            assert all(isinstance(port["port"], str) for port in rule["ports"])
            assert all(port["port"] in named_ports(one) for one in own for port in rule["ports"])
        for rule in policy["spec"].get("egress", []):
            peers = [one for peer in rule["to"] if set(peer) == {"podSelector"} for one in chosen(peer["podSelector"])]
            assert peers or not any("podSelector" in peer for peer in rule["to"])
            for port in rule["ports"]:
                assert isinstance(port["port"], int) or all(port["port"] in named_ports(one) for one in peers)


# Who must reach what: a service, what its peers are called, and their port.
FLOWS = [
    ("notifier", "redis", "store"),
    ("submitter", "azurite", "store"),
    ("worker", "azurite", "store"),
    ("submitter", "notifier", "internal"),
    ("worker", "notifier", "internal"),
]


@pytest.mark.parametrize(("target", "port"), sorted({flow[1:] for flow in FLOWS}))
def test_what_is_needed_is_allowed(target: str, port: str) -> None:
    """The way out and the way in, in the overlay that has all of it; nothing else is allowed between pods."""
    labels = {name: one["spec"]["template"]["metadata"]["labels"] for name, one in workloads("overlays/dev").items()}

    def allowed(own: str, direction: str, side: str, peer: str) -> bool:
        return any(
            any("podSelector" in one and matches(one["podSelector"], labels[peer]) for one in rule.get(side, []))
            and port in [one["port"] for one in rule["ports"]]
            for policy in of_kind(rendered("overlays/dev"), "NetworkPolicy").values()
            if matches(policy["spec"]["podSelector"], labels[own])
            for rule in policy["spec"].get(direction, [])
        )

    for own in labels:
        both = allowed(own, "egress", "to", target) and allowed(target, "ingress", "from", own)
        assert both is ((own, target, port) in FLOWS)


@each_folder
def test_names_can_be_looked_up(folder: str) -> None:
    """Every service may ask DNS."""
    policies = of_kind(rendered(folder), "NetworkPolicy").values()
    for workload in of_kind(rendered(folder), "Deployment").values():
        labels = workload["spec"]["template"]["metadata"]["labels"]
        rules = [
            rule
            for one in policies
            if matches(one["spec"]["podSelector"], labels)
            for rule in one["spec"].get("egress", [])
        ]
        assert {("UDP", 53), ("TCP", 53)} <= {
            (port.get("protocol"), port["port"]) for rule in rules for port in rule["ports"]
        }


@each_folder
def test_each_service_has_all_that_it_needs(folder: str) -> None:
    """An account without token or right, a budget, a policy, and a way in only where there is one."""
    objects = rendered(folder)
    assert set(of_kind(objects, "Deployment")) == set(SERVICES)
    for service in SERVICES:
        spec, _ = deployment(folder, service)
        assert spec["serviceAccountName"] == service
        assert of_kind(objects, "ServiceAccount")[service]["automountServiceAccountToken"] is False
        for kind in ("PodDisruptionBudget", "NetworkPolicy"):
            assert service in of_kind(objects, kind)
        assert (service in of_kind(objects, "Service")) == ("http" in named_ports(spec))
    assert not {"Role", "ClusterRole", "RoleBinding", "ClusterRoleBinding", "Secret"} & {one["kind"] for one in objects}
    for ingress in of_kind(objects, "Ingress").values():
        for path in ingress["spec"]["rules"][0]["http"]["paths"]:
            backend = path["backend"]["service"]
            ports = of_kind(objects, "Service")[backend["name"]]["spec"]["ports"]
            assert backend["port"]["name"] in {port["name"] for port in ports} - {"internal"}


@each_folder
def test_pods_are_restricted(folder: str) -> None:
    """As Pod Security's `restricted` has it, with a read-only root and a limit of memory."""
    for workload in workloads(folder).values():
        spec = pod(workload)
        assert spec["automountServiceAccountToken"] is False
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["runAsUser"] > 0
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not any("hostPath" in volume for volume in spec["volumes"])
        containers: list[Any] = [*spec["containers"], *spec.get("initContainers", [])]
        for container in containers:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert {"cpu", "memory"} == set(container["resources"]["requests"])
            assert set(container["resources"]["limits"]) == {"memory"}  # a CPU limit would stall the event loop
    (namespace,) = of_kind(rendered(folder), "Namespace").values()
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"


@each_service
def test_the_document_makes_the_secrets(service: str) -> None:
    """Its commands fill each service's Secret with the files that its settings name, and no more."""
    doc = (ROOT / "docs" / "kubernetes.md").read_text().replace("\\\n", "")
    (command,) = re.findall(rf"create secret generic {service} (.*)", doc)
    made = {Path(file).name for file in re.findall(r"--from-file=(\S+)", command)}
    others = {f"{other.upper()}_" for other in SERVICES if other != service}
    fields = {field.upper() for field in SERVICES[service].__struct_fields__}
    needed = {
        Path(value).name
        for name, value in environment("overlays/production", service).items()
        if value.startswith(SECRETS)
        and not name.startswith(tuple(others))
        and {name.removeprefix(f"{service.upper()}_"), name, name.removesuffix("_FILE")} & fields
    }
    assert made == needed - ({"token.pub.pem"} if service == "submitter" else set())


def test_the_base_runs_this_version() -> None:
    """The image has the package's version."""
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert {deployment("base", service)[1]["image"] for service in SERVICES} == {f"headway:{version}"}


def test_production_pins_what_it_runs() -> None:
    """By digest, one image for all three services."""
    images = {container["image"] for one in SERVICES for container in [deployment("overlays/production", one)[1]]}
    (image,) = images
    assert "@sha256:" in image


@each_folder
def test_replicas_roll_without_a_gap(folder: str) -> None:
    """One comes before one goes, and more than one runs."""
    for service in of_kind(rendered(folder), "Deployment").values():
        assert service["spec"]["strategy"]["rollingUpdate"] == {"maxUnavailable": 0, "maxSurge": 1}
        assert service["spec"]["replicas"] > 1


def test_the_identity_of_the_document_enters_the_queue(tmp_path: Path) -> None:
    """With its lines in an overlay both services that use the queue would start without a connection string."""
    section = (ROOT / "docs/kubernetes.md").read_text().partition("### Without a connection string")[2]
    (env,) = re.findall(r"```ini\n(.*?)```", section, re.DOTALL)
    patches = re.findall(r"```yaml\n(.*?)```", section, re.DOTALL)[0]
    (tmp_path / "headway.env").write_text(env)
    production = os.path.relpath((ROOT / "deploy/k8s/overlays/production").resolve(), tmp_path.resolve())
    head = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "namespace": "headway",
        "resources": [production],
        "configMapGenerator": [{"name": "headway", "behavior": "merge", "envs": ["headway.env"]}],
    }
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(head) + patches)
    folder = os.path.relpath(tmp_path, ROOT / "deploy/k8s")
    for service in ("submitter", "worker"):
        settings = settings_of(folder, service, tmp_path)
        assert settings.queue_connection_string is None
        assert settings.queue_account_url.endswith(".queue.core.windows.net")
        account = of_kind(rendered(folder), "ServiceAccount")[service]
        assert "azure.workload.identity/client-id" in account["metadata"]["annotations"]
        labels = of_kind(rendered(folder), "Deployment")[service]["spec"]["template"]["metadata"]["labels"]
        assert labels["azure.workload.identity/use"] == "true"
    assert "annotations" not in of_kind(rendered(folder), "ServiceAccount")["notifier"]["metadata"]
