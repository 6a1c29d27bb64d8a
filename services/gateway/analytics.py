"""Known metrics, computed by the domains side by side, and worded (GAT-8, GAT-9)."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import timedelta

from gatehouse.domain.v1 import domain_pb2
from gatehouse.entitlements.v1.entitlements_pb2 import DomainDescriptor
from gatehouse.gateway.v1 import gateway_pb2 as pb
from gatehouse.router.v1 import router_pb2, tier_pb2
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from services.gateway import figures, wording
from services.gateway.figures import Days
from services.gateway.notices import Notices
from services.gateway.peers import Complete, Domains
from services.gateway.reading import Reading
from services.gateway.report import is_retryable, status_of
from services.runtime.failure import Failure, NotFound

Part = pb.MetricResult | pb.MetricFailure


class Analyst:
    """Computes metric templates over a window, and words them."""

    def __init__(self, domains: Domains, complete: Complete | None, notices: Notices) -> None:
        self._domains = domains
        self._complete = complete
        self._notices = notices

    async def analyze(
        self,
        request: pb.AnalyzeRequest,
        descriptors: Mapping[str, DomainDescriptor],
        reading: Reading,
        *,
        model_tiers: Sequence[tier_pb2.Tier.ValueType],
    ) -> AsyncIterator[pb.StreamAnalyzeResponse]:
        """Yield each metric as it is computed, then the summary, then the whole.

        A domain that fails takes its own metric with it and nothing else. Raises InvalidInput for
        an unknown metric or days that cannot be.
        """
        figures.check_metrics(request.metrics)
        days = figures.days_of(request.window, reading)
        finished = pb.AnalyzeResponse(request_id=request.request_id)
        async for part in self._parts(request, descriptors, days, reading):
            if isinstance(part, pb.MetricResult):
                finished.results.append(part)
                yield pb.StreamAnalyzeResponse(result=part)
            else:
                finished.failures.append(part)
                yield pb.StreamAnalyzeResponse(failure=part)
        in_order_of(request.metrics, finished)
        await self._summarize(finished, request.plain_summary, reading, model_tiers)
        yield pb.StreamAnalyzeResponse(summary_delta=finished.summary)
        finished.notices.extend(self._notices_of(finished, reading.locale))
        yield pb.StreamAnalyzeResponse(finished=finished)

    async def results(
        self,
        metrics: Sequence[str],
        descriptors: Mapping[str, DomainDescriptor],
        days: Days,
        reading: Reading,
    ) -> tuple[list[pb.MetricResult], list[pb.MetricFailure]]:
        """The totals of *metrics* that could be computed, and why the others could not."""
        request = pb.AnalyzeRequest(metrics=metrics)
        parts = [part async for part in self._parts(request, descriptors, days, reading)]
        return (
            [part for part in parts if isinstance(part, pb.MetricResult)],
            [part for part in parts if isinstance(part, pb.MetricFailure)],
        )

    async def _parts(
        self,
        request: pb.AnalyzeRequest,
        descriptors: Mapping[str, DomainDescriptor],
        days: Days,
        reading: Reading,
    ) -> AsyncIterator[Part]:
        running = [
            asyncio.create_task(self._metric(metric, request, descriptors, days, reading))
            for metric in request.metrics
        ]
        try:
            for finished in asyncio.as_completed(running):
                yield await finished
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    async def _metric(
        self,
        metric: str,
        request: pb.AnalyzeRequest,
        descriptors: Mapping[str, DomainDescriptor],
        days: Days,
        reading: Reading,
    ) -> Part:
        descriptor = next((each for each in descriptors.values() if metric in each.metrics), None)
        try:
            if descriptor is None:
                raise NotFound(f"no domain computes {metric}", reason="UNKNOWN_METRIC")
            return await self._computed(metric, request, descriptor, days, reading)
        except Failure as failure:
            domain = descriptor.name if descriptor else ""
            return self._failed(metric, domain, failure, reading.locale)

    async def _computed(
        self,
        metric: str,
        request: pb.AnalyzeRequest,
        descriptor: DomainDescriptor,
        days: Days,
        reading: Reading,
    ) -> pb.MetricResult:
        async def aggregate(
            over: Days, *, group_by: str = "", step: timedelta | None = None
        ) -> domain_pb2.AggregateResponse:
            question = aggregate_request(metric, over, reading, group_by=group_by, step=step)
            return await self._domains.aggregate(descriptor, question)

        result = pb.MetricResult(
            metric=metric,
            domain=descriptor.name,
            label=wording.name_of(metric, self._notices, reading.locale),
            numerator_definition=self._notices.sentence(f"metric-{metric}.above", reading.locale),
            denominator_definition=self._notices.sentence(f"metric-{metric}.below", reading.locale),
            start_date=days.start.isoformat(),
            end_date=days.end.isoformat(),
        )
        step = figures.step_of(days)
        if request.compare_with_previous:
            before_it = days.before()
            result.previous_start_date = before_it.start.isoformat()
            result.previous_end_date = before_it.end.isoformat()
        whole = await aggregate(days, step=step)
        if (all_together := total_of(whole)) is None:
            return result
        result.total.CopyFrom(all_together)
        result.step_days = step.days if step else 0
        result.series.extend(figures.shown_series(whole.series, reading.time_zone))
        if request.group_by:
            grouped = await aggregate(days, group_by=request.group_by)
            shown, result.suppressed_groups = figures.shown_groups(grouped.groups)
            result.groups.extend(shown)
        if request.compare_with_previous:
            before = total_of(await aggregate(before_it))
            if before is not None:
                result.previous.CopyFrom(before)
        return result

    def _failed(self, metric: str, domain: str, failure: Failure, locale: str) -> pb.MetricFailure:
        message, _ = self._notices.for_reason(failure.reason, locale)
        return pb.MetricFailure(
            metric=metric,
            domain=domain,
            status=status_of(failure),
            message=message,
            retryable=is_retryable(failure),
        )

    async def _summarize(
        self,
        finished: pb.AnalyzeResponse,
        plain: bool,
        reading: Reading,
        model_tiers: Sequence[tier_pb2.Tier.ValueType],
    ) -> None:
        """Set the summary: a model's, when one words the figures alone, else the template's."""
        notices, locale = self._notices, reading.locale
        finished.summary = wording.plain_summary(
            finished.results, finished.failures, notices, locale
        )
        if plain or self._complete is None or not finished.results:
            return
        worded = await wording.worded(
            finished.summary,
            notices.sentence("prompt-summary", locale),
            wording.grounds_of(finished.results),
            self._complete,
            reading,
            moves=wording.moves_of(finished.results),
            task=router_pb2.TASK_KIND_ANALYZE,
            model_tiers=model_tiers,
        )
        if worded is not None:
            finished.summary = worded[0]
            finished.completion.CopyFrom(worded[1])

    def _notices_of(self, finished: pb.AnalyzeResponse, locale: str) -> list[pb.Notice]:
        hidden = any(
            each.suppressed_groups
            or not each.HasField("total")
            or any(point.suppressed for point in each.series)
            or (each.previous_start_date and not each.HasField("previous"))
            for each in finished.results
        )
        kinds = []
        if finished.failures or hidden:
            kinds.append(pb.NOTICE_KIND_INCOMPLETE)
        if finished.completion.failover:
            kinds.append(pb.NOTICE_KIND_FAILOVER)
        return [self._notices.notice(kind, locale) for kind in kinds]


def aggregate_request(
    metric: str, days: Days, reading: Reading, *, group_by: str = "", step: timedelta | None = None
) -> domain_pb2.AggregateRequest:
    """What a domain is asked: bound parameters of a known template, and nothing else."""
    start, end = days.bounds(reading.time_zone)
    request = domain_pb2.AggregateRequest(
        metric=metric, group_by=group_by, time_zone=reading.time_zone.key
    )
    start_time, end_time = Timestamp(), Timestamp()
    start_time.FromDatetime(start)
    end_time.FromDatetime(end)
    request.start_time.CopyFrom(start_time)
    request.end_time.CopyFrom(end_time)
    if step is not None:
        width = Duration()
        width.FromTimedelta(step)
        request.step.CopyFrom(width)
    return request


def total_of(answer: domain_pb2.AggregateResponse) -> pb.Figure | None:
    """The one group of an answer that was not grouped; nothing counted is a figure too."""
    return figures.total(answer.groups[0] if answer.groups else domain_pb2.Group())


def in_order_of(metrics: Sequence[str], finished: pb.AnalyzeResponse) -> None:
    """Put what came as it came into the order that was asked for."""
    place = {metric: index for index, metric in enumerate(metrics)}
    finished.results.sort(key=lambda each: place[each.metric])
    finished.failures.sort(key=lambda each: place[each.metric])
