"""Sentences for users in three languages (GAT-11)."""

import re
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from gatehouse.domain.v1 import domain_pb2
from gatehouse.gateway.v1 import gateway_pb2 as pb

from services.gateway.notices import KEYS, LOCALES, Notices, faults_of, moment, open_notices

ARGUMENTS = {
    "remaining": 3,
    "resets_at": datetime(2026, 3, 1, 3, tzinfo=UTC),
    "minutes": 15,
}
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
    notice = notices.upgrade("pt-BR", plan_name="basic")
    assert notice.kind == pb.NOTICE_KIND_UPGRADE
    assert "Básico" in notice.message
    assert "números de um ano inteiro" in notice.message


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
    copy = {"upgrade": "premium", "plans": {"premium": {"name": dict.fromkeys(LOCALES, "P")}}}
    assert faults_of(copy) == [
        f"benefits.yaml lacks benefits of the plan to upgrade to in {locale}" for locale in LOCALES
    ]
