"""The alerts, the rules that they need, and their runbooks; test_alert_rules.py runs their tests."""

from __future__ import annotations

import re
import shlex
import tomllib
from typing import Any
from uuid import UUID

import promql_parser
import pytest
import yaml  # type: ignore[import-untyped]

from dev.environment import ROOT
from headway.cli.command import _parser
from tests.deploy.manifests import COMPOSE, objects_of_kind, render
from tests.deploy.queries import (
    ALERT_TESTS,
    ALERTS,
    RECORDED,
    RULES,
    aggregations,
    dashboard_queries,
    selectors,
    unknown_series,
)
from tests.documents import Document

RUNBOOKS = sorted(path.stem for path in (ROOT / "docs/runbooks").glob("*.md") if path.stem != "README")
HEADINGS = ["Meaning", "Impact", "Diagnosis", "Mitigation"]
CASES: list[dict[str, Any]] = [case for file in ALERT_TESTS for case in yaml.safe_load(file.read_text())["tests"]]
TARGETS = {"instance", "pod", "container", "endpoint", "service"}  # labels that differ between replicas and services


def expectations(alert: str) -> list[list[dict[str, Any]]]:
    """Return the alerts that each check of an alert expects; an empty list where it must not fire."""
    checks = [check for case in CASES for check in case.get("alert_rule_test", [])]
    return [check["exp_alerts"] for check in checks if check["alertname"] == alert]


def runbook(alert: str) -> Document:
    """Return the runbook of an alert."""
    return Document(f"docs/runbooks/{alert}.md")


def lines_of_blocks(text: str, language: str) -> list[str]:
    """Return the lines of the code blocks of a page, also of those in lists."""
    blocks = re.findall(rf"^ *```{language}\n(.*?)^ *```$", text, re.DOTALL | re.MULTILINE)
    return [line.strip() for block in blocks for line in block.splitlines()]


def commands() -> list[list[str]]:
    """Return the commands of all runbooks, as words."""
    return [shlex.split(line) for name in RUNBOOKS for line in lines_of_blocks(runbook(name).text, "sh")]


@pytest.mark.parametrize("alert", ALERTS)
def test_alert_says_what_to_do(alert: str) -> None:
    """It has a severity, texts, a time for which it must last, and the address of its runbook."""
    rule = ALERTS[alert]
    homepage = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]["Homepage"]
    assert rule["labels"].keys() == {"severity"}
    assert rule["labels"]["severity"] in ("critical", "warning", "info")
    assert rule["annotations"].keys() == {"summary", "description", "runbook_url"}
    assert "{{" not in rule["annotations"]["summary"]
    assert "{{" in rule["annotations"]["description"]
    assert rule["annotations"]["runbook_url"] == f"{homepage}/blob/main/docs/runbooks/{alert}.md"
    assert "for" in rule


@pytest.mark.parametrize("alert", ALERTS)
def test_alert_has_tests(alert: str) -> None:
    """One test expects it with its severity, summary and a text without gaps, and one expects that it does not fire."""
    checks = expectations(alert)
    assert [] in checks
    fired = [expected for expectation in checks for expected in expectation]
    assert fired
    for expected in fired:
        assert expected["exp_labels"]["severity"] == ALERTS[alert]["labels"]["severity"]
        assert expected["exp_annotations"]["summary"] == ALERTS[alert]["annotations"]["summary"]
        assert not re.search(r"  |<no value>| \.|^ ", expected["exp_annotations"]["description"])


@pytest.mark.parametrize("record", RECORDED)
def test_recorded_series_are_tested_and_used(record: str) -> None:
    """A series is named level:metric:operations, a test knows its value, and an alert or the dashboard selects it."""
    assert re.fullmatch(r"(job|instance)(_[a-z]+)*:[a-z0-9_]+:[a-z0-9_]+", record)
    assert any(record in check["expr"] for case in CASES for check in case.get("promql_expr_test", []))
    queries = [rule["expr"] for rule in RULES] + list(dashboard_queries().values())
    assert any(record == selector.metric for query in queries for selector in selectors(query))


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.get("alert") or rule["record"])
def test_rules_keep_the_labels_of_an_environment(rule: dict[str, Any]) -> None:
    """Aggregations are `without` the labels of replicas, so that all others remain; no ratio or quantile is averaged.

    The metrics and labels exist.
    """
    is_of_one_replica = rule.get("record", "").startswith("instance:")
    for aggregation in aggregations(rule["expr"]):
        modifier = aggregation.modifier
        assert modifier is not None
        assert modifier.type == promql_parser.AggModifierType.Without
        sums_a_recorded_series = all(each.metric in RECORDED for each in selectors(aggregation.expr.prettify()))
        assert set(modifier.labels) >= TARGETS or sums_a_recorded_series or is_of_one_replica
        assert "avg" not in str(aggregation.op)
    assert unknown_series(rule["expr"]) == []


