"""Prometheus as Debian packages it: its tool, and a server that scrapes the services of a test."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.waiting import PATIENCE_S, free_ports, is_ready, wait_until

PROMTOOL, PROMETHEUS = shutil.which("promtool"), shutil.which("prometheus")
REASON = "needs prometheus and promtool (Debian: apt-get install prometheus)"
# For modules: `make test-manifests` runs these tests, `make test` does not.
NEEDS_PROMETHEUS = [
    pytest.mark.prometheus,
    pytest.mark.skipif(PROMTOOL is None or PROMETHEUS is None, reason=REASON),
]
SCRAPE_INTERVAL_S = 1


def promtool(*arguments: str, text: str | None = None) -> str:
    """Run promtool, which must succeed; return what it prints."""
    completed = subprocess.run([PROMTOOL or "promtool", *arguments], input=text, capture_output=True, text=True)
    output = completed.stdout + completed.stderr
    assert completed.returncode == 0, output
    return output


class PrometheusServer:
    """A running Prometheus."""

    def __init__(self, url: str, session: aiohttp.ClientSession) -> None:
        self._url = url
        self._session = session

    async def query(self, expression: str) -> list[dict[str, Any]]:
        """Return the series of an instant query, each with `metric` (its labels) and `value` (time and text)."""
        async with self._session.get(f"{self._url}/api/v1/query", params={"query": expression}) as response:
            answer = await response.json()
        assert answer["status"] == "success", answer
        series: list[dict[str, Any]] = answer["data"]["result"]
        return series

    async def count_scraped(self) -> int:
        """Return how many targets were scraped."""
        async with self._session.get(f"{self._url}/api/v1/targets") as response:
            targets = (await response.json())["data"]["activeTargets"]
        return sum(target["health"] == "up" for target in targets)


@asynccontextmanager
async def running_prometheus(
    folder: Path, targets: Sequence[tuple[str, str]], rule_files: Sequence[Path] = ()
) -> AsyncIterator[PrometheusServer]:
    """Run a server until the block ends, and begin when it has scraped all targets.

    Args:
        folder: where it keeps its data.
        targets: the services, each with its address, a host with a port.
        rule_files: the rules that it evaluates, as often as it scrapes.
    """
    config, (port,) = folder / "prometheus.yml", free_ports(1)
    config.write_text(json.dumps(_config(targets, rule_files)))  # JSON is YAML
    options = (f"--config.file={config}", f"--storage.tsdb.path={folder / 'data'}", "--log.level=warn")
    with (folder / "prometheus.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            PROMETHEUS or "prometheus", *options, f"--web.listen-address=127.0.0.1:{port}", stdout=log, stderr=log
        )
    url = f"http://127.0.0.1:{port}"
    async with aiohttp.ClientSession() as session:
        try:
            await wait_until(lambda: is_ready(session, f"{url}/-/ready"))
            server = PrometheusServer(url, session)

            async def all_scraped() -> bool:
                return await server.count_scraped() == len(targets)

            await wait_until(all_scraped)
            yield server
        finally:
            process.terminate()
            await asyncio.wait_for(process.wait(), PATIENCE_S)


def _config(targets: Sequence[tuple[str, str]], rule_files: Sequence[Path]) -> dict[str, Any]:
    interval = f"{SCRAPE_INTERVAL_S}s"
    scraped = [{"targets": [address], "labels": {"service": service}} for service, address in targets]
    return {
        "global": {"scrape_interval": interval, "scrape_timeout": interval, "evaluation_interval": interval},
        "rule_files": [str(file) for file in rule_files],
        "scrape_configs": [{"job_name": "headway", "static_configs": scraped}],
    }
