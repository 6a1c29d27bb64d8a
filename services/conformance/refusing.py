"""How a domain says no: a reason for machines, and nothing of its inside (ALL-2)."""

import re
import uuid

import grpc
import grpc.aio
from gatehouse.domain.v1 import domain_pb2 as pb
from google.rpc import error_details_pb2
from google.rpc.status_pb2 import Status

from services.conformance.findings import NotTried, Wrong, check, expect
from services.conformance.subject import BROKE, Subject, detail_in, reason_in
from services.runtime.failure import status_of

ALL_VERBS = (pb.VERB_CREATE, pb.VERB_READ, pb.VERB_UPDATE, pb.VERB_DELETE)
# What exceptions, databases and file systems say, and no sentence for people.
INTERNAL = re.compile(
    r"Traceback|[a-z]Exception\b|\b[A-Z]\w+Error\b|\bat [\w.$]+\([\w.]+:\d+\)"
    r"|\b(SELECT|INSERT INTO|UPDATE|DELETE FROM) .*\b(FROM|VALUES|SET|WHERE)\b"
    r"|violates .*constraint|syntax error at|psycopg|sqlalchemy|java\.|(/[\w.-]+){3,}|line \d+, in "
)


@check("refuse.unknown_entity")
async def unknown_entity(subject: Subject) -> None:
    """An entity that the domain has not is refused with UNKNOWN_ENTITY."""
    operation = subject.operation(pb.VERB_READ)
    operation.entity = "no_such_entity"
    (reason,) = await subject.refused(operation)
    expect(reason == "UNKNOWN_ENTITY", f"it was refused with {reason}")


@check("refuse.not_offered")
async def not_offered(subject: Subject) -> None:
    """What an entity does not offer is refused with OPERATION_NOT_OFFERED."""
    for entity in subject.described.entities:
        for verb in ALL_VERBS:
            if verb not in entity.verbs:
                operation = subject.operation(verb, id=str(uuid.uuid4()))
                operation.entity = entity.name
                if verb == pb.VERB_CREATE:
                    operation.ClearField("selector")
                (reason,) = await subject.refused(operation)
                expect(reason == "OPERATION_NOT_OFFERED", f"it was refused with {reason}")
                return
    raise NotTried("every entity offers everything")


@check("refuse.unknown_field")
async def unknown_field(subject: Subject) -> None:
    """A field that is not in the schema is refused with UNKNOWN_FIELD, not left out in silence."""
    (reason,) = await subject.refused(subject.create(subject.group(), no_such_field=1))
    expect(reason == "UNKNOWN_FIELD", f"it was refused with {reason}")


@check("refuse.read_only_field")
async def read_only_field(subject: Subject) -> None:
    """A field that is readOnly is never written: UNKNOWN_FIELD."""
    fixed = [name for name, each in subject.kind.properties.items() if each.get("readOnly")]
    for name in (*fixed, "id"):
        operation = subject.create(subject.group(), **{name: str(uuid.uuid4())})
        (reason,) = await subject.refused(operation)
        expect(reason == "UNKNOWN_FIELD", f"writing {name} was refused with {reason}")


@check("refuse.field_missing")
async def field_missing(subject: Subject) -> None:
    """A create without a field that the schema requires is refused with INVALID_ARGUMENT."""
    required = subject.kind.schema.get("required", ())
    if not required:
        raise NotTried(f"{subject.kind.name} requires no field")
    operation = subject.create(subject.group())
    del operation.fields[required[0]]
    (reason,) = await subject.refused(operation)
    expect(reason == "INVALID_ARGUMENT", f"it was refused with {reason}")


@check("refuse.wrong_type")
async def wrong_type(subject: Subject) -> None:
    """A value that the schema does not allow is refused with INVALID_ARGUMENT."""
    operation = subject.create(subject.group())
    name = subject.kind.label or next(iter(dict(operation.fields)))
    operation.fields.update({name: {"a": ["thing", "within"]}})
    (reason,) = await subject.refused(operation)
    expect(reason == "INVALID_ARGUMENT", f"it was refused with {reason}")


