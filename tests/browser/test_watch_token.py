"""`watchJob()` with a function for its token in a page simulated in Node.js: tokens that expire or are refused."""

from __future__ import annotations

from typing import Any

import pytest

from tests.browser.test_connection import simulate as run

pytestmark = pytest.mark.browser

# A watch with the token of a list, whose next token lives a minute longer than the one before.
PREPARE = """
Math.random = () => 0.5; // of the delay before another attempt
const jobId = "00000000-0000-4000-8000-000000000001";
const listToken = (number) =>
  `a.${btoa(JSON.stringify({ filter: {}, exp: 1767225600 + 60 * number, scope: "details" }))}.b`;
const numberOf = (token) => (JSON.parse(atob(token.split(".")[1])).exp - 1767225600) / 60;
const texts = [];
let calls = 0;
let getToken = () => listToken(++calls);
function follow(options = {}) {
  return watchJob(
    {
      url: "http://live.test", jobId, log: true, token: async () => getToken(),
      onLog: ({ text }) => texts.push(text), onError: ({ code, cause }) => errors.push([code, cause?.message]),
      ...options,
    },
    ({ version }) => snapshots.push(version),
  );
}
async function begin(options) {
  const job = follow(options);
  await pass(2);
  await connect({}); // to a server that may be silent
  return job;
}
const sent = () => last().sent.map(({ watch, version, log }) => [numberOf(watch), version, log]);
const refuse = (code = "token_expired") => last().receive({ error: { code, message: "Refused.", job_id: jobId } });
const append = (from, text) =>
  last().receive({ log: { job_id: jobId, from, to: from + text.length, attempt: 1, text } });
"""


def simulate(script: str) -> Any:
    """Run a script in a simulated page; return the value that it leaves in `result`."""
    return run(PREPARE + script)


def test_token_is_replaced_before_it_expires() -> None:
    """The watch goes on over the same socket: what the page has is not sent to it again, and nothing is missing."""
    calls, sent, sockets, snapshots, texts, errors = simulate("""
      await begin();
      append(0, "first\\n");
      await pass(45_000);
      append(0, "first\\nsecond\\n"); // the answer to the second token may begin before what the page has
      last().receiveJob(2);
      await pass(10);
      result = [calls, sent(), transports.length, snapshots, texts, errors];
    """)
    assert calls == 2
    assert sent == [[1, None, 0], [2, 1, 6]]
    assert sockets == 1
    assert (snapshots, texts, errors) == ([1, 2], ["first\n", "second\n"], [])


def test_refused_token_is_replaced() -> None:
    """One refusal is no error. The server answers the next token, and the log goes on where it was."""
    sent, snapshots, texts, errors = simulate("""
      await begin();
      append(0, "first\\n");
      refuse();
      await pass(3_000);
      last().receiveJob(1);
      append(6, "second\\n");
      result = [sent(), snapshots, texts, errors];
    """)
    assert sent == [[1, None, 0], [2, None, 6]]
    assert snapshots == [1, 1]  # the second one says that the watch works again
    assert (texts, errors) == (["first\n", "second\n"], [])


def test_tokens_that_stay_refused_are_replaced_less_often() -> None:
    """The page learns from the second refusal on, and is asked for a token once a minute in the end."""
    early, late, errors, closed = simulate("""
      const job = await begin();
      const refuseAll = async (ms) => {
        const before = calls;
        for (let waited = 0; waited < ms; waited += 100) {
          if (last().sent.length > answered) [answered] = [last().sent.length, refuse("invalid_token")];
          await pass(100);
        }
        return calls - before;
      };
      let answered = 0;
      const counts = [await refuseAll(120_000), await refuseAll(600_000)];
      job.close();
      result = [...counts, errors.slice(0, 2), await refuseAll(120_000)];
    """)
    assert 5 <= early <= 9
    assert 9 <= late <= 21
    assert errors == [["invalid_token", None]] * 2
    assert closed == 0


def test_function_that_fails() -> None:
    """It is called again. The page learns why only while no token is accepted, and that the next one is."""
    kept, lost, snapshots, numbers = simulate("""
      getToken = () => { throw new Error("Log in."); };
      const job = follow();
      await pass(2);
      result = [[job.id, job.confirmedUntil(), transports.length, ...errors.splice(0)]];
      getToken = () => listToken(++calls);
      await pass(2_000);
      await connect({});
      getToken = () => { throw new Error("The site is away."); };
      await pass(50_000);
      result = [[...result[0], job.id === jobId, ...errors.splice(0)]];
      refuse();
      await pass(60_000);
      result.push([...new Set(errors.map(String))]);
      getToken = () => listToken(++calls + 5);
      while (last().sent.length < 2) await pass(100);
      last().receiveJob(1);
      result.push(snapshots, sent().map(([number]) => number));
    """)
    assert kept == [None, 0, 0, ["no_token", "Log in."], True]
    assert lost == ["token_expired,", "no_token,The site is away."]
    assert snapshots == [1, 1]
    assert numbers == [1, 7]


def test_notifier_that_is_away_meanwhile() -> None:
    """A token that is replaced while the connection is lost is the one that the next connection begins with."""
    sent, log_ends, sockets_at_once, texts, errors = simulate("""
      await begin();
      append(0, "first\\n");
      last().lose(1006);
      const sockets = () => transports.filter(({ kind, closedAt }) => kind === "WebSocket" && closedAt === undefined);
      let most = 0;
      for (let waited = 0; waited < 90_000 || !sockets().length; waited += 100) {
        await pass(100);
        most = Math.max(most, sockets().length);
      }
      const [socket] = sockets();
      socket.accept();
      const [request] = socket.sent;
      socket.receiveJob(1);
      socket.receive({ log: { job_id: jobId, from: 6, to: 13, attempt: 1, text: "second\\n" } });
      result = [numberOf(request.watch), request.log, most, texts, errors];
    """)
    assert sent >= 2  # the first one has expired
    assert log_ends == 6
    assert sockets_at_once == 1
    assert (texts, errors) == (["first\n", "second\n"], [])


def test_watch_that_is_closed_before_its_token_comes() -> None:
    """No connection is opened, and no callback is called. A token of another job opens nothing, either."""
    closed, other = simulate("""
      let resolve;
      const job = follow({ token: () => new Promise((done) => { resolve = done; }) });
      await pass(2);
      job.cancel();
      job.close();
      resolve(listToken(1));
      await pass(60_000);
      result = [[transports.length, errors.length]];
      follow({ jobId: undefined });
      await pass(2);
      result.push([transports.length, errors]);
    """)
    assert closed == [0, 0]
    assert other == [0, [["invalid_token", None]]]
