"""Receipts of submitted jobs, and the other ways to refer to a job."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Generic, TypeAlias, TypeVar
from uuid import UUID

from msgspec import Struct

from headway.client.links import Link
from headway.tokens import unverified_expiry

R = TypeVar("R")


class Receipt(Struct, frozen=True):
    """An accepted job.

    Attributes:
        id: the job's id.
        token: the token, with which the job can be watched, and cancelled unless `Client.share` returned the receipt.
        links: the addresses `page` (with the token) and `live` (the snapshot at the notifier).
    """

    id: UUID
    token: str
    links: dict[str, str]

    def __repr__(self) -> str:
        return f"<Receipt of job {self.id}>"

    @property
    def link(self) -> str:
        """The link to the job's page, with its token; everyone who has it can do what the token permits."""
        return self.links["page"]

    @property
    def expires_at(self) -> datetime:
        """When the token and the job's record expire, in UTC."""
        return unverified_expiry(self.token)


class TypedReceipt(Receipt, Generic[R], frozen=True):
    """A receipt with the type of the job's result, to which `Client.result` decodes the result."""

    result_type: Any


JobRef: TypeAlias = Receipt | Link | UUID | str
