"""The methods of `gatehouse.entitlements.v1.EntitlementsService`: in, through, out."""

from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from datetime import datetime
from typing import Any

from gatehouse.entitlements.v1 import entitlements_pb2 as pb
from gatehouse.entitlements.v1 import entitlements_pb2_grpc as pb_grpc
from google.protobuf.timestamp_pb2 import Timestamp

from services.entitlements import checks, masks, rows
from services.entitlements.access import READERS_OF_ANYONE, require_reader_of_clinic
from services.entitlements.answers import Answers
from services.entitlements.journal import Journal
from services.entitlements.pages import DEFAULT_PAGE_SIZE, PageTokens, fitting, page_of
from services.entitlements.postgres import (
    CLINIC_PLAN,
    DESCRIPTORS,
    PLANS,
    USER_PLAN,
    Store,
    Table,
    Write,
)
from services.entitlements.revisions import Revision, revision_from, revision_to
from services.entitlements.rows import Columns, Row
from services.entitlements.watch import Followers
from services.runtime.failure import InvalidInput, Violation
from services.runtime.identity import Caller, current_caller
from services.runtime.validation import violations_in

Context = Any
SNAPSHOT_PART = 100


class EntitlementsServicer(pb_grpc.EntitlementsServiceServicer):
    def __init__(
        self,
        store: Store,
        answers: Answers,
        followers: Followers,
        journal: Journal,
        tokens: PageTokens,
        now: Callable[[], datetime],
    ) -> None:
        self._store = store
        self._answers = answers
        self._followers = followers
        self._journal = journal
        self._tokens = tokens
        self._now = now

    async def GetEntitlements(
        self, request: pb.GetEntitlementsRequest, context: Context
    ) -> pb.GetEntitlementsResponse:
        caller = reader_of(request.user_id, request.clinic_id)
        return await self._answers.entitlements(
            caller, request.user_id, request.clinic_id, revision_from(request.min_revision)
        )

    async def GetPlanAt(
        self, request: pb.GetPlanAtRequest, context: Context
    ) -> pb.GetPlanAtResponse:
        caller = reader_of(request.user_id, request.clinic_id)
        at = past("at", request.at, self._now())
        return await self._answers.plan_at(caller, request.user_id, request.clinic_id, at)

    async def Watch(
        self, request: pb.WatchRequest, context: Context
    ) -> AsyncIterator[pb.WatchResponse]:
        caller = current_caller()
        caller.require(*READERS_OF_ANYONE)
        after = revision_from(request.after_revision)
        async with aclosing(self._followers.follow(caller, after)) as responses:
            async for response in responses:
                yield response

    async def Snapshot(
        self, request: pb.SnapshotRequest, context: Context
    ) -> AsyncIterator[pb.SnapshotResponse]:
        caller = current_caller()
        caller.require(*READERS_OF_ANYONE)
        # A caller that goes away midway holds neither the turn nor a connection any longer.
        async with aclosing(self._store.snapshot(caller, SNAPSHOT_PART)) as parts:
            async for revision, changes in parts:
                resources = [rows.resource_from(change.kind, change.row) for change in changes]
                while resources:
                    part = fitting(resources, SNAPSHOT_PART)
                    del resources[: len(part)]
                    yield pb.SnapshotResponse(revision=revision_to(revision), resources=part)

    async def CreatePlan(
        self, request: pb.CreatePlanRequest, context: Context
    ) -> pb.CreatePlanResponse:
        caller = admin()
        refuse(checks.plan_violations(request.plan))
        columns = rows.plan_columns(request.plan)
        row, revision = await self._journal.write(
            caller,
            "plan.create",
            lambda write: self._store.create(
                write,
                PLANS,
                columns,
                lambda made: rows.plan_columns(rows.plan_from(made)) == columns,
            ),
            request_id=request.request_id,
        )
        return pb.CreatePlanResponse(plan=rows.plan_from(row), revision=revision_to(revision))

    async def GetPlan(self, request: pb.GetPlanRequest, context: Context) -> pb.GetPlanResponse:
        row, revision = await self._store.one(current_caller(), PLANS, *key_of(request))
        return pb.GetPlanResponse(plan=rows.plan_from(row), revision=revision_to(revision))

    async def ListPlans(
        self, request: pb.ListPlansRequest, context: Context
    ) -> pb.ListPlansResponse:
        found, size, revision = await self._page(request, PLANS)
        plans, token = page_of(
            [rows.plan_from(row) for row in found],
            size,
            lambda last: self._tokens.after(PLANS.name, last.name),
        )
        return pb.ListPlansResponse(
            plans=plans, next_page_token=token, revision=revision_to(revision)
        )

    async def UpdatePlan(
        self, request: pb.UpdatePlanRequest, context: Context
    ) -> pb.UpdatePlanResponse:
        caller = admin()
        fields = update_fields(request, "plan", request.plan.id, masks.PLAN_FIELDS)

        def change(standing: Row) -> Columns:
            plan = masks.merged(rows.plan_from(standing), request.plan, fields)
            refuse([*violations_in(plan, "plan."), *checks.plan_violations(plan)])
            return rows.plan_columns(plan)

        row, revision = await self._journal.write(
            caller,
            "plan.update",
            lambda write: self._store.update(
                write, PLANS, request.plan.id, request.plan.etag, change
            ),
        )
        return pb.UpdatePlanResponse(plan=rows.plan_from(row), revision=revision_to(revision))

    async def DeletePlan(
        self, request: pb.DeletePlanRequest, context: Context
    ) -> pb.DeletePlanResponse:
        revision = await self._delete(PLANS, "plan.delete", request.id, request.etag)
        return pb.DeletePlanResponse(revision=revision_to(revision))

    async def AssignUserPlan(
        self, request: pb.AssignUserPlanRequest, context: Context
    ) -> pb.AssignUserPlanResponse:
        row, revision = await self._assign(
            USER_PLAN, "user_plan.assign", request.user_id, request, {}
        )
        return pb.AssignUserPlanResponse(
            user_plan=rows.user_plan_from(row), revision=revision_to(revision)
        )

    async def GetUserPlan(
        self, request: pb.GetUserPlanRequest, context: Context
    ) -> pb.GetUserPlanResponse:
        caller = reader_of(request.user_id)
        row, revision = await self._store.one(caller, USER_PLAN, "user_id", request.user_id)
        return pb.GetUserPlanResponse(
            user_plan=rows.user_plan_from(row), revision=revision_to(revision)
        )

    async def ListUserPlans(
        self, request: pb.ListUserPlansRequest, context: Context
    ) -> pb.ListUserPlansResponse:
        found, size, revision = await self._page(request, USER_PLAN, request.plan_id)
        plans, token = page_of(
            [rows.user_plan_from(row) for row in found],
            size,
            lambda last: self._tokens.after(listing(USER_PLAN, request.plan_id), last.user_id),
        )
        return pb.ListUserPlansResponse(
            user_plans=plans, next_page_token=token, revision=revision_to(revision)
        )

    async def DeleteUserPlan(
        self, request: pb.DeleteUserPlanRequest, context: Context
    ) -> pb.DeleteUserPlanResponse:
        revision = await self._delete(USER_PLAN, "user_plan.delete", request.user_id, request.etag)
        return pb.DeleteUserPlanResponse(revision=revision_to(revision))

    async def SetClinicPlan(
        self, request: pb.SetClinicPlanRequest, context: Context
    ) -> pb.SetClinicPlanResponse:
        row, revision = await self._assign(
            CLINIC_PLAN,
            "clinic_plan.set",
            request.clinic_id,
            request,
            rows.clinic_plan_columns(request),
        )
        return pb.SetClinicPlanResponse(
            clinic_plan=rows.clinic_plan_from(row), revision=revision_to(revision)
        )

    async def GetClinicPlan(
        self, request: pb.GetClinicPlanRequest, context: Context
    ) -> pb.GetClinicPlanResponse:
        caller = current_caller()
        require_reader_of_clinic(caller, request.clinic_id)
        row, revision = await self._store.one(caller, CLINIC_PLAN, "clinic_id", request.clinic_id)
        return pb.GetClinicPlanResponse(
            clinic_plan=rows.clinic_plan_from(row), revision=revision_to(revision)
        )

    async def ListClinicPlans(
        self, request: pb.ListClinicPlansRequest, context: Context
    ) -> pb.ListClinicPlansResponse:
        found, size, revision = await self._page(request, CLINIC_PLAN, request.plan_id)
        plans, token = page_of(
            [rows.clinic_plan_from(row) for row in found],
            size,
            lambda last: self._tokens.after(listing(CLINIC_PLAN, request.plan_id), last.clinic_id),
        )
        return pb.ListClinicPlansResponse(
            clinic_plans=plans, next_page_token=token, revision=revision_to(revision)
        )

    async def DeleteClinicPlan(
        self, request: pb.DeleteClinicPlanRequest, context: Context
    ) -> pb.DeleteClinicPlanResponse:
        revision = await self._delete(
            CLINIC_PLAN, "clinic_plan.delete", request.clinic_id, request.etag
        )
        return pb.DeleteClinicPlanResponse(revision=revision_to(revision))

    async def CreateDescriptor(
        self, request: pb.CreateDescriptorRequest, context: Context
    ) -> pb.CreateDescriptorResponse:
        caller = admin()
        wanted = request.descriptor
        refuse(checks.descriptor_violations(wanted))
        row, revision = await self._journal.write(
            caller,
            "descriptor.create",
            lambda write: self._store.create(
                write,
                DESCRIPTORS,
                rows.descriptor_columns(wanted),
                lambda made: rows.says_the_same(rows.descriptor_from(made), wanted),
            ),
            request_id=request.request_id,
        )
        return pb.CreateDescriptorResponse(
            descriptor=rows.descriptor_from(row), revision=revision_to(revision)
        )

    async def GetDescriptor(
        self, request: pb.GetDescriptorRequest, context: Context
    ) -> pb.GetDescriptorResponse:
        row, revision = await self._store.one(current_caller(), DESCRIPTORS, *key_of(request))
        return pb.GetDescriptorResponse(
            descriptor=rows.descriptor_from(row), revision=revision_to(revision)
        )

    async def ListDescriptors(
        self, request: pb.ListDescriptorsRequest, context: Context
    ) -> pb.ListDescriptorsResponse:
        found, size, revision = await self._page(request, DESCRIPTORS)
        descriptors, token = page_of(
            [rows.descriptor_from(row) for row in found],
            size,
            lambda last: self._tokens.after(DESCRIPTORS.name, last.name),
        )
        return pb.ListDescriptorsResponse(
            descriptors=descriptors, next_page_token=token, revision=revision_to(revision)
        )

    async def UpdateDescriptor(
        self, request: pb.UpdateDescriptorRequest, context: Context
    ) -> pb.UpdateDescriptorResponse:
        caller = admin()
        wanted = request.descriptor
        fields = update_fields(request, "descriptor", wanted.id, masks.DESCRIPTOR_FIELDS)

        def change(standing: Row) -> Columns:
            descriptor = masks.merged(rows.descriptor_from(standing), wanted, fields)
            refuse(
                [
                    *violations_in(descriptor, "descriptor."),
                    *checks.descriptor_violations(descriptor),
                ]
            )
            return rows.descriptor_columns(descriptor)

        row, revision = await self._journal.write(
            caller,
            "descriptor.update",
            lambda write: self._store.update(write, DESCRIPTORS, wanted.id, wanted.etag, change),
        )
        return pb.UpdateDescriptorResponse(
            descriptor=rows.descriptor_from(row), revision=revision_to(revision)
        )

    async def DeleteDescriptor(
        self, request: pb.DeleteDescriptorRequest, context: Context
    ) -> pb.DeleteDescriptorResponse:
        revision = await self._delete(DESCRIPTORS, "descriptor.delete", request.id, request.etag)
        return pb.DeleteDescriptorResponse(revision=revision_to(revision))

    async def _page(
        self, request: Any, table: Table, plan_id: str = ""
    ) -> tuple[list[Row], int, Revision]:
        """The rows of a page and one more, if there is one; the size asked for; the revision."""
        size = request.page_size or DEFAULT_PAGE_SIZE
        after = self._tokens.read(listing(table, plan_id), request.page_token)
        found, revision = await self._store.page(current_caller(), table, after, size + 1, plan_id)
        return found, size, revision

    async def _delete(self, table: Table, action: str, key: str, etag: str) -> Revision:
        return await self._journal.write(
            admin(), action, lambda write: self._store.delete(write, table, key, etag)
        )

    async def _assign(
        self, table: Table, action: str, key: str, request: Any, columns: Columns
    ) -> tuple[Row, Revision]:
        plan = ("id", request.plan_id) if request.plan_id else ("name", request.plan_name)

        async def carry_out(write: Write) -> tuple[Row, Revision]:
            return await self._store.assign(write, table, key, plan, request.etag, columns)

        return await self._journal.write(admin(), action, carry_out)


