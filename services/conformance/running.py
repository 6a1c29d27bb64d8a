"""Runs the checks, one after the other, against one domain."""

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field

import grpc
import grpc.aio
from gatehouse.domain.v1 import domain_pb2 as pb
from gatehouse.domain.v1.domain_pb2_grpc import DomainServiceStub

# Each adds its checks, which are run and told in this order.
# isort: off
from services.conformance import serving, describing, identity, writing, selecting  # noqa: F401
from services.conformance import validating, confirming, atomicity, idempotency, settling  # noqa: F401
from services.conformance import deadlines, measuring, refusing  # noqa: F401

# isort: on
from services.conformance.callers import Callers
from services.conformance.findings import Check, Finding, NotTried, Verdict, Wrong
from services.conformance.samples import Kind, Sample, UnusableSample
from services.conformance.subject import DEADLINE_SECONDS, Subject, told_error

# A check makes some dozens of calls.
CHECK_SECONDS = 60.0


class UnusableDomain(Exception):
    """Nothing can be checked; the message says why."""


@dataclass(frozen=True)
class Plan:
    """What is to be checked, and with what."""

    checks: Sequence[Check]
    entity: str = ""
    samples: Mapping[str, Sample] = field(default_factory=dict)


@dataclass
class Left:
    """How many records of the checks could not be deleted."""

    behind: int = 0


async def check_domain(
    channel: grpc.aio.Channel, callers: Callers, plan: Plan, left: Left
) -> AsyncGenerator[Finding, None]:
    """Each check's finding as it ends. What they have made is deleted at last.

    Raises UnusableDomain where there is nothing to check.
    """
    subject = await opened(channel, callers, plan)
    try:
        for each in plan.checks:
            yield await finding_of(each, subject)
    finally:
        left.behind = await subject.clear()


async def opened(channel: grpc.aio.Channel, callers: Callers, plan: Plan) -> Subject:
    stub = DomainServiceStub(channel)
    metadata = [("authorization", f"Bearer {callers.user}")]
    try:
        described = await stub.Describe(
            pb.DescribeRequest(), timeout=DEADLINE_SECONDS, metadata=metadata
        )
    except grpc.aio.AioRpcError as error:
        raise UnusableDomain(f"Describe answers {told_error(error)}") from None
    subject = Subject(channel, callers, described, kind_in(described, plan))
    await tried(subject)
    return subject


async def tried(subject: Subject) -> None:
    """Raises UnusableDomain unless a record can be made, where any can: else nothing could be."""
    try:
        await subject.make(subject.group())
    except NotTried:
        return
    except Wrong as wrong:
        told = f"no {subject.kind.name} can be made, say how with --sample: {wrong}"
    except grpc.aio.AioRpcError as error:
        told = f"ExecuteBatch answers {told_error(error)}"
    else:
        return
    raise UnusableDomain(told)


def kind_in(described: pb.DescribeResponse, plan: Plan) -> Kind:
    """The entity to check with: the one that is named, else the one that offers most.

    Raises UnusableDomain.
    """
    entities = [each for each in described.entities if plan.entity in ("", each.name)]
    if not entities:
        offered = ", ".join(each.name for each in described.entities) or "none"
        raise UnusableDomain(f"no entity {plan.entity}: Describe names {offered}")
    faults = []
    for entity in sorted(entities, key=lambda each: -len(each.verbs)):
        try:
            return Kind(entity, plan.samples.get(entity.name))
        except (UnusableSample, ValueError) as error:
            faults.append(str(error))
    raise UnusableDomain("; ".join(faults))


async def finding_of(check: Check, subject: Subject) -> Finding:
    def found(verdict: Verdict, told: object = "") -> Finding:
        return Finding(check.name, check.promise, verdict, str(told))

    try:
        async with asyncio.timeout(CHECK_SECONDS):
            await check.run(subject)
    except Wrong as wrong:
        return found(Verdict.BROKEN, wrong)
    except NotTried as lacking:
        return found(Verdict.NOT_TRIED, lacking)
    except grpc.aio.AioRpcError as error:
        return found(Verdict.BROKEN, f"a call failed: {told_error(error)}")
    except (LookupError, TypeError, ValueError) as error:
        return found(Verdict.BROKEN, f"an answer is not as it was described: {error!r}")
    except TimeoutError:
        return found(Verdict.BROKEN, f"not done within {CHECK_SECONDS:.0f} s")
    return found(Verdict.KEPT)
