"""Domains that are wrong on purpose, each in its own way, with a real one behind each."""

import asyncio
import re
import uuid
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import ClassVar

import grpc
import grpc.aio
from gatehouse.domain.v1 import domain_pb2 as pb
from gatehouse.domain.v1 import domain_pb2_grpc as rpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc import error_details_pb2
from google.rpc.status_pb2 import Status

from services.runtime.failure import Precondition

Context = grpc.aio.ServicerContext
CHANGES = (pb.VERB_UPDATE, pb.VERB_DELETE)


class Wrong(rpc.DomainServiceServicer):
    """Hands each call on; a fault overrides what it does wrong, and says what it breaks."""

    breaks: ClassVar[tuple[str, ...]] = ()

    def __init__(self, behind: rpc.DomainServiceStub, token: str) -> None:
        self.behind = behind
        self.token = token

    def call(self, context: Context) -> dict[str, object]:
        given = dict(context.invocation_metadata() or ())
        kept = [(key, given[key]) for key in ("authorization",) if key in given]
        return {"metadata": kept, "timeout": context.time_remaining()}

    async def handed_on(self, method: str, request, context: Context):
        try:
            return await getattr(self.behind, method)(request, **self.call(context))
        except grpc.aio.AioRpcError as error:
            context.set_trailing_metadata(tuple(error.trailing_metadata() or ()))
            await context.abort(error.code(), error.details())

    async def Describe(self, request: pb.DescribeRequest, context: Context):
        return await self.handed_on("Describe", request, context)

    async def ExecuteBatch(self, request: pb.ExecuteBatchRequest, context: Context):
        return await self.handed_on("ExecuteBatch", request, context)

    async def GetOperation(self, request: pb.GetOperationRequest, context: Context):
        return await self.handed_on("GetOperation", request, context)

    async def Aggregate(self, request: pb.AggregateRequest, context: Context):
        return await self.handed_on("Aggregate", request, context)


class HasNoHealth(Wrong):
    breaks = ("serve.health",)


class KnowsEveryMethod(Wrong):
    """Whatever is called, something is answered: see `serving_wrong`."""

    breaks = ("serve.unknown_method",)


class DescribesOddly(Wrong):
    """Names with spaces, a schema without fields, a metric without a unit."""

    breaks = ("describe.names", "describe.entities", "describe.metrics")

    async def Describe(self, request, context):
        answer = await super().Describe(request, context)
        answer.metrics[0].unit = ""
        answer.entities.add(name="Client Card", verbs=[pb.VERB_UNSPECIFIED])
        return answer


class OffersLessThanItDoes(Wrong):
    """What it says that it does not offer, it does all the same."""

    breaks = ("refuse.not_offered",)

    async def Describe(self, request, context):
        answer = await super().Describe(request, context)
        answer.entities[0].verbs.remove(pb.VERB_READ)
        return answer


class HidesAField(Wrong):
    """A field that it says is not selectable is."""

    breaks = ("select.not_selectable",)

    async def Describe(self, request, context):
        answer = await super().Describe(request, context)
        answer.entities[0].json_schema["properties"]["phone"]["x-selectable"] = False
        return answer


class TrustsAnybody(Wrong):
    """It looks at no token: everybody is the first user."""

    breaks = (
        *("identity.token_missing", "identity.token_garbled", "identity.token_forged"),
        *("identity.token_unsigned", "identity.token_of_another_key", "identity.token_expired"),
        *("identity.token_for_others", "identity.role_missing", "identity.another_clinic_reads"),
        *("identity.another_clinic_changes", "identity.another_clinic_asks"),
    )

    def call(self, context):
        return super().call(context) | {"metadata": [("authorization", f"Bearer {self.token}")]}


class SaysNothingWasDone(Wrong):
    """GetOperation knows of nothing, and does not remember what it said."""

    breaks = (
        *("identity.a_service_settles", "settle.applied", "settle.never_seen"),
        *("settle.abandoned_in_a_batch", "settle.while_running"),
    )

    async def GetOperation(self, request, context):
        return pb.GetOperationResponse(state=pb.OPERATION_STATE_NOT_APPLIED)


class SaysAllWasDone(Wrong):
    breaks = ("settle.refused", "settle.dry_run")

    async def GetOperation(self, request, context):
        return pb.GetOperationResponse(state=pb.OPERATION_STATE_APPLIED)


class AnswersChanged(Wrong):
    """Changes what comes back from a batch."""

    async def ExecuteBatch(self, request, context):
        answer = await super().ExecuteBatch(request, context)
        self.spoil(request, answer)
        return answer

    def spoil(self, request: pb.ExecuteBatchRequest, answer: pb.ExecuteBatchResponse) -> None:
        raise NotImplementedError


