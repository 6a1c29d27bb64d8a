"""Recommendations drawn from the clinic's figures, of three categories only (GAT-10)."""

import asyncio
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from gatehouse.entitlements.v1.entitlements_pb2 import DomainDescriptor
from gatehouse.gateway.v1 import gateway_pb2 as pb
from gatehouse.router.v1 import router_pb2, tier_pb2
from google.rpc import error_details_pb2
from psycopg import AsyncConnection
from psycopg.rows import TupleRow

from services.gateway import figures, wording
from services.gateway.analytics import Analyst
from services.gateway.grounding import grounds
from services.gateway.notices import Notices
from services.gateway.peers import Complete
from services.gateway.reading import Reading
from services.gateway.refusals import detail_in
from services.runtime.identity import Caller
from services.runtime.postgres import Pool

DEFAULT_LIMIT = 5
# One that was computed before the stored one, and comes later, replaces nothing.
STORE = """
    INSERT INTO gateway.recommendations AS stored (id, user_id, clinic_id, category, content,
        locale, fingerprint, figure, created_at, updated_at)
    VALUES (%(id)s, %(user)s, %(clinic)s, %(category)s, %(content)s, %(locale)s, %(fingerprint)s,
        %(figure)s, %(at)s, %(at)s)
    ON CONFLICT (user_id, clinic_id, fingerprint) DO UPDATE
    SET content = excluded.content, locale = excluded.locale, figure = excluded.figure,
        updated_at = excluded.updated_at
    WHERE stored.figure <> excluded.figure AND stored.updated_at <= excluded.updated_at
"""
READ_STORED = """
    SELECT id, CASE WHEN locale = %(locale)s AND figure = %(figure)s THEN content
        ELSE %(content)s END, created_at, CASE WHEN figure = %(figure)s THEN updated_at
        ELSE %(at)s END
    FROM gateway.recommendations
    WHERE user_id = %(user)s AND clinic_id = %(clinic)s AND fingerprint = %(fingerprint)s
"""


@dataclass(frozen=True)
class Occasion:
    """A figure that gives reason to advise: beyond *threshold*, above it or below it."""

    metric: str
    category: pb.RecommendationCategory.ValueType
    threshold: float
    above: bool = True

    def pressure(self, value: float) -> float:
        """How pressing *value* is: 0 at the threshold, 1 at the worst, negative when it is fine."""
        distance = value - self.threshold if self.above else self.threshold - value
        return distance / (1 - self.threshold if self.above else self.threshold)


# Figures of outpatient clinics: a fifth of appointments missed is common, a tenth is good practice.
OCCASIONS = (
    Occasion("overdue_ratio", pb.RECOMMENDATION_CATEGORY_PAYMENT_FOLLOWUP, 0.10),
    Occasion("no_show_rate", pb.RECOMMENDATION_CATEGORY_SCHEDULING_OPTIMIZATION, 0.10),
    Occasion("cancellation_rate", pb.RECOMMENDATION_CATEGORY_SCHEDULING_OPTIMIZATION, 0.15),
    Occasion("engagement_rate", pb.RECOMMENDATION_CATEGORY_CLIENT_ENGAGEMENT, 0.60, above=False),
)


@dataclass(frozen=True)
class Advice:
    """One recommendation before it is worded, and the days of its figure."""

    occasion: Occasion
    value: float
    start_date: str
    end_date: str

    @property
    def fingerprint(self) -> str:
        """What the advice is about: of each, a user has one recommendation, the newest."""
        return self.occasion.metric

    @property
    def figure(self) -> str:
        """Equal for the same figure of the same days, to a percent, whatever its wording."""
        return f"{round(100 * self.value)}/{self.start_date}/{self.end_date}"


def advice_from(
    results: Sequence[pb.MetricResult], categories: Sequence[int], limit: int
) -> list[Advice]:
    """What the figures give reason to advise, the most pressing first, each once."""
    known = {each.metric: each for each in results if each.total.HasField("value")}
    advice = [
        Advice(
            occasion,
            known[occasion.metric].total.value,
            known[occasion.metric].start_date,
            known[occasion.metric].end_date,
        )
        for occasion in OCCASIONS
        if occasion.metric in known and (not categories or occasion.category in categories)
    ]
    found = [each for each in advice if each.occasion.pressure(each.value) > 0]
    found.sort(key=lambda each: each.occasion.pressure(each.value), reverse=True)
    return found[: limit or DEFAULT_LIMIT]


