"""The OpenAPI documents: schemathesis sends requests that it generates from them and checks every response.

Long form: LONG=1 make test ARGS=tests/integration/test_openapi.py
"""

from __future__ import annotations

import asyncio
import os
import re
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from dev.environment import ROOT
from tests.stack import Stack, running

DOCUMENTS = sorted((ROOT / "services").glob("*/openapi.yaml"))
LONG = os.environ.get("LONG") == "1"
EXAMPLES = 200 if LONG else 12  # requests for each operation
PHASES = ["Examples", "Coverage", "Fuzzing", "Stateful"]
CONFIGURATION = """
[checks]
# A service may reject data that its schema allows: a form whose payload is not JSON, 1.0 as an integer.
positive_data_acceptance.enabled = false
# 413 is a rejection, too.
negative_data_rejection.expected-statuses = ["4xx"]
# DELETE erases what a job has left; its page stays.
use_after_free.enabled = false

# 404 is right when one of the requests has erased the job, and there is no poisoned job.
[[operations]]
include-path = ["/jobs/{id}", "/jobs/{id}/redrive", "/jobs/{id}/rerun", "/poison/{id}"]
warnings = false
"""


@pytest.fixture(scope="module")
async def stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    """Run the system for this module; schemathesis sends more requests than the usual rate limit allows."""
    async with running(
        tmp_path_factory.mktemp("openapi"), SUBMIT_RATE="100000", SUBMIT_BURST="100000", DRAIN_S="0"
    ) as stack:
        yield stack


async def ended_job(stack: Stack) -> dict[str, Any]:
    """Run a job to its end, so that no request for it is held; return its receipt."""
    receipt = await stack.submit("countdown", {"steps": 1, "delay_s": 0})
    async for _ in stack.watch(receipt["token"]):
        pass
    return receipt


async def with_examples(stack: Stack, document: dict[str, Any], receipt: dict[str, Any]) -> dict[str, Any]:
    """Add examples from the running system to a document: a job id, its token and the digest of the assets."""
    async with stack.session.get(f"{stack.url}/assets/headway.js") as response:
        digest = response.headers["Content-Location"].split("/")[2]
    components = document["components"]
    components["schemas"]["Token"]["examples"] = [receipt["token"]]
    for name, example in (("id", receipt["id"]), ("digest", digest)):
        if name in components["parameters"]:
            components["parameters"][name]["schema"]["examples"] = [example]
    return document


def without_lookaheads(node: Any) -> Any:
    """Return a part of a document with simpler patterns: schemathesis finds hardly any text for a lookahead."""
    if isinstance(node, dict):
        found = {key: without_lookaheads(value) for key, value in node.items()}
        if isinstance(pattern := found.get("pattern"), str):
            found["pattern"] = re.sub(r"\(\?[=!][^)]*\)", "", pattern)
        return found
    return [without_lookaheads(value) for value in node] if isinstance(node, list) else node


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.parent.name)
async def test_every_response_is_documented(stack: Stack, path: Path, tmp_path: Path) -> None:
    """Responses to valid and to invalid requests match the document, and none is a 5xx."""
    receipt = await ended_job(stack)
    document = await with_examples(stack, yaml.safe_load(path.read_text()), receipt)
    (tmp_path / "schemathesis.toml").write_text(CONFIGURATION)
    (tmp_path / "openapi.yaml").write_text(yaml.safe_dump(without_lookaheads(document)))
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "schemathesis.cli",
        "run",
        "openapi.yaml",
        f"--max-examples={EXAMPLES}",
        *([] if LONG else ["--generation-deterministic"]),
        "--no-color",
        "--url",
        stack.url if path.parent.name == "submitter" else stack.env["LIVE_URL"],
        "--header",
        f"Authorization: Bearer {receipt['token']}",
        "--header",
        f"Origin: {stack.url}",
        "--request-timeout",
        "20",
        cwd=tmp_path,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output = (await process.communicate())[0].decode()
    assert process.returncode == 0, output
    assert re.findall(r"✅\s+(\w+) \(in", output) == PHASES, output
    assert "Missing test data" not in output, output
    assert "request_failed" not in "".join(log.read_text() for log in (stack.folder / "logs").iterdir())


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.parent.name)
async def test_document_is_served(stack: Stack, path: Path) -> None:
    """Each service serves its own document, unchanged, as `/openapi.yaml`."""
    base = stack.url if path.parent.name == "submitter" else stack.env["LIVE_URL"]
    async with stack.session.get(f"{base}/openapi.yaml") as response:
        assert (response.status, response.content_type) == (200, "application/yaml")
        assert await response.text() == path.read_text()
