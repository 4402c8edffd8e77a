"""compose.yaml and the proxy's configuration agree with the code and the Kubernetes manifests."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest
import yaml  # type: ignore[import-untyped]

from dev.environment import ROOT
from tests.deploy.manifests import (
    COMPOSE,
    SECRETS_DIR,
    SERVICES,
    load_settings,
    max_shutdown_s,
    objects_of_kind,
    pod_spec,
    render,
)

# The services whose internal listeners a service uses.
INTERNAL_PEERS: dict[str, tuple[str, ...]] = {
    "submitter": ("notifier",),
    "notifier": (),
    "worker": ("submitter", "notifier"),
}
PROXY_CONFIG = (ROOT / "deploy/compose/haproxy.cfg").read_text()


@pytest.mark.parametrize("service", SERVICES)
def test_service_accepts_its_environment(service: str, tmp_path: Path) -> None:
    """The settings are valid, the ports agree with health check and proxy, and the grace period covers the shutdown."""
    container = COMPOSE[service]
    env = {name: str(value).replace("True", "true") for name, value in container["environment"].items()}
    settings = load_settings(service, env, tmp_path)
    assert container["command"] == ["headway", service]
    assert f'127.0.0.1", {settings.internal_port}' in container["healthcheck"]["test"][-1]
    if hasattr(settings, "port"):
        assert f" {service}:{settings.port} check port {settings.internal_port} " in PROXY_CONFIG
    for target in INTERNAL_PEERS[service]:
        assert getattr(settings, f"{target}_internal_url") == f"http://{target}:{settings.internal_port}"
    assert float(container["stop_grace_period"].rstrip("s")) >= max_shutdown_s(settings)


@pytest.mark.parametrize("service", COMPOSE)
def test_every_container_is_hardened(service: str) -> None:
    """The root file system is read-only, there are no capabilities, and ports are bound to loopback only."""
    container = COMPOSE[service]
    assert container["read_only"] is True
    assert container["cap_drop"] == ["ALL"]
    assert container["security_opt"] == ["no-new-privileges:true"]
    assert container["mem_limit"]
    assert "healthcheck" in container or service in ("keys", "load")  # they serve nothing
    assert "container_name" not in container
    assert all(port.startswith("127.0.0.1:") for port in container.get("ports", []))
    assert "ports" not in container or service in ("edge", "prometheus", "grafana")


def test_profiles_add_what_production_does_not_need() -> None:
    """Only Prometheus, Grafana and the load have a profile; the files that they mount exist."""
    profiles = {name: container["profiles"] for name, container in COMPOSE.items() if "profiles" in container}
    assert profiles == {"prometheus": ["monitoring"], "grafana": ["monitoring"], "load": ["load"]}
    sources = [volume.split(":")[0] for name in profiles for volume in COMPOSE[name]["volumes"]]
    files = [ROOT / source for source in sources if source.startswith("./")]
    assert len(files) == 5
    assert all(file.exists() for file in files)


def test_watch_rebuilds_the_image_of_your_jobs() -> None:
    """The image of the example is built again when a file of it changes."""
    worker = yaml.safe_load((ROOT / "examples/own-jobs/compose.yaml").read_text())["services"]["worker"]
    context = worker["build"]["context"]
    assert worker["develop"]["watch"] == [{"action": "rebuild", "path": context}]
    assert (ROOT / context / "Dockerfile").exists()


def test_keys_are_files() -> None:
    """Keys come from volumes that their service cannot write; the environment has only the paths."""
    for service in SERVICES:
        container = COMPOSE[service]
        keys = {name: value for name, value in container["environment"].items() if "KEY" in name}
        assert keys
        (volume,) = (volume.split(":") for volume in container["volumes"])
        assert volume == [f"{service}-keys", SECRETS_DIR, "ro"]
        assert all(name.endswith("_FILE") and value.startswith(f"{SECRETS_DIR}/") for name, value in keys.items())


def test_containers_wait_for_their_dependencies() -> None:
    """A container starts when its dependencies are healthy, and each of these has a health check."""
    for container in COMPOSE.values():
        for name, dependency in container.get("depends_on", {}).items():
            if name == "keys":
                assert dependency["condition"] == "service_completed_successfully"
            else:
                assert dependency["condition"] == "service_healthy"
                assert "healthcheck" in COMPOSE[name]


def test_image_exposes_the_ports_of_all_services() -> None:
    """EXPOSE lists the public port of each service and the internal port."""
    (exposed,) = re.findall(r"^EXPOSE (.*)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    defaults = {
        field.default
        for settings_type in SERVICES.values()
        for field in msgspec.structs.fields(settings_type)
        if field.name in ("port", "internal_port")
    }
    assert set(map(int, exposed.split())) == defaults


def test_images_agree_with_the_cluster() -> None:
    """Compose uses the store images of the development overlay, and one image for all services; each has a version."""
    workloads = objects_of_kind(render("overlays/dev"), "StatefulSet")
    for store in ("redis", "azurite"):
        assert pod_spec(workloads[store])["containers"][0]["image"] == COMPOSE[store]["image"]
    assert {COMPOSE[service]["image"] for service in (*SERVICES, "keys")} == {"headway:dev"}
    for image in (container["image"] for container in COMPOSE.values()):
        assert ":" in image
        assert not image.endswith(":latest")


def test_redis_is_durable() -> None:
    """In compose and in the cluster, Redis writes an append-only file and evicts no keys."""
    (container,) = pod_spec(objects_of_kind(render("overlays/dev"), "StatefulSet")["redis"])["containers"]
    for arguments in (COMPOSE["redis"]["command"].split(), container["args"]):
        for name, value in (("--appendonly", "yes"), ("--maxmemory-policy", "noeviction")):
            assert arguments[arguments.index(name) + 1] == value


def test_the_proxy_s_metrics_are_internal() -> None:
    """Prometheus scrapes a port of the proxy that is not published, in a network that both are in."""
    config = yaml.safe_load((ROOT / "deploy/compose/prometheus.yml").read_text())
    (targets,) = [job["static_configs"][0]["targets"] for job in config["scrape_configs"] if job["job_name"] == "edge"]
    _, _, metrics_frontend = PROXY_CONFIG.partition("frontend metrics\n")
    (port,) = re.findall(r"^ +bind :(\d+)$", metrics_frontend, re.MULTILINE)
    assert targets == [f"edge:{port}"]
    assert [mapping.rpartition(":")[2] for mapping in COMPOSE["edge"]["ports"]] == ["8080"]
    assert port != "8080"
    assert set(COMPOSE["edge"]["networks"]) & set(COMPOSE["prometheus"]["networks"])


def test_proxy_logs_no_query() -> None:
    """The proxy logs paths without the query string, which may contain a token."""
    (log_format,) = re.findall(r'log-format "(.*)"', PROXY_CONFIG)
    assert "%HPO" in log_format
    assert not re.search(r"%\[|%r|%HU|%HQ|%HP\b(?!O)|%hr", log_format)
    assert "option httplog" not in PROXY_CONFIG
