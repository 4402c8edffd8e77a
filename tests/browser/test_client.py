"""`watchJob()` in a real browser: one WebSocket for all watches, and what its callbacks receive."""

from __future__ import annotations

import base64
import json
import re
from typing import Any
from uuid import UUID

import pytest
from playwright.async_api import Page, WebSocketRoute

from headway.contracts import Timestamp
from tests.browser.browser_client import BrowserClient, details_token
from tests.browser.conftest import PageErrors, SendReport, forge_signature
from tests.stack import Stack
from tests.waiting import wait_until

pytestmark = pytest.mark.browser


@pytest.fixture
async def client(page: Page, stack: Stack) -> BrowserClient:
    """Open a page without watches."""
    return await BrowserClient.opened(page, stack.url)


async def test_watches_share_one_socket(client: BrowserClient, stack: Stack) -> None:
    """Three watches of a page share a WebSocket, which closes with the last watch."""
    errors = PageErrors(client.page)
    names = ("one", "two", "three")
    for name in names:
        receipt = await stack.submit(payload={"steps": 5, "delay_s": 0.05})
        assert await client.watch(name, receipt["token"]) == receipt["id"]
    for name in names:
        await client.wait_for_status(name, "succeeded")
        await client.versions(name)
    assert len(client.sockets) == 1
    for name in names:
        assert not client.sockets[0].is_closed()
        await client.call(name, "close")
    await wait_until(lambda: client.sockets[0].is_closed())
    assert len(client.sockets) == 1
    assert errors.messages == []


async def test_watch_after_the_last_one_closed_opens_a_new_socket(client: BrowserClient, stack: Stack) -> None:
    """A watch that starts after all others have closed gets a new WebSocket."""
    receipt = await stack.submit(delay_s=3600)
    await client.watch("first", receipt["token"])
    await client.wait_for_status("first", "queued")
    await client.call("first", "close")
    await client.watch("second", receipt["token"])
    await client.wait_for_status("second", "queued")
    assert len(client.sockets) == 2


async def test_job_watched_twice_is_subscribed_to_once(client: BrowserClient, stack: Stack, report: SendReport) -> None:
    """A second watch of a job gets the snapshot that the page already has, and continues after the first closes."""
    receipt = await stack.submit(delay_s=3600)
    await client.watch("first", receipt["token"])
    await client.wait_for_status("first", "queued")
    await client.watch("second", receipt["token"])
    await client.wait_for_status("second", "queued")
    assert [list(message) for message in client.sent] == [["watch"]]
    await client.call("first", "close")
    await report(receipt, progress={"current": 1, "total": 2})
    assert (await client.wait_for_status("second", "running"))["progress"]["percent"] == 50
    assert {job["status"] for job in await client.received("first", "job")} == {"queued"}
    assert [list(message) for message in client.sent] == [["watch"]]


async def test_a_log_is_requested_while_a_watch_wants_it(
    client: BrowserClient, stack: Stack, report: SendReport
) -> None:
    """A later watch of the log gets what the page has; after the last one, the job is watched without its log."""
    receipt = await stack.submit(delay_s=3600)
    await report(receipt)
    await stack.append_log(receipt, 0, "one\n")
    await client.watch("job", receipt["token"])
    version = (await client.wait_for_status("job", "running"))["version"]
    await client.watch("first", receipt["token"], log=True)
    await client.wait_for_log("first", "one\n")
    await client.watch("second", receipt["token"], log=True)
    await client.wait_for_log("second", "one\n")
    for name in ("first", "second"):
        await client.call(name, "close")
    token = {"watch": receipt["token"]}
    await wait_until(lambda: len(client.sent) == 3)
    assert client.sent == [token, token | {"version": version, "log": 0}, token | {"version": version}]


