"""Holds an answer to the caller's JSON Schema (ROU-7)."""

import json
from functools import lru_cache
from typing import Any, NoReturn

import jsonschema_rs

MAX_SCHEMA_CHARACTERS = 200_000


class SchemaUnusable(Exception):
    """The schema is not a valid one of draft 2020-12, or refers to something outside itself."""


class NotSatisfied(Exception):
    """The answer is no JSON, or does not satisfy the schema."""


@lru_cache(maxsize=64)
def _validator(schema_text: str) -> jsonschema_rs.Draft202012Validator:
    # Compiling costs a hundred times what checking does, and the gateway sends the same few
    # schemas again and again. Patterns run on an engine without backtracking: a schema cannot make
    # an answer take for ever.
    return jsonschema_rs.Draft202012Validator(
        json.loads(schema_text),
        validate_formats=True,
        retriever=_refuse,
        pattern_options=jsonschema_rs.RegexOptions(size_limit=1 << 20),
    )


def _refuse(uri: str) -> NoReturn:
    raise ValueError("a schema may not refer to anything outside itself")


def validator_for(schema: dict[str, Any]) -> jsonschema_rs.Draft202012Validator:
    """The schema, compiled. Raises SchemaUnusable."""
    text = json.dumps(schema, sort_keys=True)
    if len(text) > MAX_SCHEMA_CHARACTERS:
        raise SchemaUnusable
    try:
        return _validator(text)
    except (ValueError, jsonschema_rs.ValidationError, jsonschema_rs.ReferencingError):
        raise SchemaUnusable from None


def satisfying(validator: jsonschema_rs.Draft202012Validator, answer: str) -> str:
    """The answer as one JSON text, written anew so that no reader can see another value in it.

    A code fence around it is taken off: models that are held to the schema by the prompt alone
    like to add one. Raises NotSatisfied.
    """
    try:
        value = json.loads(_without_fence(answer), parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise NotSatisfied from None
    if not validator.is_valid(value):
        raise NotSatisfied
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def _without_fence(answer: str) -> str:
    text = answer.strip()
    if not text.startswith("```") or not text.endswith("```"):
        return text
    _, _, inner = text[:-3].partition("\n")
    return inner


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
