"""The catalogue: which models there are, where, at what price, and what each task asks of them
(ROU-1, ROU-2).

`read_catalogue` is pure: text and environment in, a checked catalogue or every mistake out.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from urllib.parse import urlsplit

from services.router.circuit import CircuitPolicy
from services.router.yaml_reading import Mistake, Section, read_document
from services.runtime.settings import SettingsError

TIERS = ("MODEL_BASIC", "MODEL_SPEED", "MODEL_ADV_REASON", "MODEL_ANALYTICS")
STRUCTURED_OUTPUTS = ("json_schema", "json_object", "prompt")
CONTINUATIONS = ("prefill", "instruct")
OUTPUT_LIMIT_FIELDS = ("max_tokens", "max_completion_tokens")
LOOPBACK_HOSTS = frozenset({"127.0.0.1", "::1", "localhost"})
NAME = r"[A-Za-z0-9][A-Za-z0-9._:/-]{0,99}"
BILLIONTHS = 10**9


@dataclass(frozen=True, slots=True)
class Provider:
    """An OpenAI-compatible endpoint."""

    name: str
    base_url: str
    api_key: str = field(repr=False)
    max_concurrent_calls: int
    output_limit_field: str
    api_key_file: str = ""


@dataclass(frozen=True, slots=True)
class Prices:
    """Of a million tokens, in billionths of the currency's unit."""

    input: int
    cached_input: int
    output: int


@dataclass(frozen=True, slots=True)
class Model:
    """What may be asked, and how."""

    id: str
    tier: str
    provider: Provider
    provider_model: str
    context_tokens: int
    max_output_tokens: int
    prices: Prices
    weight: int
    structured_output: str
    strict_schema: bool
    continuation: str
    accepts_temperature: bool
    whole_answer_seconds: float = 0.0

    @property
    def streams(self) -> bool:
        """Whether the provider tells an answer as it is written; else it comes in one piece."""
        return not self.whole_answer_seconds

    @property
    def route(self) -> tuple[str, str]:
        """Where a request goes in the end: two models may be two names for one route."""
        return self.provider.base_url, self.provider_model


@dataclass(frozen=True, slots=True)
class TaskPolicy:
    """The tiers of a task, best first, and its patience (ROU-2, ROU-3)."""

    tiers: tuple[str, ...]
    first_token_seconds: float
    stall_seconds: float
    retries_same_model: bool = False


DEFAULT_TASKS: Mapping[str, TaskPolicy] = {
    "INTERPRET": TaskPolicy(("MODEL_SPEED", "MODEL_BASIC", "MODEL_ADV_REASON"), 1.2, 1.2),
    "ANALYZE": TaskPolicy(("MODEL_ANALYTICS", "MODEL_ADV_REASON", "MODEL_BASIC"), 1.8, 1.8),
    "RECOMMEND": TaskPolicy(("MODEL_ADV_REASON", "MODEL_ANALYTICS", "MODEL_BASIC"), 1.8, 1.8),
    "CHAT": TaskPolicy(("MODEL_SPEED", "MODEL_BASIC", "MODEL_ADV_REASON"), 3.0, 3.0, True),
}


@dataclass(frozen=True, slots=True)
class Catalogue:
    """The whole of it; never changed, only replaced."""

    digest: str
    currency: str
    models: tuple[Model, ...]
    tasks: Mapping[str, TaskPolicy]
    circuit: CircuitPolicy


class CatalogueWrong(SettingsError):
    """The catalogue cannot be used; every mistake is named, no key's value is shown."""

    def __init__(self, source: str, found: list[Mistake]) -> None:
        self.found = sorted(found, key=lambda mistake: (mistake.line, mistake.field))
        name = source or "the catalogue"
        super().__init__([f"{name}: {mistake}" for mistake in self.found])


def read_catalogue(text: str, environ: Mapping[str, str], source: str = "") -> Catalogue:
    """The catalogue that *text* describes, with the keys taken from *environ*.

    Raises CatalogueWrong with all mistakes.
    """
    mistakes: list[Mistake] = []
    document = read_document(text, mistakes)
    if mistakes:
        raise CatalogueWrong(source, mistakes)
    document.whole("version", 1, least=1, most=1)
    currency = document.text("currency", "USD", pattern=r"[A-Z]{3}")
    providers = {
        name: _provider(name, section, environ)
        for name, section in document.sections("providers", NAME)
    }
    models = tuple(
        _model(name, section, providers) for name, section in document.sections("models", NAME)
    )
    tasks = _tasks(document.section("tasks"))
    circuit = _circuit(document.section("circuit"))
    if not models:
        document.wrong("models", "must name at least one model")
    document.unknown_fields()
    if mistakes:
        raise CatalogueWrong(source, mistakes)
    return Catalogue(hashlib.sha256(text.encode()).hexdigest(), currency, models, tasks, circuit)


def _provider(name: str, section: Section, environ: Mapping[str, str]) -> Provider:
    provider = Provider(
        name=name,
        base_url=_base_url(section),
        api_key=_api_key(section, environ),
        api_key_file=section.text("api_key_file", "") if section.has("api_key_file") else "",
        max_concurrent_calls=section.whole("max_concurrent_calls", 64, least=1, most=10_000),
        output_limit_field=section.choice("output_limit_field", OUTPUT_LIMIT_FIELDS, "max_tokens"),
    )
    section.unknown_fields()
    return provider


