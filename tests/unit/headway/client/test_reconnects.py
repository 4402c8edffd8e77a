"""When clients reconnect: pure arithmetic, and 20,000 clients that lose their replica in the same moment."""

from __future__ import annotations

import random

import pytest

from headway.client import reconnects
from headway.client.reconnects import ReconnectDelays

CLIENTS = 20_000
RESTART, LOST, TRY_AGAIN_LATER = 1012, 1006, 1013


@pytest.fixture(autouse=True)
def _short_delays() -> None:
    """Override the fixture of this package: these tests need the real delays, and do not wait for them."""


@pytest.mark.parametrize("code", [RESTART, LOST, None])
def test_20000_clients_spread_their_reconnects_over_two_seconds(code: int | None) -> None:
    """Each connects once, and no tenth of a second gets more than 1.2 times its share."""
    random.seed(1)
    delays = sorted(ReconnectDelays().next_s(code) for _ in range(CLIENTS))
    assert len(delays) == CLIENTS
    assert 0 <= delays[0] < delays[-1] <= 2.0
    tenths = [sum(start / 10 <= delay < (start + 1) / 10 for delay in delays) for start in range(20)]
    assert max(tenths) < 1.2 * CLIENTS / 20
    assert min(tenths) > 0.8 * CLIENTS / 20


def test_a_replica_that_drains_may_ask_for_an_earlier_reconnect() -> None:
    """Its last hello counts for the first attempt alone; after a failure the delays are as usual."""
    delays = [ReconnectDelays() for _ in range(500)]
    for delay in delays:
        delay.restart_spread_s = 0.5
    for longest in (0.5, 4):
        assert max(delay.next_s(RESTART) for delay in delays) == pytest.approx(longest, rel=0.1)


@pytest.mark.parametrize(("spread_s", "longest"), [(-1.0, 0.5), (0.0, 0.5), (1e-3, 0.5), (1e300, 2)])
def test_no_replica_can_make_its_clients_reconnect_in_a_tight_loop_or_never(spread_s: float, longest: float) -> None:
    """A time that makes no sense, in each hello, causes delays of up to half a second, or two."""
    delays = [ReconnectDelays() for _ in range(500)]
    for delay in delays:
        delay.restart_spread_s = spread_s
    assert max(delay.next_s(RESTART) for delay in delays) == pytest.approx(longest, rel=0.1)


def test_failures_make_delays_longer() -> None:
    """The longest delay doubles with each failure up to a limit; a connection that works resets it."""
    delays, rounds = [ReconnectDelays() for _ in range(500)], 6
    longest = [max(delay.next_s() for delay in delays) for _ in range(rounds)]
    assert longest == pytest.approx([2, 4, 4, 4, 4, 4], rel=0.1)
    for delay in delays:
        delay.reset()
    assert max(delay.next_s() for delay in delays) < 2.0


@pytest.mark.parametrize(("code", "longest"), [(TRY_AGAIN_LATER, 12), (503, 4), (429, 4)])
def test_an_overloaded_server_gets_a_break(code: int, longest: float) -> None:
    """No client comes back at once. After 1013 they spread over as long as after five failures."""
    delays = [ReconnectDelays().next_s(code) for _ in range(500)]
    assert min(delays) >= reconnects.MIN_OVERLOAD_DELAY_S
    assert max(delays) == pytest.approx(longest, rel=0.1)


def test_the_server_may_ask_for_a_longer_delay() -> None:
    """`Retry-After` is the least delay, whatever the status."""
    for code in (503, 502):
        assert 30 <= ReconnectDelays().next_s(code, retry_after_s=30) <= 32
