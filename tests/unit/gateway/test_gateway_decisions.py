"""What the gateway decides without waiting: replays, confirmations, domains' answers, the log."""

import math
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import pytest
from gatehouse.domain.v1 import domain_pb2
from gatehouse.entitlements.v1.entitlements_pb2 import DomainDescriptor
from gatehouse.gateway.v1 import gateway_pb2 as pb
from google.protobuf.struct_pb2 import Struct, Value
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st

from services.gateway import dispatch, peers, preview, settlement
from services.gateway.authorization import Planned
from services.gateway.confirmation import check_token, token_for
from services.gateway.dispatch import ended
from services.gateway.failures import (
    ConfirmationRefused,
    DomainMalfunction,
    DomainUnavailable,
    DomainUnreachable,
    RequestIdReused,
)
from services.gateway.preview import Touched
from services.gateway.replay import Call, Row, StoredAnswer, decide, digest_of, fingerprint_of
from services.gateway.report import plain
from services.runtime.failure import DeadlineExceeded, Failure, PeerFailure
from services.runtime.identity import Caller

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
KEY = b"k" * 32
CALLER = Caller(str(uuid.uuid4()), str(uuid.uuid4()), frozenset({"user"}))
REQUEST = pb.ExecuteRequest(request_id="r", instruction="show the clients")
TOKEN = "token"


def row(state: str, **more: Any) -> Row:
    values: dict[str, Any] = {
        "fingerprint": fingerprint_of(REQUEST, CALLER.clinic_id),
        "state": state,
        "lease_over": False,
        "expired": False,
        "locale": "en-US",
        "time_zone": "UTC",
        "answer": pb.ExecuteResponse(trace_id="t").SerializeToString(),
        "planned": None,
        "claimed": 0,
        "records_digest": None,
        "token_digest": digest_of(TOKEN),
        "token_over": False,
        "age": timedelta(0),
        "use_id": uuid.uuid4(),
        "attempt": 1,
        "delivered": False,
        "unlogged": None,
    }
    return Row(**{**values, **more})


def decided(token: str, found: Row | None) -> Any:
    mark = fingerprint_of(REQUEST, CALLER.clinic_id)
    return decide(Call(CALLER, "r", mark, "en-US", "UTC", confirmation_token=token), found)


@pytest.mark.parametrize(
    ("state", "lease_over", "planned", "token", "token_over", "expected"),
    [
        ("running", False, False, "", False, None),
        ("running", True, False, "", False, "run"),
        ("running", False, True, TOKEN, False, None),
        ("running", True, True, TOKEN, False, "confirmed"),
        ("running", True, True, "", False, "answered"),
        ("confirming", True, True, "", False, "answered"),
        ("confirming", True, True, TOKEN, False, "confirmed"),
        ("confirming", True, True, "", True, "run"),
        ("dispatching", False, True, "", False, None),
        ("dispatching", True, True, "", False, "recover"),
        ("dispatching", True, True, TOKEN, True, "recover"),
        ("settling", True, True, "", False, "recover"),
        ("settling", False, True, "", False, None),
        ("answered", False, False, "", False, "answered"),
        ("answered", True, False, "", False, "answered"),
        ("abandoned", True, False, "", False, "run"),
        ("finished", True, True, "", False, "answered"),
        ("finished", True, True, TOKEN, True, "answered"),
    ],
)
def test_a_request_is_taken_on_answered_or_waited_for(
    state: str, lease_over: bool, planned: bool, token: str, token_over: bool, expected: str | None
) -> None:
    """GAT-2, GAT-5: once it may have been begun it is never run again."""
    found = row(
        state, lease_over=lease_over, planned=b"" if planned else None, token_over=token_over
    )
    answer = decided(token, found)
    assert ("answered" if isinstance(answer, StoredAnswer) else answer) == expected


@pytest.mark.parametrize(
    ("token", "found", "reason"),
    [
        (TOKEN, None, "CONFIRMATION_INVALID"),
        (TOKEN, row("running", token_digest=None), "CONFIRMATION_INVALID"),
        (TOKEN, row("abandoned"), "CONFIRMATION_INVALID"),
        ("older", row("confirming", planned=b""), "CONFIRMATION_OUTDATED"),
        (TOKEN, row("confirming", planned=b"", token_over=True), "CONFIRMATION_EXPIRED"),
    ],
)
def test_a_token_out_of_place_is_refused(token: str, found: Row | None, reason: str) -> None:
    """GAT-5."""
    with pytest.raises(ConfirmationRefused) as caught:
        decided(token, found)
    assert caught.value.reason == reason