def _base_url(section: Section) -> str:
    url = section.text("base_url").rstrip("/")
    plain_text_allowed = section.flag("allow_plain_text", default=False)
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        section.wrong("base_url", "is not a URL")
        return url
    if not url:
        return url
    if parts.scheme not in ("http", "https") or not host:
        section.wrong("base_url", "must be an http or https URL with a host")
    elif parts.username or parts.password or parts.query or parts.fragment:
        section.wrong("base_url", "must have no user, query or fragment; keys go to api_key_env")
    elif parts.scheme == "http" and host not in LOOPBACK_HOSTS and not plain_text_allowed:
        section.wrong("base_url", "plain http leaves this machine; use https or allow_plain_text")
    return url


def key_in(path: str) -> str | None:
    """What a file of a key holds; None when it cannot be read."""
    try:
        return Path(path).read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return None


def _api_key(section: Section, environ: Mapping[str, str]) -> str:
    if section.has("api_key_file"):
        return _api_key_of_file(section)
    section.text("api_key_file", "")
    if not section.has("api_key_env"):
        section.text("api_key_env", "")
        return ""
    name = section.text("api_key_env", pattern=r"[A-Za-z_][A-Za-z0-9_]*")
    key = environ.get(name, "").strip()
    if not key:
        section.wrong("api_key_env", f"the environment has no {name[:60]}")
    elif not re.fullmatch(r"[\x21-\x7e]+", key):
        section.wrong("api_key_env", f"what {name} holds cannot be sent in a header")
    return key


def _api_key_of_file(section: Section) -> str:
    if section.has("api_key_env"):
        section.wrong("api_key_env", "there is an api_key_file already")
    section.text("api_key_env", "")
    name = section.text("api_key_file")
    key = key_in(name)
    if key is None:
        section.wrong("api_key_file", f"{name[:200]} cannot be read")
    elif not re.fullmatch(r"[\x21-\x7e]+", key):
        section.wrong("api_key_file", f"what {name[:200]} holds cannot be sent in a header")
    return key or ""


def _model(name: str, section: Section, providers: Mapping[str, Provider]) -> Model:
    provider_name = section.text("provider")
    provider = providers.get(provider_name)
    if provider is None:
        if provider_name:
            section.wrong("provider", "is not among the providers")
        provider = Provider(provider_name, "", "", 1, "max_tokens")
    context_tokens = section.whole("context_tokens", least=16, most=100_000_000)
    max_output = section.whole(
        "max_output_tokens", min(1024, context_tokens), least=1, most=131_072
    )
    if max_output > context_tokens:
        section.wrong("max_output_tokens", "is more than context_tokens")
    model = Model(
        id=name,
        tier=section.choice("tier", TIERS),
        provider=provider,
        provider_model=section.text("provider_model", name),
        context_tokens=context_tokens,
        max_output_tokens=max_output,
        prices=_prices(section.section("prices")),
        weight=section.whole("weight", 1, most=1_000_000),
        structured_output=section.choice("structured_output", STRUCTURED_OUTPUTS, "json_schema"),
        strict_schema=section.flag("strict_schema", default=False),
        continuation=section.choice("continuation", CONTINUATIONS, "instruct"),
        accepts_temperature=section.flag("accepts_temperature", default=True),
        whole_answer_seconds=section.seconds("whole_answer_seconds", 0.0, most=600),
    )
    section.unknown_fields()
    return model


def _prices(section: Section) -> Prices:
    price_in = section.decimal("input")
    price_cached = section.decimal("cached_input", price_in)
    price_out = section.decimal("output")
    section.unknown_fields()
    return Prices(_billionths(price_in), _billionths(price_cached), _billionths(price_out))


def _billionths(amount: Decimal) -> int:
    return int(amount * BILLIONTHS)


def _tasks(section: Section) -> dict[str, TaskPolicy]:
    tasks = {name: _task(section, name, policy) for name, policy in DEFAULT_TASKS.items()}
    section.unknown_fields()
    return tasks


def _task(tasks: Section, name: str, default: TaskPolicy) -> TaskPolicy:
    section = tasks.section(name)
    tiers = section.choices("tiers", TIERS) if section.has("tiers") else default.tiers
    policy = TaskPolicy(
        tiers=tiers,
        first_token_seconds=section.seconds(
            "first_token_seconds", default.first_token_seconds, most=600
        ),
        stall_seconds=section.seconds("stall_seconds", default.stall_seconds, most=600),
        retries_same_model=section.flag("retries_same_model", default.retries_same_model),
    )
    section.unknown_fields()
    return policy


def _circuit(section: Section) -> CircuitPolicy:
    default = CircuitPolicy()
    policy = CircuitPolicy(
        failures_in_a_row=section.whole(
            "failures_in_a_row", default.failures_in_a_row, least=1, most=1000
        ),
        least_attempts=section.whole("least_attempts", default.least_attempts, least=1, most=1000),
        window_seconds=section.seconds("window_seconds", default.window_seconds, most=3600),
        rest_seconds=section.seconds("rest_seconds", default.rest_seconds, most=3600),
        longest_rest_seconds=section.seconds(
            "longest_rest_seconds", default.longest_rest_seconds, most=86_400
        ),
        key_rest_seconds=section.seconds("key_rest_seconds", default.key_rest_seconds, most=86_400),
    )
    if policy.longest_rest_seconds < policy.rest_seconds:
        section.wrong("longest_rest_seconds", "is less than rest_seconds")
    section.unknown_fields()
    return policy
