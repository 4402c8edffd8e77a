"""A live list in a page simulated in Node.js: its head, its pages, its fallback, and which of its jobs are watched."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.browser.npm import CLIENT, run_node

pytestmark = pytest.mark.browser

SIMULATION = Path(__file__).parent / "simulation.js"
PREPARE = f"""
const {{ dispatch, last, pass, server, transports }} = await import("{SIMULATION}");
const {{ watchJobs }} = await import("{CLIENT}/watch-jobs.js");
const claims = {{ filter: {{ owner: "ada" }}, exp: 1767229200 }};
const token = (extra = {{}}) => `a.${{btoa(JSON.stringify({{ ...claims, ...extra }}))}}.b`;
const idOf = (number) => `00000000-0000-4000-8000-${{String(number).padStart(12, "0")}}`;
const range = (first, last) => Array.from({{ length: first - last + 1 }}, (_, index) => first - index); // newest first
const job = (number, fields = {{}}) => ({{
  id: idOf(number), kind: "export", status: "queued", version: 1, finished_at: null,
  submitted_at: new Date(1_767_225_600_000 + number).toISOString(), ...fields }});
const states = [];
const numbers = ({{ jobs }} = states.at(-1)) => jobs && jobs.map(({{ id }}) => Number(id.slice(-12)));
let list;
async function open(options = {{}}) {{
  list = watchJobs({{ url: "http://live.test", token: token(), limit: 3, ...options }}, (state) => states.push(state));
  await pass(2);
  last().accept();
  await pass(1);
  return last();
}}
const isList = ({{ list }}) => list;
async function answer(socket, newest, oldest, fields = {{}}) {{
  const id = socket.sent.findLast(isList)?.list_id;
  const all = range(newest, oldest);
  socket.receive({{ list: {{ id, jobs: all.map(idOf), next: "more", complete: true, ...fields }} }});
  for (const number of all) socket.receive({{ job: job(number) }});
  await pass(60);
}}
async function change(socket, entered, left, fields = {{}}) {{
  const id = socket.sent.findLast(isList).list_id;
  socket.receive({{ list: {{ id, entered: entered.map(idOf), left: left.map(idOf) }} }});
  for (const number of entered) socket.receive({{ job: job(number, fields) }});
  await pass(60);
}}
const response = (status, body) => ({{ ok: status < 400, status, text: async () => JSON.stringify(body) }});
const jobs = (newest, oldest) => range(newest, oldest).map((number) => job(number));
const page = (newest, oldest, next) => response(200, {{
  now: new Date(Date.now()).toISOString(), jobs: jobs(newest, oldest), next, complete: true }});
