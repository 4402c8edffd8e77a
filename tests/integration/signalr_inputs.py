"""Generated requests and frames for the endpoints of SignalR, of both generations: valid, almost valid and random."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, NamedTuple
from urllib.parse import quote, quote_plus

import msgspec

from tests.hub_messages import PATH as HUB_PATH
from tests.integration.fuzz_inputs import INVALID_VALUES, FuzzInputs
from tests.integration.load_watchers import WEBSOCKET_KEY, encode_client_frame

ACTIONS = ["negotiate", "connect", "reconnect", "poll", "start", "ping", "send", "abort", "hubs", "js"]
UNUSUAL_PATHS = [
    "/signalr",
    "/signalr/",
    "/signalr//poll",
    "/signalr/%00",
    "/signalr/%ff%2f",
    f"{HUB_PATH}/",
    f"{HUB_PATH}/x",
]
METHODS = ["GET", "GET", "POST", "POST", "DELETE", "HEAD", "PUT", "OPTIONS", "BREW"]
UPGRADE = [
    "Upgrade: websocket",
    "Connection: Upgrade",
    "Sec-WebSocket-Version: 13",
    f"Sec-WebSocket-Key: {WEBSOCKET_KEY}",
]
UNUSUAL_HEADERS = [
    "Transfer-Encoding: chunked",
    "Content-Encoding: gzip",
    "Content-Type: multipart/form-data; boundary=x",
    "Content-Type: \xff",
    "Authorization: Bearer \xff",
    "Authorization: Bearer",
    "Origin: null",
    "Origin: http://page.example",
    "Expect: 100-continue",
    "Range: bytes=0-",
    "Last-Event-ID: \x00",
    "Connection: close",
    "Upgrade: h2c",
]
UNUSUAL_VALUES = [
    "",
    "0",
    "-1",
    "9" * 5_000,
    "1e400",
    "NaN",
    "null",
    "\0",
    "\ud800",
    "\u0661",
    "\u2028",
    "x" * 7_000,
    "[" * 7_000,
    '[{"name":' * 300,
    '{"I":' + "9" * 5_000 + "}",
    "00000000-0000-4000-8000-000000000000",
    "urn:uuid:00000000-0000-1000-8000-000000000000",
    "1.AAAAAAAAAAAAAAAAAAAAAA.0.AAAAAAAAAAAAAAAAAAAAAA",
    "a.b.c",
]
RAW_VALUES = [
    "%",
    "%f",
    "%zz",
    "%ff",
    "%00",
    "%u0041",
    "%ed%a0%80",
    "+",
    "\xff",
    "a=b",
    "a;b",
    "a&b",
    "#",
    "\t",
    "%0d%0aX: y",
]
RECORD_SEPARATOR = b"\x1e"
UNUSUAL_MESSAGE_PACK = [
    b"\x91\x01",  # too short
    b"\x96\xc3\x80\xa10\xa5Watch\x90\x90",  # the type is a boolean
    b"\x96\x01\x80\xa10\xa5Watch\x91\xd6\xff\x00\x00\x00\x00\x90",  # a timestamp
    b"\x96\x01\x80\xa10\xa5Watch\x91\xd7\xff\xff\xff\xff\xff\xff\xff\xff\xff\x90",  # one with too many nanoseconds
    b"\x96\x01\x80\xa10\xa5Watch\x91\xc7\x0c\xff" + b"\xff" * 12 + b"\x90",  # one beyond the last year
    b"\x96\x01\x80\xa10\xa5Watch\x91\xd4\x01\x00\x90",  # an extension
    b"\x96\x01\x80\xa10\xa5Watch\x91\x81\x80\x01\x90",  # a map as a key
    b"\x96\x01\x80\xa10\xa5Watch\x91\x81\x91\x80\x01\x90",  # a map in an array as a key
    b"\x96\x01\x80\xa10\xa5Watch\x91\x81\xcb\x7f\xf8" + b"\0" * 6 + b"\x01\x90",  # NaN as a key
    b"\x96\x01\x80\xa10\xa2\xff\xfe\x90\x90",  # a text that is not UTF-8
    b"\x96\x01\x80\xa10\xa5Watch" + b"\x91" * 10_000,  # nested deep
    b"\x96\x01\x80\xa10\xa5Watch" + b"\x81\x01" * 10_000,
    b"\x96\x01\x80\xa10\xa5Watch\xdd\xff\xff\xff\xff",  # an array that is longer than its message
    b"\x96\x01\x80\xdb\xff\xff\xff\xff",
    b"\x95\xcf" + b"\xff" * 8 + b"\x80\xa10\xa5Watch\x90",  # a large type
    b"\xc1",
    b"",
]
UNUSUAL_LENGTHS = [b"\x80", b"\xff\xff\xff\xff\xff", b"\xff\xff\xff\xff\x7f", b"\x80\x80\x80\x80\x00", b"\x00", b"\x05"]


class Session(NamedTuple):
    """What a client knows: the token of its connection, and jobs with their tokens."""

    connection: str
    jobs: list[str]
    tokens: list[str]


class SignalRInputs(FuzzInputs):
    """A generator of what the client of a session sends."""

    session: Session

    def exchanges(self) -> list[list[bytes]]:
        """Return what some connections send: a request, or some that follow each other."""
        if self._chance(0.3):
            return [self._polls()]
        return [[self._any_request()] for _ in range(self._random.randint(1, 4))]

    def _polls(self) -> list[bytes]:
        """Return the requests of a client that polls: the first one is answered at once."""
        target = f"{HUB_PATH}?{self._query(self._parameters())}"
        poll = self._request("GET", target, [], b"")
        messages = [self._request("POST", target, [], message) for message in self.messages_of_client()]
        return [poll, *messages[:1], poll, *messages[1:], poll]

    def _any_request(self) -> bytes:
        """Return a request: of a client of either generation, or one that no client sends."""
        if self._chance(0.5):
            return self._classic_request()
        if self._chance(0.9):
            return self._hub_request()
        method, path = self._choice(METHODS), self._choice(UNUSUAL_PATHS)
        return self._request(method, f"{path}?{self._query(self._parameters())}", [], self._random.randbytes(20))

    def _classic_request(self) -> bytes:
        action = self._choice(ACTIONS)
        usual = "POST" if action in ("send", "abort") else "GET"
        method = usual if self._chance(0.8) else self._choice(METHODS)
        path = f"/signalr/{self._choice([action, action, action.upper(), f'{action}/'])}"
        headers = UPGRADE if self._chance(0.2) else []
        form = self._query({"data": self._classic_call(), "messageId": self._text(12)}) if self._chance(0.8) else ""
        body = form.encode(errors="surrogateescape") if method == "POST" else b""
        return self._request(method, f"{path}?{self._query(self._parameters())}", headers, body)

    def _hub_request(self) -> bytes:
        method = self._choice(METHODS[:5]) if self._chance(0.9) else self._choice(METHODS)
        path = f"{HUB_PATH}/negotiate" if method == "POST" and self._chance(0.2) else HUB_PATH
        headers = self._choice([[], [], ["Accept: text/event-stream"], UPGRADE])
        body = b"".join(self.messages_of_client()) if method == "POST" else b""
        return self._request(method, f"{path}?{self._query(self._parameters())}", headers, body)

    def _request(self, method: str, target: str, headers: list[str], body: bytes) -> bytes:
        lines = [f"{method} {target} HTTP/1.1", "Host: x", *headers]
        if self._chance(0.1):
            lines.append(self._choice(UNUSUAL_HEADERS))
        if body or self._chance(0.1):
            size = len(body) if self._chance(0.95) else len(body) + self._choice([-1, 1, 10**9, 10**30])
            lines.append(f"Content-Length: {size}")
        return "\r\n".join([*lines, "", ""]).encode("latin-1", errors="replace") + body

    def _parameters(self) -> dict[str, str]:
        number = self._random.randrange(len(self.session.jobs))
        usual: dict[str, Callable[[], str]] = {
            "transport": lambda: self._choice(["webSockets", "serverSentEvents", "longPolling", "foreverFrame"]),
            "clientProtocol": lambda: self._choice(["1.2", "1.5", "2.1", "999.999", "1.5.0"]),
            "connectionToken": lambda: self.session.connection,
            "id": lambda: self.session.connection,
            "connectionData": lambda: self._choice(['[{"name":"jobprogresshub"}]', "[]", '[{"Name":1}]', "{}"]),
            "jobId": lambda: self.session.jobs[number],
            "access_token": lambda: self.session.tokens[number],
            "messageId": lambda: self._choice(["", "-", "9999999999999999-999", "1-10", "1-1.123456789", "d-0,1"]),
            "negotiateVersion": lambda: self._choice(["0", "1", "2"]),
        }
        parameters = {name: value() for name, value in usual.items() if self._chance(0.97)}
        if self._chance(0.05):
            parameters["access_token"] = self._choice(self.session.tokens)
        if self._chance(0.1):
            parameters[self._choice([*usual, "token", "JOBID", "data", "tid", "\0"])] = self._choice(UNUSUAL_VALUES)
        return parameters

    def _query(self, parameters: dict[str, str]) -> str:
        encode = self._choice([quote, quote_plus])
        pairs = [f"{name}={encode(value, errors='surrogatepass')}" for name, value in parameters.items()]
        if self._chance(0.1):
            name = self._choice([*parameters, "jobId", "%ff", ""])
            pairs.append(f"{name}={self._choice(RAW_VALUES)}")  # often a duplicate
        self._random.shuffle(pairs)
        return "&".join(pairs)

    def _classic_call(self) -> str:
        call = {"H": "jobprogresshub", "M": self._characters(20), "A": [self._value()], "I": self._random.randrange(9)}
        if self._chance(0.2):
            call[self._choice([*call])] = self._value()
        return json.dumps(call) if self._chance(0.8) else self._choice([self._json(), *UNUSUAL_VALUES, *INVALID_VALUES])

    def websockets(self) -> list[list[bytes]]:
        """Return what a connection sends: an upgrade request, and then valid frames, and others."""
        is_classic = self._chance(0.3)
        path = "/signalr/connect" if is_classic else HUB_PATH
        parameters = self._parameters() | {"transport": "webSockets"}
        upgrade = self._request("GET", f"{path}?{self._query(parameters)}", UPGRADE, b"")
        if is_classic:
            messages = [self._classic_call().encode(errors="surrogatepass") for _ in range(self._random.randrange(4))]
        else:
            messages = self.messages_of_client()
        frames = [frame for message in messages for frame in self._frames_of(message)]
        return [[upgrade, *frames, *(self.frames() if self._chance(0.1) else [])]]

    def _frames_of(self, message: bytes) -> list[bytes]:
        """Return a message in a frame, or in fragments."""
        opcode = self._choice([1, 2])
        if len(message) < 2 or self._chance(0.8):
            return [encode_client_frame(0x80 | opcode, message)]
        middle = self._random.randrange(len(message))
        return [encode_client_frame(opcode, message[:middle]), encode_client_frame(0x80, message[middle:])]

    def messages_of_client(self) -> list[bytes]:
        """Return what a client of the hub sends, usually after a handshake; messages may be joined or split."""
        is_json = self._chance(0.5)
        handshake = {"protocol": "json" if is_json else "messagepack", "version": 1}
        if self._chance(0.1):
            handshake[self._choice(["protocol", "version", "x"])] = self._value()
        first = json.dumps(handshake).encode() + RECORD_SEPARATOR
        messages = [
            self._json_message() if is_json else self._packed_message() for _ in range(self._random.randrange(6))
        ]
        messages = [first, *messages] if self._chance(0.9) else messages
        if self._chance(0.3):
            data = b"".join(messages)
            if data and self._chance(0.3):
                position = self._random.randrange(len(data))
                data = data[:position] + self._random.randbytes(self._random.randrange(4)) + data[position + 1 :]
            middle = self._random.randrange(len(data) + 1)
            messages = [data[:middle], data[middle:]]
        return messages

    def _json_message(self) -> bytes:
        if self._chance(0.15):
            text = self._choice([self._json(), *UNUSUAL_VALUES, *INVALID_VALUES])
            return text.encode(errors="surrogatepass") + RECORD_SEPARATOR
        names = ("type", "invocationId", "target", "arguments")
        message = {name: value for name, value in zip(names, self._message(), strict=True) if value is not None}
        if self._chance(0.1):
            message[self._choice([*names, "headers", "streamIds"])] = self._value()
        return json.dumps(message, ensure_ascii=self._chance(0.5)).encode(errors="surrogatepass") + RECORD_SEPARATOR

    def _packed_message(self) -> bytes:
        if self._chance(0.1):
            return self._choice(UNUSUAL_LENGTHS)
        if self._chance(0.15):
            body = self._choice([*UNUSUAL_MESSAGE_PACK, self._random.randbytes(20)])
        else:
            kind, invocation_id, target, arguments = self._message()
            message = [kind, {}, invocation_id, target, arguments, []]
            if self._chance(0.1):
                message[self._random.randrange(len(message))] = self._value()
            body = msgspec.msgpack.encode(message[: 6 if self._chance(0.9) else self._random.randrange(7)])
        return encode_length(len(body)) + body

    def _message(self) -> tuple[int, str | None, str, list[Any]]:
        """Return the type, invocation id, target and arguments of a message."""
        job, token = self._choice(self.session.jobs), self._choice(self.session.tokens)
        calls: list[tuple[int, str, list[Any]]] = [
            (1, "Watch", [token]),
            (1, "watch", [token, self._random.randrange(2**53), job]),
            (4, "WatchJob", [token, self._choice([None, 0, 1])]),
            (4, "WatchJob", [token]),
            (1, "Unwatch", [job]),
            (1, "Cancel", [job]),
            (5, "", []),
            (6, "", []),
        ]
        kind, target, arguments = self._choice(calls)
        if self._chance(0.1):
            kind = self._choice([0, 1, 2, 3, 4, 7, 8, 9, -1, 2**63])
        if self._chance(0.05):
            target = self._characters(100)
        if self._chance(0.1):
            arguments = [self._value() for _ in range(self._random.randrange(5))]
        ids = [None, "0", "1", "2", "", "x" * 64, "x" * 65, self._characters(9)]
        return kind, self._choice(ids[:4]) if self._chance(0.8) else self._choice(ids), target, arguments


def encode_length(length: int) -> bytes:
    """Encode the length of a message in MessagePack."""
    encoded = bytearray()
    while length > 0x7F:
        encoded.append(length & 0x7F | 0x80)
        length >>= 7
    return bytes([*encoded, length])
