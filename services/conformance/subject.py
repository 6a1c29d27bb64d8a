"""The domain that is checked, as Gatehouse calls it, and the records that were made in it."""

import asyncio
import itertools
import uuid
from collections.abc import Sequence
from typing import Any

import grpc
import grpc.aio
from gatehouse.domain.v1 import domain_pb2 as pb
from gatehouse.domain.v1.domain_pb2_grpc import DomainServiceStub
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2
from google.rpc.status_pb2 import Status

from services.conformance.callers import Callers
from services.conformance.findings import NotTried, expect
from services.conformance.samples import Kind
from services.runtime.failure import status_of

DEADLINE_SECONDS = 10.0
# How long an operation may be answered as in progress once nobody waits for it.
SETTLED_SECONDS = 10.0
ASK_AGAIN_SECONDS = 0.02
MOST_OPERATIONS = 100
# Reasons that say no more than that the service broke.
BROKE = ("INTERNAL", "UNKNOWN")
ZONE = "America/Sao_Paulo"


class Subject:
    """One domain under check. What it answers is looked at wherever it is asked."""

    def __init__(
        self,
        channel: grpc.aio.Channel,
        callers: Callers,
        described: pb.DescribeResponse,
        kind: Kind,
    ) -> None:
        self.channel = channel
        self.stub = DomainServiceStub(channel)
        self.callers = callers
        self.described = described
        self.kind = kind
        # Every status that it gave, for the check that looks for what must not leave a service.
        self.statuses: list[Status] = []
        self._run = uuid.uuid4().hex[:6]
        self._groups = itertools.count(1)
        self._made: dict[str, None] = {}

    # What is asked

    async def run(
        self,
        *operations: pb.Operation,
        validate_only: bool = False,
        token: str | None = None,
        seconds: float = DEADLINE_SECONDS,
    ) -> pb.ExecuteBatchResponse:
        """Ask for a batch; the answer has the form that the contract gives it.

        Raises Wrong where it has not, and AioRpcError.
        """
        request = pb.ExecuteBatchRequest(
            operations=operations, validate_only=validate_only, time_zone=ZONE
        )
        answer: pb.ExecuteBatchResponse = await self.stub.ExecuteBatch(
            request, **self.call(token, seconds)
        )
        self.statuses += [each.status for each in answer.results if each.HasField("status")]
        self._remember(operations, answer)
        check_form(request, answer)
        return answer

    async def done(self, *operations: pb.Operation, **more: Any) -> list[pb.Applied]:
        """Ask for a batch that must be carried out. Raises Wrong."""
        answer = await self.run(*operations, **more)
        expect(answer.committed, f"a plain batch was not committed: {told(answer)}")
        return [each.applied for each in answer.results]

    async def refused(self, *operations: pb.Operation, **more: Any) -> list[str]:
        """Ask for a batch that must not be carried out; the reasons. Raises Wrong."""
        answer = await self.run(*operations, **more)
        expect(not answer.committed, "the batch was committed, and should have been refused")
        return [reason_in(each.status) for each in answer.results]

    async def state(self, operation: pb.Operation, token: str | None = None) -> int:
        """What GetOperation says, once it says something that lasts. Raises Wrong."""
        return (await self.record(operation, token)).state

    async def record(
        self, operation: pb.Operation, token: str | None = None
    ) -> pb.GetOperationResponse:
        asked = pb.GetOperationRequest(operation_id=operation.operation_id)
        until = asyncio.get_running_loop().time() + SETTLED_SECONDS
        while True:
            answer: pb.GetOperationResponse = await self.stub.GetOperation(
                asked, **self.call(token)
            )
            if answer.state != pb.OPERATION_STATE_IN_PROGRESS:
                expect(answer.state, "GetOperation answered without a state")
                return answer
            is_late = asyncio.get_running_loop().time() > until
            expect(not is_late, f"GetOperation still says IN_PROGRESS after {SETTLED_SECONDS} s")
            await asyncio.sleep(ASK_AGAIN_SECONDS)

    def call(self, token: str | None = None, seconds: float = DEADLINE_SECONDS) -> dict[str, Any]:
        """What a call carries: a deadline, and a token unless *token* is empty."""
        token = self.callers.user if token is None else token
        metadata = [("authorization", f"Bearer {token}")] if token else []
        return {"timeout": seconds, "metadata": metadata}

    # What is said in it

    def needs(self, *verbs: pb.Verb.ValueType) -> None:
        """Raises NotTried unless the entity offers all of *verbs*."""
        for verb in verbs:
            if verb not in self.kind.verbs:
                raise NotTried(f"{self.kind.name} does not offer {verb_name(verb)}")

    def group(self) -> str:
        """A text that the labels of one check's records share, and no other record has."""
        return f"{self._run}x{next(self._groups):03d}x"

    def create(self, group: str, **fields: Any) -> pb.Operation:
        self.needs(pb.VERB_CREATE)
        operation = self.operation(pb.VERB_CREATE)
        operation.fields.update({**self.kind.fields(group), **fields})
        return operation

    def read(self, *, id: str = "", group: str = "", **more: Any) -> pb.Operation:  # noqa: A002
        self.needs(pb.VERB_READ)
        return self.operation(pb.VERB_READ, id=id, group=group, **more)

    def update(self, value: int = 0, *, id: str = "", group: str = "", **more: Any) -> pb.Operation:  # noqa: A002
        """A change of one field to the first or the second of its two values."""
        self.needs(pb.VERB_UPDATE)
        name, values = self.kind.changes()
        operation = self.operation(pb.VERB_UPDATE, id=id, group=group, **more)
        operation.fields.update({name: values[value]})
        return operation

    def delete(self, *, id: str = "", group: str = "", **more: Any) -> pb.Operation:  # noqa: A002
        self.needs(pb.VERB_DELETE)
        return self.operation(pb.VERB_DELETE, id=id, group=group, **more)

    def operation(
        self,
        verb: pb.Verb.ValueType,
        *,
        id: str = "",  # noqa: A002  the contract's name
        group: str = "",
        **more: Any,
    ) -> pb.Operation:
        operation = pb.Operation(
            operation_id=str(uuid.uuid4()), verb=verb, entity=self.kind.name, **more
        )
        if id:
            operation.selector.id = id
        if group:
            operation.selector.conditions.conditions.append(self.kind.by_label(group))
        return operation

    # What is there

    async def make(self, group: str, count: int = 1) -> list[dict[str, Any]]:
        """Make *count* records of *group*. Raises Wrong."""
        applied = await self.done(*(self.create(group) for _ in range(count)))
        expect(all(each.records for each in applied), "a create answers with the record made")
        records = [dict(each.records[0]) for each in applied]
        expect(all(each.get("id") for each in records), "a record has its id")
        return records

    async def standing(self, group: str) -> list[dict[str, Any]]:
        """The records of *group* that are there. Raises Wrong."""
        (applied,) = await self.done(self.read(group=group, limit=500))
        found = [dict(each) for each in applied.records]
        self._made |= {str(each.get("id")): None for each in found}
        return found

    async def value_of(self, id: str) -> Any:  # noqa: A002
        """The value of the field that is changed, of one record."""
        name, _ = self.kind.changes()
        (applied,) = await self.done(self.read(id=id))
        expect(len(applied.records) == 1, f"a read by id gave {len(applied.records)} records")
        return dict(applied.records[0]).get(name)

    async def another_value(self, id: str) -> int:  # noqa: A002
        """Which of the two values the record has not, so that setting it is a change."""
        _, values = self.kind.changes()
        return int(await self.value_of(id) == values[0])

    async def clear(self) -> int:
        """Delete what the checks have made; how many records could not be."""
        ids = list(self._made)
        parts = [ids[at : at + MOST_OPERATIONS] for at in range(0, len(ids), MOST_OPERATIONS)]
        left = 0
        for part in parts:
            # One that is gone already undoes the whole batch; then they go one by one.
            if await self._cleared(part):
                left += sum([await self._cleared([each]) for each in part])
        return left

    async def _cleared(self, ids: Sequence[str]) -> int:
        """Delete records in one batch; how many are left of them."""
        try:
            request = pb.ExecuteBatchRequest(operations=[self.delete(id=each) for each in ids])
            answer = await self.stub.ExecuteBatch(request, **self.call())
        except (NotTried, grpc.RpcError):
            return len(ids)
        reasons = {reason_in(each.status) for each in answer.results}
        return 0 if answer.committed or reasons == {"NOT_FOUND"} else len(ids)

    def _remember(
        self, operations: Sequence[pb.Operation], answer: pb.ExecuteBatchResponse
    ) -> None:
        for operation, result in zip(operations, answer.results, strict=False):
            if operation.verb == pb.VERB_CREATE and answer.committed:
                ids = (dict(each).get("id") for each in result.applied.records)
                self._made |= {str(each): None for each in ids if each}