# Two pieces, the second one again, a part of it with more, and a log that begins again because it was lost.
PIECES_OF_A_LOG = """async () => {
  const { WatchedJob } = await import("/assets/watched.js");
  const job = new WatchedJob("id");
  const received = [];
  const token = `.${btoa('{"sub":"id"}')}.`;
  job.add({ onLog: ({ from, to, text }) => received.push([from, to, text]) }, { token, log: 1 });
  const texts = [[0, "ä"], [2, "bc"], [2, "bc"], [3, "cd"], [0, "new"], [3, "er"]];
  for (const [from, text] of texts) job.applyLog({ from, to: from + new TextEncoder().encode(text).length, text });
  job.applyLog({ from: 9, to: 10, text: "x" });
  const large = "y".repeat(40_000);
  for (const from of [10, 40_010]) job.applyLog({ from, to: from + 40_000, text: large });
  const kept = job.log.piecesAfter(0).map(({ from, to }) => [from, to]);
  return { received: received.filter(([, , text]) => text.length < 40_000), kept };
}"""


async def test_each_byte_of_a_log_comes_once(client: BrowserClient) -> None:
    """Repeated parts are cut off, a gap is visible in the offsets, a lost log begins again, and 64 KiB are kept."""
    assert await client.page.evaluate(PIECES_OF_A_LOG) == {
        "received": [[1, 2, "�"], [2, 4, "bc"], [4, 5, "d"], [0, 3, "new"], [3, 5, "er"], [9, 10, "x"]],
        "kept": [[10, 40_010], [40_010, 80_010]],
    }


# Watches that have the log up to an offset, each with what the server sends, as [from, text], and what it receives.
RESUMED_LOGS = """async (cases) => {
  const { WatchedJob } = await import("/assets/watched.js");
  const token = `.${btoa('{"sub":"id"}')}.`;
  return cases.map(([offsets, sent]) => {
    const job = new WatchedJob("id");
    const received = [];
    const requested = offsets.map((log) => {
      const watch = { onLog: ({ from, text }) => received.push([log, from, text]) };
      const isNeeded = job.add(watch, { token, log });
      return isNeeded ? job.subscribeMessage().log : null;
    });
    for (const [from, text] of sent) job.applyLog({ from, to: from + text.length, text });
    return [requested, received];
  });
}"""


# The offsets up to which the watches have the log, what the server sends, what is requested, and what each watch gets.
RESUMPTIONS: dict[str, Any] = {
    "goes on": ([4], [[4, "ef"]], [4], [[4, 4, "ef"]]),
    "begins again": ([4], [[0, "new"], [3, "er"]], [4], [[4, 0, "new"], [4, 3, "er"]]),
    "older text is gone": ([4], [[9, "j"]], [4], [[4, 9, "j"]]),
    "a later watch has more": ([4, 5], [[4, "ef"]], [4, None], [[4, 4, "ef"], [5, 5, "f"]]),
    "a later watch has less": ([4, 0], [[0, "abcdef"]], [4, 0], [[4, 4, "ef"], [0, 0, "abcdef"]]),
}


async def test_a_log_is_requested_from_where_the_page_has_it(client: BrowserClient) -> None:
    """What the server sends from before that offset is a log that was lost and begins again."""
    cases = [[offsets, sent] for offsets, sent, _, _ in RESUMPTIONS.values()]
    results = await client.page.evaluate(RESUMED_LOGS, cases)
    expected = {name: [requested, received] for name, (_, _, requested, received) in RESUMPTIONS.items()}
    assert dict(zip(RESUMPTIONS, results, strict=True)) == expected


async def test_a_lost_log_is_shown_from_its_beginning(client: BrowserClient, stack: Stack, report: SendReport) -> None:
    """A page that has more of the log than there is gets all of it, and then what follows."""
    receipt = await stack.submit(delay_s=3600)
    await report(receipt)
    await stack.append_log(receipt, 0, "one\n")
    await client.watch("log", receipt["token"], log=1000)
    await client.wait_for_log("log", "one\n")
    await stack.append_log(receipt, 4, "two\n")
    await client.wait_for_log("log", "one\ntwo\n")


