"""Links to jobs: the address of a job, and its token after the `#`, which is never sent to a server."""

from __future__ import annotations

import re
from argparse import ArgumentTypeError
from contextlib import suppress
from uuid import UUID

from msgspec import Struct

LOCAL_URL = "http://127.0.0.1:8080"  # the submitter of `make up`
_PATTERN = re.compile(
    r"(?P<base>https?://[^\s/?#]+[^\s?#]*?)(?P<live>/live)?/jobs/(?P<id>[^/?#]+)/?(?:#(?P<token>\S*))?"
)


def http_url(text: str) -> str:
    """Parse the address of a service; for use as the type of a command-line option."""
    if not text.startswith(("http://", "https://")):
        raise ArgumentTypeError(f"expected an address that starts with http:// or https://, not {text!r}")
    return text.rstrip("/")


class Link(Struct, frozen=True):
    """A link to a job.

    Attributes:
        base: the address of the submitter or the notifier.
        live: whether the link leads to the snapshot at the notifier; otherwise it leads to the job's page.
        id: the job's id.
        token: the token, with which the job can be watched and perhaps cancelled.
    """

    base: str
    live: bool
    id: UUID
    token: str

    @classmethod
    def parse(cls, text: str, token: str | None = None) -> Link:
        """Parse a link, such as `https://jobs.example.com/jobs/<id>#<token>`.

        Args:
            text: the link; whitespace around it is ignored.
            token: the token to use if the link has none.

        Raises:
            ValueError: the text is not a link to a job, or there is no token. The message contains no token.
        """
        match, job_id = _match(text)
        token = match["token"] or (token or "").strip()
        if not token:
            raise ValueError("The link has no token after a #, and none was given separately")
        return cls(match["base"], match["live"] is not None, job_id, token)

    def __repr__(self) -> str:
        return f"<Link to job {self.id}>"

    @property
    def page(self) -> str:
        """The address of the job's page without the token, so it is safe to log."""
        return f"{self.base}/jobs/{self.id}"


def linked_job_id(text: str) -> UUID:
    """Return the id of the job that a link leads to; the link may have no token.

    Raises:
        ValueError: the text is not a link to a job. The message contains no token.
    """
    return _match(text)[1]


def _match(text: str) -> tuple[re.Match[str], UUID]:
    match = _PATTERN.fullmatch(text.strip())
    with suppress(ValueError):
        if match is not None:
            return match, UUID(match["id"])
    raise ValueError(f"Expected a link such as https://…/jobs/<id>#<token>, not {text.partition('#')[0]!r}")


class NotifierLinks(Struct):
    """The addresses of a job at its notifier."""

    live: str


class JobPage(Struct):
    """A job's page as JSON."""

    links: NotifierLinks
