"""`ServerClock`: the browser client counts by the server's clock. Runs in Node.js with a simulated monotonic clock."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.browser.npm import CLIENT, run_node

pytestmark = pytest.mark.browser

# Receive each time from the server at its moment of the page's clock, and print the server's time that the page knows.
SCRIPT = """
const { ServerClock } = await import(process.argv[1]);
let moment = 0;
globalThis.performance = { timeOrigin: 5, now: () => moment };
const clock = new ServerClock();
const known = JSON.parse(process.argv[2]).map(([at, time]) => {
  moment = at;
  if (time !== null) clock.synchronize(time);
  return clock.now();
});
console.log(JSON.stringify(known));
"""


def known_times(*received: tuple[int, int | None]) -> list[Any]:
    """Return the server's time that a page knows after each of these moments and times."""
    completed = run_node(
        CLIENT, "--input-type=module", "--eval", SCRIPT, CLIENT / "server-clock.js", json.dumps(received)
    )
    assert completed.stderr == ""
    known: list[Any] = json.loads(completed.stdout)
    return known


def test_delayed_times_do_not_set_the_clock_back() -> None:
    """A time that was held up, for example by a frozen proxy, changes the clock by no more than clocks drift apart."""
    user_time, first, late, later, prompt = known_times(
        (0, None), (0, 7000), (60_000, 9000), (60_000, 10_000), (61_000, 68_000)
    )
    assert (user_time, first) == (5, 7000)
    assert 66_900 <= later <= late <= 67_000
    assert prompt == 68_000


def test_clock_follows_the_server_after_the_machine_slept() -> None:
    """A monotonic clock that stood still is put right by the next time, and one that runs fast step by step."""
    assert known_times((0, 1000), (10, 3_600_000))[-1] == 3_600_000
    assert known_times(*[(at, at) for at in (0, 1000)], *[(at + 10, at) for at in (2000, 3000)])[-1] == 3000
