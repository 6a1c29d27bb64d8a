"""What the measurements stand on: the suite in processes, an echo, a provider that answers at once.

Everything listens on Unix sockets, the provider on loopback. The traffic stays on this machine.
"""

import itertools
import os
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import psutil
from gatehouse.entitlements.v1 import entitlements_pb2
from gatehouse.entitlements.v1.entitlements_pb2_grpc import EntitlementsServiceStub

from bench import echo
from bench.measuring import Load, loaded
from bench.programs import Started, running, started
from examples.clinic.cli import DEMO_CLINIC
from services.embedded import ADMIN, Suite, suite
from services.embedded_services import SERVICES

SECONDS = 20.0
FIRST_TOKEN_SECONDS = 0.5
PAYLOAD = bytes(256)
# A user's abuse window is kept at its usual length: nobody is counted more often in a minute.
QUERIES_A_USER = 10
USERS_IN_TURN = 1000
CALLERS = 300

CATALOGUE = """
providers: {{p: {{base_url: "{url}", max_concurrent_calls: 1000}}}}
models:
  fast: {{tier: MODEL_SPEED, provider: p, context_tokens: 9999, prices: &p {{input: 1, output: 1}}}}
  small: {{tier: MODEL_BASIC, provider: p, context_tokens: 9999, prices: *p}}
tasks: {{ANALYZE: {{tiers: [MODEL_SPEED, MODEL_BASIC], first_token_seconds: {first_token}}}}}
circuit: {{failures_in_a_row: 1000, least_attempts: 1000}}
"""
# What would send spans elsewhere, or bring a real model in.
ELSEWHERE = ("GATEHOUSE_OTLP_ENDPOINT", "GATEHOUSE_CATALOGUE", "GATEHOUSE_MODEL_URL")
# The limit is far off: what is measured is deciding, not refusing.
OVERRIDES = {"usage": {"abuse_queries": "200", "abuse_modifies": "200"}}


@dataclass
class Stand:
    """The running suite and what it is held against."""

    suite: Suite
    echo: Started
    provider: Started
    channels: dict[str, grpc.aio.Channel]
    start_seconds: float
    # Calls in the name of a service; and of one after another of many users of the clinic.
    service: dict[str, Any] = field(default_factory=dict)
    callers: Iterator[dict[str, Any]] = field(default_factory=lambda: iter(()))

    @property
    def provider_url(self) -> str:
        return self.provider.said["base_url"]

    def process(self, service: str) -> psutil.Process:
        return running(SERVICES[service].module)

    def as_user(self, user_id: str, *roles: str) -> dict[str, Any]:
        """What a call in the name of a user of the clinic carries."""
        return carrying(self.suite.token(user_id, roles=("user", *roles)))

    async def echoed(self, *, callers: int, seconds: float) -> Load:
        """The bare echo under the same load as what is held against it."""
        say = self.channels["echo"].unary_unary(echo.PATH)

        async def call() -> None:
            await say(PAYLOAD, timeout=SECONDS)

        return await loaded(self.echo.process, call, callers=callers, seconds=seconds)


def carrying(token: str) -> dict[str, Any]:
    return {"metadata": [("authorization", f"Bearer {token}")], "timeout": SECONDS}


def new_users() -> Iterator[str]:
    """Users for claims: a thousand in turn, and new ones before any has asked too often."""
    while True:
        users = [str(uuid.uuid4()) for _ in range(USERS_IN_TURN)]
        for _ in range(QUERIES_A_USER):
            yield from users


@contextmanager
def surroundings(**variables: str) -> Iterator[None]:
    """The environment without what leads off this machine, and with *variables*."""
    before = {name: os.environ.pop(name, None) for name in ELSEWHERE}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


@asynccontextmanager
async def standing() -> AsyncIterator[Stand]:
    """Everything started and filled; stopped at the end. Raises StartFailed."""
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="gatehouse-bench-")))
        provider = await stack.enter_async_context(started("bench.fault_provider"))
        echoing = await stack.enter_async_context(started("bench.echo", f"unix:{folder}/echo"))
        catalogue = folder / "catalogue.yaml"
        url = provider.said["base_url"]
        catalogue.write_text(CATALOGUE.format(url=url, first_token=FIRST_TOKEN_SECONDS))
        stack.enter_context(surroundings(GATEHOUSE_CATALOGUE=str(catalogue)))
        begun = time.monotonic()
        running_suite = await stack.enter_async_context(
            suite(processes=True, model_tiers=(), overrides=OVERRIDES)
        )
        start_seconds = time.monotonic() - begun
        addresses = {**running_suite.addresses, "echo": echoing.said["listen"]}
        channels = {
            name: await stack.enter_async_context(grpc.aio.insecure_channel(address))
            for name, address in addresses.items()
        }
        stand = Stand(running_suite, echoing, provider, channels, start_seconds)
        await filled(stand)
        yield stand


async def filled(stand: Stand) -> None:
    """A service to call as, and users whose clinic has the plan without daily limits."""
    stand.service = carrying(stand.suite.issuer.mint(user_id="bench", roles=("service",)))
    entitlements: Any = EntitlementsServiceStub(stand.channels["entitlements"])
    await entitlements.SetClinicPlan(
        entitlements_pb2.SetClinicPlanRequest(clinic_id=DEMO_CLINIC, plan_name="premium"),
        **stand.as_user(ADMIN, "admin"),
    )
    users = [stand.as_user(str(uuid.uuid4())) for _ in range(CALLERS)]
    stand.callers = itertools.cycle(users)
