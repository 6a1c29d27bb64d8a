"""A network between two processes on this machine, that can be slow, silent or cut."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from psycopg.conninfo import conninfo_to_dict

from services.embedded_stores import PostgresServer

CHUNK = 16 * 1024


class Link:
    """Carries connections to a port of loopback on to a Unix socket, as well as it is told to."""

    def __init__(self, socket: str) -> None:
        self._socket = socket
        self._delay = 0.0
        self._cut = False
        self._speaking = asyncio.Event()
        self._speaking.set()
        self._answering = asyncio.Event()
        self._answering.set()
        self._ends: set[asyncio.StreamWriter] = set()
        self._carrying: set[asyncio.Task[Any]] = set()
        self.address = ""

    def slow(self, seconds: float) -> None:
        """Hold each piece back for so long."""
        self._delay = seconds

    def silent(self) -> None:
        """Hold everything back, and close nothing: nobody is told."""
        self._speaking.clear()

    def half_open(self) -> None:
        """Deliver what is sent to the service, and withhold its answers; close nothing."""
        self._answering.clear()

    def cut(self) -> None:
        """Break every connection, wherever in a message it is, and let none be made."""
        self._cut = True
        for end in self._ends:
            end.transport.abort()

    def heal(self) -> None:
        self._delay, self._cut = 0.0, False
        self._speaking.set()
        self._answering.set()

    async def carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, in both directions, until either side ends it."""
        task = asyncio.current_task()
        assert task is not None
        self._carrying.add(task)
        task.add_done_callback(self._carrying.discard)
        if self._cut:
            writer.transport.abort()
            return
        ends = {writer}
        self._ends |= ends
        try:
            # Cancelled by `close` alone; the server of streams would log it as an error.
            with suppress(OSError, asyncio.CancelledError):
                there, beyond = await asyncio.open_unix_connection(self._socket)
                ends.add(beyond)
                self._ends |= ends
                await asyncio.gather(
                    self._pass(reader, beyond, self._speaking),
                    self._pass(there, writer, self._speaking, self._answering),
                )
        finally:
            self._ends -= ends
            for end in ends:
                end.transport.abort()

    async def _pass(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *open_: asyncio.Event
    ) -> None:
        """Copy one direction; each piece waits until all of *open_* are set."""
        while chunk := await reader.read(CHUNK):
            if self._delay:
                await asyncio.sleep(self._delay)
            for each in open_:
                await each.wait()
            writer.write(chunk)
            await writer.drain()
        raise ConnectionResetError  # one side has ended it, so it ends for the other

    async def close(self) -> None:
        for task in self._carrying:
            task.cancel()
        await asyncio.gather(*self._carrying, return_exceptions=True)


@asynccontextmanager
async def linked(address: str) -> AsyncIterator[Link]:
    """A link to the service at *address*, a Unix socket, whether it is there yet or not."""
    link = Link(address.removeprefix("unix:"))
    server = await asyncio.start_server(link.carry, "127.0.0.1", 0)
    link.address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield link
    finally:
        server.close()
        await link.close()


def socket_of(server: PostgresServer) -> str:
    """The socket that a Postgres listens on."""
    return f"{conninfo_to_dict(server.url())['host']}/.s.PGSQL.5432"


def over(link: Link, url: str) -> str:
    """The same database, reached over *link*."""
    parts = urlsplit(url)
    user = parts.netloc.partition("@")[0]
    return urlunsplit((parts.scheme, f"{user}@{link.address}", parts.path, "", ""))
