"""What the tests of interpretation read with: two trades, a moment, operations as plain text."""

from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import yaml
from gatehouse.domain.v1 import domain_pb2
from gatehouse.entitlements.v1.entitlements_pb2 import DomainDescriptor
from gatehouse.gateway.v1 import gateway_pb2 as pb
from google.protobuf import json_format

from services.gateway.interpret.drafting import Choice
from services.gateway.interpret.interpreter import label_of
from services.gateway.interpret.rules import Read, read_by_rules
from services.gateway.interpret.scene import scene_of
from services.gateway.reading import Reading

CLINIC = Path(__file__).parents[4] / "examples" / "clinic" / "descriptors.yaml"
LOCALES = ("en-US", "pt-BR", "es-ES")
# A Monday, noon in São Paulo.
NOW = datetime(2026, 11, 23, 15, tzinfo=UTC)
SIGNS = {1: "=", 2: "!=", 3: "<", 4: "<=", 5: ">", 6: ">=", 7: "~", 8: " in "}

# Another trade altogether: what a veterinary practice has in stock.
STOCK = """
domains:
  - name: stock
    operations: [VERB_CREATE, VERB_READ, VERB_UPDATE, VERB_DELETE]
    endpoint: "127.0.0.1:1"
    entities:
      - name: vaccine
        operations: [VERB_CREATE, VERB_READ, VERB_UPDATE, VERB_DELETE]
        synonyms:
          - {locale: en-US, words: [vaccine, vaccines]}
          - {locale: pt-BR, words: [vacina, vacinas]}
          - {locale: es-ES, words: [vacuna, vacunas]}
        json_schema:
          type: object
          required: [brand]
          properties:
            brand:
              type: string
              x-selectable: true
              x-label: true
              x-synonyms: {en-US: [brand], pt-BR: [marca comercial], es-ES: [nombre comercial]}
            doses:
              type: integer
              minimum: 0
              x-selectable: true
              x-synonyms: {en-US: [doses], pt-BR: [doses], es-ES: [dosis]}
            expires_on:
              type: string
              format: date
              x-selectable: true
              x-synonyms: {en-US: [expires, expiring], pt-BR: [validade], es-ES: [caducan]}
            state:
              type: string
              enum: [sealed, opened, withdrawn]
              x-selectable: true
              x-values:
                sealed: {en-US: [sealed], pt-BR: [lacrada, lacradas], es-ES: [sellada, selladas]}
                opened: {en-US: [opened], pt-BR: [aberta, abertas], es-ES: [abierta, abiertas]}
                withdrawn: {en-US: [withdrawn], pt-BR: [recolhida], es-ES: [retirada]}
            chilled:
              type: boolean
              x-selectable: true
              x-synonyms: {en-US: [chilled], pt-BR: [refrigerada], es-ES: [refrigerada]}
  - name: orders
    operations: [VERB_CREATE, VERB_READ, VERB_UPDATE]
    endpoint: "127.0.0.1:2"
    entities:
      - name: order
        operations: [VERB_CREATE, VERB_READ, VERB_UPDATE]
        synonyms:
          - {locale: en-US, words: [order, orders]}
          - {locale: pt-BR, words: [pedido, pedidos]}
          - {locale: es-ES, words: [pedido, pedidos]}
        json_schema:
          type: object
          required: [code, supplier]
          properties:
            code:
              type: string
              pattern: "^[0-9A-Z-]{2,20}$"
              x-selectable: true
              x-label: true
              x-synonyms: {en-US: [code], pt-BR: [código], es-ES: [código]}
            supplier:
              type: string
              x-selectable: true
              x-synonyms: {en-US: [supplier], pt-BR: [fornecedor], es-ES: [proveedor]}
            arrives_at:
              type: string
              format: date-time
              x-selectable: true
              x-synonyms: {en-US: [arrival], pt-BR: [chegada], es-ES: [llegada]}
            state:
              type: string
              enum: [placed, received, annulled]
              x-selectable: true
              x-values:
                placed: {en-US: [placed], pt-BR: [feito, feitos], es-ES: [hecho, hechos]}
                received: {en-US: [received], pt-BR: [recebido, recebidos], es-ES: [recibido]}
                annulled: {en-US: [cancelled], pt-BR: [cancelado], es-ES: [cancelado]}
            remark:
              type: string
              x-synonyms: {en-US: [remark], pt-BR: [observação], es-ES: [observación]}
"""


