"""The rules for Prometheus, checked and tested with promtool."""

from __future__ import annotations

from pathlib import Path

import pytest

from dev.environment import ROOT
from tests.deploy.prometheus import NEEDS_PROMETHEUS, promtool
from tests.deploy.queries import ALERT_TESTS, RULES, RULES_FILE

pytestmark = NEEDS_PROMETHEUS


def test_promtool_accepts_the_rules() -> None:
    """The file is valid and has no duplicates."""
    output = promtool("check", "rules", "--lint=all", "--lint-fatal", str(RULES_FILE))
    assert f"SUCCESS: {len(RULES)} rules found" in output


def test_promtool_accepts_the_configuration_of_compose(tmp_path: Path) -> None:
    """Prometheus can load the configuration with the rules."""
    text = (ROOT / "deploy/compose/prometheus.yml").read_text()
    config = tmp_path / "prometheus.yml"
    config.write_text(text.replace("/etc/prometheus/rules.yaml", str(RULES_FILE)))
    assert f"{len(RULES)} rules found" in promtool("check", "config", "--lint=all", "--lint-fatal", str(config))


@pytest.mark.parametrize("file", ALERT_TESTS, ids=lambda file: file.stem)
def test_alerts_fire_and_do_not_fire(file: Path) -> None:
    """Each alert fires with the labels and texts that its tests expect, and does not fire where they expect none."""
    assert "SUCCESS" in promtool("test", "rules", str(file))