"""


def simulate(script: str) -> Any:
    """Run a script in a simulated page; return the value that it leaves in `result`."""
    program = f"{PREPARE}\nlet result;\n{script}\nlist.close();\nconsole.log(JSON.stringify(result));"
    completed = run_node(CLIENT, "--input-type=module", "--eval", program)
    assert (completed.stderr, completed.returncode) == ("", 0)
    return json.loads(completed.stdout)


def test_list_is_live() -> None:
    """A list shows its newest jobs; newer ones push the oldest out, and ended ones leave a list of running jobs."""
    assert simulate("""
      const socket = await open({ filter: { status: ["queued", "running"] } });
      await pass(60);
      const { list: sent, filter, limit } = socket.sent[0];
      result = [sent === token(), filter, limit, states.at(-1).jobs];
      await answer(socket, 9, 7);
      result.push(numbers(), states.at(-1).connection);
      await change(socket, [11, 10], [8, 7]);
      result.push(numbers(), states.at(-1).hasMore);
      socket.receive({ job: job(10, { version: 2, status: "succeeded", finished_at: "x" }) });
      await change(socket, [8], [10]);
      result.push(numbers());
      for (const complete of [false, true]) {
        socket.receive({ list: { id: socket.sent[0].list_id, complete } });
        await pass(60);
        result.push(states.at(-1).complete, numbers().length);
      }
    """) == [
        True,
        {"status": ["queued", "running"]},
        3,
        None,
        [9, 8, 7],
        "live",
        [11, 10, 9],
        True,
        [11, 9, 8],
        False,
        3,
        True,
        3,
    ]


def test_held_rows_stay() -> None:
    """While rows are held, newer jobs are only counted and rows that left stay; then the list catches up at once."""
    assert simulate("""
      const socket = await open();
      await answer(socket, 9, 7);
      list.hold(true);
      await change(socket, [12, 11, 10], [9, 8, 7]);
      socket.receive({ job: job(9, { version: 2, status: "running" }) });
      await pass(60);
      result = [numbers(), states.at(-1).fresh, states.at(-1).jobs[0].status];
      list.hold(false);
      result.push(numbers(), states.at(-1).fresh);
    """) == [[9, 8, 7], 3, "running", [12, 11, 10], 0]


def test_held_rows_keep_their_order() -> None:
    """A job that ends again while rows are held stays in its place; it moves when they are released."""
    assert simulate("""
      const socket = await open({ filter: { status: ["failed"] } });
      await answer(socket, 9, 7);
      list.hold(true);
      socket.receive({ job: job(7, { version: 2, status: "failed", finished_at: "2026-01-02T00:00:00Z" }) });
      await pass(60);
      result = [numbers(), states.at(-1).isOutdated];
      list.hold(false);
      result.push(numbers(), states.at(-1).isOutdated);
    """) == [[9, 8, 7], True, [7, 9, 8], False]


def test_older_jobs_follow_without_a_gap() -> None:
    """Older pages follow the last row: by cursor, or by time after newer jobs pushed rows out."""
    assert simulate("""
      const queries = [];
      const socket = await open();
      await answer(socket, 9, 7);
      server.answer = (path, _tokens, url) => {
        queries.push(new URL(url).search.slice(1));
        return [page(6, 6, "a"), page(0, 1, "b"), page(5, 4, null), page(5, 4, null)][queries.length - 1];
      };
      await list.more();
      await list.more();
      await pass(60);
      result = [numbers(), states.at(-1).hasMore];
      await change(socket, [10], [7]);
      result.push(numbers(), states.at(-1).hasMore);
      await list.more();
      await pass(60);
      result.push(numbers(), queries);
    """) == [
        [9, 8, 7, 6, 5, 4],
        False,
        [10, 9, 8, 7, 6, 5],
        True,
        [10, 9, 8, 7, 6, 5, 4],
        ["limit=3&cursor=more", "limit=3&cursor=a", "limit=3&cursor=b", "limit=3&until=2026-01-01T00%3A00%3A00.006Z"],
    ]


def test_only_visible_jobs_are_watched() -> None:
    """The page watches the rows it shows by the list's token, and asks the server to stop sending the others."""
    assert simulate("""
      const socket = await open();
      await answer(socket, 9, 7);
      list.setVisible([idOf(9)]);
      await pass(300);
      list.setVisible([idOf(8)]);
      await pass(300);
      const short = ({ watch, unwatch, job_id, version }) =>
        watch ? ["watch", Number(job_id.slice(-2)), version] : ["unwatch", Number(unwatch.slice(-2))];
      result = socket.sent.slice(1).map(short);
    """) == [["watch", 9, 1], ["unwatch", 8], ["unwatch", 7], ["unwatch", 9], ["watch", 8, 1]]


def test_list_is_polled_without_a_socket() -> None:
    """Without a WebSocket the list is polled, and a failed poll is a lost connection; a WebSocket ends the polls."""
    assert simulate("""
      let failing = false;
      const poll = () => (failing ? response(503, { code: "unavailable" }) : page(9, 8, null));
      server.answer = (path) => path === "/live/jobs" && poll();
      list = watchJobs({ url: "http://live.test", token: token(), limit: 3 }, (state) => states.push(state));
      await pass(4_000);
      result = [numbers(), states.at(-1).connection];
      failing = true;
      await pass(4_000);
      result.push(states.at(-1).connection, numbers(), states.at(-1).error);
      failing = false;
      const isOpen = ({ kind, closedAt }) => kind === "WebSocket" && closedAt === undefined;
      const findSocket = () => transports.findLast(isOpen);
      while (!findSocket()) await pass(100);
      const socket = findSocket();
      socket.accept();
      await answer(socket, 10, 8);
      result.push(numbers(), states.at(-1).connection);
      await pass(5_000);
      const polls = transports.length;
      await pass(10_000);
      result.push(transports.length - polls);
    """) == [[9, 8], "live", "reconnecting", [9, 8], None, [10, 9, 8], "live", 0]


