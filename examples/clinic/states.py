"""Which changes of a record make sense where it stands. Decides, and waits for nothing."""

from collections.abc import Mapping
from datetime import date
from typing import Any

from examples.clinic.refusals import invalid, state_forbids, unchanged

# What each status may become. A payment may turn out not to have been one, an appointment that was
# called off may be taken up again, and what was noted of one may be put right.
NEXT: Mapping[str, Mapping[str, frozenset[str]]] = {
    "invoice": {
        "open": frozenset({"paid", "cancelled"}),
        "paid": frozenset({"open"}),
        "cancelled": frozenset(),
    },
    "appointment": {
        "scheduled": frozenset({"cancelled", "kept", "missed"}),
        "cancelled": frozenset({"scheduled"}),
        "kept": frozenset({"missed"}),
        "missed": frozenset({"kept"}),
    },
}


def stored_status(shown: Any) -> Any:
    """`overdue` is not stored: it is what an open invoice becomes by itself."""
    return "open" if shown == "overdue" else shown


def is_changed(standing: Mapping[str, Any], values: Mapping[str, Any]) -> bool:
    """Whether a record that has *standing* would be another with *values*."""
    return any(
        stored_status(standing.get(name)) != value
        if name == "status"
        else standing.get(name) != value
        for name, value in values.items()
    )


def check_transition(entity: str, standing: Mapping[str, Any], values: Mapping[str, Any]) -> None:
    """Raises Refusal (STATE_CONFLICT) where the record's status forbids the one in *values*."""
    current, wanted = stored_status(standing.get("status")), values.get("status")
    if wanted is None or wanted == current:
        return
    if wanted not in NEXT[entity][current]:
        raise state_forbids(entity, current, wanted)


def check_changes(
    entity: str, standing: list[Mapping[str, Any]], values: Mapping[str, Any]
) -> None:
    """Raises Refusal (STATE_CONFLICT) unless some record changes, and each that does may."""
    changing = [each for each in standing if is_changed(each, values)]
    if not changing:
        raise unchanged(entity)
    for each in changing:
        check_transition(entity, each, values)


def kept_values(entity: str, values: Mapping[str, Any], today: date) -> dict[str, Any]:
    """*values* as the database keeps them: a paid invoice has its day, and no other has one.

    Raises Refusal for a status that nobody gives.
    """
    kept = dict(values)
    if entity != "invoice" or "status" not in values:
        return kept
    if values["status"] == "overdue":
        raise invalid(("fields.status", "overdue is what an open invoice becomes by its due date"))
    kept.setdefault("settled_date", today if values["status"] == "paid" else None)
    return kept
