"""Attempts on their way to the ledger: on this machine's disk before the provider is asked.

A record is in a file before `append` returns, so a crash of this process loses none; whoever
starts on the same folder sends what is there. Nobody waits for the disk itself: a crash of the
whole machine may lose the last tenth of a second, after which it is in Postgres. While Postgres is
away the files are synced, and grow up to a bound; past it the router goes on, and counts what it
could not record.
"""

import asyncio
import io
import json
import logging
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import psycopg

from services.router.accounts import Record
from services.runtime.failure import Failure, StoreUnavailable

MOST_BYTES = 64 << 20
SEGMENT_BYTES = 1 << 20
# Nobody waits for it: so many records share a transaction.
SEND_SECONDS = 0.1
RESEND_SECONDS = 1.0
WAITING, REFUSED = ".attempts", ".refused"

Send = Callable[[str], Awaitable[None]]
"""Commits a JSON array of records. Raises StoreUnavailable; psycopg.DataError for what is none."""


class Journal:
    """Records in files, each file sent and deleted as a whole; sending one twice does no harm."""

    def __init__(
        self, folder: Path, send: Send, log: logging.Logger, most_bytes: int = MOST_BYTES
    ) -> None:
        """Raises Failure where nothing can be written."""
        self._folder = folder
        self._send = send
        self._log = log
        self._most_bytes = most_bytes
        self._file: io.FileIO | None = None
        self._path = folder
        self._number = 0
        self._some = asyncio.Event()
        self._sending = asyncio.Lock()
        self.unrecorded = 0
        """Records that there was no place for."""
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._bytes = sum(file.stat().st_size for file in self._sealed())
        except OSError as error:
            raise Failure(f"the spool directory {folder}: {error.strerror}") from None
        if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
            raise Failure(f"the spool directory {folder} cannot be written")
        if self._bytes:
            self._some.set()

    def append(self, record: Record) -> None:
        """Write *record*. Never waits for Postgres and never raises."""
        line = json.dumps(record, separators=(",", ":")).encode() + b"\n"
        try:
            if self._bytes + len(line) > self._most_bytes:
                raise OSError(0, "as much waits for Postgres as may")
            self._open().write(line)
        except OSError as error:
            if not self.unrecorded:
                self._log.error("attempts are not recorded: %s", error.strerror)
            self.unrecorded += 1
            return
        self._bytes += len(line)
        self._some.set()

    def _open(self) -> io.FileIO:
        if self._file is not None and self._file.tell() >= SEGMENT_BYTES:
            self._seal()
        if self._file is None:
            self._number = max(time.time_ns(), self._number + 1)
            self._path = self._folder / f"{self._number:020d}{WAITING}"
            self._file = io.FileIO(self._path, "x")
        return self._file

    def _seal(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _sealed(self) -> list[Path]:
        current = self._path if self._file is not None else None
        return sorted(file for file in self._folder.glob(f"*{WAITING}") if file != current)

    async def send(self) -> None:
        """Return once Postgres has all that was appended before. Raises StoreUnavailable."""
        async with self._sending:
            for file in self._sealed():
                await self._send_file(file)
            self._seal()
            for file in self._sealed():
                await self._send_file(file)

    async def _send_file(self, file: Path) -> None:
        content = await asyncio.to_thread(file.read_bytes)
        lines = content.splitlines()
        if not await self._sent(lines):
            # A machine that crashed may have left a line half written: the others count.
            refused = [line for line in lines if not await self._sent([line])]
            self._log.error("%d attempts are not legible: %s", len(refused), file.stem + REFUSED)
            file.with_suffix(REFUSED).write_bytes(b"\n".join(refused))
        file.unlink()
        self._bytes -= len(content)

    async def _sent(self, lines: list[bytes]) -> bool:
        """Whether Postgres took *lines*, and did not find that they are none of its rows."""
        try:
            await self._send(array_of(lines))
        except (psycopg.DataError, psycopg.IntegrityError):
            return False
        return True

    async def run(self) -> None:
        """Send what comes, for ever; run as a task."""
        while True:
            await self._some.wait()
            self._some.clear()
            try:
                await self.send()
                await asyncio.sleep(SEND_SECONDS)
            except (StoreUnavailable, psycopg.Error, OSError) as error:
                if not isinstance(error, StoreUnavailable):
                    self._log.error("attempts wait: %s", type(error).__name__)
                self._some.set()
                await self._sync()
                await asyncio.sleep(RESEND_SECONDS)

    async def _sync(self) -> None:
        if self._file is not None:
            await asyncio.to_thread(synced, self._path)

    async def close(self) -> None:
        """Send what is left, if Postgres is there; else it stays in its files."""
        try:
            await self.send()
        except (StoreUnavailable, psycopg.Error, OSError):
            self._log.warning("some attempts wait in the spool directory")
        self._seal()


def synced(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def array_of(lines: list[bytes]) -> str:
    """A JSON array of *lines*, each of them JSON already."""
    return "[" + b",".join(lines).decode("utf-8", "replace") + "]"


@asynccontextmanager
async def open_journal(journal: Journal) -> AsyncIterator[Journal]:
    """The journal, whose records are sent meanwhile."""
    sending = asyncio.create_task(journal.run())
    try:
        yield journal
    finally:
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
        await journal.close()
