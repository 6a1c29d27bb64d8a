"""What tests stand on: real servers from wheels, databases of their own, tokens of a fresh key."""

import asyncio
import os
import re
import signal
import uuid

# Programs are started while gRPC is at work, and none of them goes on with its connections.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
# A shell starts what runs in its background deaf to Ctrl-C, and so would be the programs of tests.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import psycopg
import pytest
import redis.asyncio
from hypothesis import HealthCheck, settings
from psycopg import sql
from xdist.scheduler import LoadFileScheduling

from services.embedded_identity import Issuer, open_issuer
from services.embedded_stores import (
    MIGRATOR,
    SERVICES,
    PostgresServer,
    ValkeyServer,
    create_database,
    drop_database,
    postgres_server,
    valkey_server,
)
from services.runtime.migrations import migrate

ROOT = Path(__file__).parent.parent
# A law holds however long a machine takes to try it.
settings.register_profile("gatehouse", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("gatehouse")
# The folders whose files take longest come first, so that no worker is left with one at the end.
LONGEST_FIRST = ("system", "contract/rpc", "contract/stores", "deploy", "unit")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    folders = [ROOT / "tests" / name for name in LONGEST_FIRST]

    def place(item: pytest.Item) -> int:
        return next(at for at, each in enumerate(folders) if item.path.is_relative_to(each))

    items.sort(key=place)


@cache
def started_for(file: str) -> str:
    """The suite that a file of tests shares with others, or else the file."""
    text = (ROOT / file).read_text()
    shared = re.search(r"\b(crew|stage): Stage\b", text)
    return shared[1] if shared and "def stage(" not in text else file


class SharedScheduling(LoadFileScheduling):
    """Gives one worker all tests of a file, and all files that stand on the same suite."""

    def _split_scope(self, nodeid: str) -> str:
        return started_for(super()._split_scope(nodeid))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> SharedScheduling:
    return SharedScheduling(config, log)


@pytest.fixture(scope="session")
async def postgres() -> AsyncIterator[PostgresServer]:
    """A PostgreSQL of the run. A test that kills it takes `own_postgres`."""
    async with postgres_server(durable=False) as server:
        yield server


@pytest.fixture
async def own_postgres() -> AsyncIterator[PostgresServer]:
    """A PostgreSQL of one test, to be killed."""
    async with postgres_server(durable=False) as server:
        yield server


@dataclass(frozen=True)
class Database:
    """A fresh database with every service's schema."""

    server: PostgresServer
    name: str

    @property
    def admin_url(self) -> str:
        """The superuser's."""
        return self.server.url("postgres", self.name)

    @property
    def migrator_url(self) -> str:
        return self.server.url(MIGRATOR, self.name)

    def url_for(self, service: str) -> str:
        """What a service, out of SERVICES, connects with."""
        assert service in SERVICES
        return self.server.url(f"gatehouse_{service}", self.name)


async def migrated_database(server: PostgresServer) -> Database:
    """Make a database and lay out each service's schema in it."""
    database = Database(server, f"test_{uuid.uuid4().hex[:12]}")
    await create_database(server, database.name)
    for service in SERVICES:
        await asyncio.to_thread(migrate, database.migrator_url, service)
    return database


@pytest.fixture(scope="session")
async def template(postgres: PostgresServer) -> Database:
    """A migrated database to make others from, which is faster than to migrate each."""
    return await migrated_database(postgres)


async def copied_database(template: Database) -> Database:
    """Make a database like *template*, to which nobody may be connected."""
    database = Database(template.server, f"test_{uuid.uuid4().hex[:12]}")
    statement = sql.SQL("CREATE DATABASE {} TEMPLATE {} OWNER {}").format(
        *map(sql.Identifier, (database.name, template.name, MIGRATOR))
    )
    url = template.server.url()
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        await connection.execute(statement)
    return database


@pytest.fixture(scope="module")
async def database(template: Database) -> AsyncIterator[Database]:
    """A migrated database of this file's tests."""
    database = await copied_database(template)
    yield database
    await drop_database(database.server, database.name)


@pytest.fixture(scope="session")
async def valkey_session() -> AsyncIterator[ValkeyServer]:
    async with valkey_server() as server:
        yield server


@dataclass
class ValkeySpace:
    """A server, and a database number in it that no other running test uses."""

    server: ValkeyServer
    number: int

    @property
    def url(self) -> str:
        return f"{self.server.url}?db={self.number}"


@pytest.fixture
async def valkey(valkey_session: ValkeyServer) -> ValkeySpace:
    """An empty key space of this test."""
    space = ValkeySpace(valkey_session, 1)
    async with redis.asyncio.Redis.from_url(space.url) as client:
        await client.flushdb()
    return space


@pytest.fixture
async def own_valkey() -> AsyncIterator[ValkeyServer]:
    """A Valkey of one test, to be killed."""
    async with valkey_server() as server:
        yield server


@dataclass(frozen=True)
class Tokens:
    """Mints tokens of the run's own issuer, and says what a service needs to verify them."""

    issued_by: Issuer

    @property
    def issuer(self) -> str:
        return self.issued_by.issuer

    @property
    def audience(self) -> str:
        return self.issued_by.audience

    @property
    def jwks_file(self) -> Path:
        return self.issued_by.jwks_file

    @property
    def settings(self) -> dict[str, str]:
        """What every service's settings say about tokens."""
        return {
            "jwt_issuer": self.issuer,
            "jwt_audience": self.audience,
            "jwks": str(self.jwks_file),
        }

    def user(
        self,
        *,
        user_id: str = "",
        clinic_id: str = "",
        roles: Iterable[str] = ("user",),
        locale: str = "en-US",
        time_zone: str = "America/Sao_Paulo",
        **claims: object,
    ) -> str:
        return self.issued_by.mint(
            user_id=user_id or str(uuid.uuid4()),
            clinic_id=clinic_id or str(uuid.uuid4()),
            roles=roles,
            locale=locale,
            time_zone=time_zone,
            **claims,
        )


@pytest.fixture(scope="session")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Tokens:
    """An issuer with a key made for the run."""
    return Tokens(open_issuer(tmp_path_factory.mktemp("issuer")))


@pytest.fixture(scope="session")
def test_data() -> Path:
    """The folder of public data sets; tests that need it are skipped where it is absent."""
    folder = Path(os.environ.get("GATEHOUSE_TEST_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no test data in {folder.name}: set GATEHOUSE_TEST_DATA")
    return folder
