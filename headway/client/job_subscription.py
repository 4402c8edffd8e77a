"""A watched job of one client: its newest snapshot, and the tokens of the callers that watch it."""

from __future__ import annotations

import asyncio
from uuid import UUID

from headway.contracts import JobSnapshot
from headway.tokens import unverified_is_list, unverified_rank


class JobSubscription:
    """A watched job. Its watchers share the best of their tokens; when that is rejected, the next one takes over."""

    def __init__(self, job_id: UUID) -> None:
        self.id = job_id
        self.watchers = 0
        self.version = -1
        self.snapshot: JobSnapshot | None = None
        self.error: Exception | None = None
        self.requested: str | None = None  # the token that was sent last on this connection
        self.answered = False  # whether a snapshot has followed it
        self._tokens: list[str] = []  # the best one last
        self._changed = asyncio.Event()

    @property
    def token(self) -> str:
        """The best token."""
        return self._tokens[-1]

    def add_token(self, token: str) -> None:
        """Add the token of a watcher."""
        self._tokens = sorted({*self._tokens, token}, key=unverified_rank)

    def reject_token(self, token: str | None) -> bool:
        """Remove a token, and return whether another one is left."""
        self._tokens = [other for other in self._tokens if other != token]
        return bool(self._tokens)

    def next_request(self) -> dict[str, object] | None:
        """Return the message that requests the job with its best token, or None if it was sent already.

        An error does not name its token. So a better token waits until the one before has been answered.
        """
        if self.requested == self.token or (self.requested is not None and not self.answered):
            return None
        self.requested, self.answered = self.token, False
        # Version 0 is the placeholder of a job without a record, so the client does not have a version yet.
        version = {"version": self.version} if self.version > 0 else {}
        job_id = {"job_id": self.id} if unverified_is_list(self.token) else {}
        return {"watch": self.token, **version, **job_id}

    def forget_request(self) -> None:
        """Request the job again: on a new connection, or after its token was rejected."""
        self.requested = None

    def update(self, snapshot: JobSnapshot) -> None:
        """Store a snapshot and wake the waiting callers, if it is newer."""
        self.answered = True
        if snapshot.version > self.version:
            self.version, self.snapshot = snapshot.version, snapshot
            self.notify()

    def fail(self, error: Exception) -> None:
        """Raise an exception in all waiting callers."""
        self.error = error
        self.notify()

    def notify(self) -> None:
        """Wake all waiting callers."""
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def wait(self) -> None:
        """Wait until the next `notify`."""
        await self._changed.wait()