@pytest.mark.parametrize("is_log_first", [True, False])
async def test_a_log_and_a_bar_have_different_tokens(
    client: BrowserClient, stack: Stack, report: SendReport, *, is_log_first: bool
) -> None:
    """The job is watched with the token that opens its log, and cancelled with the one that permits that."""
    receipt = await stack.submit(delay_s=3600)
    await report(receipt)
    await stack.append_log(receipt, 0, "one\n", watchers=False)
    watches = [("log", await details_token(stack, receipt), {"log": True}), ("bar", receipt["token"], {})]
    for name, token, options in watches if is_log_first else watches[::-1]:
        await client.watch(name, token, **options)
        await client.wait_for_status(name, "running")
    await client.wait_for_log("log", "one\n")
    await stack.append_log(receipt, 4, "two\n", watchers=False)
    await client.wait_for_log("log", "one\ntwo\n")
    await client.call("bar", "cancel")

    async def is_cancelled() -> bool:
        return any(job["cancel_requested"] for job in await client.received("log", "job"))

    await wait_until(is_cancelled)
    for name in ("log", "bar"):
        assert await client.received(name, "error") == []


async def test_closing_the_last_watch_of_a_job_unsubscribes(client: BrowserClient, stack: Stack) -> None:
    """When the last watch of a job closes, the page unsubscribes from it and keeps the connection."""
    first, second = [await stack.submit(delay_s=3600) for _ in range(2)]
    await client.watch("first", first["token"])
    await client.watch("second", second["token"])
    await client.wait_for_status("first", "queued")
    await client.call("first", "close")
    await wait_until(lambda: client.sent[-1] == {"unwatch": first["id"]})
    assert not client.sockets[0].is_closed()


async def test_connection_changes_are_reported(client: BrowserClient, stack: Stack) -> None:
    """A watch reports each change of the connection, and after a crash the page asks for newer versions only."""
    receipt = await stack.submit(payload={"steps": 3, "delay_s": 0})
    await client.watch("job", receipt["token"])
    last = await client.wait_for_status("job", "succeeded")
    assert await client.received("job", "connection") == ["connecting", "live"]
    await stack.kill("notifier")
    states = await client.wait_for("job", "connection", 4)
    assert states == ["connecting", "live", "reconnecting", "live"]
    await wait_until(lambda: client.sent[-1] == {"watch": receipt["token"], "version": last["version"]})
    assert (await client.received("job", "job"))[-1] == last


async def test_online_event_reconnects_at_once(client: BrowserClient, stack: Stack) -> None:
    """When the network is back, a new WebSocket replaces the old one, which may be dead without notice."""
    receipt = await stack.submit(delay_s=3600)
    await client.watch("job", receipt["token"])
    await client.wait_for("job", "connection", 2)
    await client.page.evaluate("dispatchEvent(new Event('online'))")
    assert await client.wait_for("job", "connection", 4) == ["connecting", "live", "reconnecting", "live"]
    assert [socket.is_closed() for socket in client.sockets] == [True, False]


async def test_exception_in_a_callback_does_not_affect_other_watches(client: BrowserClient, stack: Stack) -> None:
    """An exception in a callback is reported as uncaught, and neither its own nor other watches miss a snapshot."""
    errors = PageErrors(client.page)
    receipt = await stack.submit(payload={"steps": 3, "delay_s": 0.05})
    await client.watch("bad", receipt["token"], throws=True)
    await client.watch("good", receipt["token"])
    await client.wait_for_status("good", "succeeded")
    bad_versions = {job["version"] for job in await client.received("bad", "job")}
    assert {job["version"] for job in await client.received("good", "job")} <= bad_versions
    assert await client.received("good", "connection") in (["connecting", "live"], ["live"])
    assert {"bad: connection", "bad: job"} == set(errors.messages)


LONG_PAYLOAD = base64.urlsafe_b64encode(json.dumps({"sub": str(UUID(int=1)), "padding": "x" * 4096}).encode()).decode()