@pytest.mark.parametrize(
    ("state", "is_free"),
    [
        ("abandoned", True),
        ("finished", True),
        ("confirming", True),
        ("running", False),
        ("dispatching", False),
        ("settling", False),
        ("answered", False),
    ],
)
def test_an_id_is_free_once_its_answer_expired_and_nothing_is_open(
    state: str, is_free: bool
) -> None:
    """GAT-2: then another payload begins a new use of it."""
    found = row(state, expired=True, lease_over=True, planned=b"", fingerprint=b"another")
    if is_free:
        assert decided("", found) == "run"
    else:
        with pytest.raises(RequestIdReused):
            decided("", found)


def test_kinds_of_requests_do_not_share_an_id() -> None:
    """GAT-2: what Analyze answered is not given to Recommend, whatever the bytes."""
    marks = {
        fingerprint_of(kind(request_id="r"), "c")
        for kind in (pb.ExecuteRequest, pb.AnalyzeRequest, pb.RecommendRequest)
    }
    assert len(marks) == 3


def test_another_payload_is_refused_whatever_the_state() -> None:
    """GAT-2."""
    for state in ("running", "confirming", "dispatching", "settling", "answered", "finished"):
        with pytest.raises(RequestIdReused):
            decided("", row(state, fingerprint=b"another"))


def test_the_token_is_no_part_of_the_payload() -> None:
    """GAT-5: the request with its token is the request; in another clinic it is another."""
    confirmed = pb.ExecuteRequest(confirmation_token="x")
    confirmed.MergeFrom(REQUEST)
    assert fingerprint_of(confirmed, "c") == fingerprint_of(REQUEST, "c")
    assert fingerprint_of(REQUEST, "c") != fingerprint_of(REQUEST, "d")


@given(st.text(max_size=80))
def test_a_text_is_no_token(text: str) -> None:
    """GAT-5: only what was signed for this user, clinic and request."""
    with pytest.raises(ConfirmationRefused):
        check_token(KEY, CALLER, "r", text)


def test_a_token_is_signed_for_user_clinic_and_request() -> None:
    """GAT-5: by the key of the replicas; each token is another."""
    token, expires_at = token_for(KEY, CALLER, "r", NOW, timedelta(minutes=10))
    assert expires_at == NOW + timedelta(minutes=10)
    assert token != token_for(KEY, CALLER, "r", NOW, timedelta(minutes=10))[0]
    check_token(KEY, CALLER, "r", token)
    other = Caller(str(uuid.uuid4()), CALLER.clinic_id, frozenset({"user"}))
    elsewhere = Caller(CALLER.user_id, str(uuid.uuid4()), frozenset({"user"}))
    for key, caller, request_id in (
        (b"x" * 32, CALLER, "r"),
        (KEY, other, "r"),
        (KEY, elsewhere, "r"),
        (KEY, CALLER, "s"),
    ):
        with pytest.raises(ConfirmationRefused):
            check_token(key, caller, request_id, token)


def answer_of(committed: bool, *applied: bool | None) -> domain_pb2.ExecuteBatchResponse:
    results = []
    for index, each in enumerate(applied):
        result = domain_pb2.Result(operation_id=str(index))
        if each:
            result.applied.SetInParent()
        elif each is not None:
            result.status.code = grpc.StatusCode.FAILED_PRECONDITION.value[0]
        results.append(result)
    return domain_pb2.ExecuteBatchResponse(committed=committed, results=results)


@given(st.booleans(), st.booleans(), st.lists(st.sampled_from([True, False, None]), min_size=1))
def test_a_domains_answer_is_taken_only_if_it_can_be_true(
    committed: bool, dry: bool, applied: list[bool | None]
) -> None:
    """GAT-6: all of a batch or none; a dry run commits nothing; each operation is answered."""
    operations = [domain_pb2.Operation(operation_id=str(index)) for index in range(len(applied))]
    request = domain_pb2.ExecuteBatchRequest(operations=operations, validate_only=dry)
    whole = None not in applied
    possible = not committed if dry else committed == all(applied) and len(set(applied)) == 1
    if whole and possible:
        peers.check_batch(request, answer_of(committed, *applied))
    else:
        with pytest.raises(DomainMalfunction):
            peers.check_batch(request, answer_of(committed, *applied))


