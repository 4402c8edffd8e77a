"""The Kubernetes manifests agree with the code and with docs/run-in-production.md."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import pytest

from headway import __version__
from services.runtime.service import ServiceSpec, health_app
from tests.deploy.manifests import (
    FOLDERS,
    SECRETS_DIR,
    SERVICES,
    Object,
    load_settings,
    max_shutdown_s,
    objects_of_kind,
    pod_spec,
    render,
    selector_matches,
    write_overlay,
)
from tests.documents import Document

PAGE = Document("docs/run-in-production.md")
each_folder = pytest.mark.parametrize("folder", FOLDERS)
each_service = pytest.mark.parametrize("service", SERVICES)


def deployment(folder: str, service: str) -> tuple[Object, Object]:
    """Return the spec of a service's pods, and their container."""
    spec = pod_spec(objects_of_kind(render(folder), "Deployment")[service])
    (container,) = spec["containers"]
    return spec, container


def workloads(folder: str) -> dict[str, Object]:
    """Return the Deployments and StatefulSets by name."""
    objects = render(folder)
    return objects_of_kind(objects, "Deployment") | objects_of_kind(objects, "StatefulSet")


def environment(folder: str, service: str) -> dict[str, str]:
    """Return the environment variables of a service."""
    _, container = deployment(folder, service)
    (source,) = container["envFrom"]
    data: dict[str, str] = objects_of_kind(render(folder), "ConfigMap")[source["configMapRef"]["name"]]["data"]
    return data | {variable["name"]: variable["value"] for variable in container.get("env", [])}


# The connections that policies must allow: source, target, port.
CONNECTIONS = [
    ("notifier", "redis", "store"),
    ("submitter", "azurite", "store"),
    ("worker", "azurite", "store"),
    ("submitter", "notifier", "internal"),
    ("worker", "notifier", "internal"),
    ("worker", "submitter", "internal"),
]


def settings_of(folder: str, service: str, directory: Path) -> Any:
    """Return the settings of a service, with an open submitter unless the folder decides who may submit."""
    env = environment(folder, service)
    additional = {} if {"SUBMITTER_OPEN", "SUBMITTER_API_KEYS"} & env.keys() else {"SUBMITTER_OPEN": "true"}
    return load_settings(service, env | additional, directory)


def named_ports(spec: Object) -> dict[str, int]:
    """Return a pod's ports by name."""
    ports = [port for container in spec["containers"] for port in container.get("ports", [])]
    return {port["name"]: port["containerPort"] for port in ports}


def pod_labels(workload: Object) -> dict[str, str]:
    """Return the labels of a workload's pods."""
    labels: dict[str, str] = workload["spec"]["template"]["metadata"]["labels"]
    return labels


@each_service
@each_folder
def test_service_accepts_its_environment(folder: str, service: str, tmp_path: Path) -> None:
    """The settings are valid, the ports agree with those of the container, and secrets are mounted as files."""
    settings = settings_of(folder, service, tmp_path)
    spec, container = deployment(folder, service)
    assert container["command"] == ["headway", service]
    ports = named_ports(spec)
    assert ports.pop("internal") == settings.internal_port
    assert ports == ({"http": settings.port} if hasattr(settings, "port") else {})
    assert {"name": "secrets", "mountPath": SECRETS_DIR, "readOnly": True} in container["volumeMounts"]


@pytest.mark.parametrize(("source", "target", "port"), [each for each in CONNECTIONS if each[2] == "internal"])
@each_folder
def test_services_know_each_other(folder: str, source: str, target: str, port: str, tmp_path: Path) -> None:
    """The URLs of internal listeners name the Service and its port."""
    ports = objects_of_kind(render(folder), "Service")[target]["spec"]["ports"]
    (number,) = [each["port"] for each in ports if each["name"] == port]
    url = getattr(settings_of(folder, source, tmp_path), f"{target}_internal_url")
    assert url == f"http://{target}:{number}"


def test_base_does_not_decide_who_may_submit() -> None:
    """Each overlay must decide; without a decision the submitter does not start."""
    env = environment("base", "submitter")
    assert not {"SUBMITTER_OPEN", "SUBMITTER_API_KEYS"} & env.keys()


@each_service
@each_folder
def test_grace_period_covers_the_shutdown(folder: str, service: str, tmp_path: Path) -> None:
    """It covers the sleep before SIGTERM, the drain, requests in flight, and a margin."""
    spec, container = deployment(folder, service)
    sleep_s = container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
    assert spec["terminationGracePeriodSeconds"] >= sleep_s + max_shutdown_s(settings_of(folder, service, tmp_path))
    assert (sleep_s > 0) == ("http" in named_ports(spec))  # routes to the pod are removed during the sleep


