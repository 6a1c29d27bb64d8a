"""Values at the edges reach the example directly: taken, or refused by their field (DOM-2, ALL-2).

The kind: a value that the protocol carries and the database or Python cannot hold.
"""

import math
from collections.abc import AsyncIterator

import pytest
from gatehouse.domain.v1 import domain_pb2 as pb
from google.protobuf.struct_pb2 import Value

from tests.clinic_calls import (
    Clinic,
    appointment,
    client,
    fields_of,
    invoice,
    op,
    reason_of,
    serving_clinic,
)

NUMBERS = (
    *(1e300, -1e300, 1.7976931348623157e308, 5e-324, -0.0, 2**53 + 1, 1e16, 1e-10, 0.1 + 0.2),
    *(math.nan, math.inf, -math.inf, 9_999_999_999.99, 10**10),
)
TEXTS = (
    *("", " ", "\n", "x" * 100_001, "\u202eabc", "a\u0301" * 50, "1e300", "\ufeff", "𝟙"),
    *("9999-12-31T23:59:59+23:59", "0001-01-01T00:00:00-23:59", "2026-12-01", "99999-01-01"),
)
VALUES = [
    *(Value(number_value=each) for each in NUMBERS),
    *(Value(string_value=each) for each in TEXTS),
    Value(null_value=0),
    Value(bool_value=True),
    Value(),
]
COMPARISONS = [each for each in pb.Comparison.values() if each]
BASES = {
    "client": ("clients", client("Zoe")),
    "invoice": ("finance", invoice("99", "Ana")),
    "appointment": ("appointments", appointment("Ana", "2099-01-01T10:00")),
}
FIELDS = [
    *(("client", each) for each in ("name", "birth_date", "contact_consent")),
    *(("invoice", each) for each in ("number", "amount", "due_date", "status", "client_name")),
    ("appointment", "starts_at"),
]


@pytest.fixture(scope="module")
async def clinic(database, tokens) -> AsyncIterator[Clinic]:
    async with serving_clinic(database.url_for("clinic"), tokens) as stubs:
        made = Clinic(stubs, tokens, database.url_for("clinic"))
        await made.done("clients", client("Ana"))
        yield made


def requests(entity: str, field: str, value: Value) -> list[pb.Operation]:
    """*value* written, and compared with in every way, alone and in a list."""
    _, base = BASES[entity]
    create = op("CREATE", entity)
    create.fields.CopyFrom(base.fields)
    create.fields.fields[field].CopyFrom(value)
    made = [create]
    for comparison in COMPARISONS:
        read = op("READ", entity)
        condition = read.selector.conditions.conditions.add(field=field, comparison=comparison)
        condition.value.CopyFrom(value)
        if comparison == pb.COMPARISON_IN:
            condition.value.list_value.values.append(value)
        made.append(read)
    return made


@pytest.mark.parametrize(("entity", "field"), FIELDS)
async def test_every_value_is_taken_or_refused_by_its_field(
    clinic: Clinic, entity: str, field: str
) -> None:
    """DOM-2, ALL-2: in one batch that is validated, so that each operation has its answer."""
    domain, _ = BASES[entity]
    for value in VALUES:
        operations = requests(entity, field, value)
        answer = await clinic.run(domain, *operations, validate_only=True)
        for asked, result in zip(operations, answer.results, strict=True):
            if result.HasField("applied"):
                continue
            reason = reason_of(result.status)
            assert reason in ("INVALID_ARGUMENT", "NOT_FOUND"), (asked, result)
            if reason == "INVALID_ARGUMENT":
                (named,) = fields_of(result.status)
                expected = f"fields.{field}" if asked.verb == pb.VERB_CREATE else "selector."
                assert named.startswith((expected, "fields")), (asked, named)
