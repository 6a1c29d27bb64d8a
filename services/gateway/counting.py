"""What is counted of queries for those who run Gatehouse: by kinds and reasons, never by users."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeAlias, TypeVar

import grpc
from gatehouse.gateway.v1 import gateway_pb2 as pb
from opentelemetry.metrics import Meter

from services.gateway.failures import PlanForbids, WindowNotAllowed
from services.runtime.failure import Failure

Answer: TypeAlias = pb.ExecuteResponse | pb.AnalyzeResponse | pb.RecommendResponse
A = TypeVar("A", pb.ExecuteResponse, pb.AnalyzeResponse, pb.RecommendResponse)

NO = frozenset({grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.RESOURCE_EXHAUSTED})
WRONG = frozenset(
    {
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.UNAUTHENTICATED,
        grpc.StatusCode.ABORTED,
    }
)
# Refusals that tell what another plan would bring.
# What may come with the offer of another plan.
PROMPTING = (PlanForbids, WindowNotAllowed)


class Counting:
    """Counts queries by kind and outcome, and what their answers tell about plans and quotas."""

    def __init__(self, meter: Meter) -> None:
        self._queries = meter.create_counter(
            "gatehouse.queries", unit="{query}", description="Queries, by their kind and outcome"
        )
        self._upgrades = meter.create_counter(
            "gatehouse.upgrades.prompted",
            unit="{answer}",
            description="Answers that told what another plan would bring",
        )
        self._approaching = meter.create_counter(
            "gatehouse.usage.approaching",
            unit="{answer}",
            description="Answers to users who have used 80 % of a day's limit or more",
        )

    @contextmanager
    def query(self, kind: str) -> Iterator[Callable[[A], A]]:
        """Around one query, whose answer is passed through what this yields."""

        def answered(answer: A) -> A:
            self._count(kind, outcome_of(answer), prompts=prompts_upgrade(answer))
            if answer.usage.approaching_quota:
                self._approaching.add(1, {"gatehouse.query.kind": kind})
            return answer

        try:
            yield answered
        except Failure as failure:
            outcome = outcome_of_failure(failure)
            is_offered = isinstance(failure, PROMPTING) and failure.is_offered
            self._count(kind, outcome, prompts=is_offered)
            raise

    def _count(self, kind: str, outcome: str, *, prompts: bool) -> None:
        about = {"gatehouse.query.kind": kind}
        self._queries.add(1, {**about, "gatehouse.query.outcome": outcome})
        if prompts:
            self._upgrades.add(1, about)


def prompts_upgrade(answer: Answer) -> bool:
    return any(each.kind == pb.NOTICE_KIND_UPGRADE for each in answer.notices)


def outcome_of(answer: Answer) -> str:
    if isinstance(answer, pb.ExecuteResponse):
        if answer.WhichOneof("result") != "report":
            return answer.WhichOneof("result") or "failed"
        return pb.Outcome.Name(answer.report.outcome).removeprefix("OUTCOME_").lower()
    if isinstance(answer, pb.AnalyzeResponse) and answer.failures:
        return "partial" if answer.results else "failed"
    return "succeeded"


def outcome_of_failure(failure: Failure) -> str:
    if failure.code in NO:
        return "refused"
    return "invalid" if failure.code in WRONG else "failed"
