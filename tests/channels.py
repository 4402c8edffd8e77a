"""A channel handler that records what it is called with."""

from __future__ import annotations


class RecordingHandler:
    """Records publications and confirmed subscriptions by channel."""

    def __init__(self) -> None:
        self.published: set[str] = set()
        self.subscribed: set[str] = set()

    def on_publication(self, channel: str, data: bytes) -> None:
        """Record the channel of a publication."""
        self.published.add(channel)

    def on_subscribed(self, channel: str) -> None:
        """Record a confirmed subscription."""
        self.subscribed.add(channel)
