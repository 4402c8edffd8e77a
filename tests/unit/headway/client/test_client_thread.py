"""The thread of a sync client."""

from __future__ import annotations

import asyncio
import threading
from typing import Self

from headway.client import Client
from headway.client.client_thread import ClientThread
from tests.waiting import wait_until


class SlowClient(Client):
    """A client that opens some iterations of the event loop after its first call has arrived."""

    is_open = False

    async def __aenter__(self) -> Self:
        while len(asyncio.all_tasks()) == 1:
            await asyncio.sleep(0)
        for _ in range(10):
            await asyncio.sleep(0)
        await super().__aenter__()
        self.is_open = True
        return self


async def test_a_call_waits_until_the_client_is_open() -> None:
    """A call that arrives while the client opens begins afterwards."""
    client = SlowClient()
    thread = ClientThread(client)

    async def is_open(_client: Client) -> bool:
        return client.is_open

    assert await asyncio.to_thread(thread.call, is_open)
    thread.stop()
    await asyncio.to_thread(thread.join)


async def test_a_call_in_its_own_thread_is_rejected() -> None:
    """A blocking call in the thread, for example of a finalizer or a log handler, raises instead of waiting forever."""
    thread = ClientThread(Client())
    errors: list[RuntimeError] = []

    async def call(_client: Client) -> None:
        try:
            thread.call(call)
        except RuntimeError as error:
            errors.append(error)

    threading.Thread(target=thread.call, args=(call,), daemon=True).start()
    await wait_until(lambda: errors)
    assert "own thread" in str(errors[0])
    thread.stop()
    await asyncio.to_thread(thread.join)
