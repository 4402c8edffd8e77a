"""Settings of the services that use the queue; in a separate module, because it imports the Azure SDK."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any

from headway.azure.job_queue import API_VERSION, JobQueue

from .settings import Secret, Settings, Url


class QueueSettings(Settings, frozen=True, kw_only=True):
    """Settings of a service that uses the queue. Either a connection string or an account URL is required."""

    queue_connection_string: Secret | None = None
    """The connection string of the storage account. Set either this or `QUEUE_ACCOUNT_URL`."""
    queue_account_url: Url | None = None
    """`https://<account>.queue.core.windows.net`, for access with a workload identity or managed identity."""
    queue_name: str = "jobs"
    """The queue's name; `<name>-poison` is the poison queue: see docs/concepts.md#poison-and-redrive."""
    queue_api_version: str = API_VERSION
    """The version of Azure's API."""

    @classmethod
    def validate(cls, values: Mapping[str, Any]) -> list[str]:
        """Return the problems of the queue's settings."""
        chosen = {"queue_connection_string", "queue_account_url"} & values.keys()
        if len(chosen) != 1:
            return [f"QUEUE_CONNECTION_STRING {'and' if chosen else 'or'} QUEUE_ACCOUNT_URL: set exactly one of them"]
        if not (values.get("queue_account_url") or "https://").startswith("https://"):
            return [
                "QUEUE_ACCOUNT_URL: Expected an https URL: the credentials of an identity must not be sent unencrypted"
            ]
        return []

    def queue(self) -> AbstractAsyncContextManager[JobQueue]:
        """Return a context manager that opens the queue."""
        account = self.queue_connection_string or self.queue_account_url
        assert account is not None  # noqa: S101 - `validate` has checked it
        return JobQueue.connect(account, self.queue_name, self.queue_api_version)
