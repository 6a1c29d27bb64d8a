"""Between the proto's messages and the router's own nouns."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from gatehouse.router.v1 import router_pb2, tier_pb2
from google.protobuf import struct_pb2
from google.protobuf.duration_pb2 import Duration
from google.type import money_pb2

from services.router.accounts import AttemptsQuery, Recorded, Spent, units_and_nanos
from services.router.catalog import BILLIONTHS, Model
from services.router.circuit import State
from services.router.notices import failover_notice
from services.router.nouns import Ask, Attempt, Completed, Tokens, Turn
from services.router.selection import Judged
from services.runtime.failure import InvalidInput

USUAL_PAGE = 100


@dataclass(frozen=True, slots=True)
class Health:
    """Whether a model's provider is in use, and when it is tried again if it is not."""

    state: State
    retry_at: datetime | None = None


ROLES: Mapping[int, str] = {
    router_pb2.ROLE_SYSTEM: "system",
    router_pb2.ROLE_USER: "user",
    router_pb2.ROLE_ASSISTANT: "assistant",
}


def ask_from(request: router_pb2.CompleteRequest, *, streamed: bool) -> Ask:
    return Ask(
        task=router_pb2.TaskKind.Name(request.task).removeprefix("TASK_KIND_"),
        turns=[Turn(ROLES[message.role], message.content) for message in request.messages],
        tiers=frozenset(tier_pb2.Tier.Name(tier) for tier in request.model_tiers),
        schema=plain(request.json_schema) if request.HasField("json_schema") else None,
        max_output_tokens=request.max_output_tokens,
        temperature=request.temperature if request.HasField("temperature") else None,
        user_id=request.user_id,
        clinic_id=request.clinic_id,
        locale=request.locale,
        excluded_models=frozenset(request.excluded_models),
        streamed=streamed,
        daily_budget_micros=(
            request.daily_budget_micros if request.HasField("daily_budget_micros") else None
        ),
    )


def plain(struct: struct_pb2.Struct) -> dict[str, Any]:
    """The Struct as JSON values; a number without a fraction is a whole one, as in the JSON it
    was.
    """
    return {name: _value(value) for name, value in struct.fields.items()}


def _value(value: struct_pb2.Value) -> Any:
    kind = value.WhichOneof("kind")
    if kind == "struct_value":
        return plain(value.struct_value)
    if kind == "list_value":
        return [_value(item) for item in value.list_value.values]
    if kind == "number_value":
        number = value.number_value
        return int(number) if number.is_integer() else number
    return None if kind in (None, "null_value") else getattr(value, kind)


def tier_to(tier: str) -> tier_pb2.Tier.ValueType:
    return tier_pb2.Tier.Value(tier)


def tokens_to(tokens: Tokens) -> router_pb2.TokenUsage:
    return router_pb2.TokenUsage(
        input_tokens=tokens.input,
        cached_input_tokens=tokens.cached_input,
        output_tokens=tokens.output,
        reasoning_tokens=tokens.reasoning,
        estimated=tokens.estimated,
    )


def cost_to(cost: int, currency: str) -> router_pb2.Cost:
    units, nanos = units_and_nanos(cost)
    return router_pb2.Cost(amount=money_pb2.Money(currency_code=currency, units=units, nanos=nanos))


def attempt_to(attempt: Attempt) -> router_pb2.Attempt:
    told = router_pb2.Attempt(
        model=attempt.model.id,
        provider=attempt.model.provider.name,
        tier=tier_to(attempt.model.tier),
        outcome=router_pb2.AttemptOutcome.Value(f"ATTEMPT_OUTCOME_{attempt.outcome}"),
        http_status=attempt.http_status,
    )
    told.started_at.FromDatetime(attempt.started_at)
    told.duration.FromTimedelta(attempt.duration)
    if attempt.time_to_first_token is not None:
        first = Duration()
        first.FromTimedelta(attempt.time_to_first_token)
        told.time_to_first_token.CopyFrom(first)
    if attempt.tokens is not None:
        told.usage.CopyFrom(tokens_to(attempt.tokens))
    return told


def finished_to(completed: Completed, locale: str) -> router_pb2.Finished:
    finish = router_pb2.FINISH_REASON_LENGTH if completed.cut else router_pb2.FINISH_REASON_STOP
    return router_pb2.Finished(
        model_used=completed.model.id,
        tier=tier_to(completed.model.tier),
        failover=completed.failover,
        attempts=[attempt_to(attempt) for attempt in completed.attempts],
        usage=tokens_to(completed.tokens),
        cost=cost_to(completed.cost, completed.currency),
        finish_reason=finish,
        notice=failover_notice(locale) if completed.other_tier else "",
    )


def candidate_to(judged: Judged, health: Health) -> router_pb2.Candidate:
    told = router_pb2.Candidate(
        model=judged.model.id,
        provider=judged.model.provider.name,
        tier=tier_to(judged.model.tier),
        eligible=judged.eligible,
        explanation=judged.explanation,
        reason=router_pb2.CandidateReason.Value(f"CANDIDATE_REASON_{judged.reason}"),
        weight=judged.model.weight,
        context_tokens=judged.model.context_tokens,
        capabilities=capabilities_to(judged.model),
        lacking=[router_pb2.Capability.Value(f"CAPABILITY_{each}") for each in judged.lacking],
        circuit=circuit_to(health.state),
    )
    if health.retry_at is not None:
        told.retry_at.FromDatetime(health.retry_at)
    return told


