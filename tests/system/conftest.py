"""What several files of tests on processes share."""

from collections.abc import AsyncIterator

import pytest

from services.embedded import suite
from tests.gateway_calls import Stage, staged


@pytest.fixture(scope="session")
async def crew() -> AsyncIterator[Stage]:
    """The whole suite, each service in a process of its own, without models.

    A test that kills one starts it again.
    """
    async with (
        suite(model_tiers=(), sample=False, processes=True) as running,
        staged(running, replicas=1) as stage,
    ):
        yield stage