UPDATE, DELETE = domain_pb2.VERB_UPDATE, domain_pb2.VERB_DELETE


@pytest.mark.parametrize("dry", [True, False])
@pytest.mark.parametrize(
    ("verb", "most", "affected", "possible"),
    [
        (domain_pb2.VERB_CREATE, 0, 1, True),
        (domain_pb2.VERB_CREATE, 7, 2, False),
        (UPDATE, 0, 1, True),
        (UPDATE, 0, 2, False),
        (UPDATE, 7, 7, True),
        (UPDATE, 7, 8, False),
        (DELETE, 7, 0, True),
        (DELETE, 7, 2**32 - 1, False),
        (domain_pb2.VERB_READ, 0, 500, True),
    ],
)
def test_no_domain_touches_more_than_it_may(
    verb: domain_pb2.Verb.ValueType, most: int, affected: int, possible: bool, dry: bool
) -> None:
    """GAT-6: `affected` beyond `max_affected` cannot be true, so it is not believed."""
    operation = domain_pb2.Operation(operation_id="0", verb=verb, max_affected=most)
    request = domain_pb2.ExecuteBatchRequest(operations=[operation], validate_only=dry)
    answer = answer_of(not dry, True)
    answer.results[0].applied.affected = affected
    if possible:
        peers.check_batch(request, answer)
    else:
        with pytest.raises(DomainMalfunction):
            peers.check_batch(request, answer)


def test_a_status_of_ok_is_no_refusal() -> None:
    """GAT-6: it says neither that the operation was applied nor that it was not."""
    operation = domain_pb2.Operation(operation_id="0", verb=DELETE)
    request = domain_pb2.ExecuteBatchRequest(operations=[operation])
    answer = answer_of(False, False)
    peers.check_batch(request, answer)
    answer.results[0].status.code = grpc.StatusCode.OK.value[0]
    with pytest.raises(DomainMalfunction):
        peers.check_batch(request, answer)


def figures(*groups: tuple[float, float, int]) -> domain_pb2.AggregateResponse:
    return domain_pb2.AggregateResponse(
        groups=[
            domain_pb2.Group(key=str(place), numerator=above, denominator=below, subjects=people)
            for place, (above, below, people) in enumerate(groups)
        ]
    )


def series(second: int, group: tuple[float, float, int]) -> domain_pb2.AggregateResponse:
    step = domain_pb2.Step(start_time=Timestamp(seconds=second), figures=figures(group).groups[0])
    return domain_pb2.AggregateResponse(series=[step])


@pytest.mark.parametrize(
    "wrong",
    [
        (-1, 5, 5),
        (6, 5, 5),
        (math.nan, 5, 5),
        (1, math.nan, 5),
        (1, math.inf, 5),
        (1, 5, 0),  # about whom, it does not say
    ],
)
def test_figures_that_cannot_be_are_none(wrong: tuple[float, float, int]) -> None:
    """GAT-8: and what does not say of how many people it is, is not shown as of nobody."""
    window = domain_pb2.AggregateRequest(
        start_time=Timestamp(seconds=10), end_time=Timestamp(seconds=20), group_by="weekday"
    )
    twice = figures((1, 5, 5))
    twice.groups.append(twice.groups[0])
    whole = domain_pb2.AggregateRequest()
    whole.CopyFrom(window)
    whole.group_by = ""
    with pytest.raises(DomainMalfunction):
        peers.check_aggregate(whole, figures((1, 5, 5), (1, 6, 6)))
    peers.check_aggregate(window, figures((0, 0, 0), (1, 5, 5), (5, 5, 1)))
    peers.check_aggregate(window, series(19, (1, 5, 5)))
    for answer in (
        figures((1, 5, 5), wrong),
        figures(*[(1, 5, 5)] * 501),
        series(10, wrong),
        series(9, (1, 5, 5)),
        series(20, (1, 5, 5)),
        series(2**62, (1, 5, 5)),
        twice,
    ):
        with pytest.raises(DomainMalfunction):
            peers.check_aggregate(window, answer)


