"""Runs work on the nodes of Redis independently, so that a failed node does not hide the results of the others."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

from redis.exceptions import RedisError

from .connector import NodeAddress
from .topology import RedisClient, SlotNotCovered

T = TypeVar("T")
R = TypeVar("R")


async def run_by_node(
    redis: RedisClient, items: Sequence[T], key_of: Callable[[T], str], run: Callable[[list[T]], Awaitable[Sequence[R]]]
) -> list[R | RedisError | OSError]:
    """Call a function with the items of each node, for all nodes at once.

    Args:
        redis: the client, which knows the nodes.
        items: the items.
        key_of: returns the key of an item, which decides its node.
        run: returns the results for some items in their order.

    Returns:
        The results in the order of the items; the error of its node in place of a result that there is not.
    """
    groups: dict[NodeAddress | None, list[int]] = {}
    for index, item in enumerate(items):
        groups.setdefault(_node_of(redis, key_of(item)), []).append(index)
    results: list[Any] = [None] * len(items)

    async def run_group(group: list[int]) -> None:
        try:
            found: Sequence[R | RedisError | OSError] = await run([items[index] for index in group])
        except (RedisError, OSError) as error:
            found = [error] * len(group)
        for index, result in zip(group, found, strict=True):
            results[index] = result

    await asyncio.gather(*map(run_group, groups.values()))
    return results


def _node_of(redis: RedisClient, key: str) -> NodeAddress | None:
    try:
        return redis.node_for_key(key)
    except SlotNotCovered:
        return None