@each_service
@each_folder
async def test_probes_use_existing_endpoints(folder: str, service: str) -> None:
    """All three probes request a path that the internal listener serves."""
    _, container = deployment(folder, service)
    app = health_app(ServiceSpec(), asyncio.Event(), asyncio.Event())
    routes = {resource.canonical for resource in app.router.resources()}
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        request = container[probe]["httpGet"]
        assert request["port"] == "internal"
        assert request["path"] in routes
    assert container["livenessProbe"]["httpGet"]["path"] == "/livez"
    assert container["readinessProbe"]["httpGet"]["path"] == "/readyz"


@each_folder
def test_selectors_and_ports_match_existing_pods(folder: str) -> None:
    """The selectors of each Service, budget and policy match pods, and those pods have the ports that it names."""
    objects = render(folder)

    def selected_pods(selector: Object) -> list[Object]:
        all_workloads = workloads(folder).values()
        return [pod_spec(workload) for workload in all_workloads if selector_matches(selector, pod_labels(workload))]

    for service in objects_of_kind(objects, "Service").values():
        (spec,) = selected_pods({"matchLabels": service["spec"]["selector"]})
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= named_ports(spec).keys()
    for workload in workloads(folder).values():
        assert selector_matches(workload["spec"]["selector"], pod_labels(workload))
        for constraint in pod_spec(workload).get("topologySpreadConstraints", []):
            assert selector_matches(constraint["labelSelector"], pod_labels(workload))
    for budget in objects_of_kind(objects, "PodDisruptionBudget").values():
        assert len(selected_pods(budget["spec"]["selector"])) == 1
    for policy in objects_of_kind(objects, "NetworkPolicy").values():
        specs = selected_pods(policy["spec"]["podSelector"])
        assert specs
        for rule in policy["spec"].get("ingress", []):
            assert all(isinstance(port["port"], str) for port in rule["ports"])
            assert all(port["port"] in named_ports(spec) for spec in specs for port in rule["ports"])
        for rule in policy["spec"].get("egress", []):
            selectors = [peer["podSelector"] for peer in rule["to"] if set(peer) == {"podSelector"}]
            peers = [spec for selector in selectors for spec in selected_pods(selector)]
            assert peers or not any("podSelector" in peer for peer in rule["to"])
            for port in rule["ports"]:
                assert isinstance(port["port"], int) or all(port["port"] in named_ports(spec) for spec in peers)


@pytest.mark.parametrize(("target", "port"), sorted({connection[1:] for connection in CONNECTIONS}))
def test_policies_allow_only_the_needed_connections(target: str, port: str) -> None:
    """Egress and ingress are allowed for exactly these connections, in the overlay that includes the stores."""
    labels = {name: pod_labels(workload) for name, workload in workloads("overlays/dev").items()}

    def allows(rule: Object, side: str, peer: str) -> bool:
        selectors = [entry["podSelector"] for entry in rule.get(side, []) if "podSelector" in entry]
        ports = [entry["port"] for entry in rule["ports"]]
        return port in ports and any(selector_matches(selector, labels[peer]) for selector in selectors)

    def allowed(pod: str, direction: str, side: str, peer: str) -> bool:
        return any(
            allows(rule, side, peer)
            for policy in objects_of_kind(render("overlays/dev"), "NetworkPolicy").values()
            if selector_matches(policy["spec"]["podSelector"], labels[pod])
            for rule in policy["spec"].get(direction, [])
        )

    for source in labels:
        both = allowed(source, "egress", "to", target) and allowed(target, "ingress", "from", source)
        assert both is ((source, target, port) in CONNECTIONS)


@each_folder
def test_policies_allow_dns(folder: str) -> None:
    """Every service may send DNS queries."""
    policies = objects_of_kind(render(folder), "NetworkPolicy").values()
    for workload in objects_of_kind(render(folder), "Deployment").values():
        rules = [
            rule
            for policy in policies
            if selector_matches(policy["spec"]["podSelector"], pod_labels(workload))
            for rule in policy["spec"].get("egress", [])
        ]
        assert {("UDP", 53), ("TCP", 53)} <= {
            (port.get("protocol"), port["port"]) for rule in rules for port in rule["ports"]
        }


@each_service
@each_folder
def test_policies_allow_prometheus(folder: str, service: str) -> None:
    """A Prometheus in `monitoring`, or the managed one of AKS in `kube-system`, may scrape the internal port."""
    labels = pod_labels(objects_of_kind(render(folder), "Deployment")[service])
    rules = [
        rule
        for policy in objects_of_kind(render(folder), "NetworkPolicy").values()
        if selector_matches(policy["spec"]["podSelector"], labels)
        for rule in policy["spec"].get("ingress", [])
        if {"port": "internal"} in rule["ports"]
    ]
    for namespace, is_allowed in (("monitoring", True), ("kube-system", True), ("default", False)):
        peer = {"kubernetes.io/metadata.name": namespace}
        selectors = [
            entry["namespaceSelector"] for rule in rules for entry in rule["from"] if "namespaceSelector" in entry
        ]
        assert any(selector_matches(selector, peer) for selector in selectors) is is_allowed


