"""A WebSocket as its client sees it: messages, pings, limits and closing, with a fake transport.

websockets tests the parsing of frames. These tests check what the connection does with them.
"""

from __future__ import annotations

import asyncio
import json
import random
import weakref
from collections.abc import Callable, Coroutine, Iterable
from types import SimpleNamespace
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.frames import Close, CloseCode, Frame, Opcode
from websockets.protocol import Protocol, Side

from headway.contracts import Timestamp, encode
from services.notifier import metrics
from services.notifier.settings import NotifierSettings
from services.notifier.transports.base import MAX_BUFFERED_BYTES
from services.notifier.transports.websocket.connection import MAX_LISTS, WebSocketConnection
from services.notifier.transports.websocket.frame_reader import MAX_PARSED_BYTES
from services.notifier.transports.websocket.protocol import MAX_MESSAGE_BYTES, PING
from tests.unit.services.notifier.transports.fake_transport import FakeTransport
from tests.waiting import wait_until

NOW = Timestamp.now()


class Server:
    """The handler of a connection's messages, and the client's end of it."""

    def __init__(self, **settings: float) -> None:
        defaults = {"messages_per_s": 1e6, "max_watches": 1000, "max_silence_s": 50.0, "first_message_s": 10.0}
        self.settings = cast(NotifierSettings, SimpleNamespace(**{**defaults, **settings}))
        self.messages: list[str] = []
        self.on_text: Callable[[str], Coroutine[None, None, None] | None] = lambda _text: None
        self.drained = 0
        self.transport = FakeTransport()
        self.connection = WebSocketConnection(self, cast(asyncio.Transport, self.transport), None)

    def on_open(self, connection: WebSocketConnection) -> None:
        raise AssertionError

    def on_message(self, connection: WebSocketConnection, text: str) -> Coroutine[None, None, None] | None:
        assert connection is self.connection
        self.messages.append(text)
        return self.on_text(text)

    def on_drained(self, connection: WebSocketConnection) -> None:
        self.drained += 1

    def on_close(self, connection: WebSocketConnection) -> None:
        pass

    async def receive(self, *chunks: bytes) -> list[Frame]:
        """Send bytes to the connection, wait until it has handled them, and return the frames that it wrote."""
        for chunk in chunks:
            self.connection.data_received(chunk)
        await wait_until(lambda: self.transport.reading or self.transport.aborted, poll_s=0)
        return self.transport.frames()


def client_frame(opcode: Opcode, data: bytes = b"", *, fin: bool = True) -> bytes:
    """Encode a frame of a client."""
    return Frame(opcode, data, fin).serialize(mask=True)


def text(data: str, *, fin: bool = True) -> bytes:
    """Encode a text message of a client, or its first fragment."""
    return client_frame(Opcode.TEXT, data.encode(), fin=fin)


def close(code: int, reason: str = "") -> bytes:
    """Encode a close frame of a client."""
    return client_frame(Opcode.CLOSE, Close(code, reason).serialize())


async def closed_with(*chunks: bytes, **settings: float) -> int:
    """Return the code with which the server closes after these bytes, which must be the last frame that it writes."""
    server = Server(**settings)
    *_, last = await server.receive(*chunks)
    assert last.opcode is Opcode.CLOSE
    code = Close.parse(last.data).code
    assert server.connection.close_code == code
    return code


# Messages


async def test_messages_are_handled_in_order() -> None:
    """The handler gets the text of each message, whatever its characters."""
    server = Server()
    assert await server.receive(text("a") + text("ä€😀"), text("")) == []
    assert server.messages == ["a", "ä€😀", ""]


async def test_others_have_a_turn_between_two_messages() -> None:
    """A client that sends many messages at once does not delay the other clients until all of them are handled."""
    server, handled = Server(), list[int]()
    loop = asyncio.get_running_loop()

    def take_turn() -> None:
        handled.append(len(server.messages))
        if len(server.messages) < 20:
            loop.call_soon(take_turn)

    server.connection.data_received(text("a") * 20)
    take_turn()
    await wait_until(lambda: server.transport.reading, poll_s=0)
    assert handled == list(range(1, 21))


