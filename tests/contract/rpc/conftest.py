"""What several files of tests on sockets share."""

from collections.abc import AsyncIterator

import pytest

from services.embedded import suite
from tests.gateway_calls import Stage, staged


@pytest.fixture(scope="session")
async def stage() -> AsyncIterator[Stage]:
    """The whole suite without models, and two gateways. Tests bring users of their own."""
    async with suite(model_tiers=(), sample=False) as running, staged(running) as stage:
        yield stage