class HasNoLabels(AnswersChanged):
    breaks = ("write.create",)

    def spoil(self, request, answer):
        for each in answer.results:
            each.applied.label = ""


class ReadsSomethingElse(AnswersChanged):
    breaks = ("write.read",)

    def spoil(self, request, answer):
        for operation, each in zip(request.operations, answer.results, strict=True):
            if operation.verb == pb.VERB_READ:
                for record in each.applied.records:
                    record.update({"phone": "5551234"})


class FindsNothingThere(AnswersChanged):
    """A read of nothing is refused."""

    breaks = ("write.read_unknown",)

    def spoil(self, request, answer):
        is_empty = any(
            operation.verb == pb.VERB_READ and not each.applied.affected
            for operation, each in zip(request.operations, answer.results, strict=True)
        )
        if is_empty:
            answer.CopyFrom(refusing(request, "NOT_FOUND"))


class CountsNothing(AnswersChanged):
    breaks = ("dry.counts",)

    def spoil(self, request, answer):
        for each in answer.results:
            if request.validate_only and each.HasField("applied"):
                each.applied.affected = 0


class HasAnotherDigestEachTime(AnswersChanged):
    breaks = ("confirm.digest", "confirm.held")

    def spoil(self, request, answer):
        for each in answer.results:
            if each.applied.records_digest:
                each.applied.records_digest = uuid.uuid4().bytes


class ValidatesLess(AnswersChanged):
    """A dry run knows another reason than the real one."""

    breaks = ("dry.refusals",)

    def spoil(self, request, answer):
        if request.validate_only:
            relabel((each.status for each in answer.results), reason="STATE_CONFLICT")


class HasOneReason(AnswersChanged):
    """Whatever is wrong, it says the same."""

    breaks = (
        *("refuse.unknown_entity", "refuse.unknown_field", "refuse.read_only_field"),
        *("refuse.field_missing", "refuse.wrong_type", "refuse.parts_of_other_verbs"),
        *("select.unknown_field", "select.not_found", "select.too_many"),
        *("select.nothing_selected", "settle.never_seen", "once.other_operation"),
    )

    def spoil(self, request, answer):
        relabel((each.status for each in answer.results), reason="REFUSED")


class NamesNoDomain(AnswersChanged):
    breaks = ("refuse.domain_of_reasons",)

    def spoil(self, request, answer):
        relabel((each.status for each in answer.results), domain="")


class TellsItsInside(AnswersChanged):
    breaks = ("refuse.nothing_internal",)

    def spoil(self, request, answer):
        for each in answer.results:
            if each.HasField("status"):
                each.status.message = 'psycopg.errors.UndefinedColumn: column "x" does not exist'


class IsExactAboutCase(AnswersChanged):
    breaks = ("select.case",)

    def spoil(self, request, answer):
        for operation, each in zip(request.operations, answer.results, strict=True):
            equal = [
                condition
                for condition in operation.selector.conditions.conditions
                if condition.comparison == pb.COMPARISON_EQUAL
            ]
            for condition in equal:
                wanted = condition.value.string_value
                kept = [one for one in each.applied.records if one[condition.field] == wanted]
                del each.applied.records[:]
                each.applied.records.extend(kept)


class RequestsChanged(Wrong):
    """Changes what is asked before it is done."""

    async def ExecuteBatch(self, request, context):
        self.spoil(request)
        return await super().ExecuteBatch(request, context)

    def spoil(self, request: pb.ExecuteBatchRequest) -> None:
        raise NotImplementedError


class ReadsFirst(RequestsChanged):
    breaks = ("write.order",)

    async def ExecuteBatch(self, request, context):
        places = {each.operation_id: at for at, each in enumerate(request.operations)}
        answer = await super().ExecuteBatch(request, context)
        answer.results.sort(key=lambda each: places[each.operation_id])
        return answer

    def spoil(self, request):
        request.operations.sort(key=lambda each: each.verb != pb.VERB_READ)


class KeepsAsciiOnly(RequestsChanged):
    breaks = ("write.text",)

    def spoil(self, request):
        for operation in request.operations:
            for value in operation.fields.fields.values():
                if value.HasField("string_value"):
                    value.string_value = value.string_value.encode("ascii", "ignore").decode()


class OverlooksTheDigest(RequestsChanged):
    """A confirmed change touches whatever its selector matches by then."""

    breaks = ("confirm.held",)

    def spoil(self, request):
        for operation in request.operations:
            operation.records_digest = b""


class TellsUsersItsInside(AnswersChanged):
    breaks = ("refuse.nothing_internal",)

    def spoil(self, request, answer):
        inside = pb.Refusal(message="psycopg.errors.UndefinedColumn: column x does not exist")
        for each in answer.results:
            if each.HasField("status"):
                each.status.details.add().Pack(inside)


