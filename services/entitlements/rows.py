"""Between rows and the messages of the protos.

A row comes as the JSON of itself (`to_jsonb`), which is also how the history keeps it, so that one
reading serves both.
"""

import hashlib
import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from gatehouse.domain.v1 import domain_pb2
from gatehouse.entitlements.v1 import entitlements_pb2 as pb
from gatehouse.router.v1 import tier_pb2
from google.protobuf.json_format import MessageToDict, ParseDict
from google.protobuf.struct_pb2 import Struct
from google.protobuf.timestamp_pb2 import Timestamp
from psycopg.types.json import Jsonb

Row = Mapping[str, Any]
Columns = dict[str, Any]


def etag_of(row: Row) -> str:
    """Names this row as it is: the same number in another epoch is of another row (ENT-6)."""
    # A column that came with a later version is null, and not in the history at all.
    known = {name: value for name, value in row.items() if value is not None}
    content = json.dumps(known, sort_keys=True).encode()
    return f"r{row['revision']}-{hashlib.sha256(content).hexdigest()[:16]}"


def timestamp(text: str) -> Timestamp:
    stamp = Timestamp()
    stamp.FromDatetime(datetime.fromisoformat(text))
    return stamp


def plan_from(row: Row) -> pb.Plan:
    return pb.Plan(
        id=row["id"],
        name=row["name"],
        allows_crud=row["allows_crud"],
        analytics_window_days=row["analytics_window_days"],
        model_tiers=[tier_pb2.Tier.Value(name) for name in row["model_tiers"]],
        daily_read_limit=row["daily_read_limit"],
        daily_modify_limit=row["daily_modify_limit"],
        # Not in the history from before there were budgets.
        daily_model_budget_micros=row.get("daily_model_budget_micros"),
        etag=etag_of(row),
        created_at=timestamp(row["created_at"]),
        updated_at=timestamp(row["updated_at"]),
    )


def plan_columns(plan: pb.Plan) -> Columns:
    """What a write stores of *plan*; what is output only is the database's."""
    return {
        "name": plan.name,
        "allows_crud": plan.allows_crud,
        "analytics_window_days": plan.analytics_window_days,
        "model_tiers": [tier_pb2.Tier.Name(tier) for tier in plan.model_tiers],
        "daily_read_limit": (plan.daily_read_limit if plan.HasField("daily_read_limit") else None),
        "daily_modify_limit": (
            plan.daily_modify_limit if plan.HasField("daily_modify_limit") else None
        ),
        "daily_model_budget_micros": (
            plan.daily_model_budget_micros if plan.HasField("daily_model_budget_micros") else None
        ),
    }


def user_plan_from(row: Row) -> pb.UserPlan:
    return pb.UserPlan(
        user_id=row["user_id"],
        plan_id=row["plan_id"],
        assigned_at=timestamp(row["assigned_at"]),
        etag=etag_of(row),
    )


def clinic_plan_from(row: Row) -> pb.ClinicPlan:
    return pb.ClinicPlan(
        clinic_id=row["clinic_id"],
        plan_id=row["plan_id"],
        assigned_at=timestamp(row["assigned_at"]),
        # Not in the history from before clinics had zones.
        time_zone=row.get("time_zone") or "",
        etag=etag_of(row),
    )


def clinic_plan_columns(request: pb.SetClinicPlanRequest) -> Columns:
    """What is written besides the plan: the zone, if the request has one or clears it."""
    return {"time_zone": request.time_zone or None} if request.HasField("time_zone") else {}


def descriptor_from(row: Row) -> pb.DomainDescriptor:
    return pb.DomainDescriptor(
        id=row["id"],
        name=row["name"],
        operations=[verb_from(name) for name in row["operations"]],
        sensitivity_level=pb.SensitivityLevel.Value(
            f"SENSITIVITY_LEVEL_{row['sensitivity_level'].upper()}"
        ),
        endpoint=row["endpoint"],
        entities=[entity_from(entity) for entity in row["entities"]],
        synonyms=[pb.Synonyms(**words) for words in row["synonyms"]],
        metrics=row["metrics"],
        etag=etag_of(row),
        created_at=timestamp(row["created_at"]),
        updated_at=timestamp(row["updated_at"]),
    )


def descriptor_columns(descriptor: pb.DomainDescriptor) -> Columns:
    level = pb.SensitivityLevel.Name(descriptor.sensitivity_level)
    return {
        "name": descriptor.name,
        "operations": [verb_name(verb) for verb in descriptor.operations],
        "sensitivity_level": level.removeprefix("SENSITIVITY_LEVEL_").lower(),
        "endpoint": descriptor.endpoint,
        "entities": Jsonb([entity_json(entity) for entity in descriptor.entities]),
        "synonyms": Jsonb([synonyms_json(words) for words in descriptor.synonyms]),
        "metrics": list(descriptor.metrics),
    }


def entity_from(entity: Row) -> pb.EntityDescriptor:
    return pb.EntityDescriptor(
        name=entity["name"],
        operations=[verb_from(name) for name in entity["operations"]],
        json_schema=ParseDict(entity["json_schema"], Struct()),
        synonyms=[pb.Synonyms(**words) for words in entity["synonyms"]],
    )


def entity_json(entity: pb.EntityDescriptor) -> Columns:
    return {
        "name": entity.name,
        "operations": [verb_name(verb) for verb in entity.operations],
        "json_schema": MessageToDict(entity.json_schema),
        "synonyms": [synonyms_json(words) for words in entity.synonyms],
    }


def synonyms_json(synonyms: pb.Synonyms) -> Columns:
    return {"locale": synonyms.locale, "words": list(synonyms.words)}


def verb_from(name: str) -> "domain_pb2.Verb.ValueType":
    return domain_pb2.Verb.Value(f"VERB_{name.upper()}")


def verb_name(verb: "domain_pb2.Verb.ValueType") -> str:
    return domain_pb2.Verb.Name(verb).removeprefix("VERB_").lower()


def resource_from(kind: str, row: Row) -> pb.Resource:
    match kind:
        case "plan":
            return pb.Resource(plan=plan_from(row))
        case "user_plan":
            return pb.Resource(user_plan=user_plan_from(row))
        case "clinic_plan":
            return pb.Resource(clinic_plan=clinic_plan_from(row))
        case "descriptor":
            return pb.Resource(descriptor=descriptor_from(row))
    raise ValueError(kind)


def removed_from(kind: str, row: Row) -> pb.Resource:
    """What is told of something removed: the keys by which a follower has it."""
    match kind:
        case "plan":
            return pb.Resource(plan=pb.Plan(id=row["id"], name=row["name"]))
        case "user_plan":
            return pb.Resource(user_plan=pb.UserPlan(user_id=row["user_id"]))
        case "clinic_plan":
            return pb.Resource(clinic_plan=pb.ClinicPlan(clinic_id=row["clinic_id"]))
        case "descriptor":
            key = pb.DomainDescriptor(id=row["id"], name=row["name"])
            return pb.Resource(descriptor=key)
    raise ValueError(kind)


def says_the_same(stored: pb.DomainDescriptor, wanted: pb.DomainDescriptor) -> bool:
    """Whether both say the same in all that a caller may write."""
    return _written(stored) == _written(wanted)


def _written(descriptor: pb.DomainDescriptor) -> pb.DomainDescriptor:
    written = pb.DomainDescriptor()
    written.CopyFrom(descriptor)
    for field in ("id", "etag", "created_at", "updated_at"):
        written.ClearField(field)
    return written
