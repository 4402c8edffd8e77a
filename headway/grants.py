"""Grants: what the bearer of a token may do, with one job or with all jobs of a filter."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import msgspec
from msgspec import Struct

from headway.contracts import MAX_NAME_LENGTH, Timestamp, truncate
from headway.labels import JobFilter

AUDIENCE = "headway-live"
LEEWAY_S = 30  # how far the clocks of two machines may differ
WATCH = "watch"
CANCEL = "cancel"
LIST = "list"
DETAILS = "details"
OPERATE = "operate"
SCOPES = (WATCH, CANCEL, LIST, DETAILS, OPERATE)
READ_ALL = f"{LIST} {DETAILS}"  # with exactly this scope, every API key may read all jobs


class _Expiring(Struct, frozen=True, kw_only=True):
    """What every grant has: the scope, a set of `SCOPES`, the lifetime, and the API key that asked for it.

    Name and id of the key are in tokens with the scope `operate` or `details` only: actions are logged with the name,
    and the id, the beginning of the key's digest, tells whether the key still exists.
    """

    scope: frozenset[str] = frozenset({WATCH, CANCEL})
    expires_at: Timestamp
    by: str | None = None
    key_id: str | None = None

    def permits(self, scope: str) -> bool:
        """Return whether the grant has a scope. The bearer of `details` or `operate` may also watch and list."""
        return scope in self.scope or (scope in (WATCH, LIST) and not self.scope.isdisjoint((DETAILS, OPERATE)))

    def is_expired(self, now: Timestamp) -> bool:
        """Return whether the grant has expired."""
        return self.valid_until < now

    @property
    def valid_until(self) -> Timestamp:
        """The time until which the token is accepted: its expiry plus `LEEWAY_S`."""
        return self.expires_at.after(LEEWAY_S)

    def _common_claims(self, issued_at: Timestamp) -> dict[str, Any]:
        scope = " ".join(name for name in SCOPES if name in self.scope)
        claims = {"iat": issued_at / 1000, "exp": self.expires_at / 1000, "aud": AUDIENCE, "scope": scope}
        key = {name: value for name, value in (("by", self.by), ("key", self.key_id)) if value is not None}
        return claims | key if key and {OPERATE, DETAILS} & self.scope else claims


class Grant(_Expiring, frozen=True, kw_only=True):
    """The access to one job.

    Attributes:
        job_id: the job.
        kind: its kind, for a snapshot before there is a record.
        submitted_at: when it was submitted.
        due_at: when it may start.
        requires_record: whether the job must have a record; otherwise a job without one is a queued job.
        filter: what the record must match; of a job that a list token opens.
    """

    job_id: UUID
    kind: str
    submitted_at: Timestamp
    due_at: Timestamp | None = None
    requires_record: bool = False
    filter: JobFilter | None = None

    def claims(self) -> dict[str, Any]:
        """Return the claims of the JWT."""
        due = {} if self.due_at is None else {"due": self.due_at / 1000}
        record = {"record": True} if self.requires_record else {}
        claims = self._common_claims(self.submitted_at)
        return {"sub": str(self.job_id), "kind": self.kind, **claims, **due, **record}


class ListGrant(_Expiring, frozen=True, kw_only=True):
    """The access to all jobs that match a filter.

    Attributes:
        filter: what the jobs must match.
        issued_at: when the token was issued.
        signed_in_at: when an API key asked for the first token of the session; None if the token is not renewable.
    """

    filter: JobFilter
    issued_at: Timestamp
    signed_in_at: Timestamp | None = None

    def for_job(self, job_id: UUID) -> Grant:
        """Return the access to one job, which must have a record that matches the filter."""
        return Grant(
            job_id=job_id,
            kind="",
            submitted_at=self.issued_at,
            expires_at=self.expires_at,
            scope=self.scope,
            requires_record=True,
            filter=self.filter,
            by=self.by,
            key_id=self.key_id,
        )

    def claims(self) -> dict[str, Any]:
        """Return the claims of the JWT."""
        claims = {"filter": msgspec.to_builtins(self.filter), **self._common_claims(self.issued_at)}
        if self.signed_in_at is not None and "key" in claims:
            claims["auth_time"] = self.signed_in_at / 1000
        return claims


def grant_from_claims(claims: dict[str, Any]) -> Grant | ListGrant:
    """Return the grant of a JWT with these claims.

    Raises:
        KeyError, TypeError, ValueError, OverflowError: a claim is missing or invalid.
    """
    issued_at, expires_at = Timestamp.at(claims["iat"]), Timestamp.at(claims["exp"])
    scope, by = frozenset(str(claims["scope"]).split()), claims.get("by")
    by = None if by is None else truncate(str(by), MAX_NAME_LENGTH)
    key_id = None if "key" not in claims else truncate(str(claims["key"]), MAX_NAME_LENGTH)
    if "filter" in claims:
        job_filter = msgspec.convert(claims["filter"], JobFilter)
        signed_in = claims.get("auth_time")
        return ListGrant(
            filter=job_filter,
            issued_at=issued_at,
            expires_at=expires_at,
            scope=scope,
            by=by,
            key_id=key_id,
            signed_in_at=None if signed_in is None else Timestamp.at(signed_in),
        )
    due = claims.get("due")
    return Grant(
        job_id=UUID(claims["sub"]),
        kind=str(claims.get("kind", "countdown")).encode().decode(),  # raises UnicodeError for lone surrogates
        submitted_at=issued_at,
        expires_at=expires_at,
        due_at=None if due is None else Timestamp.at(due),
        scope=scope,
        requires_record=bool(claims.get("record", False)),
        by=by,
        key_id=key_id,
    )
