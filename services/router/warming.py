"""Connections that are open before the first call needs one: names looked up, TLS agreed on."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from services.router.catalog import Catalogue, Provider
from services.router.transport import Transport

REFUSES_KEY = (401, 403)


class Warming:
    """Opens one connection to each provider that is new in a catalogue, all side by side.

    Nothing waits for it. What it finds is for those who run the router: a provider that cannot be
    reached, or refuses the key, is told of before anybody needs it.
    """

    def __init__(self, transport: Transport, log: logging.Logger) -> None:
        self._transport = transport
        self._log = log
        self._known: set[Provider] = set()
        self._running: set[asyncio.Task[None]] = set()

    def warm(self, catalogue: Catalogue) -> None:
        """Begin with those of *catalogue* that are new, and forget those that are gone."""
        providers = {model.provider for model in catalogue.models}
        for provider in providers - self._known:
            task = asyncio.create_task(self._warm(provider))
            self._running.add(task)
            task.add_done_callback(self._running.discard)
        self._known = providers

    async def _warm(self, provider: Provider) -> None:
        status = await self._transport.warm(provider)
        if status is None:
            self._log.warning("the provider %s cannot be reached yet", provider.name)
        elif status in REFUSES_KEY:
            self._log.warning("the provider %s refuses its key", provider.name)

    async def close(self) -> None:
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)


@asynccontextmanager
async def open_warming(transport: Transport, log: logging.Logger) -> AsyncIterator[Warming]:
    warming = Warming(transport, log)
    try:
        yield warming
    finally:
        await warming.close()
