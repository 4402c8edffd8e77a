"""The manifests match the schemas of Kubernetes and of the custom resources."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import jsonschema  # type: ignore[import-untyped]
import kubernetes_validate  # type: ignore[import-untyped]
import pytest
import yaml  # type: ignore[import-untyped]

from dev.environment import ROOT
from tests.deploy.manifests import COMPONENTS, FOLDERS, Object, WithComponents, render
from tests.documents import Document

SCHEMAS = ROOT / "tests/deploy/schemas"
KUBERNETES_APIS = {"v1", "apps/v1", "autoscaling/v2", "batch/v1", "networking.k8s.io/v1", "policy/v1"}


@pytest.fixture(scope="module")
def objects(with_components: WithComponents) -> list[Object]:
    """Return the objects of all folders, of all components in both orders, and of the documentation, each one once."""
    rendered = [render(folder) for folder in FOLDERS]
    rendered += [with_components(*COMPONENTS), with_components(*COMPONENTS[::-1])]
    documented = [
        yaml.safe_load(text)
        for page, heading in (("docs/kubernetes.md", "The edge"), ("docs/recipes.md", "Every night"))
        for title, text in Document(page).examples("yaml")
        if title == heading
    ]
    unique = {json.dumps(obj, sort_keys=True): obj for objects in [*rendered, documented] for obj in objects}
    return list(unique.values())


@pytest.mark.parametrize(
    "version",
    [pytest.param("1.32", marks=pytest.mark.matrix), pytest.param("1.34", marks=pytest.mark.matrix), "1.37"],
)
def test_objects_match_the_schemas_of_kubernetes(objects: list[Object], version: str) -> None:
    """The objects are valid in several versions of Kubernetes, and have no unknown fields."""
    kinds = set()
    for obj in objects:
        if obj["apiVersion"] in KUBERNETES_APIS:
            kubernetes_validate.validate(obj, version, strict=True)
            kinds.add(obj["kind"])
    assert {"Deployment", "HorizontalPodAutoscaler", "NetworkPolicy", "CronJob"} <= kinds


def test_custom_resources_match_their_schemas(objects: list[Object]) -> None:
    """The custom resources are valid and have no unknown fields, and every schema is used."""
    custom = [obj for obj in objects if obj["apiVersion"] not in KUBERNETES_APIS]
    for obj in custom:
        validator(schema_of(obj)).validate(obj)
    assert {schema_of(obj) for obj in custom} == set(SCHEMAS.glob("*/*.json"))


def schema_of(obj: Object) -> Path:
    """Return the file with the schema of a custom resource."""
    group, version = str(obj["apiVersion"]).split("/")
    return SCHEMAS / group / f"{obj['kind'].lower()}_{version}.json"


@cache
def validator(schema: Path) -> jsonschema.Draft202012Validator:
    """Return the validator of a schema, made once for all objects of its kind."""
    return jsonschema.Draft202012Validator(json.loads(schema.read_text()))
