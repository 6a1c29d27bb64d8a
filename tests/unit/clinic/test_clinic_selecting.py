"""From conditions and fields to SQL, without a database (DOM-2)."""

import re
import unicodedata
import uuid
from contextlib import suppress
from datetime import UTC, date, datetime
from decimal import Decimal
from zoneinfo import ZoneInfo

import pytest
from gatehouse.domain.v1 import domain_pb2 as pb
from google.protobuf import json_format
from hypothesis import given
from hypothesis import strategies as st

from examples.clinic.entities import ENTITIES, fields_of
from examples.clinic.refusals import Refusal
from examples.clinic.selecting import folded, where_of, written_fields

ZONE = ZoneInfo("America/Sao_Paulo")
PLACES = re.compile(r"%\((\w+)\)s")


def selector(*conditions: tuple[str, int, object]) -> pb.Selector:
    made = pb.Selector()
    for field, comparison, value in conditions:
        condition = made.conditions.conditions.add(field=field, comparison=comparison)
        json_format.ParseDict(value, condition.value)
    return made


SELECTABLE = [
    (entity.name, name)
    for entity in ENTITIES.values()
    for name, described in fields_of(entity.name).items()
    if described.get("x-selectable")
]
VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.floats(),
    st.integers(-(2**53), 2**53),
    st.text(),
    st.sampled_from(["2026-11-23", "2026-11-23T14:30", "2026-11-23T14:30Z", "open", "'; --"]),
    st.lists(st.one_of(st.text(), st.floats(allow_nan=False, allow_infinity=False)), max_size=3),
)


@given(st.sampled_from(SELECTABLE), st.sampled_from(range(10)), VALUES)
def test_any_condition_is_bound_or_refused(
    of: tuple[str, str], comparison: int, value: object
) -> None:
    """DOM-2, ALL-2: whatever is sent, no part of it is in the SQL, and nothing else is raised."""
    entity, field = of
    made = pb.Selector()
    condition = made.conditions.conditions.add(field=field, comparison=comparison)
    try:
        json_format.ParseDict(value, condition.value)
    except json_format.ParseError:
        condition.value.number_value = float("nan")
    with suppress(Refusal):
        where = where_of(ENTITIES[entity], made, ZONE)
        assert set(PLACES.findall(where.text)) - {"today"} <= set(where.values)
        without_ours = re.sub(r"'[a-z]+'", "", where.text)
        assert "'" not in without_ours
        assert "--" not in where.text


@given(st.dictionaries(st.text(max_size=10), VALUES, max_size=3))
def test_any_fields_are_understood_or_refused(fields: dict[str, object]) -> None:
    """DOM-2, ALL-2."""
    operation = pb.Operation(verb=pb.VERB_CREATE, entity="invoice")
    for name, value in {**fields, "amount": fields.get("x", 1)}.items():
        try:
            json_format.ParseDict(value, operation.fields.fields[name])
        except json_format.ParseError:
            operation.fields.fields[name].number_value = float("inf")
    with suppress(Refusal):
        found = written_fields(ENTITIES["invoice"], operation, ZONE)
        assert set(found) <= set(fields_of("invoice"))


@given(st.text())
def test_folding_forgets_accents_however_they_were_typed(text: str) -> None:
    """DOM-2."""
    once = folded(text)
    assert folded(unicodedata.normalize("NFD", text)) == once
    assert not re.search("[\u0300-\u036f]", once)


def test_values_become_what_the_database_compares() -> None:
    """DOM-2: exact numbers, days, moments in the clinic's zone, ids."""
    of = str(uuid.uuid4())
    where = where_of(
        ENTITIES["invoice"],
        selector(
            ("amount", pb.COMPARISON_GREATER, 10.1),
            ("due_date", pb.COMPARISON_EQUAL, "2026-11-23"),
            ("id", pb.COMPARISON_IN, [of]),
            ("amount", pb.COMPARISON_IN, [1, 2.5]),
        ),
        ZONE,
    )
    assert where.values == {
        "v0": Decimal("10.1"),
        "v1": date(2026, 11, 23),
        "v2": [uuid.UUID(of)],
        "v3": [Decimal(1), Decimal("2.5")],
    }
    where = where_of(
        ENTITIES["appointment"],
        selector(("starts_at", pb.COMPARISON_LESS, "2026-11-23T14:30")),
        ZONE,
    )
    assert where.values["v0"] == datetime(2026, 11, 23, 17, 30, tzinfo=UTC)


@pytest.mark.parametrize("value", ["a\0b", "x" * 1001])
def test_text_that_the_database_cannot_hold_is_refused(value: str) -> None:
    """DOM-2."""
    with pytest.raises(Refusal) as caught:
        where_of(ENTITIES["client"], selector(("name", pb.COMPARISON_EQUAL, value)), ZONE)
    assert caught.value.message.startswith("selector.conditions[0].value: ")


def test_deleted_rows_are_out_of_every_selection() -> None:
    """DOM-2: without conditions, by id, or with some."""
    by_id = pb.Selector(id=str(uuid.uuid4()))
    some = selector(("name", pb.COMPARISON_EQUAL, "x"))
    for each in (pb.Selector(), by_id, some):
        assert where_of(ENTITIES["client"], each, ZONE).text.startswith("r.deleted_at IS NULL")
