"""compose.yaml, the Dockerfile, the manifests and the code say the same."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from dev.environment import ROOT
from tests.deploy.manifests import COMPOSE, SERVICES, of_kind, pod, rendered, stopping_s, understood

PROXY = (ROOT / "deploy/compose/haproxy.cfg").read_text()


@pytest.mark.parametrize("service", SERVICES)
def test_settings_fit(service: str, tmp_path: Path) -> None:
    """The service would start with them, its ports are those of the proxy, and there is time to stop."""
    told = COMPOSE[service]
    env = {name: str(value).replace("True", "true") for name, value in told["environment"].items()}
    settings = understood(service, env, tmp_path)
    assert told["command"] == ["python", "-m", f"services.{service}"]
    assert f'127.0.0.1", {settings.internal_port}' in told["healthcheck"]["test"][-1]
    if hasattr(settings, "port"):
        assert f" {service}:{settings.port} check port {settings.internal_port} " in PROXY
    assert float(told["stop_grace_period"].rstrip("s")) >= stopping_s(settings)


@pytest.mark.parametrize("service", COMPOSE)
def test_every_container_is_hardened(service: str) -> None:
    """Nothing can be written but what is mounted, no right is kept, and only loopback can reach a port."""
    told = COMPOSE[service]
    assert told["read_only"] is True
    assert told["cap_drop"] == ["ALL"]
    assert told["security_opt"] == ["no-new-privileges:true"]
    assert told["mem_limit"]
    assert "healthcheck" in told or service == "keys"  # which ends
    assert "container_name" not in told
    assert all(port.startswith("127.0.0.1:") for port in told.get("ports", []))
    assert "ports" not in told or service in ("edge", "prometheus")


def test_what_is_needed_is_waited_for() -> None:
    """Nobody starts before what it needs is healthy, and whatever is waited for can say so."""
    for told in COMPOSE.values():
        for needed, how in told.get("depends_on", {}).items():
            if needed == "keys":
                assert how["condition"] == "service_completed_successfully"
            else:
                assert how["condition"] == "service_healthy"
                assert "healthcheck" in COMPOSE[needed]


def test_images_are_those_of_the_cluster() -> None:
    """Compose and the development overlay run the same stores, and one image of ours."""
    workloads = of_kind(rendered("overlays/dev"), "StatefulSet")
    for store in ("redis", "azurite"):
        assert pod(workloads[store])["containers"][0]["image"] == COMPOSE[store]["image"]
    assert {COMPOSE[service]["image"] for service in (*SERVICES, "keys")} == {"headway:dev"}
    for image in (told["image"] for told in COMPOSE.values()):
        assert ":" in image
        assert not image.endswith(":latest")


def test_redis_keeps_what_it_is_told() -> None:
    """Append-only, and full rather than forgetful, in compose and in the cluster."""
    (container,) = pod(of_kind(rendered("overlays/dev"), "StatefulSet")["redis"])["containers"]
    for words in (COMPOSE["redis"]["command"].split(), container["args"]):
        for name, value in (("--appendonly", "yes"), ("--maxmemory-policy", "noeviction")):
            assert words[words.index(name) + 1] == value


def test_the_proxy_logs_no_token() -> None:
    """A query may hold one: the path is logged without it."""
    (form,) = re.findall(r'log-format "(.*)"', PROXY)
    assert "%HPO" in form
    assert not re.search(r"%\[|%r|%HU|%HQ|%HP\b(?!O)|%hr", form)
    assert "option httplog" not in PROXY
