"""What the hub's connections have in common, whatever their transport is."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Protocol

from websockets.frames import CloseCode

from ....watching.snapshot import PublishedSnapshot
from ...base import BackpressuredConnection, ClientConnection
from ..calls import JOB_CHANGED, UPDATE_PROGRESS, WireFormat, encode_percent
from .protocols import HubProtocol


class JobEvents(Protocol):
    """What happens to the jobs that a connection watches."""

    def deliver(self, job_id: str, snapshot: PublishedSnapshot) -> bool:
        """Send a snapshot; return False if the connection has become backpressured before all of it was sent."""

    def on_error(self, job_id: str, code: str, message: str) -> None:
        """Called when a job cannot be watched."""

    def complete_streams(self, job_id: str) -> None:
        """Called when the client has the last version of a job that has ended."""


def wire_format(protocol: HubProtocol, frame: Callable[[bytes], bytes]) -> WireFormat:
    """Return the wire format of a protocol on a transport.

    Args:
        protocol: encodes the messages.
        frame: encodes messages as the transport sends them.
    """

    def changed(snapshot: PublishedSnapshot) -> bytes:
        return frame(job_changed(snapshot))

    def progressed(snapshot: PublishedSnapshot) -> bytes:
        percent = protocol.encode_value(snapshot.encoded(encode_percent))
        return frame(protocol.invocation(UPDATE_PROGRESS, percent) + job_changed(snapshot))

    def job_changed(snapshot: PublishedSnapshot) -> bytes:
        return protocol.invocation(JOB_CHANGED, snapshot.encoded(protocol.encode_snapshot))

    return WireFormat(frame, changed, progressed)


class HubConnection(ClientConnection):
    """A connection to the hub.

    Attributes:
        jobs: the jobs that it watches.
        wire_format: how it sends messages.
    """

    jobs: JobEvents
    wire_format: WireFormat
    __slots__ = ()

    @abstractmethod
    def accepts(self, protocol: HubProtocol) -> bool:
        """Return whether the transport can carry a protocol."""

    @abstractmethod
    def use_protocol(self, protocol: HubProtocol) -> None:
        """Called before the answer to a handshake: encode messages for this protocol from now on."""

    @abstractmethod
    def push(self, messages: bytes) -> None:
        """Send encoded messages."""

    @abstractmethod
    def reply(self, messages: bytes) -> None:
        """Send encoded messages that answer the client; abort a connection whose client does not read them."""

    @abstractmethod
    def send_calls(self, snapshot: PublishedSnapshot, last_percent: bytes) -> None:
        """Call the client's methods for a snapshot; `updateProgress` only with another percentage than the last one."""

    @abstractmethod
    def end(self, code: CloseCode) -> None:
        """Close the connection after what was sent; a WebSocket with a code."""

    def send_snapshot(self, job_id: str, snapshot: PublishedSnapshot) -> bool:
        """Send a snapshot; return False if the connection is backpressured."""
        return self.is_writable() and self.jobs.deliver(job_id, snapshot)

    def send_error(self, job_id: str | None, code: str, message: str) -> None:
        """Send an error about a job."""
        if job_id is not None:
            self.jobs.on_error(job_id, code, message)

    def on_up_to_date(self, job_id: str, *, ended: bool) -> None:
        """Called when the client has the last version; the streams of an ended job are complete."""
        if ended:
            self.jobs.complete_streams(job_id)


class LongLivedHubConnection(HubConnection, BackpressuredConnection):
    """A WebSocket or an event stream."""

    __slots__ = ()

    def push(self, messages: bytes) -> None:
        """Send encoded messages."""
        self.write(self.wire_format.frame(messages))

    def reply(self, messages: bytes) -> None:
        """Send encoded messages that answer the client."""
        self.send_reply(self.wire_format.frame(messages))

    def send_calls(self, snapshot: PublishedSnapshot, last_percent: bytes) -> None:
        """Call the client's methods for a snapshot."""
        self.write(self.wire_format.encode_snapshot(snapshot, last_percent))
