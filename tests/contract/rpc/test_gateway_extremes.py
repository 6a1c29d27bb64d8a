"""Values and sizes at the edges get an answer or a clear error, and break nothing (ALL-2).

The kind: a value that one part accepts and the next cannot hold, write or send.
"""

import math
import uuid
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import grpc
import pytest
from gatehouse.domain.v1 import domain_pb2
from gatehouse.entitlements.v1 import entitlements_pb2
from gatehouse.gateway.v1 import gateway_pb2 as pb
from google.protobuf import json_format
from google.protobuf.struct_pb2 import Struct, Value

from services.gateway.authorization import authorized
from services.gateway.changes import Words, changes_of
from services.gateway.notices import LOCALES, open_notices
from services.gateway.refusals import field_of
from tests.gateway_calls import (
    CREATE,
    DELETE,
    READ,
    UPDATE,
    Stage,
    User,
    client,
    clients,
    operation,
    reasons,
    refused,
)
from tests.lab_domain import Lab, descriptor_of

TYPES = ("number", "integer", "string", "boolean", "array", "object")
ODD = {
    **{f"of_{each}": {"type": each} for each in TYPES},
    "any": {},
    "choice": {"type": "number", "enum": [1, 2]},
    "within": {"type": "number", "minimum": -1e308, "maximum": 1e308},
    "date": {"type": "string", "format": "date"},
    "time": {"type": "string", "format": "date-time"},
}
NUMBERS = (
    *(1e300, -1e300, 1.7976931348623157e308, 5e-324, -0.0, 2**53 + 1, 1e16, 1e-10, 0.1 + 0.2),
    *(math.nan, math.inf, -math.inf),
)
TEXTS = (
    *("", " ", "\n", "x" * 100_001, "\u202eabc\u200f", "a\u0301" * 50, "1e300", "𝟙", "\ufeff"),
    *("9999-12-31T23:59:59+23:59", "0001-01-01T00:00:00-23:59", "99999-01-01"),
)


def value(of: Any) -> Value:
    made = Value()
    if isinstance(of, float | int) and not isinstance(of, bool):
        made.number_value = of  # of NaN, JSON knows nothing
    else:
        json_format.ParseDict(of, made)
    return made


def nested(depth: int) -> Value:
    made = value(1e300)
    for _ in range(depth):
        around = Value()
        around.list_value.values.append(made)
        made = around
    return made


VALUES = [value(each) for each in (*NUMBERS, *TEXTS, None, True, {"x": 1e300})] + [nested(30)]


def odd_thing() -> entitlements_pb2.EntityDescriptor:
    """A kind of record whose schema sets next to no bounds."""
    verbs = [CREATE, READ, UPDATE, DELETE]
    thing = entitlements_pb2.EntityDescriptor(name="thing", operations=verbs)
    fields = {name: {**each, "x-selectable": True} for name, each in ODD.items()}
    thing.json_schema.update({"type": "object", "properties": fields})
    return thing


@pytest.fixture(scope="module")
async def odd(stage: Stage) -> AsyncIterator[Lab]:
    async with stage.lab(entities=[odd_thing()]) as lab:
        yield lab


def with_value(lab: Lab, field: str, given: Value) -> list[pb.Operation]:
    """*given* written into a record, changed in one, and looked for."""
    create = operation(lab.name, CREATE, "thing")
    create.fields.fields[field].CopyFrom(given)
    update = operation(lab.name, UPDATE, "thing", record="1")
    update.fields.fields[field].CopyFrom(given)
    read = operation(lab.name, READ, "thing")
    condition = read.selector.conditions.conditions.add(
        field=field, comparison=domain_pb2.COMPARISON_EQUAL
    )
    condition.value.CopyFrom(given)
    return [create, update, read]


@pytest.mark.parametrize("field", ODD)
def test_every_value_is_taken_or_refused_by_its_field(field: str) -> None:
    """GAT-3, GAT-6: numbers, texts, nothing and what is nested, for each kind of field.

    What is taken can be said in every language.
    """
    lab, plan = Lab(), entitlements_pb2.Plan(allows_crud=True)
    descriptors = {lab.name: descriptor_of(lab, entities=[odd_thing()])}
    words = [Words(open_notices(), each, descriptors) for each in LOCALES]
    for given in VALUES:
        for each in with_value(lab, field, given):
            (planned,) = authorized([each], ["x"], plan, descriptors)
            if planned.refused is not None:
                assert planned.refused.reason == "FIELD_INVALID"
                path = "selector.conditions[0].value" if each.verb == READ else f"fields.{field}"
                assert field_of(planned.refused) == path
                continue
            for language in words:
                changes = changes_of(planned.operation, [each.fields])
                assert language.changes(each, changes).isprintable()
                changes = changes_of(planned.operation, [Struct()])
                assert language.changes(each, changes).isprintable()


