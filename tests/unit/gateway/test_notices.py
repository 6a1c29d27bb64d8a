"""Sentences for users in three languages (GAT-11)."""

import re
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from fluent.syntax import FluentParser, ast, visitor
from gatehouse.domain.v1 import domain_pb2
from gatehouse.gateway.v1 import gateway_pb2 as pb

from services.gateway.notices import (
    KEYS,
    LOCALES,
    Notices,
    faults_of,
    folder,
    moment,
    number,
    open_notices,
)

ARGUMENTS = {
    "remaining": 3,
    "resets_at": datetime(2026, 3, 1, 3, tzinfo=UTC),
    "minutes": 15,
}
COUNTED = {"affected", "records", "remaining", "minutes", "days"}
TECHNICAL = re.compile(r"[A-Z]{2,}_|\bnull\b|\buuid\b|\bgRPC\b|\bAPI\b|\bserver\b|[{}$_]", re.I)


@pytest.fixture(scope="module")
def notices() -> Notices:
    return open_notices()


@pytest.mark.parametrize("locale", LOCALES)
@pytest.mark.parametrize("kind", KEYS)
def test_every_notice_is_written_in_every_language(
    notices: Notices, kind: pb.NoticeKind.ValueType, locale: str
) -> None:
    """GAT-11: without identifiers or technical words."""
    notice = notices.notice(kind, locale, **ARGUMENTS)
    assert notice.locale == locale
    assert not TECHNICAL.search(notice.message)


@pytest.mark.parametrize("locale", LOCALES)
@pytest.mark.parametrize("enum", [pb.ErrorReason, domain_pb2.ErrorReason])
def test_every_reason_has_a_sentence_of_its_own(
    notices: Notices, locale: str, enum: object
) -> None:
    """GAT-6, GAT-11: a sentence that people read, for each reason that machines read."""
    general, _ = notices.for_reason("OTHER", locale)
    for name in enum.keys():  # noqa: SIM118  the enum's type is no mapping
        reason = name.removeprefix("ERROR_REASON_")
        if reason == "UNSPECIFIED":
            continue
        message, next_step = notices.for_reason(reason, locale)
        assert message != general, reason
        assert not TECHNICAL.search(message + next_step), reason


def test_a_reason_nobody_knows_gets_a_general_sentence(notices: Notices) -> None:
    """GAT-11: a domain's own reason never shows."""
    message, _ = notices.for_reason("SLOT_TAKEN_BY_ROBOT", "en-US")
    assert message == notices.for_reason("OTHER", "en-US")[0]


def test_the_failover_sentence_is_the_neutral_one(notices: Notices) -> None:
    """ROU-6, GAT-11."""
    notice = notices.notice(pb.NOTICE_KIND_FAILOVER, "en-US")
    assert notice.message == "Your answer was completed using an alternate processing tier."


def test_an_upgrade_lists_the_benefits_of_the_copy_file(notices: Notices) -> None:
    """GAT-11: benefits come from a maintained copy file."""
    notice = notices.upgrade("pt-BR", plan_name="basic", offered="premium")
    assert notice.kind == pb.NOTICE_KIND_UPGRADE
    assert "Básico" in notice.message
    assert "números de um ano inteiro" in notice.message


@pytest.mark.parametrize(
    ("value", "english", "spanish"),
    [
        (-0.0, "0", "0"),
        (1234.5, "1,234.5", "1.234,5"),
        (1e14, "100,000,000,000,000", "100.000.000.000.000"),
        (1e300, "1E300", "1E300"),
        (-1e300, "-1E300", "-1E300"),
        (5e-324, "5E-324", "5E-324"),
        (1.7976931348623157e308, "1.7976931348623157E308", "1,7976931348623157E308"),
    ],
)
def test_every_number_can_be_written(value: float, english: str, spanish: str) -> None:
    """GAT-11, ALL-2: as digits, or where these would be noise as a power of ten."""
    assert (number(value, "en-US"), number(value, "es-ES")) == (english, spanish)


def test_a_count_of_one_reads_as_one(notices: Notices) -> None:
    """GAT-11."""
    one = notices.notice(pb.NOTICE_KIND_COOL_DOWN, "es-ES", minutes=1).message
    many = notices.notice(pb.NOTICE_KIND_COOL_DOWN, "es-ES", minutes=14).message
    assert "un minuto" in one
    assert "14 minutos" in many


def test_a_time_is_written_in_its_own_zone() -> None:
    """GAT-11, USE-4."""
    midnight = datetime(2026, 3, 1, 3, tzinfo=UTC).astimezone(ZoneInfo("America/Sao_Paulo"))
    assert moment(midnight, "pt-BR") == "01/03/2026 00:00"


def test_a_copy_file_with_a_gap_is_refused() -> None:
    """GAT-11: a language without benefits is found at start."""
    copy = {"offers": ["premium"], "plans": {"premium": {"name": dict.fromkeys(LOCALES, "P")}}}
    assert faults_of(copy) == [
        f"benefits.yaml lacks benefits of the plan premium in {locale}" for locale in LOCALES
    ]


class Needed(visitor.Visitor):
    """What a message is given."""

    def __init__(self) -> None:
        self.names: set[str] = set()

    def visit_VariableReference(self, node: ast.VariableReference) -> None:
        self.names.add(node.id.name)


def patterns_of(locale: str) -> dict[str, set[str]]:
    """Every sentence of a language by its key, with the names of what it is given."""
    found = {}
    for file in folder().iterdir():
        if file.name.endswith(f".{locale}.ftl"):
            for entry in FluentParser().parse(file.read_text(encoding="utf-8")).body:
                if isinstance(entry, ast.Message):
                    for key, pattern in [
                        (entry.id.name, entry.value),
                        *((f"{entry.id.name}.{each.id.name}", each) for each in entry.attributes),
                    ]:
                        needed = Needed()
                        needed.visit(pattern)
                        found[key] = needed.names
    return found


def test_every_language_says_the_same_things() -> None:
    """GAT-11: the same sentences, given the same."""
    english = patterns_of("en-US")
    for locale in LOCALES:
        assert patterns_of(locale) == english, locale


@pytest.mark.parametrize("locale", LOCALES)
@pytest.mark.parametrize("count", [0, 1, 2, 5, 21, 1_000_000])
def test_every_sentence_is_written_for_every_number(
    notices: Notices, locale: str, count: int
) -> None:
    """GAT-11: no gap, no technical word, for each plural that a language has."""
    for key, names in patterns_of(locale).items():
        given = {name: count if name in COUNTED else "algo" for name in names}
        sentence = notices.sentence(key, locale, **given)
        assert sentence
        assert not TECHNICAL.search(sentence), key


def test_no_sentence_is_unused() -> None:
    """GAT-11: each key, or the beginning that keys are made from, stands in the code."""
    code = "".join(path.read_text() for path in folder().parent.rglob("*.py"))
    made = ("reason-", "metric-", "advice-", "success-", "planned-", "would-", "interpret-")
    for key in patterns_of("en-US"):
        if not key.startswith(made):
            assert f'"{key}' in code, key
