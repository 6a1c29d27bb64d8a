"""A client that speaks HTTP/2 by frames, to do what no well-behaved one does."""

import asyncio
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, CONTINUATION = 0, 1, 3, 4, 6, 7, 9
END_STREAM, ACK, END_HEADERS = 1, 1, 4
ENHANCE_YOUR_CALM = 11

Frame = tuple[int, int, int, bytes]
"""Type, flags, stream and payload."""


class RawClient:
    """One connection; it answers nothing by itself."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    def send(self, kind: int, flags: int = 0, stream: int = 0, payload: bytes = b"") -> None:
        head = struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream)
        self._writer.write(head + payload)

    def write(self, content: bytes) -> None:
        self._writer.write(content)

    def greet(self, *, window: int = 65_535) -> None:
        """The preface and settings; a stream may send so many bytes before it has to wait."""
        self._writer.write(PREFACE)
        self.send(SETTINGS, payload=struct.pack(">HI", 4, window))

    def call(self, path: str, token: str, message: bytes, stream: int = 1) -> None:
        """A whole call of *path* (`service/method`)."""
        headers = headers_of(path, token)
        self.send(HEADERS, END_HEADERS, stream, headers)
        self.send(DATA, END_STREAM, stream, struct.pack(">BI", 0, len(message)) + message)

    async def frames(self) -> AsyncIterator[Frame]:
        """What comes, until the connection ends."""
        try:
            while True:
                head = await self._reader.readexactly(9)
                length = int.from_bytes(head[:3], "big")
                kind, flags, stream = struct.unpack(">BBI", head[3:])
                yield kind, flags, stream, await self._reader.readexactly(length)
        except (asyncio.IncompleteReadError, ConnectionError):
            return

    async def until(self, kind: int) -> Frame | None:
        """The next frame of *kind*, or None when the connection ends before."""
        async for frame in self.frames():
            if frame[0] == kind:
                return frame
        return None

    async def ended(self) -> None:
        async for _ in self.frames():
            pass


def headers_of(path: str, token: str) -> bytes:
    """The header block of a call, without compression."""
    found = {
        ":method": "POST",
        ":scheme": "http",
        ":path": f"/{path}",
        ":authority": "localhost",
        "te": "trailers",
        "content-type": "application/grpc",
        "authorization": f"Bearer {token}",
    }
    # Each literal, never indexed, with a name of its own.
    return b"".join(b"\x10" + literal(name) + literal(value) for name, value in found.items())


def literal(text: str) -> bytes:
    """A string of HPACK, uncompressed."""
    raw = text.encode()
    if len(raw) < 127:
        return bytes([len(raw)]) + raw
    rest, length = len(raw) - 127, b"\x7f"
    while rest >= 128:
        length += bytes([rest % 128 + 128])
        rest //= 128
    return length + bytes([rest]) + raw


@asynccontextmanager
async def raw_client(address: str) -> AsyncIterator[RawClient]:
    if address.startswith("unix:"):
        opened = asyncio.open_unix_connection(address.removeprefix("unix:"))
    else:
        host, _, port = address.rpartition(":")
        opened = asyncio.open_connection(host, int(port))
    reader, writer = await opened
    try:
        yield RawClient(reader, writer)
    finally:
        writer.close()
