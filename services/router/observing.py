"""What is traced, measured and logged of attempts (ALL-4): identifiers and counts, never a text
(LOG-6).

Names follow OpenTelemetry's semantic conventions for generative AI clients. Those moved to a
repository of their own and were renamed there (0.1); until what reads them has followed, both names
are told: `gen_ai.client.operation.duration` and `gen_ai.client.token.usage` are the old ones.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from urllib.parse import urlsplit

from opentelemetry.metrics import CallbackOptions, Observation
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, set_span_in_context

from services.router.catalog import Model
from services.router.chat import output_limit
from services.router.nouns import Ask, Attempt, Outcome, Tokens
from services.runtime.telemetry import PROPAGATOR, Telemetry

Attribute = str | bool | int | float
SECONDS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
TOKENS = tuple(4**power for power in range(14))
# What a provider says that answered is told if it looks like a name, and not otherwise (LOG-6).
NAME = re.compile(r"[\w.:/@-]{1,128}", re.ASCII)


class AttemptSpan:
    """One attempt's span; its context goes to the provider in *headers*."""

    def __init__(self, observer: "AttemptObserver", span: Span, model: Model) -> None:
        self._observer = observer
        self._span = span
        self._model = model
        carrier: dict[str, str] = {}
        PROPAGATOR.inject(carrier, context=set_span_in_context(span))
        self.headers: Mapping[str, str] = carrier

    def ended(self, attempt: Attempt, cut: bool) -> None:
        succeeded = attempt.outcome is Outcome.SUCCEEDED
        if self._span.is_recording():
            self._describe(attempt, cut, succeeded)
        self._span.end()
        self._observer.measure(self._model, attempt)

    def _describe(self, attempt: Attempt, cut: bool, succeeded: bool) -> None:
        span = self._span
        span.set_attribute("gatehouse.attempt.outcome", attempt.outcome.value)
        if attempt.http_status:
            span.set_attribute("http.response.status_code", attempt.http_status)
        if attempt.time_to_first_token is not None:
            seconds = attempt.time_to_first_token.total_seconds()
            span.set_attribute("gen_ai.response.time_to_first_chunk", seconds)
        if attempt.tokens is not None:
            span.set_attributes(_token_attributes(attempt.tokens))
        if NAME.fullmatch(attempt.response_model):
            span.set_attribute("gen_ai.response.model", attempt.response_model)
        if succeeded:
            span.set_attribute("gen_ai.response.finish_reasons", ["length" if cut else "stop"])
        else:
            span.set_attribute("error.type", attempt.outcome.value)
            span.set_status(Status(StatusCode.ERROR))


