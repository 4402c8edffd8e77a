"""The browser client's connection in a page simulated in Node.js: how it notices a loss, and how it reconnects."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.browser.npm import CLIENT, run_node

pytestmark = pytest.mark.browser

SIMULATION = Path(__file__).parent / "simulation.js"
PREPARE = f"""
const simulation = await import("{SIMULATION}");
const {{ dispatch, last, pass, server, stall, tokenOf, transports }} = simulation;
const {{ watchJob }} = await import("{CLIENT}/watch.js");
const {{ FallbackConnection }} = await import("{CLIENT}/connection.js");
const states = [];
const errors = [];
const snapshots = [];
function watch(number = 1, extra = {{}}) {{
  const onConnection = (state, detail) => states.push([state, detail?.reason ?? ""]);
  const onError = ({{ code }}) => errors.push([number, code]);
  const options = {{ url: "http://live.test", token: tokenOf(number, extra), onConnection, onError }};
  return watchJob(options, ({{ version }}) => snapshots.push([number, version]));
}}
async function connect(hello) {{
  await pass(1);
  last().accept(hello);
  last().receiveJob(1);
  await pass(1);
}}
"""


def simulate(script: str) -> Any:
    """Run a script in a simulated page; return the value that it leaves in `result`."""
    program = f"{PREPARE}\nlet result;\n{script}\nconsole.log(JSON.stringify(result));"
    completed = run_node(CLIENT, "--input-type=module", "--eval", program)
    assert completed.stderr == ""
    return json.loads(completed.stdout)


LOSSES = [
    pytest.param(20_000, "transports.forEach((socket) => socket.lose(1012))", id="restart"),
    pytest.param(4_000, "transports.forEach((socket) => socket.lose(1013))", id="overload"),
    pytest.param(4_000, "transports.forEach((socket) => socket.lose(1006))", id="crash"),
    pytest.param(4_000, "await pass(50_201)", id="silence"),
    pytest.param(4_000, 'dispatch("offline")', id="offline"),
]


@pytest.mark.parametrize(("count", "loss"), LOSSES)
def test_clients_return_spread_over_two_seconds(count: int, loss: str) -> None:
    """20,000 clients that lose their server at once return evenly within 2 s, each with one connection."""
    script = f"""
      const registry = {{ wantedJobs: [], lists: [], connectionUpdate: {{ state: "connecting" }} }};
      const open = () => new FallbackConnection("http://live.test", registry, () => {{}});
      const clients = Array.from({{ length: {count} }}, open);
      for (const socket of [...transports]) socket.accept();
      await pass(100);
      {loss};
      const lostAt = Math.max(...transports.map((socket) => socket.closedAt ?? 0));
      await pass(2_100);
      const opened = transports.slice({count});
      result = [opened.map(({{ openedAt }}) => openedAt - lostAt), [...new Set(opened.map(({{ kind }}) => kind))]];
    """
    delays, kinds = simulate(script)
    assert len(delays) == count
    assert kinds == ["WebSocket"]
    peak = max(sum(start <= delay < start + 100 for delay in delays) for start in range(0, 2000, 20))
    assert min(delays) >= 0
    assert max(delays) <= 2000
    assert peak <= 1.5 * count / 20


def test_server_that_drains_may_ask_for_an_earlier_reconnect() -> None:
    """Its last hello says within which time its clients reconnect."""
    script = """
      const registry = { wantedJobs: [], lists: [], connectionUpdate: { state: "connecting" } };
      for (let count = 0; count < 300; count++) new FallbackConnection("http://live.test", registry, () => {});
      for (const socket of [...transports]) socket.accept();
      await pass(100);
      for (const socket of [...transports]) socket.accept({ silence_s: 50, reconnect_s: 0.5 });
      transports.forEach((socket) => socket.lose(1012));
      const lostAt = transports[0].closedAt;
      await pass(2_100);
      result = transports.slice(300).map(({ openedAt }) => openedAt - lostAt);
    """
    delays = simulate(script)
    assert len(delays) == 300
    assert 400 < max(delays) <= 500


def test_no_server_can_make_its_clients_reconnect_in_a_tight_loop_or_never() -> None:
    """A time that makes no sense, in a hello or in the `retry` of a stream, causes delays of half a second or two."""
    script = f"""
      const {{ reconnectDelayMs }} = await import("{CLIENT}/backoff.js");
      const delays = (reconnect_s) => Array.from({{ length: 500 }}, () => reconnectDelayMs(0, {{ reconnect_s }}));
      const times = [-1, 0, "0", "soon", NaN, 1e-9, 1e300, Infinity];
      result = times.map((reconnect_s) => Math.max(...delays(reconnect_s)));
    """
    assert simulate(script) == pytest.approx([500, 500, 500, 2000, 2000, 500, 2000, 2000], rel=0.1)


@pytest.mark.parametrize("worked", [True, False])
def test_fallbacks_are_opened_one_after_the_other_once_a_websocket_has_worked(worked: bool) -> None:
    """A page opens no fallback beside a WebSocket that has worked, and tries one if the WebSocket stays blocked."""
    script = f"""
      watch();
      if ({str(worked).lower()}) {{
        await connect();
        last().lose(1006);
      }}
      let most = 0;
      for (let step = 0; step < 600; step++) {{
        await pass(100);
        most = Math.max(most, transports.filter(({{ closedAt }}) => closedAt === undefined).length);
      }}
      result = [most, transports.map(({{ kind }}) => kind)];
    """
    most, kinds = simulate(script)
    if worked:
        assert most == 1
        assert kinds[:6] == ["WebSocket"] * 4 + ["/live/events", "/live/jobs"]
    else:
        assert most == 3
        assert kinds[:3] == ["WebSocket", "/live/events", "/live/jobs"]


SILENT = ["reconnecting", "The server sent nothing in time."]


def test_silent_socket_is_lost() -> None:
    """A socket without any message for the server's `silence_s` is lost; each message counts."""
    script = """
      watch();
      await connect({ silence_s: 5 });
      await pass(4_000);
      last().receiveJob(2);
      await pass(4_000);
      last().receive({ anything: 1 });
      await pass(4_900);
      const before = states.at(-1);
      await pass(400);
      result = [before, states.at(-1)];
    """
    assert simulate(script) == [["live", ""], SILENT]


