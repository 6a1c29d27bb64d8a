"""The catalogue is read whole, and every mistake of it is named with its line and field."""

from pathlib import Path

import pytest

from services.router.catalog import Catalogue, CatalogueWrong, read_catalogue

GOOD = """\
version: 1
currency: BRL
providers:
  local:
    base_url: http://127.0.0.1:8080/v1
  cloud:
    base_url: https://models.example/v1/
    api_key_env: CLOUD_KEY
    max_concurrent_calls: 7
models:
  small:
    tier: MODEL_BASIC
    provider: local
    provider_model: smollm2
    context_tokens: 8192
    max_output_tokens: 512
    prices: {input: 0.15, cached_input: 0.075, output: 0.6}
  large:
    tier: MODEL_ADV_REASON
    provider: cloud
    context_tokens: 200000
    prices: {input: 3, output: 15.000000001}
    weight: 3
tasks:
  INTERPRET: {tiers: [MODEL_BASIC, MODEL_SPEED], first_token_seconds: 0.5}
circuit: {failures_in_a_row: 2}
"""
ENVIRON = {"CLOUD_KEY": "sk-very-secret"}


def mistakes_of(text: str, environ: dict[str, str] = ENVIRON) -> list[str]:
    with pytest.raises(CatalogueWrong) as raised:
        read_catalogue(text, environ)
    return [str(mistake) for mistake in raised.value.found]


def read(text: str = GOOD) -> Catalogue:
    return read_catalogue(text, ENVIRON)


def test_a_good_catalogue_is_read_whole() -> None:
    """ROU-1."""
    catalogue = read()
    small, large = catalogue.models
    assert (small.id, small.tier, small.provider_model) == ("small", "MODEL_BASIC", "smollm2")
    assert large.provider.base_url == "https://models.example/v1"
    assert (large.provider.api_key, large.provider.max_concurrent_calls) == ("sk-very-secret", 7)
    assert large.provider_model == "large"
    assert catalogue.currency == "BRL"
    assert catalogue.tasks["INTERPRET"].first_token_seconds == 0.5
    assert catalogue.circuit.failures_in_a_row == 2


def test_prices_are_the_decimals_that_were_written() -> None:
    """ROU-1, ROU-6: billionths of the unit for a million tokens; no binary fraction on the way."""
    small, large = read().models
    assert (small.prices.input, small.prices.cached_input) == (150_000_000, 75_000_000)
    assert large.prices.output == 15_000_000_001
    assert large.prices.cached_input == large.prices.input == 3 * 10**9


def test_the_tasks_have_the_patience_that_the_rules_give_them() -> None:
    """ROU-3: 1.2 s for INTERPRET, 1.8 s for ANALYZE and RECOMMEND; only CHAT repeats a
    candidate.
    """
    tasks = read(GOOD.partition("tasks:")[0]).tasks
    assert tasks["INTERPRET"].first_token_seconds == 1.2
    assert tasks["ANALYZE"].first_token_seconds == tasks["RECOMMEND"].first_token_seconds == 1.8
    assert [name for name, task in tasks.items() if task.retries_same_model] == ["CHAT"]


def test_every_task_can_be_answered_by_the_tier_that_every_plan_has() -> None:
    """ROU-2."""
    assert all("MODEL_BASIC" in task.tiers for task in read().tasks.values())


