"""Settings of the services that use the queue; in a separate module, because it imports the Azure SDK."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Any

from headway.azure.account import check_account_url, check_api_version, check_connection_string, check_queue_name
from headway.azure.job_queue import API_VERSION, JobQueue

from .settings import Secret, SettingsError, Url
from .tracing import TracingSettings

CHECKS: dict[str, Callable[[str], None]] = {
    "queue_connection_string": check_connection_string,
    "queue_account_url": check_account_url,
    "queue_name": check_queue_name,
    "queue_api_version": check_api_version,
}


class QueueSettings(TracingSettings, frozen=True, kw_only=True):
    """Settings of a service that uses the queue. Either a connection string or an account URL is required."""

    queue_connection_string: Secret | None = None
    """The connection string of the storage account. Set either this or `QUEUE_ACCOUNT_URL`."""
    queue_account_url: Url | None = None
    """`https://<account>.queue.core.windows.net`, for access with a workload identity or managed identity."""
    queue_name: str = "jobs"
    """The queue's name, 3 to 56 lowercase letters, digits and single hyphens; `<name>-poison` is the poison queue: see
    docs/concepts.md#poison-and-redrive."""
    queue_api_version: str = API_VERSION
    """The version of Azure's API."""

    @classmethod
    def validate(cls, values: Mapping[str, Any]) -> list[str]:
        """Return the problems of the queue's settings."""
        problems = super().validate(values)
        chosen = {"queue_connection_string", "queue_account_url"} & values.keys()
        if len(chosen) != 1:
            problems.append(
                f"QUEUE_CONNECTION_STRING {'and' if chosen else 'or'} QUEUE_ACCOUNT_URL: set exactly one of them"
            )
        for name, check in CHECKS.items():
            try:
                if (value := values.get(name)) is not None:
                    check(value)
            except ValueError as error:
                problems.append(f"{name.upper()}: {error}")
        return problems

    def queue(self) -> AbstractAsyncContextManager[JobQueue]:
        """Open the queue; raise SettingsError if the Azure SDK does not accept the settings."""
        return self._open_queue(self.queue_name)

    def poison_queue(self) -> AbstractAsyncContextManager[JobQueue]:
        """Open the poison queue; raise SettingsError if the Azure SDK does not accept the settings."""
        return self._open_queue(f"{self.queue_name}-poison")

    @asynccontextmanager
    async def _open_queue(self, name: str) -> AsyncIterator[JobQueue]:
        account = self.queue_connection_string or self.queue_account_url
        assert account is not None  # noqa: S101 - `validate` has checked it
        async with AsyncExitStack() as stack:
            try:
                queue = await stack.enter_async_context(JobQueue.connect(account, name, self.queue_api_version))
            except ValueError as error:  # such as an API version or AZURE_TOKEN_CREDENTIALS that it does not know
                problem = str(error).partition("\n")[0]
                raise SettingsError([f"the settings of the queue are not accepted: {problem}"]) from error
            yield queue
