"""Figures in words: by the plain template, or by a model whose every number is checked (GAT-9)."""

from collections.abc import Mapping, Sequence
from datetime import date
from decimal import Decimal
from types import MappingProxyType

from babel.numbers import format_percent
from gatehouse.gateway.v1 import gateway_pb2 as pb
from gatehouse.router.v1 import router_pb2, tier_pb2

from services.gateway.direction import Move, misdirected
from services.gateway.figures import STATES
from services.gateway.grounding import Grounds, grounds, together, ungrounded
from services.gateway.notices import Notices, number, underscored
from services.gateway.peers import Complete
from services.gateway.reading import Reading
from services.runtime.failure import Failure

MOST_CANDIDATES = 3
LONGEST_ANSWER_TOKENS = 300
NO_MOVES: Mapping[str, Move | None] = MappingProxyType({})


def plain_summary(
    results: Sequence[pb.MetricResult],
    failures: Sequence[pb.MetricFailure],
    notices: Notices,
    locale: str,
) -> str:
    """One or two sentences a metric, made from the figures alone."""
    sentences = [sentence for each in results for sentence in sentences_of(each, notices, locale)]
    sentences += [
        notices.sentence("figure-failed", locale, metric=name_of(each.metric, notices, locale))
        for each in failures
    ]
    return " ".join(sentences)


def sentences_of(result: pb.MetricResult, notices: Notices, locale: str) -> list[str]:
    metric = name_of(result.metric, notices, locale)
    days = {"start": result.start_date, "end": result.end_date}
    if not result.HasField("total"):
        return [notices.sentence("figure-suppressed", locale, metric=metric)]
    if not result.total.HasField("value"):
        return [notices.sentence("figure-nothing", locale, metric=metric, **days)]
    is_state = result.metric in STATES
    of_days = {"end": result.end_date} if is_state else days
    sentences = [
        notices.sentence(
            "figure-state" if is_state else "figure-plain",
            locale,
            metric=metric,
            value=share(result.total.value, locale),
            numerator=count(result.total.numerator, locale),
            denominator=count(result.total.denominator, locale),
            **of_days,
        )
    ]
    if result.previous.HasField("value"):
        value = share(result.previous.value, locale)
        length = days_in(result)
        key = "figure-state-previous" if is_state else "figure-previous"
        sentences.append(notices.sentence(key, locale, value=value, days=length))
    return sentences


def name_of(metric: str, notices: Notices, locale: str) -> str:
    return notices.sentence(f"metric-{metric}", locale)


def share(value: float, locale: str) -> str:
    """A fraction of 1 as a percentage with one decimal, without the space that breaks lines."""
    text: str = format_percent(value, "#,##0.#%", locale=underscored(locale))
    return text.replace("\u00a0", "").replace("\u202f", "")


def count(value: float, locale: str) -> str:
    return number(round(value, 2), locale)


def days_in(result: pb.MetricResult) -> int:
    return (date.fromisoformat(result.end_date) - date.fromisoformat(result.start_date)).days + 1


def grounds_of(results: Sequence[pb.MetricResult]) -> Grounds:
    """What a summary of *results* may state, of each metric by its name."""
    return together({each.label: grounds_of_one(each) for each in results})


def grounds_of_one(result: pb.MetricResult) -> Grounds:
    shown = [getattr(result, name) for name in ("total", "previous") if result.HasField(name)]
    return grounds(
        counts=[
            *(figure.numerator for figure in shown),
            *(figure.denominator for figure in shown),
            days_in(result),
        ],
        shares=[figure.value for figure in shown if figure.HasField("value")],
        days=[result.start_date, result.end_date],
    )


def moves_of(results: Sequence[pb.MetricResult]) -> dict[str, Move | None]:
    """Which way each of *results* has gone since the window before, by its name."""
    return {each.label: move_of(each) for each in results}


def move_of(result: pb.MetricResult) -> Move | None:
    if not (result.previous.HasField("value") and result.total.HasField("value")):
        return None
    return Move(Decimal(repr(result.previous.value)), Decimal(repr(result.total.value)))


async def worded(
    plain: str,
    prompt: str,
    known: Grounds,
    complete: Complete,
    reading: Reading,
    *,
    moves: Mapping[str, Move | None] = NO_MOVES,
    task: router_pb2.TaskKind.ValueType,
    model_tiers: Sequence[tier_pb2.Tier.ValueType],
) -> tuple[str, router_pb2.Finished] | None:
    """*plain* in a model's words, or None when none words it without numbers of its own.

    A model that states a number nobody computed, or that a figure has gone another way than in
    *moves*, is not asked again; the next candidate is.
    """
    excluded: list[str] = []
    for _ in range(MOST_CANDIDATES):
        request = router_pb2.CompleteRequest(
            task=task,
            messages=[
                router_pb2.Message(role=router_pb2.ROLE_SYSTEM, content=prompt),
                router_pb2.Message(role=router_pb2.ROLE_USER, content=plain),
            ],
            model_tiers=model_tiers,
            max_output_tokens=LONGEST_ANSWER_TOKENS,
            temperature=0.0,
            locale=reading.locale,
            excluded_models=excluded,
        )
        try:
            response = await complete(request)
        except Failure:
            return None
        text = " ".join(response.content.split())
        faults = [
            *ungrounded(text, known, reading.locale),
            *misdirected(text, moves, reading.locale),
        ]
        if is_whole(text, response.finished) and not faults:
            return text, response.finished
        excluded.append(response.finished.model_used)
    return None


def is_whole(text: str, finished: router_pb2.Finished) -> bool:
    return bool(text) and finished.finish_reason == router_pb2.FINISH_REASON_STOP