async def test_fragments_are_joined_around_control_frames() -> None:
    """Fragments may split a character; a ping between them is answered (§5.4)."""
    first, second = client_frame(Opcode.TEXT, b"\xc3", fin=False), client_frame(Opcode.CONT, b"\xa4")
    server = Server()
    pong = await server.receive(first + client_frame(Opcode.PING, b"p"), second, text("b"))
    assert pong == [Frame(Opcode.PONG, b"p")]
    assert server.messages == ["ä", "b"]


@given(messages=st.lists(st.text(max_size=400), max_size=8), seed=st.integers())
async def test_the_size_of_chunks_does_not_matter(messages: list[str], seed: int) -> None:
    """The same messages arrive from chunks of any size."""
    server = Server()
    await server.receive(*split(b"".join(text(message) for message in messages), seed))
    assert server.messages == messages


def split(data: bytes, seed: int) -> Iterable[bytes]:
    """Split bytes into random chunks."""
    rng, start = random.Random(seed), 0
    while start < len(data):
        end = start + rng.choice([1, 2, 3, 10, 1000])
        yield data[start:end]
        start = end


async def test_a_message_may_have_64_kib() -> None:
    """The limit counts the bytes of all fragments."""
    server, half = Server(), "x" * (MAX_MESSAGE_BYTES // 2)
    await server.receive(text(2 * half), text(half, fin=False), client_frame(Opcode.CONT, half.encode()))
    assert server.messages == [2 * half, 2 * half]


async def test_one_message_is_handled_per_iteration_of_the_event_loop() -> None:
    """The connection yields and stops reading while messages wait, since verifying a token is slow."""
    server = Server()
    server.connection.data_received(10 * text("x"))
    assert (len(server.messages), server.transport.reading) == (1, False)
    await asyncio.sleep(0)
    assert (len(server.messages), server.transport.reading) == (2, False)
    await server.receive()
    assert (len(server.messages), server.transport.reading) == (10, True)


async def test_a_message_waits_for_the_one_before() -> None:
    """A message whose handling takes time delays the following ones, which keep their order."""
    server, proceed = Server(), asyncio.Event()

    async def wait() -> None:
        await proceed.wait()

    server.on_text = lambda message: wait() if message == "slow" else None
    server.connection.data_received(client_frame(Opcode.PING, b"first") + text("slow") + text("a"))
    server.connection.data_received(text("b"))
    await asyncio.sleep(0)
    assert (server.messages, server.transport.reading) == (["slow"], False)
    server.connection.reap()
    proceed.set()
    assert await server.receive() == [Frame(Opcode.PONG, b"first")]
    assert server.messages == ["slow", "a", "b"]


async def test_an_error_of_the_handler_aborts_the_connection(capsys: pytest.CaptureFixture[str]) -> None:
    """The error is logged, and no further message is handled."""

    async def fail() -> None:
        raise LookupError("a bug")

    server = Server()
    server.on_text = lambda _text: fail()
    await server.receive(text("a") + text("b"))
    assert (server.messages, server.transport.aborted) == (["a"], True)
    output = capsys.readouterr()
    assert "a bug" in output.out + output.err


async def test_a_bug_in_a_delivery_is_logged_once(capsys: pytest.CaptureFixture[str]) -> None:
    """The line names the transport, and the connection is closed: its client has missed something."""
    server = Server()
    for _ in range(2):
        server.connection.on_failure(RuntimeError("a bug"))
    assert (server.transport.aborted, server.connection.close_code) == (True, CloseCode.INTERNAL_ERROR)
    output = "".join(capsys.readouterr())
    assert (output.count("delivery_failed"), output.count("RuntimeError: a bug")) == (1, 1)
    assert "websocket" in output.split("Traceback")[0]


async def test_the_protocol_of_an_idle_connection_is_freed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between two messages nothing is kept for the next one; an incomplete one is completed, however it is split."""
    data, created = text("ä" * 40, fin=False) + client_frame(Opcode.CONT, b"b" * 200) + close(1000), []

    def open_protocol(_max_bytes: int) -> Protocol:
        protocol = Protocol(Side.SERVER)
        created.append(weakref.ref(protocol))
        return protocol

    monkeypatch.setattr("services.notifier.transports.websocket.frame_reader.open_protocol", open_protocol)
    for end in range(1, len(data)):
        server = Server()
        await server.receive(text("before"))
        server.connection.reap()
        assert [reference for reference in created if reference() is not None] == []
        server.connection.data_received(data[:end])
        server.connection.reap()
        (answer,) = await server.receive(data[end:])
        assert server.messages == ["before", "ä" * 40 + "b" * 200]
        assert Close.parse(answer.data).code == CloseCode.NORMAL_CLOSURE
        server.connection.connection_lost(None)
    assert [reference for reference in created if reference() is not None] == []


# Limits


VIOLATIONS = {
    "a message over the limit": (text("x" * (MAX_MESSAGE_BYTES + 1)), 1009),
    "the head of a message over the limit": (client_frame(Opcode.TEXT, b"x" * 70_000)[:14], 1009),
    "fragments over the limit": (text("x" * 40_000, fin=False) + client_frame(Opcode.CONT, b"x" * 40_000)[:8], 1009),
    "a binary message": (client_frame(Opcode.BINARY, b"{}"), 1003),
    "text that is not UTF-8": (client_frame(Opcode.TEXT, b"\xff\xfe"), 1007),
    "text that ends within a character": (client_frame(Opcode.TEXT, b"\xc3"), 1007),
    "a reserved opcode": (b"\x83\x80\x00\x00\x00\x00", 1002),
    "a compressed message": (b"\xc1\x80\x00\x00\x00\x00", 1002),
    "a frame without a mask": (b"\x81\x01x", 1002),
    "a continuation without a first fragment": (client_frame(Opcode.CONT, b"x"), 1002),
    "a message within another": (text("x", fin=False) + text("y"), 1002),
    "a fragmented ping": (b"\x09\x80\x00\x00\x00\x00", 1002),
    "a ping with 126 bytes": (b"\x89\xfe\x00\x7e\x00\x00\x00\x00" + bytes(126), 1002),
    "half a close code": (b"\x88\x81\x00\x00\x00\x00\x03", 1002),
    "a close code that must not be sent": (b"\x88\x82\x00\x00\x00\x00" + (1005).to_bytes(2, "big"), 1002),
    "a close reason that is not UTF-8": (b"\x88\x83\x00\x00\x00\x00\x03\xe8\xff", 1007),
}


@pytest.mark.parametrize(("data", "code"), VIOLATIONS.values(), ids=VIOLATIONS)
async def test_a_violation_closes_the_connection(data: bytes, code: int) -> None:
    """The server closes with the code of RFC 6455, and handles nothing that follows."""
    server = Server()
    frames = await server.receive(text("before") + data + text("after"))
    assert [Close.parse(frame.data).code for frame in frames] == [code]
    assert (server.messages, server.connection.closing) == (["before"], True)
    assert await server.receive(text("later") + client_frame(Opcode.PING)) == []
    assert server.messages == ["before"]


async def test_the_first_violation_decides_the_code() -> None:
    """The parser may already have met the next violation when the first one is handled."""
    binary, reserved, invalid = (
        client_frame(Opcode.BINARY, fin=False),
        b"\x83\x80abcd",
        client_frame(Opcode.TEXT, b"\xff"),
    )
    assert await closed_with(binary + reserved) == 1003
    assert await closed_with(reserved + binary) == 1002
    assert await closed_with(invalid + reserved) == 1007
    assert await closed_with(500 * text("x") + reserved, messages_per_s=0.001, max_watches=5) == 1008
    assert await closed_with(binary + close(1000)) == 1003


async def test_messages_over_the_size_limit_are_counted() -> None:
    """The client's own close code 1009 is not counted."""
    before = count_refused("message_size")
    assert await closed_with(close(1009)) == 1009
    assert await closed_with(text("x" * (MAX_MESSAGE_BYTES + 1))) == 1009
    assert count_refused("message_size") == before + 1


def count_refused(limit: str) -> float:
    """Return how often a limit was exceeded."""
    samples = [sample for family in metrics.LIMITS_EXCEEDED.collect() for sample in family.samples]
    return sum(sample.value for sample in samples if sample.labels == {"limit": limit})


@pytest.mark.parametrize("opcode", [Opcode.TEXT, Opcode.CONT, Opcode.PING, Opcode.PONG])
async def test_frames_of_each_kind_count_as_messages(opcode: Opcode) -> None:
    """A client may send a burst of the rate, two per job and one per list; the next frame closes with 1008."""
    server, before = Server(messages_per_s=0.001, max_watches=5), count_refused("messages")
    is_fragment = opcode is Opcode.CONT
    frame = client_frame(opcode, fin=not is_fragment)
    burst = 2 * 5 + MAX_LISTS
    await server.receive(text("x", fin=not is_fragment) + (burst - 1) * frame)
    assert not server.connection.closing
    *_, last = await server.receive(1_000 * frame)
    assert Close.parse(last.data) == Close(CloseCode.POLICY_VIOLATION, "too many messages")
    assert len(server.messages) <= burst
    assert await server.receive(text("later")) == []
    assert count_refused("messages") == before + 1


async def test_a_flood_is_parsed_piece_by_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rest of a large read is not parsed once the limit is exceeded."""
    sizes: list[int] = []
    parse = Protocol.receive_data

    def receive_data(protocol: Protocol, data: bytes) -> None:
        sizes.append(len(data))
        parse(protocol, data)

    monkeypatch.setattr(Protocol, "receive_data", receive_data)
    server, ping = Server(messages_per_s=0.001, max_watches=500), client_frame(Opcode.PING)
    server.connection.data_received(100_000 * ping)
    assert sizes == 2 * [MAX_PARSED_BYTES]  # 1,000 pings of 6 bytes are 1.5 pieces


# Pings


async def test_pings_are_answered() -> None:
    """The pong has the data of the ping (§5.5.3)."""
    assert await Server().receive(client_frame(Opcode.PING, b"now")) == [Frame(Opcode.PONG, b"now")]


async def test_pings_of_a_backpressured_client_are_not_answered() -> None:
    """A client that does not read cannot fill the server's memory; a violation still closes the connection."""
    server = Server()
    assert server.transport.high == MAX_BUFFERED_BYTES
    server.connection.pause_writing()
    assert await server.receive(client_frame(Opcode.PING, b"lost")) == []
    (closing,) = await server.receive(client_frame(Opcode.CONT))
    assert Close.parse(closing.data).code == CloseCode.PROTOCOL_ERROR
    server = Server()
    server.connection.pause_writing()
    server.connection.resume_writing()
    assert await server.receive(client_frame(Opcode.PING, b"x")) == [Frame(Opcode.PONG, b"x")]
    assert server.drained == 1


async def test_the_time_of_a_pong_is_measured() -> None:
    """The first pong after a ping counts; a client may also send pongs of its own accord."""
    server, pong = Server(), client_frame(Opcode.PONG)

    def measured() -> float:
        (family,) = metrics.PING_RTT.collect()
        return next(sample.value for sample in family.samples if sample.name.endswith("_count"))

    before = measured()
    await server.receive(pong)
    server.connection.heartbeat(NOW)
    await server.receive(pong, pong)
    assert measured() == before + 1


async def test_a_heartbeat_is_a_hello_and_a_ping() -> None:
    """The hello has the server's time and the longest silence; a page's script does not see the ping."""
    server = Server(max_silence_s=0.25)
    server.connection.heartbeat(NOW)
    hello, ping = server.transport.frames()
    assert hello == Frame(Opcode.TEXT, b'{"hello":{"now":%b,"silence_s":0.25}}' % encode(NOW))
    assert ping == Frame(Opcode.PING, b"")


def test_a_heartbeat_is_encoded_once_for_all_connections() -> None:
    """Every connection writes the same bytes."""
    servers = Server(), Server()
    written: list[bytes] = []
    for server in servers:
        server.transport.write = written.append  # type: ignore[assignment]
        server.connection.heartbeat(NOW)
    assert written[0] is written[1]


async def test_a_slow_consumer_gets_no_hello() -> None:
    """It would read an old time. It gets pings, so that the server notices when it is gone."""
    server = Server()
    server.connection.pause_writing()
    server.connection.heartbeat(NOW)
    assert server.transport.written == PING
    server.connection.resume_writing()
    server.connection.heartbeat(NOW)
    assert len(server.transport.frames()) == 3


async def test_no_heartbeat_follows_a_close_frame() -> None:
    """The close frame is the last one (§5.5.1)."""
    server = Server()
    server.connection.close(CloseCode.SERVICE_RESTART, "restarting")
    server.transport.frames()
    server.connection.heartbeat(NOW)
    assert server.transport.written == b""


async def test_a_silent_client_is_lost() -> None:
    """The server aborts the connection of a client that sends nothing for too long."""
    server = Server(max_silence_s=0.0)
    server.connection.heartbeat(NOW)
    assert (server.transport.aborted, server.connection.close_code) == (True, CloseCode.ABNORMAL_CLOSURE)


# Closing


@pytest.mark.parametrize(("code", "counted"), [(1000, 1000), (1001, 1001), (3000, 3000), (4999, 3000)])
async def test_a_close_frame_is_answered(code: int, counted: int) -> None:
    """The answer has the client's code, and is the last frame; all private codes count as one."""
    server = Server()
    (answer,) = await server.receive(close(code, "bye"))
    assert Close.parse(answer.data) == Close(code, "bye")
    assert (server.transport.half_closed, server.connection.close_code) == (True, counted)
    server.connection.write(PING)
    assert await server.receive(text("later"), client_frame(Opcode.PING)) == []
    assert server.messages == []


async def test_a_close_frame_may_have_no_code() -> None:
    """The answer has none either, and the metric counts it as 1005."""
    server = Server()
    assert await server.receive(client_frame(Opcode.CLOSE)) == [Frame(Opcode.CLOSE, b"")]
    assert server.connection.close_code == CloseCode.NO_STATUS_RCVD


async def test_messages_before_a_close_frame_are_handled_and_answered() -> None:
    """A client may send a message and close immediately; what the server sends comes before its close frame."""
    server = Server()

    async def answer() -> None:
        server.connection.send_error(None, "code", "answer")

    server.on_text = lambda _text: answer()
    frames = await server.receive(text("a") + text("b") + close(1000))
    assert server.messages == ["a", "b"]
    assert [frame.opcode for frame in frames] == [Opcode.TEXT, Opcode.TEXT, Opcode.CLOSE]


async def test_the_server_closes_once() -> None:
    """The first code counts, no frame follows it, and the client's answer ends the connection."""
    server = Server()
    server.connection.close(CloseCode.TRY_AGAIN_LATER, "reason")
    server.connection.close(CloseCode.POLICY_VIOLATION, "other")
    server.connection.write(PING)
    (frame,) = server.transport.frames()
    assert Close.parse(frame.data) == Close(CloseCode.TRY_AGAIN_LATER, "reason")
    assert await server.receive(text("ignored"), client_frame(Opcode.PING)) == []
    assert (server.messages, server.transport.half_closed) == ([], False)
    assert await server.receive(close(1013)) == []
    assert (server.transport.half_closed, server.connection.close_code) == (True, CloseCode.TRY_AGAIN_LATER)


async def test_a_client_that_does_not_answer_a_close_frame_is_aborted(monkeypatch: pytest.MonkeyPatch) -> None:
    """The connection waits for CLOSE_TIMEOUT_S."""
    monkeypatch.setattr("services.notifier.transports.websocket.base.CLOSE_TIMEOUT_S", 0.01)
    server = Server()
    server.connection.close(CloseCode.TRY_AGAIN_LATER, "reason")
    await wait_until(lambda: server.transport.aborted)
    assert server.connection.close_code == CloseCode.TRY_AGAIN_LATER


async def test_closing_for_a_restart_waits_for_the_client() -> None:
    """The drain ends when the connection is closed."""
    server = Server()
    closing = asyncio.ensure_future(server.connection.close_for_restart())
    await asyncio.sleep(0)
    (frame,) = server.transport.frames()
    assert Close.parse(frame.data) == Close(CloseCode.SERVICE_RESTART, "restarting")
    assert not closing.done()
    server.connection.connection_lost(None)
    await closing


async def test_a_restart_is_announced_by_a_last_hello() -> None:
    """It says within which time to reconnect. After a close frame nothing is sent."""
    server, now = Server(), Timestamp.now()
    server.connection.announce_restart(now, 0.5)
    (frame,) = server.transport.frames()
    silence_s = server.connection.settings.max_silence_s
    assert json.loads(bytes(frame.data)) == {"hello": {"now": str(now), "silence_s": silence_s, "reconnect_s": 0.5}}
    server.connection.close(CloseCode.TRY_AGAIN_LATER, "reason")
    server.connection.announce_restart(now, 0.5)
    assert [frame.opcode for frame in server.transport.frames()] == [Opcode.CLOSE]


async def test_a_client_of_a_replica_without_redis_is_sent_away() -> None:
    """It gets the code that asks it to connect again later, once."""
    server = Server()
    for _ in range(2):
        server.connection.send_away()
    (frame,) = server.transport.frames()
    assert Close.parse(frame.data) == Close(CloseCode.TRY_AGAIN_LATER, "lost Redis")
    assert server.connection.close_code == 1013