def test_late_answer_to_a_poll_undoes_nothing() -> None:
    """A list that was pushed during a poll is newer than the answer, of which the snapshots count."""
    assert simulate("""
      let respond;
      server.answer = (path) => path === "/live/jobs" && new Promise((resolve) => { respond = resolve; });
      const socket = await open();
      const { list_id: id } = socket.sent[0];
      socket.receive({ list: { id, jobs: range(9, 7).map(idOf), next: "more", complete: true } });
      while (!respond) await pass(100); // the snapshots are missing
      await change(socket, [10], [7]);
      respond(page(9, 7, "more"));
      await pass(60);
      result = [numbers()];
      await change(socket, [11], [8]);
      result.push(numbers());
    """) == [[10, 9, 8], [11, 10, 9]]


def test_refused_list_says_why() -> None:
    """A list whose token is refused is requested no more, until there is another token; its rows stay."""
    assert simulate("""
      const socket = await open();
      await answer(socket, 9, 7);
      await pass(300);
      const { list_id } = socket.sent[0];
      socket.receive({ error: { code: "token_expired", message: "The token has expired.", list_id } });
      await pass(60);
      result = [states.at(-1).error, numbers(), socket.closedAt !== undefined];
      list.renew(token({ exp: 1767232800 }));
      await pass(2);
      last().accept();
      await pass(1);
      await answer(last(), 10, 8);
      result.push(states.at(-1).error, numbers());
    """) == [
        {"code": "token_expired", "message": "The token has expired."},
        [9, 8, 7],
        True,
        None,
        [10, 9, 8],
    ]


def test_token_is_renewed_before_it_expires() -> None:
    """A function is called for the next token before one expires, and again if it fails; the list goes on meanwhile."""
    assert simulate("""
      Math.random = () => 0.5; // of the delay before the second attempt
      let calls = 0;
      const failures = new Set([2]);
      const get = async () => {
        calls++;
        if (failures.has(calls)) throw new Error("The site is away.");
        return token({ exp: 1767225600 + 60 * calls });
      };
      const socket = await open({ token: get });
      await answer(socket, 9, 7);
      await pass(29_000);
      result = [calls];
      while (socket.sent.filter(isList).length < 2) await pass(10);
      result.push(states.some(({ error }) => error));
      await answer(socket, 9, 7);
      await pass(5_000);
      const lists = socket.sent.filter(isList).map(({ list }) => list);
      result.push(calls, new Set(lists).size, socket.sent.filter(({ unlist }) => unlist).length,
        transports.filter(({ kind }) => kind === "WebSocket").length);
    """) == [1, False, 3, 2, 1, 1]


@pytest.mark.parametrize("token", ["nonsense", "a.eyJzdWIiOiJ4In0.b", "x" * 5000])
def test_other_tokens_are_no_list(token: str) -> None:
    """A job's token, or nonsense, is an error, and opens no connection."""
    assert simulate(f"""
      list = watchJobs({{ url: "http://live.test", token: "{token}" }}, (state) => states.push(state));
      await pass(100);
      result = [states.at(-1).error.code, transports.length];
    """) == ["invalid_token", 0]


def test_another_user_sees_no_job_of_the_first() -> None:
    """A token for other jobs empties the list, and the answer to a request with the first token is ignored."""
    assert simulate("""
      const answers = [];
      server.answer = (path) => path === "/live/jobs" && new Promise((resolve) => answers.push(resolve));
      const socket = await open();
      await answer(socket, 9, 7);
      const loaded = list.more();
      list.renew(token({ filter: { owner: "bob" } }));
      await pass(60);
      result = [states.at(-1).jobs];
      answers[0](page(6, 4, null));
      await loaded;
      await answer(socket, 2, 2);
      result.push(numbers(), socket.closedAt === undefined);
    """) == [None, [2], True]


