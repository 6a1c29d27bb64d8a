"""What the router's parts hand to one another: plain data, no wire format."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from services.router.catalog import Model


class Outcome(StrEnum):
    """How an attempt ended; the names are those of the proto's AttemptOutcome."""

    SUCCEEDED = "SUCCEEDED"
    FIRST_TOKEN_TIMEOUT = "FIRST_TOKEN_TIMEOUT"  # noqa: S105  a token of text
    STALLED = "STALLED"
    CONNECTION_ERROR = "CONNECTION_ERROR"
    RATE_LIMITED = "RATE_LIMITED"
    SERVER_ERROR = "SERVER_ERROR"
    KEY_REJECTED = "KEY_REJECTED"
    REQUEST_REJECTED = "REQUEST_REJECTED"
    CONTEXT_TOO_LONG = "CONTEXT_TOO_LONG"
    CONTENT_REFUSED = "CONTENT_REFUSED"
    INVALID_ANSWER = "INVALID_ANSWER"
    CANCELLED = "CANCELLED"
    SKIPPED = "SKIPPED"
    OVER_BUDGET = "OVER_BUDGET"


class Blame(StrEnum):
    """Whom an attempt that failed speaks against (ROU-4)."""

    PROVIDER = "PROVIDER"
    """It counts against the provider's circuit."""
    ENTRY = "ENTRY"
    """The catalogue's entry of the model is wrong; the provider's other models may be right."""
    MODEL = "MODEL"
    """The provider works; what the model wrote will not do."""
    NOBODY = "NOBODY"
    """The caller's mistake, or impatience: it counts for nothing."""


@dataclass(frozen=True, slots=True)
class Fault:
    """Why an attempt did not give an answer.

    *here_only*: another candidate may well answer although the request was refused.
    *code*: the provider's own word for it, reduced to a word; never its message.
    """

    outcome: Outcome
    http_status: int = 0
    retry_after: float | None = None
    here_only: bool = True
    blame: Blame = Blame.PROVIDER
    code: str = ""


class Faulty(Exception):
    """An attempt failed; carries the fault. Stays inside the router."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault.outcome)
        self.fault = fault


@dataclass(frozen=True, slots=True)
class Tokens:
    """As the provider counted them: cached ones are among the input, reasoning among the output."""

    input: int = 0
    cached_input: int = 0
    output: int = 0
    reasoning: int = 0
    estimated: bool = False

    def __add__(self, other: "Tokens") -> "Tokens":
        return Tokens(
            self.input + other.input,
            self.cached_input + other.cached_input,
            self.output + other.output,
            self.reasoning + other.reasoning,
            self.estimated or other.estimated,
        )


NO_TOKENS = Tokens()


@dataclass(frozen=True, slots=True)
class Attempt:
    """One try at one model, over."""

    model: Model
    outcome: Outcome
    http_status: int
    started_at: datetime
    duration: timedelta
    time_to_first_token: timedelta | None = None
    tokens: Tokens | None = None
    response_model: str = ""
    """Who answered, in the provider's words."""


@dataclass(frozen=True, slots=True)
class Turn:
    """A message of the conversation; role is system, user or assistant."""

    role: str
    content: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Ask:
    """What a caller wants answered."""

    task: str
    turns: Sequence[Turn]
    tiers: frozenset[str]
    schema: dict[str, Any] | None = None
    max_output_tokens: int = 0
    temperature: float | None = None
    user_id: str = ""
    clinic_id: str = ""
    locale: str = ""
    excluded_models: frozenset[str] = frozenset()
    streamed: bool = False
    daily_budget_micros: int | None = None

    @property
    def characters(self) -> int:
        return sum(len(turn.content) for turn in self.turns)

    @property
    def live(self) -> bool:
        """Text may go out as it comes. What a schema must judge goes out whole or not at all."""
        return self.streamed and self.schema is None


@dataclass(frozen=True, slots=True)
class Began:
    """The first text is about to come."""

    model: Model


@dataclass(frozen=True, slots=True)
class Text:
    """Some of the answer."""

    content: str


@dataclass(frozen=True, slots=True)
class Completed:
    """The answer is whole."""

    model: Model
    failover: bool
    other_tier: bool
    attempts: tuple[Attempt, ...]
    tokens: Tokens
    cost: int
    currency: str
    cut: bool


Event = Began | Text | Completed
