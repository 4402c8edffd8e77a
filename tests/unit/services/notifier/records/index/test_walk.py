"""A walk reads the entries of many sets in one order, however many there are and however few it reads at a time."""

from __future__ import annotations

import random
from typing import Any, cast

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError

from services.notifier.records.index import hourly_sets
from services.notifier.records.index.hourly_sets import HourlySets
from services.notifier.records.index.keys import HOUR_MS, index_key
from services.notifier.records.index.query import TOP, Position
from services.notifier.records.index.walk import FoundEntry, SortedWalk, fixed_segments
from services.notifier.redis_client.topology import RedisClient

Sets = dict[str, dict[bytes, float]]


class FakeRedis:
    """Sorted sets that answer ZREVRANGEBYSCORE; a key without a set has another type."""

    def __init__(self, sets: Sets) -> None:
        self.sets = {index_key(name): members for name, members in sets.items()}
        self.round_trips = 0

    async def execute(self, commands: list[tuple[str, Any]]) -> list[Any]:
        self.round_trips += 1
        return [self.range(*command) for _, command in commands]

    def range(self, _: str, key: str, highest: float, lowest: float, *limits: Any) -> Any:
        if key not in self.sets:
            return ResponseError("WRONGTYPE")
        offset, count = limits[2:]
        entries = [(score, member) for member, score in self.sets[key].items() if lowest <= score <= highest]
        chosen = sorted(entries, reverse=True)[offset : offset + count]
        return [part for score, member in chosen for part in (member, str(score).encode())]


async def read_all(walk: SortedWalk, count: int) -> list[FoundEntry]:
    """Read all entries, some at a time."""
    found: list[FoundEntry] = []
    while group := await walk.read(count):
        found += group
    return found


@pytest.mark.parametrize("seed", range(30))
async def test_a_walk_has_the_order_of_one_set(seed: int) -> None:
    """With sets of any sizes, several in each segment, equal scores, and a start in the middle."""
    choose = random.Random(seed)
    segments: list[list[str]] = []
    sets: Sets = {}
    for hour in range(choose.randrange(1, 12), 0, -1):
        segments.append([f"{hour}:{kind}" for kind in range(choose.randrange(1, 4))])
        for name in segments[-1]:
            scores = [10 * hour + choose.randrange(choose.choice((1, 10))) for _ in range(choose.randrange(25))]
            sets[name] = {choose.randbytes(2): score for score in scores}
    expected = [FoundEntry(Position(score, member), name) for name in sets for member, score in sets[name].items()]
    start = choose.choice([TOP, *(entry.position for entry in expected)])
    lowest = choose.choice([float("-inf"), 10.0 * choose.randrange(12)])
    walk = SortedWalk(
        cast(RedisClient, FakeRedis(sets)), fixed_segments(*segments), start, lowest=lowest, on_wrong_type=print
    )
    expected = [entry for entry in expected if entry.position < start and entry.position.score >= lowest]
    assert await read_all(walk, choose.randrange(1, 9)) == sorted(expected, reverse=True)


async def test_empty_segments_are_read_together() -> None:
    """A week without a job of a kind costs a few round trips."""
    redis = FakeRedis({str(hour): {} for hour in range(168)} | {"last": {b"a": 1.0}})
    segments = fixed_segments(*([str(hour)] for hour in range(168)), ["last"])
    walk = SortedWalk(cast(RedisClient, redis), segments, TOP, lowest=0, on_wrong_type=print)
    assert [entry.name for entry in await walk.read(50)] == ["last"]
    assert redis.round_trips < 10


async def test_a_key_of_another_type_is_reported() -> None:
    """The other sets are read; any other error is raised."""
    wrong: list[str] = []
    redis = FakeRedis({"right": {b"a": 1.0}})
    walk = SortedWalk(
        cast(RedisClient, redis), fixed_segments(["wrong", "right"]), TOP, lowest=0, on_wrong_type=wrong.append
    )
    assert [entry.name for entry in await walk.read(1)] == ["right"]
    assert wrong == ["wrong"]

    async def fail(_commands: Any) -> list[Any]:
        return [RedisConnectionError()]

    redis.execute = fail  # type: ignore[method-assign, assignment]
    walk = SortedWalk(cast(RedisClient, redis), fixed_segments(["a"]), TOP, lowest=0, on_wrong_type=wrong.append)
    with pytest.raises(RedisConnectionError):
        await walk.read(1)


async def test_the_sets_of_an_hour_stay_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Although the directory is read in parts; of an hour with too many sets, some are left out."""
    monkeypatch.setattr(hourly_sets, "NAMES_PER_READ", 3)
    monkeypatch.setattr(hourly_sets, "MAX_SETS", 4)
    names = {f"k:{kind}:{hour}": float(hour) for hour in range(9) for kind in range(1 + hour % 6)}
    redis = cast(RedisClient, FakeRedis({"hours:k": {name.encode(): hour for name, hour in names.items()}}))
    sets = HourlySets(redis, "hours:k", lambda name: not name.startswith("k:0:"), print)
    found = [set(segment) async for segment in sets.segments(8.5 * HOUR_MS, 4 * HOUR_MS)]
    expected = [{f"k:{kind}:{hour}" for kind in range(1, 1 + hour % 6)} for hour in (8, 7, 5, 4)]
    assert [len(segment) for segment in found] == [2, 1, 4, 4]
    assert all(one <= other for one, other in zip(found, expected, strict=True))
    assert sets.is_cut


async def test_a_directory_of_another_type_has_no_sets() -> None:
    """It is reported, and will be rebuilt."""
    wrong: list[str] = []
    sets = HourlySets(cast(RedisClient, FakeRedis({})), "hours:k", lambda _: True, wrong.append)
    assert [segment async for segment in sets.segments(float("inf"), float("-inf"))] == []
    assert wrong == ["hours:k"]
