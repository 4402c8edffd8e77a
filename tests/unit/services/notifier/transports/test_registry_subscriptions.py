"""What ends a subscription, and that it frees its share of the connection's limit exactly once."""

from __future__ import annotations

import asyncio
from pathlib import Path
from uuid import UUID

import pytest

from tests.key_files import replace_file
from tests.unit.services.notifier.transports.notifier_parts import MAX_WATCHES, FakeConnection, Replica, refusals

FIRST, SECOND, THIRD, FOURTH = (UUID(int=number) for number in range(1, 5))


@pytest.fixture
def replica(keys: Path) -> Replica:
    """Return a registry, with a connection."""
    return Replica(keys)


def fill(replica: Replica) -> None:
    """Watch as many jobs as one connection may."""
    for job_id in (FIRST, SECOND, THIRD):
        replica.watch(job_id)


async def test_one_job_too_many_gets_an_error(replica: Replica) -> None:
    """The other jobs stay watched, and a second watch of one of them is none too many."""
    fill(replica)
    replica.watch(FOURTH)
    replica.watch(FIRST)
    replica.check(FIRST, SECOND, THIRD)
    assert replica.connection.errors == [(str(FOURTH), "too_many_watches")]


async def test_unwatching_frees_its_share_once(replica: Replica) -> None:
    """A job that is unwatched twice makes room for one other job."""
    fill(replica)
    for _ in range(2):
        replica.registry.unsubscribe(replica.connection, str(FIRST))
    replica.watch(FOURTH)
    replica.watch(FIRST)
    replica.check(SECOND, THIRD, FOURTH)


async def test_a_second_watch_of_a_job_takes_no_further_share(replica: Replica) -> None:
    """It replaces the first one, and ends with one unwatch."""
    for _ in range(MAX_WATCHES + 1):
        replica.watch(FIRST)
    replica.watch(SECOND)
    replica.check(FIRST, SECOND)
    replica.registry.unsubscribe(replica.connection, str(FIRST))
    replica.check(SECOND)
    assert replica.connection.errors == []


async def test_an_expired_watch_frees_its_share(replica: Replica) -> None:
    """The client gets the error `token_expired`, once, and can watch another job."""
    replica.watch(FIRST, expired=True)
    replica.watch(SECOND)
    replica.watch(THIRD)
    before = refusals("token_expired")
    await replica.sweep_until(lambda: bool(replica.connection.errors))
    replica.check(SECOND, THIRD)
    replica.watch(FOURTH)
    replica.check(SECOND, THIRD, FOURTH)
    assert replica.connection.errors == [(str(FIRST), "token_expired")]
    assert refusals("token_expired") == before + 1


async def test_a_better_token_outlives_the_first_one(replica: Replica) -> None:
    """A watch that was replaced does not expire."""
    other = replica.connect()
    replica.watch(FIRST, expired=True)
    replica.watch(FIRST)
    replica.watch(SECOND, other, expired=True)
    await replica.sweep_until(lambda: bool(other.errors))
    replica.check(FIRST)
    assert replica.connection.errors == []


async def test_watches_end_when_their_key_is_removed(replica: Replica) -> None:
    """Those of the remaining keys stay; a key that is added ends nothing."""
    signer, public_pem = replica.new_key()
    before = refusals("invalid_token")
    old_pem = replica.public_keys.read_text()
    replace_file(replica.public_keys, old_pem + public_pem)
    replica.watch(FIRST)
    replica.watch(SECOND, signer=signer)
    replica.watch(THIRD, expired=True)
    await replica.sweep_until(lambda: bool(replica.connection.errors))
    replica.check(FIRST, SECOND)
    replace_file(replica.public_keys, public_pem)
    await replica.sweep_until(lambda: len(replica.connection.errors) == 2)
    replica.check(SECOND)
    assert replica.connection.errors == [(str(THIRD), "token_expired"), (str(FIRST), "invalid_token")]
    assert refusals("invalid_token") == before + 1


async def test_an_unreadable_key_file_ends_no_watch(replica: Replica) -> None:
    """The last valid keys remain, so an accident with the file ends no watch."""
    replica.watch(FIRST)
    replica.watch(SECOND, expired=True)
    replace_file(replica.public_keys, "no key")
    await replica.sweep_until(lambda: bool(replica.connection.errors))
    replica.check(FIRST)


async def test_a_closed_connection_frees_all_its_jobs_once(replica: Replica) -> None:
    """Neither the sweep nor a second close ends them again."""
    fill(replica)
    other = replica.connect()
    replica.watch(FIRST, other)
    for _ in range(2):
        replica.registry.unregister(replica.connection)
    replica.registry.unsubscribe(replica.connection, str(FIRST))
    replica.check(FIRST, connection=other)
    replica.registry.unregister(other)
    replica.check()


async def test_a_closed_connection_watches_no_further_job(replica: Replica) -> None:
    """The last messages of a client may be handled after it has disconnected; nothing would end their watches."""
    replica.registry.unregister(replica.connection)
    replica.watch(FIRST)
    replica.check()


async def test_ending_many_watches_leaves_others_their_turn(replica: Replica) -> None:
    """A removed key may end thousands. Those that have ended meanwhile, or have a better token, are not touched."""
    connections = [replica.connect() for _ in range(100)]
    for number, connection in enumerate(connections):
        replica.watch(UUID(int=number), connection, expired=True)
    turns: list[int] = []
    renewed: list[FakeConnection] = []
    done = asyncio.Event()

    def take_turn() -> None:
        open_ones = [connection for connection in connections if not connection.errors]
        turns.append(100 - len(open_ones))
        if turns[-1] == 1 and not renewed:
            replica.registry.unregister(open_ones[0])
            replica.registry.unregister(open_ones[1])
            replica.watch(UUID(next(iter(open_ones[2].subscriptions))), open_ones[2])
            renewed.append(open_ones[2])
        if not done.is_set():
            asyncio.get_running_loop().call_soon(take_turn)

    take_turn()
    await replica.sweep_until(lambda: turns[-1] >= 97)
    await replica.sweep_until(lambda: len(turns) > 1_000)
    done.set()
    assert set(turns) == set(range(98))
    replica.check(*map(UUID, renewed[0].subscriptions), connection=renewed[0])