def test_every_mistake_is_named_at_once_with_its_line_and_field() -> None:
    """ROU-1."""
    text = """\
version: 2
providers:
  a:
    base_url: ftp://example
    api_key_env: MISSING_KEY
models:
  one:
    tier: MODEL_HUGE
    provider: b
    context_tokens: many
    prices: {input: -1, output: 0.1234567891}
    weigth: 3
"""
    assert mistakes_of(text) == [
        "line 1: version: must be from 1 to 1",
        "line 4: providers.a.base_url: must be an http or https URL with a host",
        "line 5: providers.a.api_key_env: the environment has no MISSING_KEY",
        "line 8: models.one.tier: must be one of MODEL_BASIC, MODEL_SPEED, MODEL_ADV_REASON, "
        "MODEL_ANALYTICS, not 'MODEL_HUGE'",
        "line 9: models.one.provider: is not among the providers",
        "line 10: models.one.context_tokens: must be a number, not 'many'",
        "line 11: models.one.prices.input: must be from 0 to 1000000000",
        "line 11: models.one.prices.output: must have at most 9 decimals",
        "line 12: models.one.weigth: is not a field here; known are accepts_temperature, "
        "context_tokens, continuation, max_output_tokens, prices, provider, provider_model, "
        "strict_schema, structured_output, tier, weight, whole_answer_seconds",
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "models: must name at least one model"),
        ("[]", "the document: must be a mapping of fields"),
        ("just words", "the document: must be a mapping of fields"),
        ("a: [1, 2", "is not YAML"),
        ("a: \x07", "is not YAML"),
        ("models: 3", "models: must be a mapping of fields"),
        (GOOD + "models: {}\n", "models: is given twice"),
        (GOOD.replace("    tier: MODEL_BASIC\n", ""), "line 11: models.small.tier: is missing"),
        (GOOD.replace("tier: MODEL_BASIC", "tier:"), "models.small.tier: is missing"),
        (GOOD.replace("input: 3,", "input: .inf,"), "must be a number"),
        (GOOD.replace("input: 3,", "input: 1e99999,"), "must be from 0 to"),
        (GOOD.replace("weight: 3", "weight: 1.5"), "at most 0 decimals"),
        (GOOD.replace("8192", "100"), "max_output_tokens: is more than context_tokens"),
        (GOOD.replace("currency: BRL", "currency: reais"), "currency: must look like"),
        (GOOD.replace("[MODEL_BASIC, MODEL_SPEED]", "[]"), "tiers: must be a list"),
        (GOOD.replace("MODEL_SPEED]", "MODEL_BASIC]"), "tiers: names an entry twice"),
        (GOOD.replace("MODEL_SPEED]", "MODEL_SLOW]"), "tiers: must be one of"),
        (GOOD.replace("  INTERPRET:", "  SING:"), "tasks.SING: is not a field here"),
        (GOOD.replace("http://127.0.0.1:8080", "http://10.1.2.3"), "plain http leaves"),
        (GOOD.replace("https://models", "https://me:pw@models"), "must have no user"),
        (GOOD.replace("https://models.example", "https://[::1"), "is not a URL"),
        (GOOD.replace("  small:", "  'sm all':"), "the name must look like"),
    ],
)
def test_a_wrong_catalogue_is_refused_with_its_reason(text: str, expected: str) -> None:
    """ROU-1."""
    assert any(expected in mistake for mistake in mistakes_of(text)), mistakes_of(text)


def test_a_key_is_shown_neither_in_a_mistake_nor_in_a_repr() -> None:
    """ROU-1: what cannot be sent is named by its variable."""
    text = "\n".join(mistakes_of(GOOD, {"CLOUD_KEY": "sk-very\nsecret"}))
    assert "CLOUD_KEY" in text
    assert "secret" not in text
    assert "sk-very-secret" not in repr(read())


def test_the_digest_follows_the_text() -> None:
    """ROU-1."""
    assert read().digest == read().digest != read(GOOD + "# a comment\n").digest


def test_the_example_is_a_good_catalogue() -> None:
    """ROU-1."""
    path = Path(__file__).parents[3] / "services/router/catalogue.example.yaml"
    environ = {"OPENAI_API_KEY": "k", "OPENROUTER_API_KEY": "k"}
    catalogue = read_catalogue(path.read_text(), environ, str(path))
    assert {model.tier for model in catalogue.models} >= {"MODEL_BASIC", "MODEL_SPEED"}
