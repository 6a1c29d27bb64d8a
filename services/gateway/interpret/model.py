"""Words read by a model, held to a JSON Schema made from the descriptors (GAT-3)."""

import json
from collections.abc import Sequence
from typing import Any

from gatehouse.domain.v1 import domain_pb2
from gatehouse.gateway.v1 import gateway_pb2 as pb
from gatehouse.router.v1 import router_pb2, tier_pb2
from google.protobuf import json_format
from google.protobuf.struct_pb2 import Struct

from services.gateway.interpret.checking import (
    Descriptors,
    normalized,
    properties_of,
    violations,
)
from services.gateway.peers import Complete
from services.gateway.reading import Reading
from services.runtime.failure import Failure

# A change that only a model has read is confirmed before it is made.
SURE_OF_CHANGES = 0.75
SURE_OF_READS = 0.85
LONGEST_ANSWER_TOKENS = 400
COMPARISONS = list(domain_pb2.Comparison.keys()[1:])
PROMPT = (
    "Turn the request of a clinic's employee into operations. Answer with JSON only. "
    "Use nothing that the request does not say. When it is not clear, answer with no operations. "
    "Now it is {now} in {zone}. The domains and their entities: {offers}"
)


async def read_by_model(
    instruction: str,
    descriptors: Descriptors,
    reading: Reading,
    complete: Complete,
    model_tiers: Sequence[tier_pb2.Tier.ValueType],
) -> tuple[list[pb.InterpretedOperation], router_pb2.Finished] | None:
    """What a model makes of *instruction*, held to the descriptors; None for nothing usable.

    One operation that does not pass makes the whole unusable: the rest of a misunderstanding
    is one.
    """
    try:
        answer = await complete(request_for(instruction, descriptors, reading, model_tiers))
        read = json.loads(answer.content)
    except (Failure, ValueError):
        return None
    operations = [operation_from(each) for each in read.get("operations", [])]
    usable = [
        normalized(each, descriptors)
        for each in operations
        if each is not None and not violations(each, descriptors)
    ]
    if not usable or len(usable) != len(operations):
        return None
    interpreted = [
        pb.InterpretedOperation(operation=each, confidence=confidence_of(each)) for each in usable
    ]
    return interpreted, answer.finished


def confidence_of(operation: pb.Operation) -> float:
    return SURE_OF_READS if operation.verb == domain_pb2.VERB_READ else SURE_OF_CHANGES


def request_for(
    instruction: str,
    descriptors: Descriptors,
    reading: Reading,
    model_tiers: Sequence[tier_pb2.Tier.ValueType],
) -> router_pb2.CompleteRequest:
    schema = Struct()
    schema.update(schema_of(descriptors))
    offers = {
        name: {entity.name: sorted(properties_of(entity)) for entity in descriptor.entities}
        for name, descriptor in descriptors.items()
    }
    now = reading.now.astimezone(reading.time_zone).isoformat(timespec="minutes")
    prompt = PROMPT.format(now=now, zone=reading.time_zone.key, offers=json.dumps(offers))
    return router_pb2.CompleteRequest(
        task=router_pb2.TASK_KIND_INTERPRET,
        messages=[
            router_pb2.Message(role=router_pb2.ROLE_SYSTEM, content=prompt),
            router_pb2.Message(role=router_pb2.ROLE_USER, content=instruction),
        ],
        model_tiers=model_tiers,
        json_schema=schema,
        max_output_tokens=LONGEST_ANSWER_TOKENS,
        temperature=0.0,
        locale=reading.locale,
    )


def schema_of(descriptors: Descriptors) -> dict[str, Any]:
    """The JSON Schema of an answer: only what the descriptors offer can be said in it."""
    fields = sorted(
        {
            name
            for descriptor in descriptors.values()
            for entity in descriptor.entities
            for name in properties_of(entity)
        }
    )
    entities = sorted({each.name for one in descriptors.values() for each in one.entities})
    value = {"type": ["string", "number", "boolean"]}
    condition = {
        "type": "object",
        "properties": {
            "field": {"enum": fields},
            "comparison": {"enum": COMPARISONS},
            "value": value,
        },
        "required": ["field", "comparison", "value"],
        "additionalProperties": False,
    }
    operation = {
        "type": "object",
        "properties": {
            "domain": {"enum": sorted(descriptors)},
            "entity": {"enum": entities},
            "verb": {"enum": domain_pb2.Verb.keys()[1:]},
            "conditions": {"type": "array", "items": condition, "maxItems": 8},
            "fields": {
                "type": "object",
                "properties": dict.fromkeys(fields, value),
                "additionalProperties": False,
            },
        },
        "required": ["domain", "entity", "verb", "conditions", "fields"],
        "additionalProperties": False,
    }
    return {
        "type": "object",
        "properties": {"operations": {"type": "array", "items": operation, "maxItems": 10}},
        "required": ["operations"],
        "additionalProperties": False,
    }


def operation_from(read: dict[str, Any]) -> pb.Operation | None:
    """One operation of the model's answer, or None where it is none."""
    try:
        operation = pb.Operation(
            domain=read["domain"],
            entity=read["entity"],
            verb=domain_pb2.Verb.Value(read["verb"]),
        )
        for each in read.get("conditions", []):
            condition = operation.selector.conditions.conditions.add(
                field=each["field"],
                comparison=domain_pb2.Comparison.Value(each["comparison"]),
            )
            json_format.ParseDict(each["value"], condition.value)
        if read.get("fields"):
            operation.fields.update(read["fields"])
    except (KeyError, TypeError, ValueError, AttributeError):
        return None
    return operation