def test_job_without_a_record_leaves_no_hole() -> None:
    """A job whose record is gone is removed, and the older rows that were loaded stay."""
    assert simulate("""
      const socket = await open();
      await answer(socket, 9, 7);
      server.answer = (path) => path === "/live/jobs" && page(6, 4, null);
      await list.more();
      await pass(300);
      socket.receive({ error: { code: "unknown", message: "", job_id: idOf(8) } });
      await pass(60);
      result = [numbers()];
      await change(socket, [6], [8]);
      result.push(numbers());
    """) == [[9, 7, 6, 5, 4], [9, 7, 6, 5, 4]]


def test_pages_after_newer_jobs_continue_one_query() -> None:
    """The second page after newer jobs has the first one's query; a rejected cursor leaves the list live."""
    assert simulate("""
      const queries = [];
      const socket = await open();
      await answer(socket, 9, 7);
      await change(socket, [10], [7]);
      server.answer = (path, _tokens, url) => {
        queries.push(new URL(url).search.slice(1));
        const rejected = response(422, { code: "invalid", detail: "Expected another cursor" });
        return [page(7, 6, "a"), rejected, page(5, 4, null)][queries.length - 1];
      };
      await list.more();
      await list.more();
      await pass(60);
      result = [states.at(-1).error.code, numbers()];
      await list.more();
      await change(socket, [11], [8]);
      result.push(numbers(), queries);
    """) == [
        "invalid",
        [10, 9, 8, 7, 6],
        [11, 10, 9, 8, 7, 6, 5],
        [
            "limit=3&until=2026-01-01T00%3A00%3A00.009Z",
            "limit=3&until=2026-01-01T00%3A00%3A00.009Z&cursor=a",
            "limit=3&until=2026-01-01T00%3A00%3A00.007Z",
        ],
    ]


def test_nothing_happens_after_close() -> None:
    """A token that arrives after `close()` opens no connection, and no function is called again."""
    assert simulate("""
      result = [];
      for (const finish of ["resolve", "reject"]) {
        const calls = [];
        const get = () => new Promise((resolve, reject) => calls.push({ resolve, reject }));
        list = watchJobs({ url: "http://live.test", token: get }, (state) => states.push(state));
        await pass(2);
        list.close();
        calls[0][finish](token());
        await pass(120_000);
        result.push(calls.length, transports.length, states.length);
      }
      let calls = 0;
      const socket = await open({ token: () => token({ calls: ++calls }) });
      await answer(socket, 9, 7);
      let refuse;
      server.answer = () => new Promise((resolve) => { refuse = resolve; });
      const loaded = list.more();
      list.close();
      refuse(response(401, { code: "token_expired" }));
      await loaded;
      await pass(120_000);
      result.push(calls);
    """) == [1, 0, 0, 1, 0, 0, 1]


def test_late_token_is_ignored() -> None:
    """The token of a user who has logged out meanwhile does not replace the one of the next user."""
    assert simulate("""
      let late;
      list = watchJobs({ url: "http://live.test", token: () => new Promise((resolve) => { late = resolve; }) },
        (state) => states.push(state));
      await pass(2);
      const next = token({ filter: { owner: "bob" } });
      list.renew(next);
      late(token());
      await pass(2);
      last().accept();
      await pass(60);
      result = [last().sent.filter(isList).map(({ list }) => list === next)];
    """) == [[True]]