class KnowsNoLimit(RequestsChanged):
    breaks = ("write.limit",)

    def spoil(self, request):
        for operation in request.operations:
            operation.limit = 500


class TouchesWhatItMatches(RequestsChanged):
    breaks = ("select.ambiguous", "select.too_many")

    def spoil(self, request):
        for operation in request.operations:
            operation.max_affected = 10_000


class TakesNoneForAll(RequestsChanged):
    breaks = ("select.nothing_selected",)

    def spoil(self, request):
        for operation in request.operations:
            if operation.verb in CHANGES and not operation.HasField("selector"):
                operation.selector.conditions.SetInParent()


class ComparesWrongly(RequestsChanged):
    breaks = ("select.comparisons", "select.order_of_values")
    taken_for: ClassVar = {
        pb.COMPARISON_NOT_EQUAL: pb.COMPARISON_EQUAL,
        pb.COMPARISON_LESS: pb.COMPARISON_LESS_OR_EQUAL,
    }

    def spoil(self, request):
        for operation in request.operations:
            for condition in operation.selector.conditions.conditions:
                taken = self.taken_for.get(condition.comparison, condition.comparison)
                condition.comparison = taken


class TakesNoIdInConditions(RequestsChanged):
    breaks = ("select.by_id",)

    def spoil(self, request):
        for operation in request.operations:
            for condition in operation.selector.conditions.conditions:
                condition.field = condition.field.replace("id", "no_such_field")


class TakesAllForTheFirst(RequestsChanged):
    breaks = ("select.first",)

    def spoil(self, request):
        for operation in request.operations:
            operation.selector.ClearField("first")


class OverlooksWhatItDoesNotKnow(RequestsChanged):
    """Fields and conditions that are not in the schema are left out in silence."""

    breaks = ("refuse.unknown_field", "refuse.read_only_field", "select.unknown_field")

    def spoil(self, request):
        for operation in request.operations:
            for name in ("no_such_field", "id"):
                operation.fields.fields.pop(name, None)
            conditions = operation.selector.conditions.conditions
            kept = [each for each in conditions if each.field != "no_such_field"]
            if len(kept) < len(conditions):
                del conditions[:]
                conditions.extend(kept)


class DoesWhatItShouldValidate(RequestsChanged):
    breaks = ("dry.nothing_done", "dry.then_done")

    async def ExecuteBatch(self, request, context):
        answer = await super().ExecuteBatch(request, context)
        answer.committed = answer.committed and not self.is_dry
        return answer

    def spoil(self, request):
        self.is_dry = request.validate_only
        request.validate_only = False


class PretendsToChange(Wrong):
    """It says that it has changed and deleted, and has not."""

    breaks = ("write.update", "write.delete", "select.as_many")

    async def ExecuteBatch(self, request, context):
        is_real = not request.validate_only
        if any(each.verb in CHANGES for each in request.operations):
            request.validate_only = True
        answer = await super().ExecuteBatch(request, context)
        answer.committed = is_real and not any(each.HasField("status") for each in answer.results)
        return answer


class ShrugsAtNothing(AnswersChanged):
    """A change of what is not there succeeds."""

    breaks = ("select.not_found",)

    def spoil(self, request, answer):
        if [reason(each.status) for each in answer.results] == ["NOT_FOUND"]:
            answer.committed = True
            answer.results[0].applied.affected = 0


class TakesFewOperations(Wrong):
    breaks = ("write.hundred",)

    async def ExecuteBatch(self, request, context):
        if len(request.operations) > 50:
            return refusing(request, "INVALID_ARGUMENT")
        return await super().ExecuteBatch(request, context)


class GoesOneByOne(Wrong):
    """Each operation is a transaction of its own."""

    breaks = (
        *("atomic.last_fails", "atomic.first_fails", "atomic.changes_undone", "atomic.crossing"),
        *("deadline.passed", "deadline.cancelled"),
    )

    async def ExecuteBatch(self, request, context):
        answers = []
        for operation in request.operations:
            one = pb.ExecuteBatchRequest()
            one.CopyFrom(request)
            del one.operations[:]
            one.operations.append(operation)
            answers.append(await super().ExecuteBatch(one, context))
            await asyncio.sleep(0.005)
        results = [result for each in answers for result in each.results]
        if all(each.committed for each in answers):
            return pb.ExecuteBatchResponse(committed=True, results=results)
        answer = refusing(request, "ROLLED_BACK")
        for place, result in enumerate(results):
            if result.HasField("status"):
                answer.results[place].CopyFrom(result)
        return answer


class ForgetsIds(Wrong):
    """What was done under an id is not kept."""

    breaks = (
        *("once.again", "once.at_once", "once.other_operation", "once.part", "once.old_update"),
        *("once.old_delete", "settle.applied"),
    )

    async def ExecuteBatch(self, request, context):
        ids = [each.operation_id for each in request.operations]
        for each in request.operations:
            each.operation_id = str(uuid.uuid4())
        answer = await super().ExecuteBatch(request, context)
        for id_, result in zip(ids, answer.results, strict=True):
            result.operation_id = id_
        return answer