@check("refuse.parts_of_other_verbs")
async def parts_of_other_verbs(subject: Subject) -> None:
    """A delete with fields, or a create with a selector, is refused with INVALID_ARGUMENT."""
    (record,) = await subject.make(subject.group())
    selecting = subject.create(subject.group())
    selecting.selector.id = record["id"]
    writing = subject.delete(id=record["id"])
    writing.fields.update({"x": "y"})
    for operation in (selecting, writing):
        (reason,) = await subject.refused(operation)
        expect(reason == "INVALID_ARGUMENT", f"it was refused with {reason}")


@check("refuse.malformed_request")
async def malformed_request(subject: Subject) -> None:
    """A request that breaks the rules of its fields fails with INVALID_ARGUMENT as a whole."""
    read = subject.read(id=str(uuid.uuid4()))
    without_id = subject.read(id=str(uuid.uuid4()))
    without_id.operation_id = "1"
    call = subject.call()
    requests = {
        "no operations": pb.ExecuteBatchRequest(),
        "an operation_id that is no UUID": pb.ExecuteBatchRequest(operations=[without_id]),
        "an unknown time zone": pb.ExecuteBatchRequest(operations=[read], time_zone="Mars/Base"),
        "the same operation_id twice": pb.ExecuteBatchRequest(operations=[read, read]),
    }
    for what, request in requests.items():
        try:
            await subject.stub.ExecuteBatch(request, **call)
        except grpc.aio.AioRpcError as error:
            code = error.code()
            expect(code is grpc.StatusCode.INVALID_ARGUMENT, f"{what}: it failed with {code.name}")
            status = status_of(error)
            expect(status is not None and reason_in(status), f"{what}: there is no ErrorInfo")
            if status is not None:
                subject.statuses.append(status)
        else:
            raise Wrong(f"{what}: it was answered")


@check("refuse.nul")
async def nul(subject: Subject) -> None:
    """A text that holds a NUL is refused, or kept; the domain does not break on it."""
    group = subject.group()
    operation = subject.create(group)
    name = subject.kind.label or next(iter(dict(operation.fields)))
    operation.fields.update({name: f"{group}\0"})
    try:
        answer = await subject.run(operation)
    except grpc.aio.AioRpcError as error:
        code = error.code()
        expect(code is grpc.StatusCode.INVALID_ARGUMENT, f"it failed with {code.name}")
    else:
        reason = reason_in(answer.results[0].status)
        expect(reason not in BROKE, f"it was refused with {reason}")


@check("refuse.domain_of_reasons")
async def domain_of_reasons(subject: Subject) -> None:
    """The ErrorInfo of a refusal names `gatehouse` as its domain, and its reason is UPPER_CASE."""
    await subject.refused(subject.create(subject.group(), no_such_field=1))
    for status in subject.statuses:
        info = detail_in(status, error_details_pb2.ErrorInfo())
        expect(info.domain == "gatehouse", f"{info.reason} names {info.domain or 'nothing'}")
        form = re.fullmatch(r"[A-Z][A-Z0-9_]{0,62}", info.reason)
        expect(form, f"{info.reason} is not such a reason")


@check("refuse.nothing_internal")
async def nothing_internal(subject: Subject) -> None:
    """No refusal, of all that came, shows an exception, a statement, a path or a stack."""
    label = subject.kind.label
    hostile = {label: "x" * 100_000} if label else {"no_such_field": "x"}
    hostile_id = subject.read(id="' OR 1=1 --")
    for operation in (subject.create(subject.group(), **hostile), hostile_id):
        try:
            await subject.run(operation)
        except grpc.aio.AioRpcError as error:
            status = status_of(error)
            expect(status is not None, f"a call failed without a status: {error.details()}")
            subject.statuses += [] if status is None else [status]
    for status in subject.statuses:
        for text in texts_in(status):
            expect(not INTERNAL.search(text), f"a refusal says {text!r}")
        expect(reason_in(status) not in BROKE, f"a refusal's reason is {reason_in(status)}")


def texts_in(status: Status) -> list[str]:
    """Everything in a refusal that people may come to read."""
    bad = detail_in(status, error_details_pb2.BadRequest()).field_violations
    told = detail_in(status, pb.Refusal()).message
    return [status.message, told, *(f"{each.field}: {each.description}" for each in bad)]
