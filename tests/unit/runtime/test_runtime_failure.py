"""How what went wrong becomes a status, and a status what went wrong (ALL-2)."""

from datetime import timedelta
from typing import Any
from urllib.parse import quote

import grpc
import grpc.aio
import pytest
from google.protobuf.message import Message
from google.rpc import error_details_pb2
from google.rpc.status_pb2 import Status
from hypothesis import given
from hypothesis import strategies as st

from services.runtime import failure as failures
from services.runtime.failure import (
    Cancelled,
    DeadlineExceeded,
    Exhausted,
    Failure,
    Internal,
    InvalidInput,
    PeerUnavailable,
    StoreUnavailable,
    failure_from,
    reason_of,
)

SECRET = "failed to connect to 10.1.2.3:5432"
KINDS = [each for each in vars(failures).values() if isinstance(each, type)]
TEXT = st.text("aé☃\U0001f600\0\n\ud800%", max_size=4000)


def error_of(
    code: grpc.StatusCode, details: str = SECRET, trailing: Any = ()
) -> grpc.aio.AioRpcError:
    return grpc.aio.AioRpcError(
        code, grpc.aio.Metadata(), grpc.aio.Metadata(*trailing), details=details
    )


def sent(failure: Failure) -> grpc.aio.AioRpcError:
    """What the caller of a call that ended with *failure* catches."""
    status = failure.status()
    trailing = [("grpc-status-details-bin", status.SerializeToString())]
    return error_of(failure.code, status.message, trailing)


@pytest.mark.parametrize(
    "kind", [each for each in KINDS if issubclass(each, Failure) and each.code.value[0]]
)
def test_every_failure_has_a_reason(kind: type[Failure]) -> None:
    """ALL-2: ErrorInfo always, with the domain."""
    made = Failure.__new__(kind)
    Failure.__init__(made, "something")
    info = error_details_pb2.ErrorInfo()
    assert made.status().details[0].Unpack(info)
    assert (info.reason, info.domain) == (kind.reason, "gatehouse")
    assert info.reason.isupper()


def test_a_failure_arrives_as_it_was() -> None:
    """ALL-2: code, reason, message, metadata, details, and when to come back."""
    quota = error_details_pb2.QuotaFailure(
        violations=[error_details_pb2.QuotaFailure.Violation(subject="reads", description="used")]
    )
    told = Exhausted(
        "the day is over, amanhã há mais",
        reason="QUOTA_EXHAUSTED",
        metadata={"limit": "40"},
        details=[quota],
        retry_after=timedelta(seconds=90),
    )
    heard: Failure = told
    for _ in range(3):  # through as many services
        heard = failure_from(sent(heard))
        assert (heard.code, heard.reason) == (told.code, told.reason)
        assert (heard.message, heard.metadata) == (told.message, told.metadata)
        assert heard.retry_after == told.retry_after
        unpacked = error_details_pb2.QuotaFailure()
        (detail,) = heard.details
        assert detail.Unpack(unpacked)
        assert unpacked == quota


def test_only_what_can_help_says_when_to_come_back() -> None:
    """ALL-2: a store that is down does; a mistake does not; never before now."""
    assert failure_from(sent(StoreUnavailable("down"))).retry_after == timedelta(seconds=1)
    assert failure_from(sent(InvalidInput([("a", "b")]))).retry_after is None
    past = Exhausted("wait", retry_after=timedelta(seconds=-5))
    assert failure_from(sent(past)).retry_after == timedelta(0)


def size_of_trailer(status: Status) -> int:
    """Bytes that the status takes in a trailer: percent-encoded, and in base64."""
    return len(quote(status.message)) + len(status.SerializeToString()) * 4 // 3


@given(
    message=TEXT,
    metadata=st.dictionaries(TEXT, TEXT, max_size=8),
    violations=st.lists(st.tuples(TEXT, TEXT), max_size=30),
    wait=st.none() | st.timedeltas(timedelta(0), timedelta(days=30)),
)
def test_every_status_fits_its_trailer(
    message: str,
    metadata: dict[str, str],
    violations: list[tuple[str, str]],
    wait: timedelta | None,
) -> None:
    """ALL-2: whatever is in it, ErrorInfo and RetryInfo arrive, and the message is whole text."""
    bad = error_details_pb2.BadRequest()
    for field, description in violations:
        bad.field_violations.add(
            field=failures.cut(field, 10_000), description=failures.cut(description, 10_000)
        )
    told = Failure(
        message, reason="SOME_REASON", metadata=metadata, details=[bad], retry_after=wait
    )
    assert size_of_trailer(told.status()) < 7800
    heard = failure_from(sent(told))
    assert heard.reason == "SOME_REASON"
    assert (heard.retry_after is None) == (wait is None)


def test_as_many_violations_are_named_as_fit() -> None:
    """ALL-2: the first ones."""
    named = error_details_pb2.BadRequest()
    many = InvalidInput([(f"claims[{number}]", "must be set") for number in range(500)])
    assert many.status().details[1].Unpack(named)
    fields = [each.field for each in named.field_violations]
    assert 20 < len(fields) < 500
    assert fields == [f"claims[{number}]" for number in range(len(fields))]


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (grpc.StatusCode.UNAVAILABLE, PeerUnavailable),
        (grpc.StatusCode.UNKNOWN, PeerUnavailable),
        (grpc.StatusCode.INTERNAL, PeerUnavailable),
        (grpc.StatusCode.UNIMPLEMENTED, PeerUnavailable),
        (grpc.StatusCode.DEADLINE_EXCEEDED, DeadlineExceeded),
        (grpc.StatusCode.CANCELLED, Cancelled),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, Exhausted),
    ],
)
def test_the_transports_words_go_nowhere(code: grpc.StatusCode, kind: type[Failure]) -> None:
    """ALL-2: an address is nobody's business."""
    failure = failure_from(error_of(code))
    assert type(failure) is kind
    assert SECRET not in str(failure.status())
    assert reason_of(error_of(code)) == failure.reason


def trailing_of(status: Message | bytes) -> list[tuple[str, bytes]]:
    content = status if isinstance(status, bytes) else status.SerializeToString()
    return [("grpc-status-details-bin", content)]


def odd_statuses() -> list[Message | bytes]:
    unavailable = int(grpc.StatusCode.UNAVAILABLE.value[0])
    broken = Status(code=unavailable, message=SECRET)
    broken.details.add(type_url="type.googleapis.com/google.rpc.ErrorInfo", value=b"\xff\xff")
    endless = StoreUnavailable(SECRET).status()
    del endless.details[1:]
    retry = error_details_pb2.RetryInfo()
    retry.retry_delay.seconds = 2**62
    endless.details.add().Pack(retry)
    return [
        b"\xff\xff garbage",
        Status(code=unavailable, message=SECRET),
        Status(code=unavailable, message="another message"),
        Status(code=5, message=SECRET),
        broken,
        endless,
    ]


@pytest.mark.parametrize("status", odd_statuses())
def test_a_status_that_is_none_of_ours_is_the_transports(status: Message | bytes) -> None:
    """ALL-2: garbage, contradictions, statuses without a reason."""
    error = error_of(grpc.StatusCode.UNAVAILABLE, SECRET, trailing_of(status))
    assert type(failure_from(error)) is PeerUnavailable


def test_internal_says_nothing_of_what_broke() -> None:
    """ALL-2: the trace id leads there."""
    assert "trace id" in Internal().message
