"""Runs a Lua script in Redis, for many keys in one round trip."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from redis.exceptions import NoScriptError, RedisError

from .connection import Command
from .topology import RedisClient

MAX_SCRIPT_LOADS = 3  # of one call: it may be redirected to a node that does not have the script either

ScriptCall = list[Any]  # the keys, which share a slot, then the arguments of the script


class LuaScript:
    """A script, called by its hash. A node that does not have the script yet gets its full text.

    Args:
        redis: the client.
        text: the script. On a cluster, its line `SHARDED = false` is replaced.
        key_count: how many keys each call begins with.
    """

    def __init__(self, redis: RedisClient, text: bytes, key_count: int = 1) -> None:
        self._redis = redis
        self._key_count = key_count
        self._script = text.replace(b"SHARDED = false", b"SHARDED = true") if redis.sharded else text
        self._sha = hashlib.sha1(self._script, usedforsecurity=False).hexdigest()

    async def run(self, calls: Sequence[ScriptCall]) -> list[Any]:
        """Run the script once for each call, in one round trip per node, and return the replies.

        Raises:
            RedisError, OSError: Redis is unavailable, or a call failed. Any of the calls may have been applied.
        """
        replies = await self.run_each(calls)
        for reply in replies:
            if isinstance(reply, RedisError):
                raise reply
        return replies

    async def run_each(self, calls: Sequence[ScriptCall]) -> list[Any]:
        """Run the script as `run` does, and return the error of a call that failed in place of its reply."""
        replies = await self._redis.execute([self._evalsha(call) for call in calls])
        for _ in range(MAX_SCRIPT_LOADS):
            missing = [index for index, reply in enumerate(replies) if isinstance(reply, NoScriptError)]
            if not missing:
                break
            repeated = await self._redis.execute(self._eval([calls[index] for index in missing]))
            for index, reply in zip(missing, repeated, strict=True):
                replies[index] = reply
        return replies

    def _evalsha(self, call: ScriptCall) -> tuple[str, Command]:
        return call[0], ("EVALSHA", self._sha, self._key_count, *call)

    def _eval(self, calls: Sequence[ScriptCall]) -> list[tuple[str, Command]]:
        """Return the commands for nodes without the script. The first call to each node contains its text."""
        without_script = {self._redis.node_for_key(call[0]) for call in calls}
        commands: list[tuple[str, Command]] = []
        for call in calls:
            key = call[0]
            if (node := self._redis.node_for_key(key)) in without_script:
                without_script.discard(node)
                commands.append((key, ("EVAL", self._script, self._key_count, *call)))
            else:
                commands.append(self._evalsha(call))
        return commands
