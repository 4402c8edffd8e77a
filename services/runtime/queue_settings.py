"""What a service that uses the queue can be told of it: apart, since it brings Azure's SDK along."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any

from headway.azure.job_queue import API_VERSION, JobQueue

from .settings import Secret, Settings, Url


class QueueSettings(Settings, frozen=True, kw_only=True):
    """What a service that uses the queue can be told of it."""

    queue_connection_string: Secret | None = None
    queue_account_url: Url | None = None  # instead: entered by workload identity or managed identity
    queue_name: str = "jobs"
    queue_api_version: str = API_VERSION

    @classmethod
    def validate(cls, values: Mapping[str, Any]) -> list[str]:
        """There must be one way to the queue."""
        ways = {"queue_connection_string", "queue_account_url"} & values.keys()
        if len(ways) != 1:
            return [f"QUEUE_CONNECTION_STRING {'and' if ways else 'or'} QUEUE_ACCOUNT_URL: set one of them"]
        if not (values.get("queue_account_url") or "https://").startswith("https://"):
            return ["QUEUE_ACCOUNT_URL: Expected an https address: an identity is shown to no other"]
        return []

    def queue(self) -> AbstractAsyncContextManager[JobQueue]:
        """Open the queue."""
        account = self.queue_connection_string or self.queue_account_url
        assert account is not None  # noqa: S101 - as `conflicts` has it
        return JobQueue.connect(account, self.queue_name, self.queue_api_version)
