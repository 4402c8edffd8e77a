"""`QueuePosition` in a page simulated in Node.js: when it requests a job's position, and when it stops."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.browser.npm import CLIENT, run_node
from tests.browser.test_connection import SIMULATION

pytestmark = pytest.mark.browser

# A page that asks for the position every 250 ms, as a job's element does at least every second.
PREPARE = f"""
const {{ pass, server, transports }} = await import("{SIMULATION}");
const {{ QueuePosition }} = await import("{CLIENT}/position.js");
const answer = (status, body) => ({{ status, ok: status < 400, json: async () => body }});
let answers = 0;
let token = "a.b.c";
const position = new QueuePosition("http://live.test/base/", () => token, () => answers++);
async function show(ms, id = "1") {{
  let shown;
  for (let waited = 0; waited < ms; waited += 250) {{
    shown = position.poll(id)?.before ?? null;
    await pass(250);
  }}
  return shown;
}}
const requestTimes = () => transports.map(({{ openedAt }}) => openedAt);
"""


def simulate(script: str) -> Any:
    """Run a script in a simulated page; return the value that it leaves in `result`."""
    program = f"{PREPARE}\nlet result;\n{script}\nconsole.log(JSON.stringify(result));"
    completed = run_node(CLIENT, "--input-type=module", "--eval", program)
    assert completed.stderr == ""
    return json.loads(completed.stdout)


def test_position_is_requested_while_it_is_seen() -> None:
    """It is requested after a second and then every ten, but not for a job or on a page that is not seen."""
    shown, answers, path, times = simulate("""
      server.answer = () => answer(200, { before: 40, complete: true });
      const shown = [await show(1000), await show(30_000)];
      document.hidden = true;
      shown.push(await show(60_000));
      document.hidden = false;
      shown.push(await show(2000), await show(60_000, null), await show(500));
      result = [shown, answers, transports[0].kind, requestTimes()];
    """)
    assert shown == [None, 40, None, 40, None, None]
    assert path == "/base/live/jobs/1/position"
    assert times == [1000, 11_000, 21_000, 92_000]
    assert answers == len(times)


def test_failed_request_is_repeated() -> None:
    """After an error of the server or the network the position is unknown until the next request succeeds."""
    shown = simulate("""
      server.answer = () => answer(200, { before: 3, complete: true });
      const shown = [await show(5000)];
      server.answer = () => answer(503, {});
      shown.push(await show(10_000));
      server.answer = () => Promise.reject(new TypeError("Failed to fetch"));
      shown.push(await show(10_000));
      server.answer = () => answer(200, { before: 2, complete: true });
      shown.push(await show(10_000));
      result = shown;
    """)
    assert shown == [3, None, None, 2]


def test_silent_request_ends_when_the_next_one_is_due() -> None:
    """A server that accepts requests and never answers does not collect them; the position is unknown meanwhile."""
    answers, closed = simulate("""
      AbortSignal.timeout = (ms) => {
        const controller = new AbortController();
        setTimeout(() => controller.abort(), ms);
        return controller.signal;
      };
      await show(25_000);
      result = [answers, transports.map(({ closedAt }) => closedAt ?? null)];
    """)
    assert answers == 2
    assert closed == [11_000, 21_000, None]


@pytest.mark.parametrize("status", [401, 403, 404])
def test_refused_request_is_not_repeated(status: int) -> None:
    """A server of version 0.1, and one that refuses the token, is asked again only with another token."""
    times = simulate(f"""
      server.answer = () => answer({status}, {{}});
      await show(30_000);
      await show(1000, null);
      await show(30_000);
      token = null;
      await show(30_000);
      token = "d.e.f";
      await show(5_000);
      result = requestTimes();
    """)
    assert times == [1000, 91_000]