def test_queue_is_not_counted_twice() -> None:
    """Every submitter and worker measures the queue, so that only the maximum of the measurements is right."""
    measured = {"jobs_queue_messages", "jobs_queue_oldest_message_age_seconds", "jobs_poison_messages"}
    queries = [rule["expr"] for rule in RULES] + list(dashboard_queries().values())
    for path in (ROOT / "docs").glob("**/*.md"):
        queries += lines_of_blocks(path.read_text(), "promql")
    queries = [query for query in queries if measured & {each.metric for each in selectors(query)}]
    assert len(queries) >= len(measured)
    for query in queries:
        assert re.match(r"max( (by|without) )?\(|job_queue:", query), query


@pytest.mark.parametrize("alert", ALERTS)
def test_runbook_has_four_parts(alert: str) -> None:
    """The page has the alert's name, says what it means, whom it hurts, how to find the cause, and what to do."""
    titles = re.findall(
        r"^#+ (.*)$", re.sub(r"^ *```.*?^ *```", "", runbook(alert).text, flags=re.DOTALL | re.MULTILINE), re.MULTILINE
    )
    assert titles == [alert, *HEADINGS]
    assert all(runbook(alert).section(heading).strip() for heading in HEADINGS)


def test_every_runbook_is_listed() -> None:
    """There is a page for each alert, and the index lists all with their severity and summary, the worst first."""
    assert sorted(ALERTS) == RUNBOOKS
    rows = [
        [f"[{name}]({name}.md)", rule["labels"]["severity"], rule["annotations"]["summary"]]
        for name, rule in ALERTS.items()
    ]
    rows.sort(key=lambda row: row[1] != "critical")
    assert Document("docs/runbooks/README.md").table("Runbooks") == rows


@pytest.mark.parametrize("alert", RUNBOOKS)
def test_queries_of_the_runbook_exist(alert: str) -> None:
    """Each line of a query is valid, and its metrics and labels exist."""
    for query in lines_of_blocks(runbook(alert).text, "promql"):
        assert unknown_series(query) == [], query


def test_queries_of_the_autoscalers_exist() -> None:
    """KEDA scales by queries of series that exist, and a HorizontalPodAutoscaler by a metric that does."""
    documents = [
        document
        for file in (ROOT / "deploy/k8s/components").glob("*/*.yaml")
        for document in yaml.safe_load_all(file.read_text())
    ]
    triggers = [
        trigger for each in documents if each.get("kind") == "ScaledObject" for trigger in each["spec"]["triggers"]
    ]
    scalers = [each for each in documents if each.get("kind") == "HorizontalPodAutoscaler"]
    queries = [trigger["metadata"]["query"] for trigger in triggers if "query" in trigger["metadata"]]
    queries += [
        metric["pods"]["metric"]["name"] for each in scalers for metric in each["spec"]["metrics"] if "pods" in metric
    ]
    assert len(queries) == 2
    for query in queries:
        assert unknown_series(query) == []


def test_commands_of_the_runbooks_are_valid() -> None:
    """The command line accepts each `headway` command, and the services and objects of the others exist."""
    objects = render("overlays/dev")
    deployments = objects_of_kind(objects, "Deployment")
    pods = [workload["spec"]["template"]["metadata"]["labels"] for workload in deployments.values()]
    for words in commands():
        words = words[: words.index("|")] if "|" in words else words
        match words:
            case ["headway", *arguments]:
                assert callable(_parser().parse_args(arguments).run)
            case ["docker", "compose", command, *arguments]:
                assert command in ("exec", "logs", "ps", "restart", "up")
                scaled = {word.partition("=")[0] for word in arguments if "=" in word}
                assert scaled | (set(arguments) & COMPOSE.keys()) <= COMPOSE.keys()
                assert scaled <= set(arguments) & COMPOSE.keys()  # without its name, all other services are scaled back
                assert set(arguments) & COMPOSE.keys()
            case ["docker", "restart", container]:
                _project, service, _number = container.split("-")
                assert service in COMPOSE
            case ["kubectl", "--namespace", "headway", *arguments]:
                for word in arguments:
                    if word.startswith("app.kubernetes.io/"):
                        assert any(labels.items() >= dict([word.split("=")]).items() for labels in pods)
                    elif word.startswith("deployment/"):
                        assert word.removeprefix("deployment/") in deployments
            case _:
                raise AssertionError(words)
        if "exec" in words and "headway" in words[3:]:
            arguments = words[len(words) - words[::-1].index("headway") :]
            options = _parser().parse_args(arguments)
            assert callable(options.run)
            assert UUID(getattr(options, "id", "0" * 32))  # `poison` knows no job by the beginning of its id


def test_log_lines_of_the_runbooks_exist() -> None:
    """Each event that a runbook searches for is written by the service whose log is searched."""
    searched = {
        (next(word for word in words if re.sub(".*=", "", word) in ("submitter", "notifier", "worker")), words[-1])
        for words in commands()
        if "grep" in words
    }
    assert len(searched) >= 8
    for service, event in searched:
        folders = [ROOT / "services" / name for name in (re.sub(".*=", "", service), "runtime")]
        code = [path.read_text() for folder in folders for path in folder.rglob("*.py")]
        assert any(f'"{event}"' in text for text in code), (service, event)