@pytest.mark.parametrize(
    "token", ["", "nonsense", "a.e30.b", f"a.{LONG_PAYLOAD}.b"], ids=["empty", "nonsense", "no job", "long"]
)
async def test_unreadable_token_is_an_error_of_its_watch(client: BrowserClient, token: str) -> None:
    """A text that is not a token is reported to its watch, without opening a connection."""
    assert await client.watch("job", token) is None
    (error,) = await client.wait_for("job", "error")
    assert error["code"] == "invalid_token"
    await client.call("job", "cancel")
    await client.call("job", "close")
    assert client.sockets == []


async def test_forged_token_is_an_error_of_its_watch_only(
    client: BrowserClient, stack: Stack, report: SendReport
) -> None:
    """A forged token is reported to its watch; the other watches continue."""
    good, bad = [await stack.submit(delay_s=3600) for _ in range(2)]
    await client.watch("good", good["token"])
    await client.wait_for_status("good", "queued")
    await client.watch("bad", forge_signature(bad["token"]))
    (error,) = await client.wait_for("bad", "error")
    assert error["code"] == "invalid_token"
    await report(good)
    await client.wait_for_status("good", "running")
    assert await client.received("good", "error") == []


async def test_refused_connection_is_not_retried(client: BrowserClient, stack: Stack) -> None:
    """The page does not reconnect after the server refused the connection; the next watch opens a new one."""
    opened: list[WebSocketRoute] = []

    def refuse_first(socket: WebSocketRoute) -> None:
        opened.append(socket)
        if len(opened) > 1:
            socket.connect_to_server()

    await client.page.route_web_socket(re.compile("/live$"), refuse_first)
    receipt = await stack.submit(delay_s=3600)
    await client.watch("refused", receipt["token"])
    await wait_until(lambda: opened)
    await opened[0].close(code=1008, reason="too many messages")
    assert await client.wait_for("refused", "error") == [{"code": "refused", "message": "too many messages"}]
    assert (await client.received("refused", "connection"))[-1] == "refused"
    assert len(opened) == 1
    await client.watch("job", receipt["token"])
    await client.wait_for_status("job", "queued")
    assert len(opened) == 2


async def test_cancel_ends_the_job(client: BrowserClient, stack: Stack) -> None:
    """A page cancels a running job, and its watch receives the outcome."""
    receipt = await stack.submit(payload={"steps": 1000, "delay_s": 0.1})
    await client.watch("job", receipt["token"])
    await client.wait_for_status("job", "running")
    await client.call("job", "cancel")
    assert (await client.wait_for_status("job", "cancelled"))["result"] is None


async def test_cancel_before_the_connection_opens_is_sent_later(client: BrowserClient, stack: Stack) -> None:
    """A cancel requested before the connection is open is sent once it is."""
    receipt = await stack.submit(delay_s=3600)
    await client.watch("job", receipt["token"])
    await client.call("job", "cancel")
    assert (await client.wait_for_status("job", "cancelled"))["started_at"] is None


async def test_now_is_the_time_of_the_server(client: BrowserClient, stack: Stack) -> None:
    """`now()` returns the server's time even if the browser's clock is wrong."""
    await client.page.clock.set_system_time("2001-01-01")
    receipt = await stack.submit(delay_s=3600)
    await client.watch("job", receipt["token"])
    await client.wait_for("job", "connection", 2)
    assert abs(await client.call("job", "now") - Timestamp.now()) < 5_000


async def test_forged_token_among_good_ones_is_an_error_of_its_watch_only(client: BrowserClient, stack: Stack) -> None:
    """A forged token sent together with good ones is reported to its own watch only, also after a reconnect."""
    good, bad = [await stack.submit(delay_s=3600) for _ in range(2)]
    await client.watch_all({"good": good["token"], "bad": forge_signature(bad["token"])})
    await client.wait_for_status("good", "queued")
    await client.wait_for("bad", "error")
    await client.page.evaluate("dispatchEvent(new Event('online'))")
    await client.wait_for("bad", "error", 2)
    assert await client.received("good", "error") == []