class RemembersRefusals(Wrong):
    """What was refused once is refused for ever, as something else."""

    breaks = ("once.refused_is_not_kept",)

    def __init__(self, behind, token) -> None:
        super().__init__(behind, token)
        self.refused: set[str] = set()

    async def ExecuteBatch(self, request, context):
        ids = {each.operation_id for each in request.operations}
        if ids & self.refused:
            return refusing(request, "OPERATION_ID_REUSED")
        answer = await super().ExecuteBatch(request, context)
        if not answer.committed:
            self.refused |= ids
        return answer


class TakesAnyRequest(Wrong):
    breaks = ("refuse.malformed_request",)

    async def ExecuteBatch(self, request, context):
        try:
            return await self.behind.ExecuteBatch(request, **self.call(context))
        except grpc.aio.AioRpcError:
            return refusing(request, "INVALID_ARGUMENT")


class BreaksOnNul(Wrong):
    breaks = ("refuse.nul",)

    async def ExecuteBatch(self, request, context):
        if b"\\000" in str(request).encode():
            await context.abort(grpc.StatusCode.UNKNOWN, "invalid byte sequence")
        return await super().ExecuteBatch(request, context)


class MeasuresWrongly(Wrong):
    """Groups that nobody asked for and in disorder, a step too few, other figures each time."""

    breaks = ("measure.figures", "measure.groups", "measure.series", "measure.same")

    def __init__(self, behind, token) -> None:
        super().__init__(behind, token)
        self.asked = 0

    async def Aggregate(self, request, context):
        answer = await super().Aggregate(request, context)
        self.asked += 1
        answer.groups.add(key="all", numerator=self.asked, denominator=2, subjects=9)
        answer.groups.add(key="afterwards", denominator=1, subjects=9)
        del answer.series[-1:]
        return answer


class CountsNobody(Wrong):
    """Figures without the number of people that they are about."""

    breaks = ("measure.figures",)

    async def Aggregate(self, request, context):
        answer = await super().Aggregate(request, context)
        for each in answer.groups:
            each.denominator, each.subjects = 4, 0
        return answer


class MeasuresWhateverIsAsked(Wrong):
    breaks = ("measure.unknown_metric", "measure.unknown_group", "measure.window_backwards")

    async def Aggregate(self, request, context):
        return pb.AggregateResponse()


def refusing(request: pb.ExecuteBatchRequest, reason: str) -> pb.ExecuteBatchResponse:
    status = Precondition("no", reason=reason).status()
    results = [
        pb.Result(operation_id=each.operation_id, status=status) for each in request.operations
    ]
    return pb.ExecuteBatchResponse(committed=False, results=results)


def reason(status: Status) -> str:
    info = error_details_pb2.ErrorInfo()
    return info.reason if any(each.Unpack(info) for each in status.details) else ""


def relabel(
    statuses: Iterable[Status], *, reason: str | None = None, domain: str = "gatehouse"
) -> None:
    """Put another reason, or another domain, into each."""
    for status in statuses:
        if not status.code:
            continue
        info = error_details_pb2.ErrorInfo()
        for place, each in enumerate(status.details):
            if each.Unpack(info):
                info.domain = domain
                info.reason = reason or info.reason
                packed = AnyMessage()
                packed.Pack(info)
                status.details[place].CopyFrom(packed)


class AnyMethod(grpc.GenericRpcHandler):  # type: ignore[misc]
    def service(self, details):
        async def answer(request: bytes, context: Context) -> bytes:
            return b""

        return grpc.unary_unary_rpc_method_handler(answer)


def faults(of: type[Wrong] = Wrong) -> list[type[Wrong]]:
    """Every kind of wrong domain."""
    found = [each for each in of.__subclasses__() if "breaks" in vars(each)]
    return found + [each for kind in of.__subclasses__() for each in faults(kind)]


@asynccontextmanager
async def serving_wrong(
    kind: type[Wrong], behind: str, token: str, folder: Path
) -> AsyncIterator[str]:
    """A wrong domain before the one at *behind*; yields where it listens."""
    address = f"unix:{folder}/{re.sub('[^A-Z]', '', kind.__name__)}.sock"
    async with grpc.aio.insecure_channel(behind) as channel:
        server = grpc.aio.server()
        rpc.add_DomainServiceServicer_to_server(kind(rpc.DomainServiceStub(channel), token), server)
        if kind is KnowsEveryMethod:
            server.add_generic_rpc_handlers((AnyMethod(),))
        server.add_insecure_port(address)
        await server.start()
        try:
            yield address
        finally:
            await server.stop(None)