def model_to(model: Model, currency: str, health: Health) -> router_pb2.Model:
    told = router_pb2.Model(
        id=model.id,
        tier=tier_to(model.tier),
        provider=model.provider.name,
        context_tokens=model.context_tokens,
        max_output_tokens=model.max_output_tokens,
        input_price=_price(model.prices.input, currency),
        cached_input_price=_price(model.prices.cached_input, currency),
        output_price=_price(model.prices.output, currency),
        circuit=circuit_to(health.state),
        weight=model.weight,
        capabilities=capabilities_to(model),
    )
    if health.retry_at is not None:
        told.retry_at.FromDatetime(health.retry_at)
    return told


def circuit_to(state: State) -> router_pb2.CircuitState.ValueType:
    return router_pb2.CircuitState.Value(f"CIRCUIT_STATE_{state}")


def capabilities_to(model: Model) -> router_pb2.Capabilities:
    name = f"STRUCTURED_OUTPUT_{model.structured_output.upper()}"
    return router_pb2.Capabilities(
        structured_output=router_pb2.StructuredOutput.Value(name),
        streaming=model.streams,
        prefill=model.continuation == "prefill",
    )


def _price(billionths: int, currency: str) -> money_pb2.Money:
    units, nanos = divmod(billionths, BILLIONTHS)
    return money_pb2.Money(currency_code=currency, units=units, nanos=nanos)


KEYS: Mapping[int, str] = {
    router_pb2.SPENDING_KEY_DAY: "day",
    router_pb2.SPENDING_KEY_MODEL: "model",
    router_pb2.SPENDING_KEY_USER: "user_id",
    router_pb2.SPENDING_KEY_CLINIC: "clinic_id",
}


def keys_from(request: router_pb2.GetSpendingRequest) -> list[list[str]]:
    """The names of the keys, if any are given."""
    return [[KEYS[key] for key in request.keys]] if request.keys else []


def spending_to(spent: Spent) -> router_pb2.Spending:
    return router_pb2.Spending(
        date="" if spent.day is None else spent.day.isoformat(),
        model=spent.model,
        user_id=spent.user_id,
        clinic_id=spent.clinic_id,
        attempts=spent.attempts,
        usage=tokens_to(spent.tokens),
        cost=cost_to(spent.cost, spent.currency),
    )


def attempts_query_from(request: router_pb2.ListAttemptsRequest) -> AttemptsQuery:
    """Raises InvalidInput for a page token that is none."""
    has_start, has_end = request.HasField("start_time"), request.HasField("end_time")
    return AttemptsQuery(
        user_id=request.user_id,
        clinic_id=request.clinic_id,
        model=request.model,
        trace_id=request.trace_id,
        start=request.start_time.ToDatetime(tzinfo=UTC) if has_start else None,
        end=request.end_time.ToDatetime(tzinfo=UTC) if has_end else None,
        before=place_in(request.page_token) if request.page_token else None,
        size=request.page_size or USUAL_PAGE,
    )


def place_in(page_token: str) -> tuple[datetime, UUID]:
    """The attempt that a page goes on after. Raises InvalidInput."""
    moment, _, attempt_id = page_token.partition("/")
    try:
        place = datetime.fromisoformat(moment), UUID(attempt_id)
    except ValueError:
        place = None
    if place is None or place[0].tzinfo is None:
        problem = "is not the next_page_token of a page of this listing"
        raise InvalidInput([("page_token", problem)])
    return place


def attempts_to(found: Sequence[Recorded], size: int) -> router_pb2.ListAttemptsResponse:
    """A page of *size*; *found* has one more where another page follows."""
    page = found[:size]
    response = router_pb2.ListAttemptsResponse(attempts=[recorded_to(each) for each in page])
    if len(found) > size:
        response.next_page_token = f"{page[-1].started_at.isoformat()}/{page[-1].attempt_id}"
    return response


def recorded_to(recorded: Recorded) -> router_pb2.RecordedAttempt:
    told = router_pb2.RecordedAttempt(
        attempt_id=str(recorded.attempt_id),
        task=router_pb2.TaskKind.Value(f"TASK_KIND_{recorded.task}"),
        user_id=recorded.user_id,
        clinic_id=recorded.clinic_id,
        cost=cost_to(recorded.cost, recorded.currency),
        trace_id=recorded.trace_id,
    )
    attempt = told.attempt
    attempt.model, attempt.provider = recorded.model, recorded.provider
    attempt.tier, attempt.http_status = tier_to(recorded.tier), recorded.http_status
    attempt.started_at.FromDatetime(recorded.started_at)
    if recorded.ended_at is not None:
        attempt.outcome = router_pb2.AttemptOutcome.Value(f"ATTEMPT_OUTCOME_{recorded.outcome}")
        attempt.duration.FromTimedelta(recorded.ended_at - recorded.started_at)
    if recorded.seconds_to_first_token is not None:
        first = timedelta(seconds=recorded.seconds_to_first_token)
        attempt.time_to_first_token.FromTimedelta(first)
    if recorded.tokens is not None:
        attempt.usage.CopyFrom(tokens_to(recorded.tokens))
    return told


def payload_of(request: router_pb2.CompleteRequest) -> bytes:
    """The same request gives the same bytes, whatever way it was built."""
    return request.SerializeToString(deterministic=True)
