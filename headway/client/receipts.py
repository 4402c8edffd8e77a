"""Receipts of submitted jobs, and the other ways to refer to a job."""

from __future__ import annotations

from typing import Any, Generic, TypeAlias, TypeVar
from uuid import UUID

from msgspec import Struct

from headway.client.links import Link

R = TypeVar("R")


class Receipt(Struct, frozen=True):
    """An accepted job.

    Attributes:
        id: the job's id.
        token: the token, with which the job can be watched and cancelled.
        links: the addresses `page` (with the token) and `live` (the snapshot at the notifier).
    """

    id: UUID
    token: str
    links: dict[str, str]

    def __repr__(self) -> str:
        return f"<Receipt of job {self.id}>"

    @property
    def link(self) -> str:
        """The link to the job's page, with its token; everyone who has it can watch and cancel the job."""
        return self.links["page"]


class TypedReceipt(Receipt, Generic[R], frozen=True):
    """A receipt with the type of the job's result, to which `Client.result` decodes the result."""

    result_type: Any


JobRef: TypeAlias = Receipt | Link | UUID | str
