"""What several files of tests on sockets share."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from services.embedded import suite
from tests.conftest import Database
from tests.gateway_calls import Stage, staged
from tests.router_stand import Stand, opened_stand


@pytest.fixture(scope="session")
async def stage() -> AsyncIterator[Stage]:
    """The whole suite without models, and two gateways. Tests bring users of their own."""
    async with suite(model_tiers=(), sample=False) as running, staged(running) as stage:
        yield stage


@pytest.fixture
async def store(database: Database) -> str:
    """Where attempts are recorded; none is there yet."""
    async with await psycopg.AsyncConnection.connect(database.admin_url) as connection:
        await connection.execute("TRUNCATE router.attempts")
    return database.url_for("router")


@pytest.fixture
async def stand(tmp_path: Path, tokens: Any, store: str) -> AsyncIterator[Stand]:
    async with opened_stand(tmp_path, tokens, store) as opened:
        yield opened