class AttemptObserver:
    """Sees every attempt of this replica."""

    def __init__(self, telemetry: Telemetry) -> None:
        self._telemetry = telemetry
        meter = telemetry.meter
        self._durations = [
            meter.create_histogram(
                f"gen_ai.client.{name}.duration",
                unit="s",
                description="The duration of attempts",
                explicit_bucket_boundaries_advisory=SECONDS,
            )
            for name in ("inference", "operation")
        ]
        self._first_chunk = meter.create_histogram(
            "gen_ai.client.inference.time_to_first_chunk",
            unit="s",
            description="Until the first token of an attempt",
            explicit_bucket_boundaries_advisory=SECONDS,
        )
        self._token_usage = meter.create_histogram(
            "gen_ai.client.token.usage",
            unit="{token}",
            description="Tokens of attempts",
            explicit_bucket_boundaries_advisory=TOKENS,
        )
        self._tokens = {
            kind: meter.create_counter(
                f"gen_ai.client.inference.usage.{kind}_tokens",
                unit="{token}",
                description=f"{kind} tokens that were used".capitalize(),
            )
            for kind in ("input", "output")
        }
        self._failovers = meter.create_counter(
            "gatehouse.router.failovers",
            unit="{answer}",
            description="Answers by another model than the first choice",
        )
        self._rejected_keys = meter.create_counter(
            "gatehouse.router.rejected_keys",
            unit="{attempt}",
            description="Attempts refused because of the key",
        )

    def follow(self, open_circuits: Callable[[], Iterable[tuple[Model, bool]]]) -> None:
        """Tell of each model whether it is taken out, whenever the measurements are read."""

        def told(_: CallbackOptions) -> Iterable[Observation]:
            for model, is_open in open_circuits():
                about = {"gatehouse.model": model.id, "gen_ai.provider.name": model.provider.name}
                yield Observation(int(is_open), about)

        self._telemetry.meter.create_observable_gauge(
            "gatehouse.router.circuit.open",
            [told],
            description="Whether a model is taken out after failures: 1, else 0",
        )
        # A counter that begins at 1 has not risen, as far as an alert can tell.
        for provider in {model.provider.name for model, _ in open_circuits()}:
            self._rejected_keys.add(0, {"gen_ai.provider.name": provider})

    def count_unrecorded(self, unrecorded: Callable[[], int]) -> None:
        """Tell how many records of attempts found no place while Postgres was away (ROU-6)."""
        self._telemetry.meter.create_observable_counter(
            "gatehouse.router.unrecorded",
            [lambda _: [Observation(unrecorded())]],
            unit="{record}",
            description="Records of attempts that there was no place for",
        )

    def failed_over(self, first: Model, answered: Model) -> None:
        about = {"gatehouse.failover.from": first.id, "gatehouse.failover.to": answered.id}
        self._failovers.add(1, about)

    def attempt(self, model: Model, ask: Ask) -> AttemptSpan:
        span = self._telemetry.tracer.start_span(
            f"chat {model.provider_model}", kind=SpanKind.CLIENT, attributes=_request(model, ask)
        )
        return AttemptSpan(self, span, model)

    def key_rejected(self, model: Model) -> None:
        """The alarm of ROU-3: somebody has to renew a key. Which one is named, not what it is."""
        self._rejected_keys.add(1, {"gen_ai.provider.name": model.provider.name})
        self._telemetry.log.error(
            "the provider %s refuses its key: it is taken out", model.provider.name
        )

    def measure(self, model: Model, attempt: Attempt) -> None:
        attributes: dict[str, Attribute] = {
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": model.provider.name,
            "gen_ai.request.model": model.provider_model,
        }
        if attempt.tokens is not None:
            counts = {"input": attempt.tokens.input, "output": attempt.tokens.output}
            for kind, count in counts.items():
                self._tokens[kind].add(count, attributes)
                self._token_usage.record(count, {**attributes, "gen_ai.token.type": kind})
        if attempt.time_to_first_token is not None:
            self._first_chunk.record(attempt.time_to_first_token.total_seconds(), attributes)
        if attempt.outcome is not Outcome.SUCCEEDED:
            attributes["error.type"] = attempt.outcome.value
        for duration in self._durations:
            duration.record(attempt.duration.total_seconds(), attributes)


def _request(model: Model, ask: Ask) -> dict[str, Attribute]:
    address = urlsplit(model.provider.base_url)
    attributes: dict[str, Attribute] = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": model.provider.name,
        "gen_ai.request.model": model.provider_model,
        "gen_ai.request.max_tokens": output_limit(model, ask),
        "gen_ai.request.stream": True,
        "gen_ai.output.type": "text" if ask.schema is None else "json",
        "server.address": address.hostname or "",
        "server.port": address.port or (443 if address.scheme == "https" else 80),
        "gatehouse.model": model.id,
        "gatehouse.tier": model.tier,
        "gatehouse.task": ask.task,
    }
    if ask.temperature is not None and model.accepts_temperature:
        attributes["gen_ai.request.temperature"] = ask.temperature
    return attributes


def _token_attributes(tokens: Tokens) -> dict[str, Attribute]:
    return {
        "gen_ai.usage.input_tokens": tokens.input,
        "gen_ai.usage.output_tokens": tokens.output,
        "gen_ai.usage.cache_read.input_tokens": tokens.cached_input,
        "gen_ai.usage.reasoning.output_tokens": tokens.reasoning,
    }