def parsed(text: str) -> dict[str, DomainDescriptor]:
    """Descriptors as `gatehouse domains apply` reads them."""
    read = [
        json_format.ParseDict(each, DomainDescriptor()) for each in yaml.safe_load(text)["domains"]
    ]
    return {each.name: each for each in read}


@cache
def clinic() -> Mapping[str, DomainDescriptor]:
    return parsed(CLINIC.read_text(encoding="utf-8"))


@cache
def stock() -> Mapping[str, DomainDescriptor]:
    return parsed(STOCK)


def reading(locale: str = "en-US", zone: str = "America/Sao_Paulo", now: datetime = NOW) -> Reading:
    return Reading(locale, ZoneInfo(zone), now)


def read(
    text: str,
    locale: str = "en-US",
    descriptors: Mapping[str, DomainDescriptor] | None = None,
    **how: Any,
) -> Read:
    domains = clinic() if descriptors is None else descriptors
    return read_by_rules(scene_of(text, domains, reading(locale, **how)))


def shown(operation: pb.Operation) -> str:
    """An operation as one line: `UPDATE invoice number=1042: status=paid`."""
    verb = domain_pb2.Verb.Name(operation.verb).removeprefix("VERB_")
    conditions = [
        f"{each.field}{SIGNS[each.comparison]}{value_of(json_format.MessageToDict(each.value))}"
        for each in operation.selector.conditions.conditions
    ]
    if operation.selector.id:
        conditions = [f"id={operation.selector.id}"]
    fields = json_format.MessageToDict(operation.fields)
    written = [f"{name}={value_of(fields[name])}" for name in sorted(fields)]
    if operation.selector.HasField("first"):
        first = operation.selector.first
        conditions.append(f"{'last' if first.descending else 'first'} by {first.by_field}")
    many = ["many"] if operation.max_affected > 1 else []
    said = " ".join([verb, operation.entity, *sorted(conditions), *many])
    return f"{said}: {', '.join(written)}" if written else said


def value_of(value: Any) -> str:
    if isinstance(value, list):
        return "|".join(sorted(map(str, value)))
    return str(value).removesuffix(":00-03:00")


def operations(text: str, locale: str = "en-US", **how: Any) -> list[str]:
    """What *text* comes to. Fails with the question where something is in doubt."""
    found = read(text, locale, **how)
    assert found.doubt is None, f"{text}: {found.doubt}"
    return [shown(each.operation) for each in found.operations]


def doubt(text: str, locale: str = "en-US", **how: Any) -> str:
    """What is asked about *text*, for example DATE."""
    found = read(text, locale, **how)
    assert found.doubt is not None, [shown(each.operation) for each in found.operations]
    assert not found.operations
    return pb.Ambiguity.Name(found.doubt.ambiguity).removeprefix("AMBIGUITY_")


def choices(text: str, locale: str = "en-US", **how: Any) -> list[str]:
    """The answers that are offered for *text*, each with what it comes to."""
    found = read(text, locale, **how)
    assert found.doubt is not None
    return [chosen(each, locale) for each in found.doubt.choices]


def chosen(choice: Choice, locale: str) -> str:
    return " / ".join(
        [label_of(choice.label, locale), *(shown(each) for each in choice.operations)]
    )


def day(start: str, end: str) -> str:
    """The conditions of a span of days on the clinic's appointments."""
    return f"starts_at<{end}T00:00 starts_at>={start}T00:00"
