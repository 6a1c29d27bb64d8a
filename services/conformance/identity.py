"""Who may call: the token alone says so (ALL-3)."""

import time
import uuid
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import grpc
import grpc.aio
from gatehouse.domain.v1 import domain_pb2 as pb

from services.conformance.findings import NotTried, Wrong, check, expect
from services.conformance.subject import Subject, reason_in
from services.runtime.failure import status_of

CODES = {
    "TOKEN_MISSING": grpc.StatusCode.UNAUTHENTICATED,
    "TOKEN_INVALID": grpc.StatusCode.UNAUTHENTICATED,
    "TOKEN_EXPIRED": grpc.StatusCode.UNAUTHENTICATED,
    "ROLE_REQUIRED": grpc.StatusCode.PERMISSION_DENIED,
}


@check("identity.token_missing")
async def token_missing(subject: Subject) -> None:
    """Each method answers UNAUTHENTICATED with TOKEN_MISSING to a call without a token."""
    await turned_away(subject, "", "TOKEN_MISSING")


@check("identity.token_garbled")
async def token_garbled(subject: Subject) -> None:
    """Each method answers UNAUTHENTICATED with TOKEN_INVALID to what is no token."""
    await turned_away(subject, "not.a.token", "TOKEN_INVALID")


@check("identity.token_forged")
async def token_forged(subject: Subject) -> None:
    """A token whose clinic was changed after it was signed is TOKEN_INVALID."""
    await turned_away(subject, subject.callers.forged(), "TOKEN_INVALID")


@check("identity.token_unsigned")
async def token_unsigned(subject: Subject) -> None:
    """A token under the algorithm `none` is TOKEN_INVALID."""
    await turned_away(subject, subject.callers.unsigned(), "TOKEN_INVALID")


@check("identity.token_of_another_key")
async def token_of_another_key(subject: Subject) -> None:
    """A token signed by a key that is not the issuer's is TOKEN_INVALID."""
    signer = subject.callers.by_signer()
    token = signer.mint(str(uuid.uuid4()), key=signer.another_key())
    await turned_away(subject, token, "TOKEN_INVALID")


@check("identity.token_expired")
async def token_expired(subject: Subject) -> None:
    """A token whose time was over an hour ago is TOKEN_EXPIRED."""
    ago = int(time.time()) - 3600
    token = subject.callers.by_signer().mint(str(uuid.uuid4()), iat=ago - 60, nbf=ago - 60, exp=ago)
    await turned_away(subject, token, "TOKEN_EXPIRED")


@check("identity.token_for_others")
async def token_for_others(subject: Subject) -> None:
    """A token for another audience, or of another issuer, is TOKEN_INVALID."""
    signer = subject.callers.by_signer()
    elsewhere = "https://elsewhere.example"
    clinic = str(uuid.uuid4())
    for token in (signer.mint(clinic, aud=elsewhere), signer.mint(clinic, iss=elsewhere)):
        await turned_away(subject, token, "TOKEN_INVALID")


@check("identity.role_missing")
async def role_missing(subject: Subject) -> None:
    """A token without a role may call no method: PERMISSION_DENIED with ROLE_REQUIRED."""
    token = subject.callers.by_signer().mint(str(uuid.uuid4()), roles=())
    await turned_away(subject, token, "ROLE_REQUIRED")


@check("identity.another_clinic_reads")
async def another_clinic_reads(subject: Subject) -> None:
    """A caller of another clinic does not find a record, by its id or by its fields."""
    stranger = subject.callers.of_another_clinic()
    group = subject.group()
    (record,) = await subject.make(group)
    for read in (subject.read(id=record["id"]), subject.read(group=group)):
        answer = await subject.run(read, token=stranger)
        found = sum(each.applied.affected for each in answer.results)
        expect(not found, "a caller of another clinic was given the record")


@check("identity.another_clinic_changes")
async def another_clinic_changes(subject: Subject) -> None:
    """A caller of another clinic changes and deletes nothing, and is told as of an unknown id."""
    stranger = subject.callers.of_another_clinic()
    (record,) = await subject.make(subject.group())
    for verb in (pb.VERB_UPDATE, pb.VERB_DELETE):
        if verb not in subject.kind.verbs:
            continue
        build = subject.update if verb == pb.VERB_UPDATE else subject.delete
        told = await subject.refused(build(id=record["id"]), token=stranger)
        unknown = await subject.refused(build(id=str(uuid.uuid4())), token=stranger)
        expect(told == unknown, f"told {told[0]}, and {unknown[0]} of an id that is nowhere")
    (applied,) = await subject.done(subject.read(id=record["id"]))
    expect(dict(applied.records[0]) == record, "a caller of another clinic changed the record")


@check("identity.another_clinic_asks")
async def another_clinic_asks(subject: Subject) -> None:
    """GetOperation tells a caller of another clinic nothing of an operation."""
    stranger = subject.callers.of_another_clinic()
    operation = subject.create(subject.group())
    await subject.done(operation)
    try:
        answer = await subject.record(operation, stranger)
    except grpc.aio.AioRpcError as error:
        refusals = (grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.NOT_FOUND)
        expect(error.code() in refusals, f"GetOperation answered {error.code().name}")
    else:
        expect(not answer.HasField("applied"), "a caller of another clinic was told what was done")
    state = await subject.state(operation)
    expect(
        state == pb.OPERATION_STATE_APPLIED, "asked by another clinic, an operation is forgotten"
    )


@check("identity.a_service_settles")
async def a_service_settles(subject: Subject) -> None:
    """GetOperation tells a service, which has no clinic, what became of any clinic's operation."""
    service = subject.callers.of_a_service()
    operation = subject.create(subject.group())
    await subject.done(operation)
    state = await subject.state(operation, service)
    expect(state == pb.OPERATION_STATE_APPLIED, "a service was not told APPLIED")


async def turned_away(subject: Subject, token: str, reason: str) -> None:
    """Raises Wrong unless every method refuses *token* with *reason*."""
    for name, method in methods(subject).items():
        try:
            await method(**subject.call(token))
        except grpc.aio.AioRpcError as error:
            status = status_of(error)
            given = reason_in(status) if status is not None else "no ErrorInfo"
            expect(
                (error.code(), given) == (CODES[reason], reason),
                f"{name} answered {error.code().name} with {given or 'no reason'}, not"
                f" {CODES[reason].name} with {reason}",
            )
        else:
            raise Wrong(f"{name} answered the call")


def methods(subject: Subject) -> dict[str, Callable[..., Awaitable[Any]]]:
    """Each method of the contract with a request that would change nothing."""
    window = pb.AggregateRequest(metric="none")
    window.start_time.FromSeconds(0)
    window.end_time.FromSeconds(86_400)
    requests = {
        "Describe": pb.DescribeRequest(),
        "ExecuteBatch": pb.ExecuteBatchRequest(operations=[harmless(subject)], validate_only=True),
        "GetOperation": pb.GetOperationRequest(operation_id=str(uuid.uuid4())),
        "Aggregate": window,
    }
    return {
        name: partial(getattr(subject.stub, name), request) for name, request in requests.items()
    }


def harmless(subject: Subject) -> pb.Operation:
    try:
        return subject.read(id=str(uuid.uuid4()))
    except NotTried:
        return subject.create(subject.group())