def test_function_without_a_token_is_called_again() -> None:
    """A function that returns no token, or throws, has an error with a text for users, and is called again."""
    assert simulate("""
      const answers = [undefined, "a.eyJzdWIiOiJ4In0.b", Error("Unexpected token '<'"), token()];
      const get = async () => {
        const next = answers.shift();
        if (next instanceof Error) throw next;
        return next;
      };
      list = watchJobs({ url: "http://live.test", token: get, limit: 3 }, (state) => states.push(state));
      const shown = new Set();
      while (!transports.length) {
        await pass(100);
        if (states.at(-1)?.error) shown.add(`${states.at(-1).error.code}: ${states.at(-1).error.message}`);
      }
      last().accept();
      await pass(1);
      await answer(last(), 9, 7);
      result = [[...shown], states.at(-1).error, numbers()];
    """) == [
        [
            "invalid_token: This is not the token of a list.",
            "no_token: No access at the moment; you may have to log in again.",
        ],
        None,
        [9, 8, 7],
    ]


def test_failing_function_is_called_less_often() -> None:
    """A function that fails is called at most once a minute in the end, and not while the page is hidden."""
    assert simulate("""
      let calls = 0;
      const get = async () => { calls++; throw new Error("Log in."); };
      list = watchJobs({ url: "http://live.test", token: get }, (state) => states.push(state));
      await pass(180_000);
      const before = calls;
      await pass(600_000);
      result = [before < 12, calls - before >= 9, calls - before <= 21];
      document.hidden = true;
      dispatch("visibilitychange");
      const hidden = calls;
      await pass(300_000);
      result.push(calls - hidden);
      document.hidden = false;
      dispatch("visibilitychange");
      await pass(2);
      result.push(calls - hidden);
    """) == [True, True, True, 0, 1]


def test_requests_have_all_filters() -> None:
    """A request repeats the parameter of a filter that has several values; the socket gets them as they are."""
    assert simulate("""
      const filter = { tag: ["csv", "customer:7"], status: "failed", since: "2026-01-01T00:00:00Z", attempts_min: 2 };
      const urls = [];
      server.answer = (path, tokens, url) => urls.push(url) && page(6, 6, null);
      const socket = await open({ filter });
      await answer(socket, 9, 7);
      list.more();
      await pass(10);
      const query = new URL(urls.at(-1)).searchParams;
      result = [socket.sent[0].filter, query.getAll("tag"), query.get("status"), query.get("attempts_min")];
    """) == [
        {"tag": ["csv", "customer:7"], "status": ["failed"], "since": "2026-01-01T00:00:00Z", "attempts_min": 2},
        ["csv", "customer:7"],
        "failed",
        "2",
    ]


def test_failed_polls_are_spread() -> None:
    """A notifier that refuses polls is polled less often, up to once a minute."""
    assert simulate("""
      const polls = () => transports.filter(({ kind }) => kind === "/live/jobs").length;
      server.answer = (path) => path === "/live/jobs" && response(429, { code: "too_many_requests" });
      list = watchJobs({ url: "http://live.test", token: token(), limit: 3 }, (state) => states.push(state));
      await pass(120_000);
      const before = polls();
      await pass(600_000);
      result = [before <= 9, polls() - before <= 14, polls() - before >= 7];
    """) == [True, True, True]


def test_error_of_a_row_ends() -> None:
    """The error of a job ends at once with another try to cancel it, and with the job's next snapshot."""
    assert simulate("""
      const socket = await open();
      await answer(socket, 9, 8);
      await pass(300);
      const refuse = async () => {
        socket.receive({ error: { code: "forbidden", message: "You may not.", job_id: idOf(9) } });
        await pass(60);
        result.push(states.at(-1).errors.size);
      };
      result = [];
      await refuse();
      list.cancel(idOf(9));
      result.push(states.at(-1).errors.size, socket.sent.at(-1).cancel === idOf(9));
      await refuse();
      socket.receive({ job: job(9, { version: 2, status: "running" }) });
      await pass(60);
      result.push(states.at(-1).errors.size);
    """) == [1, 0, True, 1, 0]


def test_other_list_is_announced_at_once() -> None:
    """The page learns that the jobs of the user before are gone even if the next list follows at once."""
    assert simulate("""
      const socket = await open();
      await answer(socket, 9, 7);
      const count = states.length;
      list.renew(token({ filter: { owner: "bob" } }));
      await pass(2);
      await answer(socket, 2, 2);
      result = states.slice(count).map((state) => numbers(state));
    """) == [None, [2]]
