"""The connections whose first request is still coming, each with the timer that gives it up."""

from __future__ import annotations

import asyncio

_coming: dict[asyncio.BaseProtocol, asyncio.TimerHandle] = {}


def coming(protocol: asyncio.BaseProtocol, timer: asyncio.TimerHandle) -> None:
    """Take that a first request has begun, and when it is given up."""
    _coming[protocol] = timer


def came(protocol: asyncio.BaseProtocol) -> None:
    """Take that a request's head has come, whole."""
    if _coming and (timer := _coming.pop(protocol, None)):
        timer.cancel()


def give_up(protocol: asyncio.BaseProtocol) -> None:
    """Wait no more."""
    del _coming[protocol]
