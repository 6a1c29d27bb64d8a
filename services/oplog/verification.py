"""Walks the chain and names the first link that does not hold (LOG-4)."""

from contextlib import aclosing
from datetime import datetime

from gatehouse.oplog.v1 import oplog_pb2 as pb

from services.oplog.chain import link_hash
from services.oplog.postgres import Store
from services.oplog.projection import OperationSpan, Row, projected
from services.runtime.identity import Caller


async def verify(
    store: Store, caller: Caller, start: datetime | None, end: datetime | None
) -> pb.VerifyChainResponse:
    """Check every link recorded from *start* to *end*, and the rows that they come to."""
    checked, expected, previous = 0, 0, b""
    async with aclosing(store.links(caller, start, end)) as links:
        async for span, position, recorded_at, kept, row in links:
            if checked == 0:
                expected = position if start is not None else 1
                previous = await store.hash_before(caller, position)
            if position != expected:
                return broken(checked, previous, expected, "", pb.TAMPERING_REMOVED)
            operation_id = str(span.operation_id)
            if link_hash(previous, position, recorded_at, span) != kept:
                return broken(checked, previous, position, operation_id, pb.TAMPERING_CHANGED)
            if (fault := fault_of_row(row, span, position)) is not None:
                return broken(checked, previous, position, operation_id, fault)
            checked, expected, previous = checked + 1, position + 1, kept
    if end is None:
        last, hash_ = await store.head(caller)
        if (checked and (last, hash_) != (expected - 1, previous)) or (
            not checked and last and not start
        ):
            return broken(checked, previous, max(expected, 1), "", pb.TAMPERING_REMOVED)
        for position, operation_id in await store.strangers(caller):
            return broken(checked, previous, position, str(operation_id), pb.TAMPERING_INSERTED)
    return pb.VerifyChainResponse(intact=True, checked=checked, head=previous.hex())


def fault_of_row(
    row: Row | None, span: OperationSpan, position: int
) -> pb.Tampering.ValueType | None:
    """What is wrong with the row of a link that was the last to change it, or None."""
    if row is None:
        return pb.TAMPERING_REMOVED
    if row.position != position:
        return None
    return None if projected(None, span, position) == row else pb.TAMPERING_CHANGED


def broken(
    checked: int,
    head: bytes,
    position: int,
    operation_id: str,
    tampering: pb.Tampering.ValueType,
) -> pb.VerifyChainResponse:
    link = pb.BrokenLink(position=position, operation_id=operation_id, tampering=tampering)
    return pb.VerifyChainResponse(intact=False, checked=checked, broken=link, head=head.hex())
