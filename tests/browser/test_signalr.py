"""The clients of both generations of SignalR, unmodified: that of ASP.NET Core in Node.js, that of 2015 in Chromium."""

from __future__ import annotations

import asyncio
import json
from asyncio.subprocess import PIPE
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Page

from tests.browser.conftest import SendReport
from tests.browser.npm import PACKAGES, find_nodejs
from tests.stack import Stack

pytestmark = pytest.mark.browser

CLIENT = Path(__file__).parent / "signalr_client.mjs"
FAILURES = [
    "The hub has no method 'Nothing'.",
    "invalid: Expected `array` of at least length 1, got 0",
    "invalid_token: The token is not valid for this service.",
    "not_watched: Watch the job first: its token determines whether you may cancel it.",
]
# The page of 2015: jQuery, its client, the script of the hub, and a function that shows the progress.
OLD_PAGE = """<!doctype html><title>Export</title><span id="progress"></span>"""
START = """
async ({ base, jobId, token, transport }) => {
  const hub = $.connection.jobProgressHub;
  window.received = [];
  hub.client.updateProgress = (percent) => {
    $("#progress").text(`${percent}%`);
    window.received.push(percent);
  };
  hub.client.jobChanged = (snapshot) => window.received.push(snapshot.status);
  $.connection.hub.qs = { jobId, token };
  await $.connection.hub.start({ transport });
  return [$.connection.hub.transport.name, $.connection.hub.url];
}
"""
PROGRESS = [{"current": current, "total": 100} for current in (10, 55, 80)]


@pytest.mark.parametrize(
    ("transport", "protocol", "watch"),
    [
        ("WebSockets", "json", "url"),
        ("WebSockets", "messagepack", "stream"),
        ("ServerSentEvents", "json", "method"),
        ("LongPolling", "json", "url"),
        ("LongPolling", "messagepack", "stream"),
    ],
)
async def test_client_of_aspnet_core_watches_a_job(
    stack: Stack, report: SendReport, transport: str, protocol: str, watch: str
) -> None:
    """It sees the job to its end over each transport: no version or percentage twice, none backwards, and errors."""
    receipt = await stack.submit(delay_s=3600)
    options = {
        "url": f"{stack.env['NOTIFIER_URL']}/hubs/job-progress",
        "jobId": receipt["id"],
        "token": receipt["token"],
        "transport": transport,
        "protocol": protocol,
        "watch": watch,
    }
    process = await asyncio.create_subprocess_exec(
        find_nodejs().node, CLIENT, json.dumps(options), env={"PACKAGES": str(PACKAGES)}, stdout=PIPE, stderr=PIPE
    )
    assert process.stdout is not None
    assert process.stderr is not None
    lines: list[list[Any]] = []
    while ["watching"] not in lines:
        line = await process.stdout.readline()
        assert line, (await process.stderr.read()).decode()
        lines.append(json.loads(line))
    for progress in PROGRESS:
        await report(receipt, progress=progress)
    await report(receipt, "succeeded", progress={"current": 100, "total": 100})
    output, errors = await process.communicate()
    assert (process.returncode, errors.decode()) == (0, "")
    lines += map(json.loads, output.splitlines())
    assert [line[1] for line in lines if line[0] == "failed"] == FAILURES
    snapshots = [line[1:] for line in lines if line[0] == "snapshot"]
    versions = [version for _, version in snapshots]
    assert snapshots[-1][0] == "succeeded"
    assert versions == sorted(set(versions))
    percents = [line[1] for line in lines if line[0] == "progress"]
    assert percents == sorted(set(percents))
    assert percents[-1:] == ([] if watch == "stream" else [100])
    assert [line for line in lines if line[0] in ("error", "reconnected")] == []


@pytest.mark.parametrize("transport", ["webSockets", "serverSentEvents", "longPolling"])
async def test_page_of_2015_watches_a_job(stack: Stack, report: SendReport, page: Page, transport: str) -> None:
    """Its script tags, its function and its span show the progress over each transport, from another origin."""
    receipt, base = await stack.submit(delay_s=3600), f"{stack.env['NOTIFIER_URL']}/signalr"
    await page.goto(f"{stack.url}/assets/headway.js")  # a document of an allowed origin
    await page.set_content(OLD_PAGE)
    for script in ("jquery/dist/jquery.js", "signalr/jquery.signalR.js"):
        await page.add_script_tag(path=PACKAGES / script)
    await page.add_script_tag(url=f"{base}/hubs")
    options = {"base": base, "jobId": receipt["id"], "token": receipt["token"], "transport": transport}
    assert await page.evaluate(START, options) == [transport, base]
    for progress in PROGRESS:
        await report(receipt, progress=progress)
    await report(receipt, "succeeded", progress={"current": 100, "total": 100})
    await page.wait_for_function("window.received.includes('succeeded')")
    received = await page.evaluate("window.received")
    percents = [value for value in received if isinstance(value, int | float)]
    assert percents == sorted(set(percents))
    assert (percents[-1], received[-1]) == (100, "succeeded")
    assert await page.inner_text("#progress") == "100%"
    await page.evaluate("$.connection.hub.stop()")
