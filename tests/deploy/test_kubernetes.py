"""The base and the overlays of deploy/k8s agree with the code."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from headway import __version__
from services.runtime.service import ServiceSpec, health_app
from tests.deploy.manifests import (
    FOLDERS,
    SECRETS_DIR,
    SERVICES,
    deployment,
    environment,
    kustomization_files,
    max_shutdown_s,
    named_ports,
    objects_of_kind,
    pod_labels,
    pod_spec,
    render,
    selector_matches,
    settings_of,
    workloads,
)

each_folder = pytest.mark.parametrize("folder", FOLDERS)
each_service = pytest.mark.parametrize("service", SERVICES)
INTERNAL_CONNECTIONS = [("submitter", "notifier"), ("worker", "notifier"), ("worker", "submitter")]


@each_service
@each_folder
def test_service_accepts_its_environment(folder: str, service: str, tmp_path: Path) -> None:
    """The settings are valid, the ports agree with those of the container, and secrets are mounted as files."""
    settings = settings_of(render(folder), service, tmp_path)
    spec, container = deployment(render(folder), service)
    assert container["command"] == ["headway", service]
    ports = named_ports(spec)
    assert ports.pop("internal") == settings.internal_port
    assert ports == ({"http": settings.port} if hasattr(settings, "port") else {})
    assert {"name": "secrets", "mountPath": SECRETS_DIR, "readOnly": True} in container["volumeMounts"]


@pytest.mark.parametrize(("source", "target"), INTERNAL_CONNECTIONS)
@each_folder
def test_services_know_each_other(folder: str, source: str, target: str, tmp_path: Path) -> None:
    """The URLs of internal listeners name the Service and its port."""
    ports = objects_of_kind(render(folder), "Service")[target]["spec"]["ports"]
    (number,) = [each["port"] for each in ports if each["name"] == "internal"]
    url = getattr(settings_of(render(folder), source, tmp_path), f"{target}_internal_url")
    assert url == f"http://{target}:{number}"


def test_base_does_not_decide_who_may_submit() -> None:
    """Each overlay must decide; without a decision the submitter does not start."""
    env = environment(render("base"), "submitter")
    assert not {"SUBMITTER_OPEN", "SUBMITTER_API_KEYS"} & env.keys()


@each_service
@each_folder
def test_grace_period_covers_the_shutdown(folder: str, service: str, tmp_path: Path) -> None:
    """It covers the sleep before SIGTERM, the drain, requests in flight, and a margin."""
    spec, container = deployment(render(folder), service)
    sleep_s = container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
    settings = settings_of(render(folder), service, tmp_path)
    assert spec["terminationGracePeriodSeconds"] >= sleep_s + max_shutdown_s(settings)
    assert (sleep_s > 0) == ("http" in named_ports(spec))  # routes to the pod are removed during the sleep


@each_service
@each_folder
async def test_probes_use_existing_endpoints(folder: str, service: str) -> None:
    """All three probes request a path that the internal listener serves, and name no host."""
    _, container = deployment(render(folder), service)
    app = health_app(ServiceSpec(), asyncio.Event(), asyncio.Event())
    routes = {resource.canonical for resource in app.router.resources()}
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        request = container[probe]["httpGet"]
        assert request.keys() == {"path", "port"}
        assert request["port"] == "internal"
        assert request["path"] in routes
    assert container["livenessProbe"]["httpGet"]["path"] == "/livez"
    assert container["readinessProbe"]["httpGet"]["path"] == "/readyz"


@each_folder
def test_selectors_and_ports_match_existing_pods(folder: str) -> None:
    """The selectors of each Service and budget match pods, and those pods have the ports that it names."""
    objects = render(folder)
    all_workloads = workloads(objects).values()

    def selected_pods(selector: dict[str, Any]) -> list[dict[str, Any]]:
        return [pod_spec(workload) for workload in all_workloads if selector_matches(selector, pod_labels(workload))]

    for service in objects_of_kind(objects, "Service").values():
        (spec,) = selected_pods({"matchLabels": service["spec"]["selector"]})
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= named_ports(spec).keys()
    for workload in all_workloads:
        assert selector_matches(workload["spec"]["selector"], pod_labels(workload))
        for constraint in pod_spec(workload).get("topologySpreadConstraints", []):
            assert selector_matches(constraint["labelSelector"], pod_labels(workload))
    for budget in objects_of_kind(objects, "PodDisruptionBudget").values():
        assert len(selected_pods(budget["spec"]["selector"])) == 1


@each_folder
def test_objects_have_the_recommended_labels(folder: str) -> None:
    """Every object has a name and a part-of, pods all labels, and selectors only what never changes."""
    for obj in render(folder):
        labels = obj["metadata"]["labels"]
        assert labels["app.kubernetes.io/part-of"] == "headway"
        assert "app.kubernetes.io/name" in labels, obj["metadata"]["name"]
    for service, workload in objects_of_kind(render(folder), "Deployment").items():
        names = ("name", "instance", "version", "component", "part-of", "managed-by")
        assert {f"app.kubernetes.io/{name}" for name in names} <= pod_labels(workload).keys()
        assert workload["spec"]["selector"] == {"matchLabels": {"app.kubernetes.io/name": service}}


@each_folder
def test_each_service_has_its_objects(folder: str) -> None:
    """Each has an account without token or role, and a budget; nothing contains a secret."""
    objects = render(folder)
    assert set(objects_of_kind(objects, "Deployment")) == set(SERVICES)
    for service in SERVICES:
        spec, _ = deployment(objects, service)
        assert spec["serviceAccountName"] == service
        assert objects_of_kind(objects, "ServiceAccount")[service]["automountServiceAccountToken"] is False
        assert service in objects_of_kind(objects, "PodDisruptionBudget")
        assert (service in objects_of_kind(objects, "Service")) == ("http" in named_ports(spec))
    assert not {"Role", "ClusterRole", "RoleBinding", "ClusterRoleBinding", "Secret"} & {obj["kind"] for obj in objects}


@each_folder
def test_pods_are_restricted(folder: str) -> None:
    """Pods meet the Pod Security standard `restricted`, with a read-only root file system and a memory limit."""
    for workload in workloads(render(folder)).values():
        spec = pod_spec(workload)
        assert spec["automountServiceAccountToken"] is False
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["runAsUser"] > 0
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not {"hostNetwork", "hostPID", "hostIPC"} & spec.keys()
        for volume in spec["volumes"]:
            (source,) = volume.keys() - {"name"}
            assert source in ("secret", "csi", "persistentVolumeClaim", "emptyDir")
            assert source != "emptyDir" or "sizeLimit" in volume["emptyDir"]
        containers: list[Any] = [*spec["containers"], *spec.get("initContainers", [])]
        for container in containers:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert {"cpu", "memory"} == set(container["resources"]["requests"])
            assert set(container["resources"]["limits"]) == {"memory"}  # a CPU limit would throttle the event loop
            assert not any("hostPort" in port for port in container.get("ports", []))
    (namespace,) = objects_of_kind(render(folder), "Namespace").values()
    for mode in ("enforce", "warn", "audit"):
        assert namespace["metadata"]["labels"][f"pod-security.kubernetes.io/{mode}"] == "restricted"


def test_base_runs_this_version() -> None:
    """The tag of the image and the label of the objects are the version of the package."""
    assert {deployment(render("base"), service)[1]["image"] for service in SERVICES} == {f"headway:{__version__}"}
    assert {obj["metadata"]["labels"]["app.kubernetes.io/version"] for obj in render("base")} == {__version__}


@pytest.mark.parametrize("folder", ["overlays/production", "overlays/azure"])
def test_production_pins_its_image(folder: str) -> None:
    """All three services run the same image, pinned by digest."""
    (image,) = {deployment(render(folder), service)[1]["image"] for service in SERVICES}
    assert "@sha256:" in image


@each_folder
def test_a_changed_setting_restarts_the_pods(folder: str) -> None:
    """The name of the config map contains its hash, and pods refer to it by this name."""
    (config_map,) = objects_of_kind(render(folder), "ConfigMap")
    assert re.fullmatch(r"headway-[a-z0-9]{10}", config_map)
    for service in SERVICES:
        assert deployment(render(folder), service)[1]["envFrom"] == [{"configMapRef": {"name": config_map}}]


@each_folder
def test_rolling_update_keeps_all_replicas(folder: str) -> None:
    """A new replica is ready before an old one stops, evictions take one at a time, and zones and nodes are mixed."""
    for service in objects_of_kind(render(folder), "Deployment").values():
        assert service["spec"]["strategy"]["rollingUpdate"] == {"maxUnavailable": 0, "maxSurge": 1}
        assert service["spec"]["minReadySeconds"] > 0
        spread = {each["topologyKey"]: each for each in pod_spec(service)["topologySpreadConstraints"]}
        assert set(spread) == {"topology.kubernetes.io/zone", "kubernetes.io/hostname"}
        assert all(each["matchLabelKeys"] == ["pod-template-hash"] for each in spread.values())
    for budget in objects_of_kind(render(folder), "PodDisruptionBudget").values():
        assert budget["spec"]["maxUnavailable"] == 1
        assert budget["spec"]["unhealthyPodEvictionPolicy"] == "AlwaysAllow"


@each_folder
def test_objects_fit_into_the_annotation_of_a_client_side_apply(folder: str) -> None:
    """No object is larger than the annotations of an object may be, and none occurs twice."""
    for obj in render(folder):
        assert len(json.dumps(obj)) < 256 * 1024
    names = [(obj["apiVersion"], obj["kind"], obj["metadata"]["name"]) for obj in render(folder)]
    assert len(names) == len(set(names))


def test_base_and_overlays_for_any_cluster_need_no_custom_resource() -> None:
    """The base, dev and production have objects of Kubernetes itself only."""
    groups = {"v1", "apps/v1", "policy/v1", "networking.k8s.io/v1"}
    for folder in ("base", "overlays/dev", "overlays/production"):
        assert {obj["apiVersion"] for obj in render(folder)} <= groups


def test_kustomizations_have_no_deprecated_fields() -> None:
    """They contain neither fields that kustomize is going to remove, nor files of other hosts."""
    deprecated = {
        "bases",
        "commonLabels",
        "patchesStrategicMerge",
        "patchesJson6902",
        "vars",
        "helmCharts",
        "namePrefix",
    }
    for file in kustomization_files():
        kustomization = yaml.safe_load(file.read_text())
        assert not deprecated & kustomization.keys(), file
        for entry in [*kustomization.get("resources", []), *kustomization.get("components", [])]:
            assert (file.parent / entry).exists(), entry