def check_form(request: pb.ExecuteBatchRequest, answer: pb.ExecuteBatchResponse) -> None:
    """Raises Wrong unless the answer to a batch has one result an operation, each as it must be."""
    ids = [each.operation_id for each in request.operations]
    expect(
        [each.operation_id for each in answer.results] == ids,
        "the results are not one an operation, in their order, each with its operation_id",
    )
    kinds = {each.WhichOneof("result") for each in answer.results}
    expect(None not in kinds, "a result is neither applied nor a status")
    expect(not (request.validate_only and answer.committed), "with validate_only committed is true")
    expect(
        not (answer.committed and "status" in kinds), "a committed batch has a refused operation"
    )
    for each in answer.results:
        if each.HasField("status"):
            expect(reason_in(each.status), "a refused operation has no ErrorInfo with a reason")
    if not answer.committed and not request.validate_only:
        expect(kinds == {"status"}, "a batch that was not committed has an applied operation")
        reasons = {reason_in(each.status) for each in answer.results}
        expect(
            reasons != {"ROLLED_BACK"}, "no operation of a refused batch says why: all ROLLED_BACK"
        )


def detail_in(status: Status, detail: Any) -> Any:
    """The detail of that type, empty where there is none or it cannot be read."""
    for each in status.details:
        try:
            if each.Unpack(detail):
                return detail
        except DecodeError:
            continue
    return detail


def reason_in(status: Status) -> str:
    return str(detail_in(status, error_details_pb2.ErrorInfo()).reason)


def told(answer: pb.ExecuteBatchResponse) -> str:
    """The reasons of an answer, for a person."""
    refused = [each.status for each in answer.results if each.HasField("status")]
    return ", ".join(f"{reason_in(each)} ({each.message})" for each in refused) or "no reason"


def verb_name(verb: pb.Verb.ValueType) -> str:
    return pb.Verb.Name(verb).removeprefix("VERB_").lower()


def told_error(error: grpc.aio.AioRpcError) -> str:
    """What a failed call says: its code, its reason where it has one, its message."""
    status = status_of(error)
    reason = reason_in(status) if status is not None else ""
    return f"{error.code().name} {reason} ({error.details()})".replace("  ", " ")