def test_silent_stream_is_lost() -> None:
    """A stream without a comment or an event for 50 s is lost, too."""
    script = """
      watch();
      server.answer = (path) => {
        const comment = `: ${new Date(Date.now()).toISOString()}\\n\\n`;
        const start = (stream) => stream.enqueue(new TextEncoder().encode(comment));
        return new Response(new ReadableStream({ start }));
      };
      last().lose(1006);
      await pass(40);
      for (let turn = 0; turn < 5; turn++) await new Promise(setImmediate);
      server.answer = null;
      await pass(49_000);
      const before = states.at(-1);
      await pass(1_500);
      result = [before, states.at(-1)];
    """
    assert simulate(script) == [["live", ""], SILENT]


def test_socket_of_an_older_server_may_be_silent() -> None:
    """A server that announces no `silence_s` does not repeat its hello, so silence is no loss."""
    assert simulate("watch(); await connect({}); await pass(600_000); result = states.at(-1);") == ["live", ""]


@pytest.mark.parametrize("event", ["visibilitychange", "pageshow", "resume", "focus", "nothing"])
def test_sleep_of_the_machine_is_noticed(event: str) -> None:
    """After the machine slept, the page notices the silence at an event, or within seconds by the user's clock."""
    script = f"""
      watch();
      await connect();
      await pass(1_000);
      stall(3_600_000, {{ asleep: true }});
      dispatch("{event}");
      await pass({2_300 if event == "nothing" else 300});
      result = states.at(-1);
    """
    assert simulate(script) == SILENT


def test_late_timers_do_not_hide_silence() -> None:
    """A page whose timers are late, because it is hidden, notices the silence when an event makes it check."""
    script = """
      watch();
      await connect();
      stall(55_000);
      dispatch("focus");
      stall(200);
      dispatch("focus");
      result = states.at(-1);
    """
    assert simulate(script) == SILENT


def test_busy_page_keeps_its_connection() -> None:
    """A page that was busy for long receives the messages that waited before it counts its connection as lost."""
    script = """
      watch();
      await connect();
      stall(60_000);
      await pass(100);
      last().receiveJob(2);
      await pass(3_000);
      result = [states.at(-1), snapshots.at(-1), transports.length];
    """
    assert simulate(script) == [["live", ""], [1, 2], 1]


