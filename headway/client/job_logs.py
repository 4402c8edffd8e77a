"""The log of a job, read by byte offset: what is stored, and then each piece as the job writes it."""

from __future__ import annotations

import asyncio
import codecs
import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from typing import TypeVar

from headway.client.links import Link
from headway.client.retries import RANGE_NOT_SATISFIABLE, REQUEST_TIMEOUT_S, RequestFailed, Response
from headway.tokens import InvalidToken

HOLD_S = 25  # how long the notifier may delay the response until there is more text
LAST_HOLD_S = 2  # after the end of the job: its worker sends the rest of the log within a second
EMPTY_READ_DELAY_S = 1.0  # after a read without text: a proxy may answer without waiting
NO_CONTENT = 204
_START, _END = re.compile(r"bytes (\d+)-"), re.compile(r"/(\d+)$")  # in a `Content-Range`

Respond = Callable[..., Awaitable[Response]]
T = TypeVar("T")


class LogAccess:
    """The link to a job, with a token for its log that is replaced when it has expired.

    Args:
        link: the link with the first token.
        find_link: returns a link with another token, or with the same one if the client cannot get another.
    """

    def __init__(self, link: Link, find_link: Callable[[], Awaitable[Link]]) -> None:
        self._link = link
        self._find_link = find_link
        self._replacing = asyncio.Lock()

    async def use(self, request: Callable[[Link], Awaitable[T]]) -> T:
        """Return the result of a function of the link, which is called again with another token if one has expired.

        Raises:
            InvalidToken: the token is invalid, or it has expired and there is no other one.
        """
        link = self._link
        try:
            return await request(link)
        except InvalidToken as error:
            if error.code != "token_expired":
                raise
            async with self._replacing:
                if self._link is link:  # otherwise another request has replaced it meanwhile
                    self._link = await self._find_link()
            if self._link.token == link.token:
                raise
        return await request(self._link)


class LogReader:
    """Reads the log of one job from a byte offset on. It skips what the notifier no longer has."""

    def __init__(self, respond: Respond, access: LogAccess, offset: int, *, retry_for_s: float) -> None:
        self._respond = respond
        self._access = access
        self._offset = offset
        self._retry_for_s = retry_for_s
        self._has_read = False
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    async def read(self, wait_s: int = 0) -> str:
        """Return the text after the last read; empty if there is none within `wait_s`."""
        response = await self._access.use(lambda link: self._request(link, wait_s))
        content_range = response.headers.get("content-range", "")
        if response.status in (NO_CONTENT, RANGE_NOT_SATISFIABLE):
            end = _END.search(content_range)
            if end and self._has_read and int(end[1]) < self._offset:
                self._offset = 0  # the log was lost with Redis, and begins again
                return await self.read(wait_s)
            return ""
        start = _START.match(content_range)
        return self._take(int(start[1]) if start else 0, response.body)

    async def _request(self, link: Link, wait_s: int) -> Response:
        headers = {"Range": f"bytes={self._offset}-"} | ({"Prefer": f"wait={wait_s}"} if wait_s else {})
        return await self._respond(
            "GET",
            f"{link.base}/live/jobs/{link.id}/log",
            token=link.token,
            headers=headers,
            retry_for_s=self._retry_for_s,
            timeout_s=wait_s + REQUEST_TIMEOUT_S,
        )

    def _take(self, start: int, body: bytes) -> str:
        text = body[max(0, self._offset - start) :]
        self._offset, self._has_read = max(self._offset, start + len(body)), True
        return self._decoder.decode(text)


async def read_stored(log: LogReader) -> AsyncGenerator[str, None]:
    """Yield what the log has now."""
    while text := await log.read():
        yield text


async def follow(log: LogReader, wait_for_end: Coroutine[None, None, None]) -> AsyncGenerator[str, None]:
    """Yield what the log has, and then each piece until the job has ended."""
    ended = asyncio.create_task(wait_for_end)
    try:
        while True:
            is_last = ended.done()
            if is_last:
                ended.result()  # raises the error of the watch, if there is one
            text = await log.read(LAST_HOLD_S) if is_last else await _read_until(log, ended)
            if text:
                yield text
            elif is_last:
                return
            else:
                await asyncio.wait({ended}, timeout=EMPTY_READ_DELAY_S)
    finally:
        ended.cancel()
        await asyncio.wait({ended})


async def _read_until(log: LogReader, ended: asyncio.Task[None]) -> str:
    """Return the next text; empty if there is none yet, or no record, or if the job ends meanwhile."""
    reading = asyncio.create_task(log.read(HOLD_S))
    try:
        await asyncio.wait({reading, ended}, return_when=asyncio.FIRST_COMPLETED)
        return reading.result() if reading.done() else ""
    except RequestFailed as error:
        if error.code != "unknown":  # a job that was just submitted has no record yet
            raise
        return ""
    finally:
        reading.cancel()
        await asyncio.wait({reading})
