"""What Describe must say of the domain."""

import jsonschema_rs
from gatehouse.domain.v1 import domain_pb2 as pb
from google.protobuf.json_format import MessageToDict

from services.conformance.findings import check, expect
from services.conformance.subject import Subject
from services.runtime.validation import IDENTIFIER


@check("describe.names")
async def names(subject: Subject) -> None:
    """Domain, entities, fields and metrics have names of a-z, 0-9 and _, each given once."""
    described = subject.described
    fields = [
        f"{entity.name}.{name}"
        for entity in described.entities
        for name in MessageToDict(entity.json_schema).get("properties", {})
    ]
    names = [described.name]
    names += [each.name for each in described.entities]
    names += [each.name for each in described.metrics]
    odd = [each for each in names if not IDENTIFIER.fullmatch(each)]
    odd += [each for each in fields if not IDENTIFIER.fullmatch(each.partition(".")[2])]
    expect(not odd, f"not such a name: {', '.join(map(repr, odd))}")
    for of_one in (described.entities, described.metrics):
        given = [each.name for each in of_one]
        expect(len(set(given)) == len(given), f"named twice: {', '.join(sorted(given))}")


@check("describe.entities")
async def entities(subject: Subject) -> None:
    """Each entity says what may be done to it, and has a JSON Schema of its records' fields."""
    for entity in subject.described.entities:
        verbs = set(entity.verbs)
        expect(verbs and pb.VERB_UNSPECIFIED not in verbs, f"{entity.name} offers nothing known")
        schema = MessageToDict(entity.json_schema)
        valid = jsonschema_rs.meta.is_valid(schema)
        expect(valid, f"the schema of {entity.name} is not a JSON Schema")
        properties = schema.get("properties", {})
        expect(
            schema.get("type") == "object" and properties,
            f"the schema of {entity.name} is not an object with properties",
        )
        expect("id" not in properties, f"{entity.name}: the id is no field of the schema")
        labels = [name for name, each in properties.items() if each.get("x-label")]
        expect(len(labels) == 1, f"{entity.name}: one field is x-label, not {len(labels)}")


@check("describe.metrics")
async def metrics(subject: Subject) -> None:
    """Each metric says what stands above and below its line, and in what unit."""
    for metric in subject.described.metrics:
        for part in ("numerator", "denominator", "unit"):
            expect(getattr(metric, part), f"{metric.name} has no {part}")