class RecommendationStore:
    """Stores recommendations, one about each figure, for the user they were made for."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def keep(
        self, made: Sequence[tuple[Advice, pb.Recommendation]], caller: Caller, locale: str
    ) -> list[pb.Recommendation]:
        """Store what is new of *made*; return all as stored.

        A newer figure, or one of other days, replaces the one before under its id. Advice that the
        user was given before keeps its words where they are in the language of *locale*.
        """
        # In one order for everybody: two requests of a user at once do not wait for each other.
        in_order = sorted(range(len(made)), key=lambda at: made[at][0].fingerprint)
        stored: dict[int, pb.Recommendation] = {}
        async with self._pool.transaction(caller) as connection:
            for place in in_order:
                stored[place] = await kept(connection, *made[place], caller, locale)
        return [stored[place] for place in range(len(made))]


async def kept(
    connection: AsyncConnection[TupleRow],
    advice: Advice,
    recommendation: pb.Recommendation,
    caller: Caller,
    locale: str,
) -> pb.Recommendation:
    name = pb.RecommendationCategory.Name(recommendation.category)
    values = {
        "id": recommendation.id,
        "user": caller.user_id,
        "clinic": caller.clinic_id,
        "category": name.removeprefix("RECOMMENDATION_CATEGORY_"),
        "content": recommendation.content,
        "locale": locale,
        "fingerprint": advice.fingerprint,
        "figure": advice.figure,
        "at": recommendation.updated_at.ToDatetime(tzinfo=UTC),
    }
    await connection.execute(STORE, values)
    rows = await connection.execute(READ_STORED, values)
    row = await rows.fetchone()
    assert row is not None
    stored = pb.Recommendation()
    stored.CopyFrom(recommendation)
    stored.id, stored.content = str(row[0]), row[1]
    stored.created_at.FromDatetime(row[2])
    stored.updated_at.FromDatetime(row[3])
    return stored


@dataclass(frozen=True)
class Advised:
    """An answer, and why it has nothing in it: where no figure could be computed (USE-2)."""

    response: pb.RecommendResponse
    failed: str = ""


class Adviser:
    """Makes recommendations from figures; a model may word them, never invent one."""

    def __init__(
        self,
        analyst: Analyst,
        complete: Complete | None,
        notices: Notices,
        store: RecommendationStore | None,
    ) -> None:
        self._analyst = analyst
        self._complete = complete
        self._notices = notices
        self._store = store

    async def recommend(
        self,
        request: pb.RecommendRequest,
        descriptors: Mapping[str, DomainDescriptor],
        reading: Reading,
        *,
        caller: Caller,
        model_tiers: Sequence[tier_pb2.Tier.ValueType],
    ) -> Advised:
        """Raises InvalidInput for impossible days, StoreUnavailable when nothing can be kept."""
        days = figures.days_of(request.window, reading)
        offered = {metric for each in descriptors.values() for metric in each.metrics}
        metrics = [each.metric for each in OCCASIONS if each.metric in offered]
        results, failures = await self._analyst.results(metrics, descriptors, days, reading)
        advice = advice_from(results, request.categories, request.limit)
        response = pb.RecommendResponse()
        complete = None if request.plain else self._complete
        worded = await asyncio.gather(
            *(self._worded(each, complete, reading, model_tiers) for each in advice)
        )
        made = [
            (each, recommendation(each, content, reading.now))
            for each, (content, _) in zip(advice, worded, strict=True)
        ]
        if self._store is not None:
            response.recommendations.extend(await self._store.keep(made, caller, reading.locale))
        else:
            response.recommendations.extend(each for _, each in made)
        finished = next((each for _, each in worded if each is not None), None)
        if finished is not None:
            response.completion.CopyFrom(finished)
        response.notices.extend(self._notices_of(metrics, results, finished, reading.locale))
        return Advised(response, "" if results else reason_of(failures))

    async def _worded(
        self,
        advice: Advice,
        complete: Complete | None,
        reading: Reading,
        model_tiers: Sequence[tier_pb2.Tier.ValueType],
    ) -> tuple[str, router_pb2.Finished | None]:
        """The advice in words, by a model or the template, and the days of its figure."""
        locale, is_state = reading.locale, advice.occasion.metric in figures.STATES
        days = {"start": advice.start_date, "end": advice.end_date}
        of = self._notices.sentence("advice-as-of" if is_state else "advice-period", locale, **days)
        said, finished = await self._said(advice, complete, reading, model_tiers)
        return f"{said} {of}", finished

    async def _said(
        self,
        advice: Advice,
        complete: Complete | None,
        reading: Reading,
        model_tiers: Sequence[tier_pb2.Tier.ValueType],
    ) -> tuple[str, router_pb2.Finished | None]:
        value = wording.share(advice.value, reading.locale)
        key = f"advice-{advice.occasion.metric}"
        plain = self._notices.sentence(key, reading.locale, value=value)
        if complete is None:
            return plain, None
        worded = await wording.worded(
            plain,
            self._notices.sentence("prompt-advice", reading.locale),
            grounds(counts=[], shares=[advice.value]),
            complete,
            reading,
            task=router_pb2.TASK_KIND_RECOMMEND,
            model_tiers=model_tiers,
        )
        return worded or (plain, None)

    def _notices_of(
        self,
        metrics: Sequence[str],
        results: Sequence[pb.MetricResult],
        finished: router_pb2.Finished | None,
        locale: str,
    ) -> list[pb.Notice]:
        kinds = []
        if len(results) < len(metrics):
            kinds.append(pb.NOTICE_KIND_INCOMPLETE)
        if finished is not None and finished.failover:
            kinds.append(pb.NOTICE_KIND_FAILOVER)
        return [self._notices.notice(kind, locale) for kind in kinds]


def recommendation(advice: Advice, content: str, now: datetime) -> pb.Recommendation:
    made = pb.Recommendation(
        id=str(uuid.uuid4()),
        category=advice.occasion.category,
        content=content,
        start_date=advice.start_date,
        end_date=advice.end_date,
    )
    made.created_at.FromDatetime(now)
    made.updated_at.FromDatetime(now)
    return made


def reason_of(failures: Sequence[pb.MetricFailure]) -> str:
    """Why nothing could be computed: the caller's deadline, or the first reason there is."""
    reasons = [
        info.reason
        for each in failures
        if (info := detail_in(each.status.details, error_details_pb2.ErrorInfo)) is not None
    ]
    if "DEADLINE_EXCEEDED" in reasons:
        return "DEADLINE_EXCEEDED"
    return next(iter(reasons), "UNKNOWN_METRIC")