@pytest.mark.parametrize(
    ("failure", "is_open"),
    [
        (DomainUnreachable("x"), False),
        (DomainUnavailable("x"), True),
        (DomainMalfunction("x"), True),
        (DeadlineExceeded(), True),
        (dispatch.Interrupted(), True),
        (PeerFailure(grpc.StatusCode.INVALID_ARGUMENT, "", reason="INVALID_ARGUMENT"), False),
        (PeerFailure(grpc.StatusCode.UNAUTHENTICATED, "", reason="TOKEN_EXPIRED"), False),
        (PeerFailure(grpc.StatusCode.DATA_LOSS, "", reason="WHATEVER"), True),
    ],
)
def test_what_may_have_been_done_is_asked_about(failure: Any, is_open: bool) -> None:
    """GAT-7: everything but what was not sent, or not taken on."""
    assert dispatch.is_open(failure) == is_open


@given(st.text(max_size=100))
def test_a_reason_is_a_reason_or_none_at_all(text: str) -> None:
    """LOG-6, ALL-2: no other text of a domain goes on."""
    reason = peers.plain_reason(text)
    assert reason == "OTHER" or (reason == text and reason.isascii() and reason.isupper())


@pytest.mark.parametrize(
    ("reason", "is_going", "outcome"),
    [
        ("NOT_FOUND", True, "failed"),
        ("FIELD_INVALID", False, "refused"),
        ("QUOTA_EXHAUSTED", False, "refused"),
        ("LOG_UNAVAILABLE", True, "refused"),
        ("CANCELLED", True, "cancelled"),
        ("DEADLINE_EXCEEDED", True, "cancelled"),
        ("OPERATION_ABANDONED", True, "failed"),
    ],
)
def test_the_log_tells_refused_from_failed(reason: str, is_going: bool, outcome: str) -> None:
    """LOG-1."""
    assert settlement.outcome_of(reason, is_going=is_going) == outcome


def touched(affected: int, *ids: str, etag: str = "1", failure: Failure | None = None) -> Touched:
    operation = pb.Operation(domain="clients", verb=domain_pb2.VERB_DELETE)
    operation.selector.conditions.conditions.add(field="name")
    applied = None if failure else domain_pb2.Applied(affected=affected)
    done = [ended(Planned(0, "x", operation), applied=applied, failure=failure)]
    found = [Struct(fields={"id": Value(string_value=each)}) for each in ids]
    records, descriptors = {0: found}, {"clients": DomainDescriptor(etag=etag)}
    return Touched(done, records, preview.digest_of(done, records, descriptors))


def test_a_confirmation_holds_for_the_same_records_alone() -> None:
    """GAT-5: neither others of the same number nor more of them, nor by another descriptor."""
    shown = pb.ConfirmationRequired(operations=[pb.PlannedOperation(affected=2)])
    digest = touched(2, "a", "b").records_digest
    same = touched(2, "a", "b")
    [held] = preview.held(shown, digest, same)
    assert held.refused is None
    assert held.operation.max_affected == 2
    _, only = held.operation.selector.conditions.conditions
    assert (only.field, list(only.value.list_value)) == ("id", ["a", "b"])
    for other in (
        touched(2, "a", "c"),
        touched(3, "a", "b"),
        touched(1, "a"),
        touched(2),
        touched(2, "a", "b", etag="2"),
        touched(2, failure=DomainMalfunction("x")),
    ):
        with pytest.raises(ConfirmationRefused) as caught:
            preview.held(shown, digest, other)
        assert caught.value.reason == "CONFIRMATION_OUTDATED"


def test_what_was_shown_as_not_done_is_not_tried() -> None:
    """GAT-5: also where it could be done a moment later."""
    failure = DomainMalfunction("x")
    then = touched(0, failure=failure)
    [held] = preview.held(
        pb.ConfirmationRequired(operations=[pb.PlannedOperation()]), then.records_digest, then
    )
    assert held.refused is failure


def test_a_domain_that_is_away_outdates_nothing() -> None:
    """GAT-5: it is asked again, under the same token."""
    shown = pb.ConfirmationRequired(operations=[pb.PlannedOperation(affected=2)])
    away = touched(0, failure=DomainUnavailable("x"))
    with pytest.raises(DomainUnavailable):
        preview.held(shown, touched(2, "a", "b").records_digest, away)


@pytest.mark.parametrize(
    ("label", "line"),
    [
        ("Ana Souza", "Ana Souza"),
        ("  Ana\n\tSouza\x1b[31m\u202e ", "Ana Souza [31m"),
        ("é" * 160, "é" * 160),
        ("é" * 161, "é" * 159 + "…"),
        ("", ""),
    ],
)
def test_a_domains_name_for_a_record_is_one_short_line(label: str, line: str) -> None:
    """GAT-11: whatever a domain puts there."""
    assert plain(label) == line
