"""The metrics of the running services and of the proxy, checked with the tools of Prometheus."""

from __future__ import annotations

import asyncio
import re
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from dev.environment import ROOT
from tests.deploy.prometheus import NEEDS_PROMETHEUS, promtool
from tests.stack import ENDED, Stack, running
from tests.waiting import PATIENCE_S, free_ports, is_listening, wait_until

pytestmark = NEEDS_PROMETHEUS

HAPROXY = shutil.which("haproxy")
MAX_SERIES = 3_000  # of one process; each costs the server of Prometheus a few kilobytes


@pytest.fixture(scope="module")
async def stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    """Run the system for this module, in which a job was watched to its end."""
    async with running(tmp_path_factory.mktemp("live_metrics"), GRACE_S="0", DRAIN_S="0") as stack:
        receipt = await stack.submit(payload={"steps": 2, "delay_s": 0.01})
        statuses = [job["status"] async for job in stack.watch(receipt["token"])]
        assert statuses[-1] in ENDED
        yield stack


@pytest.mark.parametrize("service", ["submitter", "notifier", "worker"])
async def test_promtool_accepts_the_metrics(stack: Stack, service: str) -> None:
    """`promtool check metrics` reports nothing, and the number of series has a bound."""
    async with stack.session.get(f"{stack.internal(service)}/metrics") as response:
        text = await response.text()
    assert promtool("check", "metrics", text=text) == ""
    assert len(re.findall(r"^[a-z]", text, re.MULTILINE)) < MAX_SERIES


@pytest.mark.skipif(HAPROXY is None, reason="needs haproxy (Debian: apt-get install haproxy)")
async def test_the_proxy_serves_its_metrics_on_its_internal_port_only(tmp_path: Path) -> None:
    """The port that compose.yaml publishes sends `/metrics` to the submitter, as any other path."""
    public, internal = free_ports(2)
    config = tmp_path / "haproxy.cfg"
    text = (ROOT / "deploy/compose/haproxy.cfg").read_text()
    config.write_text(text.replace(":8080\n", f"127.0.0.1:{public}\n").replace(":8404\n", f"127.0.0.1:{internal}\n"))
    process = await asyncio.create_subprocess_exec(
        HAPROXY or "haproxy", "-db", "-f", str(config), stdout=asyncio.subprocess.DEVNULL
    )
    try:
        await wait_until(lambda: is_listening(internal))
        async with aiohttp.ClientSession() as session:
            url = f"http://127.0.0.1:{internal}/metrics?scope=global&scope=frontend&scope=backend&scope=server&no-maint"
            async with session.get(url) as response:
                metrics = await response.text()
            assert response.status == 200
            async with session.get(f"http://127.0.0.1:{internal}/stats") as response:
                assert response.status == 404
            async with session.get(f"http://127.0.0.1:{public}/metrics") as response:
                assert response.status == 503  # no submitter runs
    finally:
        process.terminate()
        await asyncio.wait_for(process.wait(), PATIENCE_S)
    documented = set(re.findall(r"`(haproxy_\w+)", (ROOT / "docs/metrics.md").read_text()))
    assert documented <= set(re.findall(r"^haproxy_\w+", metrics, re.MULTILINE))
    assert 'haproxy_backend_active_servers{proxy="notifier"} 0' in metrics
