"""Field masks: which fields of a resource an update writes."""

from collections.abc import Sequence
from typing import TypeVar

from google.protobuf.message import Message

from services.runtime.failure import Violation

PLAN_FIELDS = (
    "name",
    "allows_crud",
    "analytics_window_days",
    "model_tiers",
    "daily_read_limit",
    "daily_modify_limit",
    "daily_model_budget_micros",
)
DESCRIPTOR_FIELDS = (
    "name",
    "operations",
    "sensitivity_level",
    "endpoint",
    "entities",
    "synonyms",
    "metrics",
)

M = TypeVar("M", bound=Message)


def mask_violations(paths: Sequence[str], writable: Sequence[str]) -> list[Violation]:
    """What is wrong with the paths of an update mask, each by its place."""
    if not paths:
        return [("update_mask.paths", f"name at least one of {', '.join(writable)}, or *")]
    return [
        (f"update_mask.paths[{place}]", f"{path!r} is none of {', '.join(writable)}, *")
        for place, path in enumerate(paths)
        if path != "*" and path not in writable
    ]


def masked(paths: Sequence[str], writable: Sequence[str]) -> list[str]:
    """The fields to write, each once, in the order of the message."""
    return [field for field in writable if field in paths or "*" in paths]


def merged(standing: M, wanted: M, fields: Sequence[str]) -> M:
    """A copy of *standing* with *fields* as in *wanted*; what is absent there becomes absent."""
    result = type(standing)()
    result.CopyFrom(standing)
    present = {field.name for field, _ in wanted.ListFields()}
    for field in fields:
        result.ClearField(field)
        if field in present:
            _copy(result, wanted, field)
    return result


def _copy(target: Message, source: Message, field: str) -> None:
    value = getattr(source, field)
    if target.DESCRIPTOR.fields_by_name[field].is_repeated:
        getattr(target, field).MergeFrom(value)
    else:
        setattr(target, field, value)
