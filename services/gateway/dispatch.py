"""Carries operations out: one transactional batch a domain, domains side by side (GAT-6, GAT-7)."""

import asyncio
import math
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from time import monotonic
from typing import TypeVar

import grpc
from gatehouse.domain.v1 import domain_pb2
from gatehouse.entitlements.v1.entitlements_pb2 import DomainDescriptor
from google.protobuf import json_format
from google.rpc import error_details_pb2

from services.gateway.authorization import Planned
from services.gateway.failures import DomainUnavailable, DomainUnreachable
from services.gateway.peers import Domains, is_allowed, plain_reason
from services.gateway.references import DependencyFailed, RolledBack, resolved
from services.gateway.refusals import detail_in, message_for, passable_details
from services.runtime.failure import Failure, PeerFailure

ASK_SECONDS = 2.0
ASK_PAUSE_SECONDS = 0.1
# With these a domain says that it did not take the batch on; believed where it tells nothing more.
NOT_TAKEN = (
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.UNAUTHENTICATED,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.UNIMPLEMENTED,
)
CODES = {code.value[0]: code for code in grpc.StatusCode}

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Done:
    """What became of one operation: *applied*, or *failure*; neither is known when *unknown*."""

    planned: Planned
    applied: domain_pb2.Applied | None
    failure: Failure | None
    unknown: bool
    # By the machine's monotonic clock, so that a clock that is set moves no duration.
    ended: float


class Interrupted(Failure):
    """The caller cancelled, or the time was over, before it was done."""

    code = grpc.StatusCode.CANCELLED
    reason = "CANCELLED"

    def __init__(self) -> None:
        super().__init__("the request was cancelled")


async def dispatch(
    planned: Sequence[Planned],
    descriptors: Mapping[str, DomainDescriptor],
    domains: Domains,
    time_zone: str,
    locale: str,
    cancelled: asyncio.Event,
    until: float,
) -> list[Done]:
    """Carry *planned* out. Whatever a domain does, every operation has its end here.

    A domain whose operations refer to another's waits for that one's answer. One that does not
    answer is asked what it did *until* then, in the loop's time, at the longest.
    """
    batches: dict[str, list[Planned]] = {}
    for each in planned:
        batches.setdefault(each.operation.domain, []).append(each)
    domain_of = {each.index: each.operation.domain for each in planned}
    running: dict[str, asyncio.Task[list[Done]]] = {}

    async def in_turn(name: str) -> list[Done]:
        needed = {
            domain_of[reference.operation]
            for each in batches[name]
            for reference in each.operation.references
            if reference.operation in domain_of
        }
        before = await asyncio.gather(*(running[each] for each in needed))
        ready, failed = followed(batches[name], [one for each in before for one in each])
        if failed:
            return failed
        request = request_of(ready, time_zone, locale)
        return await batch(ready, request, descriptors[name], domains, cancelled, until)

    if len(batches) == 1:
        return await in_turn(*batches)
    running.update({name: asyncio.create_task(in_turn(name)) for name in batches})
    done = await asyncio.gather(*running.values())
    return [one for each in done for one in each]


def followed(
    planned: Sequence[Planned], before: Sequence[Done]
) -> tuple[list[Planned], list[Done]]:
    """*planned* with what it refers to out of *before*; where that is not there, how each ends.

    A batch is begun whole or not at all.
    """
    records = {each.planned.index: record_of(each) for each in before}
    ready: list[Planned] = []
    failures: dict[int, Failure] = {}
    for each in planned:
        try:
            ready.append(replace(each, operation=resolved(each.operation, records)))
        except DependencyFailed as failure:
            failures[each.index] = failure
    if not failures:
        return ready, []
    undone = RolledBack()
    return [], [ended(each, failure=failures.get(each.index, undone)) for each in planned]


def record_of(done: Done) -> dict[str, object] | None:
    """The one record that an operation came to, if it is one."""
    if done.applied is None or len(done.applied.records) != 1 or done.applied.truncated:
        return None
    record: dict[str, object] = json_format.MessageToDict(done.applied.records[0])
    return record


async def batch(
    planned: Sequence[Planned],
    request: domain_pb2.ExecuteBatchRequest,
    descriptor: DomainDescriptor,
    domains: Domains,
    cancelled: asyncio.Event,
    until: float,
) -> list[Done]:
    """Carry one domain's operations out, and learn what became of them whatever happens."""
    if cancelled.is_set():
        return [ended(each, failure=Interrupted()) for each in planned]
    try:
        response = await unless(cancelled, domains.execute_batch(descriptor, request))
    except Failure as failure:
        if isinstance(failure, DomainUnreachable):
            return [ended(each, failure=failure) for each in planned]
        return await asked(planned, descriptor, domains, failure, until=until)
    return [result_of(each, result) for each, result in zip(planned, response.results, strict=True)]