@pytest.mark.parametrize("answered", [True, False])
def test_visible_page_probes_its_connection(answered: bool) -> None:
    """A page that becomes visible requests a job again: an answer proves the connection, none is its loss."""
    script = f"""
      watch();
      await connect();
      await pass(1_000);
      dispatch("visibilitychange");
      const probe = last().sent.at(-1);
      if ({str(answered).lower()}) last().receiveJob(1);
      await pass(3_300);
      result = [probe.watch === tokenOf(1) && !("version" in probe), states.at(-1)[0], snapshots];
    """
    assert simulate(script) == [True, "live" if answered else "reconnecting", [[1, 1]]]


def test_repeated_probes_do_not_extend_the_time_for_an_answer() -> None:
    """A page that is shown again and again notices a lost connection as soon as one that is shown once."""
    script = """
      watch();
      await connect();
      for (let step = 0; step < 4; step++) {
        dispatch("visibilitychange");
        await pass(850);
      }
      result = states.at(-1);
    """
    assert simulate(script) == SILENT


def test_visible_page_reconnects_without_delay() -> None:
    """A page that waits for its next attempt reconnects at once when the user looks at it."""
    script = """
      watch();
      await connect();
      last().lose(1006);
      dispatch("visibilitychange");
      result = transports.length;
    """
    assert simulate(script) == 2


def test_offline_is_shown_at_once() -> None:
    """Without a network the page is reconnecting, with the reason; when the network is back, it connects at once."""
    script = """
      watch();
      await connect();
      dispatch("offline");
      const offline = states.at(-1);
      await pass(5_000);
      dispatch("online");
      last().accept();
      result = [offline, last().openedAt, states.at(-1)[0]];
    """
    assert simulate(script) == [["reconnecting", "The browser is offline."], 5_002, "live"]


def test_socket_that_hangs_before_its_hello_is_lost() -> None:
    """A lost connection is opened again also if the new socket never opens, or never receives a hello."""
    script = """
      watch();
      await connect();
      last().lose(1006);
      await pass(2_000);
      const connecting = last();
      await pass(4_000);
      const { openedAt, closedAt } = connecting;
      await pass(1_000);
      result = [closedAt - openedAt, last().openedAt - openedAt, transports.length];
    """
    closed, next_opened, opened = simulate(script)
    assert closed == 4_000
    assert next_opened <= 5_000  # as soon a page is up to date after its path was frozen
    assert opened == 3


def test_snapshots_are_confirmed_by_hellos_only_while_live() -> None:
    """`confirmedUntil()` is the time of the last hello, and 0 once the connection is lost."""
    script = """
      const job = watch();
      const confirmed = [job.confirmedUntil()];
      await connect();
      confirmed.push(job.now() - job.confirmedUntil());
      await pass(20_000);
      confirmed.push(job.now() - job.confirmedUntil());
      last().receive({ hello: { now: new Date(Date.now()).toISOString(), silence_s: 50 } });
      confirmed.push(job.now() - job.confirmedUntil());
      last().lose(1006);
      confirmed.push(job.confirmedUntil());
      result = confirmed;
    """
    assert simulate(script) == [0, 1, 20_001, 0, 0]


def test_snapshots_are_confirmed_again_after_a_reconnect() -> None:
    """The first hello of a new connection confirms no earlier snapshot: the job's snapshot or the next hello does."""
    script = """
      const job = watch();
      await connect();
      result = [];
      const hello = () => ({ now: new Date(Date.now()).toISOString(), silence_s: 50 });
      for (const confirm of [() => last().receiveJob(1), () => last().receive({ hello: hello() })]) {
        const confirmed = job.confirmedUntil();
        last().lose(1006);
        await pass(4_000);
        last().accept();
        result.push(job.confirmedUntil() - confirmed);
        confirm();
        result.push(job.now() - job.confirmedUntil());
      }
    """
    assert simulate(script) == [0, 0, 0, 0]


def test_snapshots_of_an_older_server_count_as_confirmed() -> None:
    """A server that repeats no hello confirms the snapshots as long as its connection is open."""
    script = """
      const job = watch();
      await connect({});
      await pass(90_000);
      result = job.now() - job.confirmedUntil();
    """
    assert simulate(script) == 0


