"""Links to jobs: where a job is, and behind the `#`, which no browser and no client sends, the token that opens it."""

from __future__ import annotations

import re
from argparse import ArgumentTypeError
from uuid import UUID

from msgspec import Struct

LOCAL_URL = "http://127.0.0.1:8080"  # of the submitter that `make up` runs
_LINK = re.compile(r"(?P<base>https?://[^\s/?#]+[^\s?#]*?)(?P<live>/live)?/jobs/(?P<id>[^/?#]+)/?(?:#(?P<token>\S*))?")


def http_url(text: str) -> str:
    """Read the address of a service, as an option's type."""
    if not text.startswith(("http://", "https://")):
        raise ArgumentTypeError(f"expected an http(s) address, not {text!r}")
    return text.rstrip("/")


class Link(Struct, frozen=True):
    """A link to a job's page, or to its snapshot at the notifier (`live`)."""

    base: str
    live: bool
    id: UUID
    token: str

    @classmethod
    def parse(cls, text: str, token: str | None = None) -> Link:
        """Read a link; ValueError says what is wrong with it, and repeats no token.

        A token that is given apart from the link stands in for one that the link does not have.
        """
        found = _LINK.fullmatch(text.strip())
        try:
            job_id = UUID(found["id"]) if found else None
        except ValueError:
            job_id = None
        if found is None or job_id is None:
            raise ValueError(f"Expected a link such as https://…/jobs/<id>#<token>, not {text.partition('#')[0]!r}")
        own = found["token"] or (token or "").strip()
        if not own:
            raise ValueError("The link has no token behind a #, and none is given apart from it")
        return cls(found["base"], found["live"] is not None, job_id, own)

    def __repr__(self) -> str:
        return f"<Link to job {self.id}>"

    @property
    def page(self) -> str:
        """The address of the job's page, fit to be sent and shown: it opens nothing."""
        return f"{self.base}/jobs/{self.id}"
