"""Recommendations drawn from the clinic's figures, of three categories only (GAT-10)."""

import asyncio
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from gatehouse.entitlements.v1.entitlements_pb2 import DomainDescriptor
from gatehouse.gateway.v1 import gateway_pb2 as pb
from gatehouse.router.v1 import router_pb2, tier_pb2
from psycopg import AsyncConnection
from psycopg.rows import TupleRow

from services.gateway import figures, wording
from services.gateway.analytics import Analyst
from services.gateway.grounding import grounds
from services.gateway.notices import Notices
from services.gateway.peers import Complete
from services.gateway.reading import Reading
from services.runtime.identity import Caller
from services.runtime.postgres import Pool

DEFAULT_LIMIT = 5


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
    """One recommendation before it is worded."""

    occasion: Occasion
    value: float

    @property
    def fingerprint(self) -> str:
        """Equal for the same advice about the same figure, to a percent, whatever its wording."""
        return f"{self.occasion.metric}:{round(100 * self.value)}"


def advice_from(
    results: Sequence[pb.MetricResult], categories: Sequence[int], limit: int
) -> list[Advice]:
    """What the figures give reason to advise, the most pressing first, each once."""
    values = {each.metric: each.total.value for each in results if each.total.HasField("value")}
    found = [
        Advice(occasion, values[occasion.metric])
        for occasion in OCCASIONS
        if occasion.metric in values
        and (not categories or occasion.category in categories)
        and occasion.pressure(values[occasion.metric]) > 0
    ]
    found.sort(key=lambda each: each.occasion.pressure(each.value), reverse=True)
    return found[: limit or DEFAULT_LIMIT]


class RecommendationStore:
    """Keeps recommendations, once each, for the user they were made for."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def keep(
        self, made: Sequence[tuple[str, pb.Recommendation]], caller: Caller, locale: str
    ) -> list[pb.Recommendation]:
        """Store what is new of *made* (fingerprints and recommendations); return all as stored.

        Advice that the user was given before comes back with its first id and time, and with its
        first words where they are in the language of *locale*.
        """
        # In one order for everybody: two requests of a user at once do not wait for each other.
        in_order = sorted(range(len(made)), key=lambda at: made[at][0])
        stored: dict[int, pb.Recommendation] = {}
        async with self._pool.transaction(caller) as connection:
            for place in in_order:
                stored[place] = await kept(connection, *made[place], caller, locale)
        return [stored[place] for place in range(len(made))]


async def kept(
    connection: AsyncConnection[TupleRow],
    fingerprint: str,
    recommendation: pb.Recommendation,
    caller: Caller,
    locale: str,
) -> pb.Recommendation:
    name = pb.RecommendationCategory.Name(recommendation.category)
    await connection.execute(
        "INSERT INTO gateway.recommendations"
        " (id, user_id, clinic_id, category, content, locale, fingerprint, created_at)"
        " VALUES (%s, %s, %s, %s, %s, %s, %s, %s)"
        " ON CONFLICT (user_id, clinic_id, fingerprint) DO NOTHING",
        (
            recommendation.id,
            caller.user_id,
            caller.clinic_id,
            name.removeprefix("RECOMMENDATION_CATEGORY_"),
            recommendation.content,
            locale,
            fingerprint,
            recommendation.created_at.ToDatetime(tzinfo=UTC),
        ),
    )
    rows = await connection.execute(
        "SELECT id, CASE WHEN locale = %s THEN content ELSE %s END, created_at"
        " FROM gateway.recommendations WHERE user_id = %s AND clinic_id = %s AND fingerprint = %s",
        (locale, recommendation.content, caller.user_id, caller.clinic_id, fingerprint),
    )
    row = await rows.fetchone()
    assert row is not None
    stored = pb.Recommendation(id=str(row[0]), category=recommendation.category, content=row[1])
    stored.created_at.FromDatetime(row[2])
    return stored


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
    ) -> pb.RecommendResponse:
        """Raises InvalidInput for impossible days, StoreUnavailable when nothing can be kept."""
        days = figures.days_of(request.window, reading)
        offered = {metric for each in descriptors.values() for metric in each.metrics}
        metrics = [each.metric for each in OCCASIONS if each.metric in offered]
        results = await self._analyst.results(metrics, descriptors, days, reading)
        advice = advice_from(results, request.categories, request.limit)
        response = pb.RecommendResponse()
        complete = None if request.plain else self._complete
        worded = await asyncio.gather(
            *(self._worded(each, complete, reading, model_tiers) for each in advice)
        )
        made = [
            (each.fingerprint, recommendation(each, content, reading.now))
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
        return response

    async def _worded(
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
        id=str(uuid.uuid4()), category=advice.occasion.category, content=content
    )
    made.created_at.FromDatetime(now)
    return made