def test_rejected_tokens_do_not_end_other_watches() -> None:
    """After a close because of bad tokens the good ones are requested alone, until there is another token."""
    script = """
      watch(1);
      watch(2);
      await pass(1);
      last().accept();
      last().receiveJob(1);
      last().receive({ error: { code: "invalid_token", message: "", job_id: "00000000-0000-4000-8000-000000000002" } });
      last().lose(1008, "too many bad tokens");
      await pass(2_001);
      last().accept();
      const tokens = last().sent.map(({ watch }) => watch);
      watch(2, { exp: 5e9 });
      const added = last().sent.at(-1).watch;
      result = [states.at(-1)[0], errors, tokens.length, tokens[0] === tokenOf(1), added === tokenOf(2, { exp: 5e9 })];
    """
    assert simulate(script) == ["live", [[2, "invalid_token"]], 1, True, True]


def test_bad_token_does_not_end_another_watch_of_the_same_job() -> None:
    """If a watch's token is rejected, the job is requested with that of another watch; an error needs both rejected."""
    script = """
      const reject = () => last().receive({
        error: { code: "invalid_token", message: "", job_id: "00000000-0000-4000-8000-000000000001" },
      });
      watch(1, { signature: "forged" });
      watch(1, { signature: "good" });
      await pass(1);
      last().accept();
      reject();
      const tokens = last().sent.map(({ watch }) => watch);
      last().receiveJob(1);
      const before = [...errors];
      reject();
      result = [tokens, before, errors, snapshots, ["forged", "good"].map((signature) => tokenOf(1, { signature }))];
    """
    tokens, before, errors, snapshots, expected = simulate(script)
    assert tokens == expected
    assert before == []
    assert errors == [[1, "invalid_token"]] * 2
    assert snapshots == [[1, 1]] * 2


def test_client_that_is_refused_without_a_rejected_token_gives_up() -> None:
    """A refusal that names no job is final."""
    script = """
      watch();
      await connect();
      last().lose(1008, "too many messages");
      await pass(60_000);
      result = [states.at(-1)[0], errors, transports.length];
    """
    assert simulate(script) == ["refused", [[1, "refused"]], 1]


def test_fallback_finds_the_bad_tokens_of_a_rejected_request() -> None:
    """A request that is rejected because of many bad tokens does not end the watches of the good ones."""
    script = """
      for (let number = 1; number <= 30; number++) watch(number);
      const bad = new Set(Array.from({ length: 25 }, (_, index) => tokenOf(index + 1)));
      const invalid = { code: "invalid_token", detail: "" };
      server.answer = (path, tokens) => {
        const rejected = tokens.filter((token) => bad.has(token));
        if (rejected.length > 20 || rejected.length === tokens.length) return Response.json(invalid, { status: 401 });
        if (path === "/live/events") return null;
        const idOf = (token) => JSON.parse(atob(token.split(".")[1])).sub;
        const errors = rejected.map((token) => ({ code: "invalid_token", message: "", job_id: idOf(token) }));
        return Response.json({ now: new Date(Date.now()).toISOString(), jobs: [], errors });
      };
      last().lose(1006);
      for (let step = 0; step < 20; step++) {
        await pass(50);
        await new Promise(setImmediate);
      }
      result = [last().kind, last().tokens, errors.length, tokenOf(26)];
    """
    kind, tokens, errors, first_good = simulate(script)
    assert (kind, errors) == ("/live/events", 25)
    assert len(tokens) == 5
    assert first_good in tokens


@pytest.mark.parametrize(("state", "rank"), [("live", 0), ("live", 1), ("reconnecting", 0), ("connecting", None)])
def test_connection_that_replaces_that_of_another_tab(state: str, rank: int | None) -> None:
    """A new leader uses the transport that worked, says so if it takes long, and spreads its return after a loss."""
    script = f"""
      const connectionUpdate = {{ state: "{state}", rank: {json.dumps(rank)} ?? undefined }};
      const updates = [];
      const registry = {{ watched: [], wantedJobs: [], lists: [], connectionUpdate }};
      for (let count = 0; count < 100; count++) {{
        new FallbackConnection("http://live.test", registry, ({{ state }}) => updates.push(state));
      }}
      await pass(1);
      const opened = transports.length;
      await pass(2_000);
      result = [opened, transports.length, updates.filter((update) => update === "reconnecting").length];
    """
    opened, later, reconnecting = simulate(script)
    if state == "reconnecting":
        assert opened < 20
        assert later == 100
    elif rank == 0:
        assert opened == later == 100
    assert reconnecting == (100 if state == "live" else 0)
