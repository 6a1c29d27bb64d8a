"""Every spelling of a language tag and every zone at the door of the gateway (ALL-6, USE-4).

The kind of fault: text of a caller, a locale or a zone, is used as a key before it is one of ours.
"""

import uuid
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import grpc
import pytest
from gatehouse.entitlements.v1 import entitlements_pb2
from gatehouse.gateway.v1 import gateway_pb2 as pb
from gatehouse.gateway.v1.gateway_pb2_grpc import GatewayServiceStub
from google.rpc import error_details_pb2

from tests.gateway_calls import Stage, User, client, clients, detail_of, refused

WINDOW = pb.Window(last_days=7)
WORDS = {"pt-BR": "registro", "es-ES": "registro", "en-US": "record"}
CALLS: dict[str, Callable[..., Any]] = {
    "Execute": lambda stub, call, **more: stub.Execute(
        pb.ExecuteRequest(request_id=str(uuid.uuid4()), instruction="show the clients", **more),
        **call,
    ),
    "Interpret": lambda stub, call, **more: stub.Interpret(
        pb.InterpretRequest(instruction="show the clients", **more), **call
    ),
    "Analyze": lambda stub, call, **more: stub.Analyze(analysis(**more), **call),
    "StreamAnalyze": lambda stub, call, **more: streamed(
        stub.StreamAnalyze(pb.StreamAnalyzeRequest(request=analysis(**more)), **call)
    ),
    "Recommend": lambda stub, call, **more: stub.Recommend(
        pb.RecommendRequest(request_id=str(uuid.uuid4()), **more), **call
    ),
}
TAGS = (
    *("pt-br", "PT-BR", "pt_BR", "pt", "pt-PT", "es-419", "ES", "en", "en-GB-oxendict"),
    *("zh-Hant", "i-klingon", "x-mine", "qaa", "de-DE-u-co-phonebk"),
)


def analysis(**more: Any) -> pb.AnalyzeRequest:
    return pb.AnalyzeRequest(
        request_id=str(uuid.uuid4()), metrics=["no_show_rate"], window=WINDOW, **more
    )


async def streamed(parts: AsyncIterator[Any]) -> list[Any]:
    return [part async for part in parts]


@pytest.mark.parametrize("name", CALLS)
async def test_every_spelling_of_a_tag_is_answered(stage: Stage, name: str) -> None:
    """ALL-6: in a request and in a token; never INTERNAL, never another language's nearest."""
    stub: GatewayServiceStub = stage.gateways[0]
    for tag in TAGS:
        user = await stage.user()
        assert await CALLS[name](stub, user.call, locale=tag)
    for tag in (*TAGS, "pt_BR.UTF-8", "english, please", "../en", "", 7):
        user = await stage.user(locale=tag)
        assert await CALLS[name](stub, user.call)


@pytest.mark.parametrize("name", CALLS)
async def test_a_text_that_is_no_tag_or_no_zone_is_refused_by_field(
    stage: Stage, name: str
) -> None:
    """ALL-6, ALL-2: in a request, INVALID_ARGUMENT; nothing is counted."""
    user = await stage.user()
    wrong = [("locale", text) for text in ("english please", "pt-", "p", "pt_BR.UTF-8", "../en")]
    if name != "Recommend":
        zones = ("localtime", "Factory", "posixrules", "posix/UTC", "right/UTC", "Mars/Base")
        wrong += [("time_zone", text) for text in zones]
    for field, text in wrong:
        failure = await refused(CALLS[name](stage.gateways[0], user.call, **{field: text}))
        assert failure.code is grpc.StatusCode.INVALID_ARGUMENT, text
        bad = detail_of(failure, error_details_pb2.BadRequest)
        assert [each.field.rpartition(".")[2] for each in bad.field_violations] == [field]
    assert await user.usage() == (0, 0)


@pytest.mark.parametrize(
    ("tag", "locale"), [("PT-br", "pt-BR"), ("pt_pt.UTF-8", "pt-BR"), ("es_419", "es-ES")]
)
async def test_a_tokens_odd_locale_is_answered_in_the_nearest(
    stage: Stage, tag: str, locale: str
) -> None:
    """ALL-6, GAT-11."""
    user = await stage.user("basic", locale=tag)
    answer = await user.execute([clients()])
    assert WORDS[locale] in answer.report.successes[0].summary
    failure = await refused(user.execute([client("Ana")]))
    told = detail_of(failure, error_details_pb2.LocalizedMessage)
    assert told.locale == locale


# 25 hours apart: their days are never the same.
EARLY, LATE = "Pacific/Kiritimati", "Pacific/Pago_Pago"


async def in_zone(stage: Stage, user: User, zone: str) -> Any:
    """Keep *zone* with the user's clinic; the revision that has it."""
    request = entitlements_pb2.SetClinicPlanRequest(
        clinic_id=user.clinic_id, plan_name="premium", time_zone=zone
    )
    return (await stage.entitlements.SetClinicPlan(request, **stage.admin)).revision


async def counted_on(stage: Stage, user: User) -> list[str]:
    rows = await stage.rows(
        "SELECT usage_date::text FROM usage.usage_counters WHERE user_id = %s", user.id
    )
    return [row[0] for row in rows]


def today(zone: str) -> str:
    return datetime.now(UTC).astimezone(ZoneInfo(zone)).date().isoformat()


def midnight_after(zone: str) -> datetime:
    tomorrow = datetime.now(UTC).astimezone(ZoneInfo(zone)).date() + timedelta(days=1)
    return datetime.combine(tomorrow, datetime.min.time(), ZoneInfo(zone))


@pytest.mark.parametrize("name", ["Execute", "Analyze", "StreamAnalyze", "Recommend"])
async def test_the_day_that_counts_is_the_clinics(stage: Stage, name: str) -> None:
    """USE-4: whatever zone the token or the request names."""
    user = await stage.user("", time_zone=LATE)
    revision = await in_zone(stage, user, EARLY)
    asked = {"min_revision": revision}
    if name != "Recommend":
        asked["time_zone"] = LATE
    before = today(EARLY)
    await CALLS[name](stage.gateways[0], user.call, **asked)
    assert await counted_on(stage, user) in ([before], [today(EARLY)])


async def test_resets_and_days_of_usage_are_told_in_the_clinics_zone(stage: Stage) -> None:
    """USE-4, USE-8: also for a user who has a plan of their own, and for a plan's refusals."""
    user = await stage.user("premium", time_zone=LATE)
    revision = await in_zone(stage, user, EARLY)
    await user.execute([clients()], min_revision=revision)
    before = midnight_after(EARLY)
    request = pb.GetUsageRequest(start_date=today(EARLY), min_revision=revision)
    usage = await stage.gateways[0].GetUsage(request, **user.call)
    assert usage.usage.resets_at.ToDatetime(tzinfo=UTC) in (before, midnight_after(EARLY))
    assert sum(day.read_count for day in usage.days) == 1


async def test_a_clinic_without_a_zone_has_the_tokens_days(stage: Stage) -> None:
    """USE-4: also after its zone was taken back; UTC where the token has none that is known."""
    for token, zone in ((LATE, LATE), ("Mars/Base", "UTC"), ("localtime", "UTC"), ("", "UTC")):
        user = await stage.user("premium", time_zone=token)
        await in_zone(stage, user, EARLY)
        revision = await in_zone(stage, user, "")
        before = today(zone)
        await user.execute([clients()], min_revision=revision)
        assert await counted_on(stage, user) in ([before], [today(zone)]), token