async def test_values_at_the_edges_reach_a_domain_and_come_back(stage: Stage, odd: Lab) -> None:
    """GAT-6: over the wire, through the gateway and its stores, into the answer."""
    user = await stage.user()

    async def answers(request: Any) -> domain_pb2.ExecuteBatchResponse:
        answer = await odd.apply(request)
        for asked, result in zip(request.operations, answer.results, strict=True):
            result.applied.records.add().CopyFrom(asked.fields)
        return answer

    odd.answers = answers
    for given in VALUES:
        (create, *_) = with_value(odd, "any", given)
        answer = await user.execute([create], validate_only=True)
        if answer.report.successes:
            assert answer.report.successes[0].records[0].fields["any"] == given
        else:
            assert reasons(answer.report) == ["FIELD_INVALID"]
            assert answer.report.failures[0].field == "fields.any"


async def test_a_change_of_extreme_values_is_summarised(stage: Stage, odd: Lab) -> None:
    """GAT-5: whatever is changed can be said, or left out."""
    user = await stage.user()
    odd.answers = odd.apply
    for given in VALUES[::3]:
        updates = [with_value(odd, "any", given)[1] for _ in range(6)]
        answer = await user.execute(updates, validate_only=True)
        said = answer.confirmation.summary or answer.report.failures[0].message
        assert said.isprintable()
        assert len(said) < 1000


LONG = "9" * 400


@pytest.mark.parametrize(
    "words",
    [
        f"invoices over {LONG}",
        f"change the amount of invoice 1 to {LONG}",
        "change the amount of invoice 1 to 9007199254740993",
        "change the amount of invoice 1 to 1e300",
        f"appointments in {LONG} days",
        f"show the last {LONG} invoices",
        f"the client {'x' * 3900}",
        "appointments of 31/12/9999 at 99:99",
        "cancela a consulta \u202eabc\u0301",
    ],
)
async def test_no_words_break_the_reading(stage: Stage, words: str) -> None:
    """GAT-3: and a number that cannot be held with all its digits is not taken for another one."""
    user = await stage.user()
    for locale in LOCALES:
        answer = await user.execute(words, validate_only=True, locale=locale)
        assert answer.WhichOneof("result") in ("clarification", "report")
        assert "900719925474099" not in str(answer.interpretation.operations)


async def sized(user: User, size: int, **more: Any) -> pb.ExecuteResponse:
    """Execute with a request that is about *size* bytes."""
    return await user.execute([client("x" * size)], **more)


async def test_what_is_too_much_is_refused_with_its_reason(stage: Stage) -> None:
    """ALL-1, ALL-2: operations, conditions, values, bytes; then the service goes on."""
    user = await stage.user()
    for count in (101, 5000):
        failure = await refused(user.execute([clients()] * count))
        assert failure.code is grpc.StatusCode.INVALID_ARGUMENT
        assert "operations.operations" in failure.message
    for size in (4 * 1024 * 1024, 15 * 1024 * 1024):
        failure = await refused(sized(user, size))
        assert failure.code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert failure.reason == "MESSAGE_TOO_LARGE"
        assert failure.metadata["max_bytes"]
    too_long = await sized(user, 4 * 1024 * 1024 - 1000)
    assert reasons(too_long.report) == ["FIELD_INVALID"]
    assert (await user.execute([client("Ana")])).report.outcome == pb.OUTCOME_SUCCEEDED


async def large(lab: Lab, size: int, request: Any) -> domain_pb2.ExecuteBatchResponse:
    answer = await lab.apply(request)
    for result in answer.results:
        result.applied.label = "x" * size
    return answer


@pytest.mark.parametrize("size", [15, 17])
async def test_a_domains_large_answer_costs_no_outcome(stage: Stage, size: int) -> None:
    """GAT-6, GAT-7: what was done is told; what was read and is too much says so."""
    user = await stage.user()
    async with stage.lab() as lab:
        lab.answers = partial(large, lab, size * 1024 * 1024)
        id_ = str(uuid.uuid4())
        create, read = operation(lab.name, CREATE), operation(lab.name, READ)
        answer = await user.execute([create, read], request_id=id_)
        assert 0 in [each.index for each in answer.report.successes]
        assert len(lab.done) == 1
        assert all(reason == "MESSAGE_TOO_LARGE" for reason in reasons(answer.report))
        assert answer.ByteSize() < 4 * 1024 * 1024
        again = await user.execute([create, read], request_id=id_)
        assert again.report == answer.report
