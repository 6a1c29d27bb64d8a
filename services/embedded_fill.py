"""Fills a suite on one machine: the clinic's domains, a premium user, a sample of records."""

import asyncio
from collections.abc import Mapping
from datetime import datetime
from zoneinfo import ZoneInfo

import grpc
from gatehouse.entitlements.v1 import entitlements_pb2 as pb
from gatehouse.entitlements.v1.entitlements_pb2_grpc import EntitlementsServiceStub

from examples.clinic import sample as samples
from examples.clinic.entities import descriptors
from services.cli import administration
from services.cli.connection import Suite as Reached
from services.cli.connection import refusal
from services.embedded_stores import StartFailed
from services.runtime.identity import Caller
from services.runtime.postgres import open_pool

SEED = 1


async def fill(addresses: Mapping[str, str], token: str, premium: str) -> None:
    """Say where the domains listen, and give *premium* their plan. Raises StartFailed."""
    try:
        await asyncio.to_thread(administered, dict(addresses), token, premium)
    except grpc.RpcError as error:
        raise StartFailed(f"the domains could not be applied: {refusal(error)}") from None


async def store_sample(clinic_url: str, clinic_id: str, now: datetime, time_zone: str) -> None:
    """Store the sample of a clinic in *time_zone* as of *now*. Raises StoreUnavailable."""
    caller = Caller(user_id="sample", clinic_id=clinic_id, roles=frozenset({"service"}))
    made = samples.make(SEED, clinic_id, now, ZoneInfo(time_zone))
    async with open_pool(clinic_url, min_size=1, max_size=1, name="sample") as pool:
        await samples.store(pool, made, caller)


def administered(addresses: dict[str, str], token: str, premium: str) -> None:
    """What an administrator does with `gatehouse domains apply` and `gatehouse assign`."""
    reached = Reached(addresses, token)
    wanted = []
    for name, offered in descriptors().items():
        descriptor = pb.DomainDescriptor()
        descriptor.CopyFrom(offered)
        descriptor.endpoint = addresses[name]
        wanted.append(descriptor)
    with reached.channel("entitlements") as channel:
        stub = EntitlementsServiceStub(channel)
        administration.apply(stub, reached, wanted)
        assign = pb.AssignUserPlanRequest(user_id=premium, plan_name="premium")
        stub.AssignUserPlan(assign, **reached.call)
