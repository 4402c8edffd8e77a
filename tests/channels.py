"""A recording handler for Redis channels."""

from __future__ import annotations


class RecordingHandler:
    """The channels with a publication, and those with a confirmed subscription."""

    def __init__(self) -> None:
        self.published: set[str] = set()
        self.subscribed: set[str] = set()

    def on_publication(self, channel: str, data: bytes) -> None:
        """Called with each publication: record its channel."""
        self.published.add(channel)

    def on_subscribed(self, channel: str) -> None:
        """Called when Redis confirms a subscription: record its channel."""
        self.subscribed.add(channel)