def request_of(
    planned: Sequence[Planned], time_zone: str, locale: str, *, validate_only: bool = False
) -> domain_pb2.ExecuteBatchRequest:
    request = domain_pb2.ExecuteBatchRequest(
        validate_only=validate_only, time_zone=time_zone, locale=locale
    )
    for each in planned:
        operation = each.operation
        made = request.operations.add(
            operation_id=each.operation_id,
            verb=operation.verb,
            entity=operation.entity,
            max_affected=operation.max_affected,
            limit=operation.limit,
            records_digest=each.records_digest,
        )
        if operation.HasField("selector"):
            made.selector.CopyFrom(operation.selector)
        if operation.HasField("fields"):
            made.fields.CopyFrom(operation.fields)
    return request


async def unless(cancelled: asyncio.Event, call: Awaitable[Answer]) -> Answer:
    """What *call* answers. Raises Interrupted once *cancelled* is set, and cancels the call."""
    running = asyncio.ensure_future(call)
    stop = asyncio.ensure_future(cancelled.wait())
    try:
        await asyncio.wait({running, stop}, return_when=asyncio.FIRST_COMPLETED)
        if not running.done():
            raise Interrupted
        if running.cancelled():
            raise DomainUnavailable("the call to the domain was cut off")
        return running.result()
    finally:
        for task in (running, stop):
            task.cancel()
        await asyncio.gather(running, stop, return_exceptions=True)


def is_open(failure: Failure) -> bool:
    """Whether the batch may have been carried out although no usable answer came."""
    return not isinstance(failure, DomainUnreachable) and failure.code not in NOT_TAKEN


async def asked(
    planned: Sequence[Planned],
    descriptor: DomainDescriptor,
    domains: Domains,
    failure: Failure,
    *,
    until: float = math.inf,
    for_itself: bool = False,
) -> list[Done]:
    """Ask the domain what became of each change; from then on it is settled there.

    A batch stands or falls as one, but each operation is asked about: the domain's word on one is
    not taken for another's. Reads leave nothing open. What was not done failed with *failure*.
    """
    changes = [each for each in planned if each.modifies]
    found = await asyncio.gather(
        *(
            ask(each, descriptor, domains, failure, until=until, for_itself=for_itself)
            for each in changes
        )
    )
    return [*found, *(ended(each, failure=failure) for each in planned if not each.modifies)]


async def ask(
    planned: Planned,
    descriptor: DomainDescriptor,
    domains: Domains,
    failure: Failure,
    *,
    until: float,
    for_itself: bool,
) -> Done:
    """What became of one change, by the domain's record of it rather than by *failure*.

    Where it cannot tell *until* then, or within ASK_SECONDS, a *failure* is believed that says it
    was not done.
    """
    loop = asyncio.get_running_loop()
    until = min(until, loop.time() + ASK_SECONDS)
    while (left := until - loop.time()) > 0:
        try:
            answer = await domains.get_operation(
                descriptor, planned.operation_id, left, for_itself=for_itself
            )
        except Failure:
            break
        match answer.state:
            case domain_pb2.OPERATION_STATE_APPLIED:
                if is_allowed(planned.operation, answer.applied):
                    return ended(planned, applied=answer.applied)
                break  # what it says that it did cannot be: nothing is known
            case domain_pb2.OPERATION_STATE_NOT_APPLIED:
                return ended(planned, failure=failure)
            case domain_pb2.OPERATION_STATE_IN_PROGRESS:
                await asyncio.sleep(ASK_PAUSE_SECONDS)
            case _:
                break
    return ended(planned, failure=failure, unknown=is_open(failure))


def ended(
    planned: Planned,
    *,
    applied: domain_pb2.Applied | None = None,
    failure: Failure | None = None,
    unknown: bool = False,
) -> Done:
    return Done(planned, applied, failure, unknown, monotonic())


def ends_of(done: Sequence[Done], now: datetime) -> dict[int, datetime]:
    """When each of *done* ended, by the clock that says *now*."""
    here = monotonic()
    return {each.planned.index: now - timedelta(seconds=here - each.ended) for each in done}


def result_of(planned: Planned, result: domain_pb2.Result) -> Done:
    if result.HasField("applied"):
        return ended(planned, applied=result.applied)
    return ended(planned, failure=failure_of(result))


def failure_of(result: domain_pb2.Result) -> Failure:
    """A domain's refusal: its code, reason, field, sentence and candidates, and nothing else."""
    info = detail_in(result.status.details, error_details_pb2.ErrorInfo)
    details = passable_details(result.status.details)
    code = CODES.get(result.status.code, grpc.StatusCode.UNKNOWN)
    reason = plain_reason(info.reason if info else "")
    return PeerFailure(code, message_for(details), reason=reason, details=details)