def admin() -> Caller:
    caller = current_caller()
    caller.require("admin")
    return caller


def reader_of(user_id: str, clinic_id: str = "") -> Caller:
    caller = current_caller()
    caller.require_acting_for(user_id)
    require_reader_of_clinic(caller, clinic_id)
    return caller


def listing(table: Table, plan_id: str) -> str:
    return f"{table.name}/{plan_id}" if plan_id else table.name


def key_of(request: Any) -> tuple[str, str]:
    """The column and the value by which a plan or a descriptor is asked for."""
    column = str(request.WhichOneof("key"))
    value = str(getattr(request, column))
    if "\0" in value:
        raise InvalidInput([(column, "must not hold the character U+0000")])
    return column, value


def update_fields(request: Any, path: str, key: str, writable: tuple[str, ...]) -> list[str]:
    """The fields that an update writes. Raises InvalidInput for an id or a mask that is wrong."""
    paths = request.update_mask.paths
    refuse([*checks.id_violations(f"{path}.id", key), *masks.mask_violations(paths, writable)])
    return masks.masked(paths, writable)


def past(path: str, at: Timestamp, now: datetime) -> datetime:
    try:
        moment = at.ToDatetime(tzinfo=now.tzinfo)
    except (ValueError, OverflowError):
        raise InvalidInput([(path, "is not a moment between the years 1 and 9999")]) from None
    if moment > now:
        raise InvalidInput([(path, "must not be in the future")])
    return moment


def refuse(violations: list[Violation]) -> None:
    if violations:
        raise InvalidInput(violations)
