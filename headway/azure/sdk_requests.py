"""How the SDK sends its requests: through a transport and a retry policy of our own, which its clients accept.

The SDK's policies and its transport take most of the CPU time of a request. This transport does without what requests
for queues do not need: other response types, streams, proxies. The retry policy signs and sends a request itself,
without the policies that would follow: logging, tracing, counting of bytes. Both are extension points that azure-core
documents, https://learn.microsoft.com/python/api/azure-core/azure.core.pipeline; docs/performance.md has the gain.
"""

from __future__ import annotations

import asyncio
import random
import time
from types import TracebackType
from typing import Any, Self
from wsgiref.handlers import format_date_time

import aiohttp
from azure.core.exceptions import (
    AzureError,
    ServiceRequestError,
    ServiceRequestTimeoutError,
    ServiceResponseError,
    ServiceResponseTimeoutError,
)
from azure.core.pipeline import PipelineRequest, PipelineResponse
from azure.core.pipeline.policies import AsyncHTTPPolicy, SansIOHTTPPolicy
from azure.core.pipeline.transport import AioHttpTransportResponse, AsyncHttpTransport
from azure.core.rest import HttpRequest
from yarl import URL

CONNECT_TIMEOUT_S, READ_TIMEOUT_S = 5, 15
MAX_RETRIES, MIN_RETRY_PAUSE_S, MAX_RETRY_PAUSE_S = 2, 0.1, 0.5  # the SDK's defaults would block for 84 s
RETRYABLE_STATUSES = frozenset({408, *range(500, 600)}) - {501, 505}


class Transport(AsyncHttpTransport[Any, Any]):
    """Sends requests with aiohttp, and reads the whole response. It raises the same errors as `AioHttpTransport`."""

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None

    async def open(self) -> None:
        """Open the session."""
        self._session = aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_S, sock_read=READ_TIMEOUT_S),
            cookie_jar=aiohttp.DummyCookieJar(),
            skip_auto_headers=("Content-Type",),  # the signature does not include the one that aiohttp would add
        )

    async def close(self) -> None:
        """Close the session and its connections."""
        if self._session is not None:
            await self._session.close()

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc_value: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        await self.close()

    async def send(self, request: HttpRequest, **_options: Any) -> LoadedResponse:
        """Send a request and return its response, without following a redirect.

        Raises:
            ServiceRequestError: the connection failed; its `inner_exception` is that of aiohttp.
            ServiceResponseError: the response is incomplete, not valid, or late.
        """
        assert self._session is not None  # noqa: S101 - the client opens its transport first
        url = URL(request.url, encoded=True)  # as it was signed
        try:
            started = await self._session.request(
                request.method, url, headers=dict(request.headers), data=request.content, allow_redirects=False
            )
        except aiohttp.ClientResponseError as error:
            raise ServiceResponseError(error, error=error) from error
        except aiohttp.ConnectionTimeoutError as error:
            raise ServiceRequestTimeoutError(error, error=error) from error
        except TimeoutError as error:
            raise ServiceResponseTimeoutError(error, error=error) from error
        except aiohttp.ClientError as error:
            raise ServiceRequestError(error, error=error) from error
        response = LoadedResponse(request, started, decompress=False)
        await response.load_body()
        return response


class LoadedResponse(AioHttpTransportResponse):  # type: ignore[misc]  # azure-core loads it lazily
    """A response with its body."""

    def text(self, encoding: str | None = None) -> str:  # noqa: ARG002 - the queue service answers in UTF-8
        """Return the body as text."""
        body: bytes = self.body()
        return body.decode("utf-8-sig")


class RequestPolicy(AsyncHTTPPolicy[Any, Any]):
    """Signs and sends requests, and repeats those that may be repeated.

    Attributes:
        credential: that of the client. A policy signs with an account key, and None means that the URL has a signature.
            Requests with an identity pass through the SDK's policies, which get its tokens.
    """

    def __init__(self, transport: Transport) -> None:
        super().__init__()
        self._transport = transport
        self.credential: Any = None

    async def send(self, request: PipelineRequest[Any]) -> PipelineResponse[Any, Any]:
        """Send a request; repeat it up to MAX_RETRIES times, or as often as the option `retry_total` says.

        Raises:
            AzureError: there is no response.
        """
        tries_left = 1 + request.context.options.pop("retry_total", MAX_RETRIES)
        while True:
            tries_left -= 1
            try:
                response = await self._send_once(request)
            except AzureError:
                if tries_left <= 0:
                    raise
            else:
                if tries_left <= 0 or response.http_response.status_code not in RETRYABLE_STATUSES:
                    return response
            await asyncio.sleep(random.uniform(MIN_RETRY_PAUSE_S, MAX_RETRY_PAUSE_S))  # noqa: S311

    async def _send_once(self, request: PipelineRequest[Any]) -> PipelineResponse[Any, Any]:
        signs = isinstance(self.credential, SansIOHTTPPolicy)
        if not signs and self.credential is not None:
            return await self.next.send(request)
        request.http_request.headers["x-ms-date"] = format_date_time(time.time())
        if signs:
            self.credential.on_request(request)
        sent = await self._transport.send(request.http_request)
        response = PipelineResponse(request.http_request, sent, request.context)
        if (on_response := request.context.options.get("raw_response_hook")) is not None:
            on_response(response)
        return response
