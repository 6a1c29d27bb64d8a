"""The form that the answer to a batch must have, and what is no sentence for people (DOM-1)."""

import uuid

import pytest
from gatehouse.domain.v1 import domain_pb2 as pb
from google.rpc import status_pb2

from services.conformance.findings import CHECKS, Wrong, named
from services.conformance.refusing import INTERNAL
from services.conformance.subject import check_form
from services.runtime.failure import Precondition

IDS = [str(uuid.uuid4()) for _ in range(2)]
APPLIED = pb.Applied(affected=1)


def refused(reason: str) -> status_pb2.Status:
    return Precondition("no", reason=reason).status()


def answer(*outcomes: object, committed: bool, ids: list[str] = IDS) -> pb.ExecuteBatchResponse:
    made = pb.ExecuteBatchResponse(committed=committed)
    for id_, outcome in zip(ids, outcomes, strict=False):
        result = made.results.add(operation_id=id_)
        if isinstance(outcome, pb.Applied):
            result.applied.CopyFrom(outcome)
        elif isinstance(outcome, status_pb2.Status):
            result.status.CopyFrom(outcome)
    return made


def request(*, validate_only: bool = False) -> pb.ExecuteBatchRequest:
    operations = [pb.Operation(operation_id=id_) for id_ in IDS]
    return pb.ExecuteBatchRequest(operations=operations, validate_only=validate_only)


@pytest.mark.parametrize(
    ("given", "dry"),
    [
        (answer(APPLIED, APPLIED, committed=True), False),
        (answer(refused("ROLLED_BACK"), refused("NOT_FOUND"), committed=False), False),
        (answer(APPLIED, refused("NOT_FOUND"), committed=False), True),
        (answer(APPLIED, APPLIED, committed=False), True),
    ],
)
def test_an_answer_of_the_right_form_is_taken(given: pb.ExecuteBatchResponse, dry: bool) -> None:
    """DOM-1."""
    check_form(request(validate_only=dry), given)


@pytest.mark.parametrize(
    ("given", "dry", "told"),
    [
        (answer(APPLIED, committed=True), False, "one an operation"),
        (answer(APPLIED, APPLIED, committed=True, ids=IDS[::-1]), False, "in their order"),
        (answer(APPLIED, None, committed=True), False, "neither applied nor a status"),
        (answer(APPLIED, refused("NOT_FOUND"), committed=True), False, "a committed batch"),
        (answer(APPLIED, refused("NOT_FOUND"), committed=False), False, "has an applied"),
        (answer(refused("ROLLED_BACK"), refused("ROLLED_BACK"), committed=False), False, "why"),
        (answer(status_pb2.Status(code=5), refused("X"), committed=False), False, "ErrorInfo"),
        (answer(APPLIED, APPLIED, committed=True), True, "validate_only"),
    ],
)
def test_an_answer_of_another_form_is_told(
    given: pb.ExecuteBatchResponse, dry: bool, told: str
) -> None:
    """DOM-1."""
    with pytest.raises(Wrong, match=told):
        check_form(request(validate_only=dry), given)


@pytest.mark.parametrize(
    "message",
    [
        "Traceback (most recent call last)",
        "KeyError: 'name'",
        "java.lang.NullPointerException at a.b.C(D.java:12)",
        'insert violates foreign key constraint "x"',
        "SELECT * FROM clients WHERE id = 1",
        "cannot open /srv/app/data/file",
        'File "x.py", line 3, in run',
    ],
)
def test_what_comes_from_inside_is_known(message: str) -> None:
    """ALL-2."""
    assert INTERNAL.search(message)


@pytest.mark.parametrize(
    "message",
    [
        "selector.conditions[0].field: client has no selectable field x",
        "select a client from the list",
        "the invoice is paid and/or cancelled",
        "update the record where it is, then delete it",
    ],
)
def test_sentences_for_people_are_not_taken_for_it(message: str) -> None:
    """ALL-2."""
    assert not INTERNAL.search(message)


def test_checks_are_chosen_by_the_beginning_of_their_names() -> None:
    """DOM-1: and each says in a sentence what it is that the domain promises."""
    assert {each.name.partition(".")[0] for each in named(["dry", "once"])} == {"dry", "once"}
    assert named([]) == CHECKS
    with pytest.raises(KeyError):
        named(["dry", "no_such_check"])
    assert len({each.name for each in CHECKS}) == len(CHECKS)
    assert all(each.promise.endswith(".") for each in CHECKS)