@each_folder
def test_each_service_has_its_objects(folder: str) -> None:
    """Each has an account without token or role, a budget and a policy; ingress leads only to public listeners."""
    objects = render(folder)
    assert set(objects_of_kind(objects, "Deployment")) == set(SERVICES)
    for service in SERVICES:
        spec, _ = deployment(folder, service)
        assert spec["serviceAccountName"] == service
        assert objects_of_kind(objects, "ServiceAccount")[service]["automountServiceAccountToken"] is False
        for kind in ("PodDisruptionBudget", "NetworkPolicy"):
            assert service in objects_of_kind(objects, kind)
        assert (service in objects_of_kind(objects, "Service")) == ("http" in named_ports(spec))
    assert not {"Role", "ClusterRole", "RoleBinding", "ClusterRoleBinding", "Secret"} & {obj["kind"] for obj in objects}
    for ingress in objects_of_kind(objects, "Ingress").values():
        for path in ingress["spec"]["rules"][0]["http"]["paths"]:
            backend = path["backend"]["service"]
            ports = objects_of_kind(objects, "Service")[backend["name"]]["spec"]["ports"]
            assert backend["port"]["name"] in {port["name"] for port in ports} - {"internal"}


@each_folder
def test_pods_are_restricted(folder: str) -> None:
    """Pods meet the Pod Security standard `restricted`, with a read-only root file system and a memory limit."""
    for workload in workloads(folder).values():
        spec = pod_spec(workload)
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
            assert set(container["resources"]["limits"]) == {"memory"}  # a CPU limit would throttle the event loop
    (namespace,) = objects_of_kind(render(folder), "Namespace").values()
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"


@each_service
def test_documented_commands_create_the_secrets(service: str) -> None:
    """The documented commands put exactly the files that a service's settings name into its Secret."""
    (command,) = re.findall(rf"create secret generic {service} (.*)", PAGE.text.replace("\\\n", ""))
    created = {Path(file).name for file in re.findall(r"--from-file=(\S+)", command)}
    other_prefixes = tuple(f"{other.upper()}_" for other in SERVICES if other != service)
    fields = {field.upper() for field in SERVICES[service].__struct_fields__}
    needed = {
        Path(value).name
        for name, value in environment("overlays/production", service).items()
        if value.startswith(SECRETS_DIR)
        and not name.startswith(other_prefixes)
        and {name.removeprefix(f"{service.upper()}_"), name, name.removesuffix("_FILE")} & fields
    }
    assert created == needed - ({"token.pub.pem"} if service == "submitter" else set())


def test_base_runs_this_version() -> None:
    """The tag of the image is the version of the package."""
    assert {deployment("base", service)[1]["image"] for service in SERVICES} == {f"headway:{__version__}"}


def test_production_pins_its_image() -> None:
    """All three services run the same image, pinned by digest."""
    (image,) = {deployment("overlays/production", service)[1]["image"] for service in SERVICES}
    assert "@sha256:" in image


@each_folder
def test_rolling_update_keeps_all_replicas(folder: str) -> None:
    """Each Deployment has several replicas; a new one is ready before an old one stops."""
    for service in objects_of_kind(render(folder), "Deployment").values():
        assert service["spec"]["strategy"]["rollingUpdate"] == {"maxUnavailable": 0, "maxSurge": 1}
        assert service["spec"]["replicas"] > 1


def test_documented_identity_replaces_the_connection_string(tmp_path: Path) -> None:
    """With the page's lines in an overlay, submitter and worker use a workload identity."""
    ((heading, env),) = PAGE.examples("ini")
    (patches,) = [text for title, text in PAGE.examples("yaml") if title == heading]
    folder = write_overlay(tmp_path, patches, env)
    for service in ("submitter", "worker"):
        settings = settings_of(folder, service, tmp_path)
        assert settings.queue_connection_string is None
        assert settings.queue_account_url.endswith(".queue.core.windows.net")
        account = objects_of_kind(render(folder), "ServiceAccount")[service]
        assert "azure.workload.identity/client-id" in account["metadata"]["annotations"]
        labels = pod_labels(objects_of_kind(render(folder), "Deployment")[service])
        assert labels["azure.workload.identity/use"] == "true"
    assert "annotations" not in objects_of_kind(render(folder), "ServiceAccount")["notifier"]["metadata"]
