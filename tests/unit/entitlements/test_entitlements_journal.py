"""What the operation log is told of a write, however it ends (LOG-2)."""

import asyncio
from datetime import UTC, datetime

import pytest

from services.entitlements.failures import EtagMismatch
from services.entitlements.journal import Journal, operation_id_of
from services.entitlements.postgres import Write
from services.runtime.failure import Failure, StoreUnavailable
from services.runtime.identity import Caller
from services.runtime.recording import RecordedOperation

CALLER = Caller(user_id="a", clinic_id="c", roles=frozenset({"admin"}))
REQUEST = "a0000000-0000-4000-8000-000000000001"


class Remembering:
    def __init__(self) -> None:
        self.outcomes: list[tuple[str, str]] = []

    async def intent(self, operation: RecordedOperation) -> None:
        assert not self.outcomes

    async def outcome(
        self,
        operation: RecordedOperation,
        outcome: str,
        *,
        reason: str = "",
        started_at: datetime,
        ended_at: datetime,
    ) -> None:
        self.outcomes.append((outcome, reason))


@pytest.fixture
def recorder() -> Remembering:
    return Remembering()


@pytest.fixture
def journal(recorder: Remembering) -> Journal:
    return Journal(recorder, now=lambda: datetime(2026, 11, 23, tzinfo=UTC))


@pytest.mark.parametrize(
    ("failure", "outcome"),
    [
        (EtagMismatch("plan"), ("failed", "ETAG_MISMATCH")),
        # The connection may have been lost after the commit.
        (StoreUnavailable("gone"), ("unknown", "STORE_UNAVAILABLE")),
    ],
)
async def test_a_failure_is_told_with_its_reason(
    journal: Journal, recorder: Remembering, failure: Failure, outcome: tuple[str, str]
) -> None:
    """LOG-2: what may have happened all the same is not told as failed."""

    async def carry_out(write: Write) -> None:
        raise failure

    with pytest.raises(type(failure)):
        await journal.write(CALLER, "plan.update", carry_out)
    assert recorder.outcomes == [outcome]


async def test_a_bug_leaves_no_intent_without_an_outcome(
    journal: Journal, recorder: Remembering
) -> None:
    """LOG-2."""

    async def carry_out(write: Write) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await journal.write(CALLER, "plan.update", carry_out)
    assert recorder.outcomes == [("unknown", "INTERNAL")]


async def test_a_caller_that_goes_away_leaves_no_intent_without_an_outcome(
    journal: Journal, recorder: Remembering
) -> None:
    """LOG-2."""
    begun = asyncio.Event()

    async def carry_out(write: Write) -> None:
        begun.set()
        await asyncio.Event().wait()

    writing = asyncio.ensure_future(journal.write(CALLER, "plan.update", carry_out))
    await begun.wait()
    writing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writing
    assert recorder.outcomes == [("unknown", "CANCELLED")]


def test_a_request_has_one_operation_id_and_no_request_has_another() -> None:
    """LOG-2."""
    other = Caller(user_id="b", clinic_id="c", roles=frozenset({"admin"}))
    assert operation_id_of(CALLER, REQUEST) == operation_id_of(CALLER, REQUEST)
    assert operation_id_of(CALLER, REQUEST) != operation_id_of(other, REQUEST)
    assert operation_id_of(CALLER, "") != operation_id_of(CALLER, "")


async def test_without_a_recorder_the_write_is_carried_out_alone() -> None:
    """LOG-3: the settings have to ask for it."""

    async def carry_out(write: Write) -> str:
        return write.operation_id

    journal = Journal(None, now=lambda: datetime(2026, 11, 23, tzinfo=UTC))
    expected = operation_id_of(CALLER, REQUEST)
    assert await journal.write(CALLER, "plan.create", carry_out, request_id=REQUEST) == expected
