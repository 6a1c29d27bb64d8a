"""What an update would change, field by field, and how it is worded (GAT-5). Pure functions."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime

from babel.dates import format_date, format_time
from gatehouse.domain.v1 import domain_pb2
from gatehouse.entitlements.v1.entitlements_pb2 import DomainDescriptor
from gatehouse.gateway.v1 import gateway_pb2 as pb
from google.protobuf.struct_pb2 import Struct, Value

from services.gateway.interpret.languages import lexicon_of
from services.gateway.interpret.vocabulary import Kind, vocabulary_of
from services.gateway.notices import Notices, number, underscored
from services.gateway.refusals import single_line

LONGEST_TEXT = 60
MOST_CHANGES = 6
VERBS = {
    domain_pb2.VERB_CREATE: "create",
    domain_pb2.VERB_READ: "read",
    domain_pb2.VERB_UPDATE: "update",
    domain_pb2.VERB_DELETE: "delete",
}


def changes_of(operation: pb.Operation, records: Sequence[Struct] | None) -> list[pb.Change]:
    """What an update would do to *records*, by field; None where not all of them are known.

    Records that have every new value already are not changed, so their values do not count.
    """
    if operation.verb != domain_pb2.VERB_UPDATE:
        return []
    new = operation.fields.fields
    touched = [
        each
        for each in records or ()
        if any(each.fields.get(name, Value()) != value for name, value in new.items())
    ]
    changes = []
    for name in sorted(new):
        change = pb.Change(field=name, new=new[name])
        known = [each.fields[name] for each in touched if name in each.fields]
        olds = {each.SerializeToString(deterministic=True) for each in known}
        if len(olds) == 1 and len(known) == len(touched):
            change.old.CopyFrom(known[0])
        if not change.HasField("old") or change.old != change.new:
            changes.append(change)
    changes += [pb.Change(field=each.field) for each in operation.references if each.field]
    return changes


@dataclass(frozen=True)
class Words:
    """Words operations and their changes in one language, by the descriptors."""

    notices: Notices
    locale: str
    descriptors: Mapping[str, DomainDescriptor]

    def kind_of(self, operation: pb.Operation) -> Kind | None:
        descriptor = self.descriptors.get(operation.domain)
        if descriptor is None:
            return None
        kinds = vocabulary_of({operation.domain: descriptor}, self.locale).kinds
        return next((each for each in kinds if each.name == operation.entity), None)

    def action_of(self, operation: pb.Operation) -> str:
        """What is done: `cancel` for an update that sets the value which says so."""
        if operation.verb != domain_pb2.VERB_UPDATE:  # a read is not to cost a look at its words
            return VERBS.get(operation.verb, "read")
        kind = self.kind_of(operation)
        if kind is not None:
            ended = kind.value_called(lexicon_of(self.locale).ended, kind.is_writable)
            given = dict(operation.fields.items())
            if ended is not None and given.get(ended[0]) == ended[1]:
                return "cancel"
        return "update"

    def changes(self, operation: pb.Operation, changes: Sequence[pb.Change]) -> str:
        """`status from scheduled to cancelled, phone to “555”`; empty where there are none."""
        kind = self.kind_of(operation)
        texts = [self._change(each, kind) for each in changes[:MOST_CHANGES]]
        if len(changes) > MOST_CHANGES:
            texts.append("…")
        return ", ".join(texts)

    def _change(self, change: pb.Change, kind: Kind | None) -> str:
        known = kind is not None and change.field in kind.properties
        field = kind.words_of(change.field)[0] if kind and known else change.field
        word = single_line(field.replace("_", " "), LONGEST_TEXT)
        if not change.HasField("new"):
            return self._sentence("change-referred", field=word)
        new = self._value(change.new, change.field, kind)
        if not change.HasField("old"):
            return self._sentence("change-new", field=word, new=new)
        old = self._value(change.old, change.field, kind)
        return self._sentence("change", field=word, old=old, new=new)

    def _sentence(self, key: str, **arguments: str) -> str:
        return self.notices.sentence(key, self.locale, **arguments)

    def _value(self, value: Value, field: str, kind: Kind | None) -> str:
        match value.WhichOneof("kind"):
            case "bool_value":
                return self._sentence("value-yes" if value.bool_value else "value-no")
            case "number_value":
                return number(value.number_value, self.locale)
            case "string_value":
                return self._text(value.string_value, field, kind)
            case "struct_value" | "list_value":
                return "…"
        return self._sentence("value-none")

    def _text(self, text: str, field: str, kind: Kind | None) -> str:
        described = kind.properties.get(field, {}) if kind else {}
        if kind is not None and text in described.get("enum", ()):
            return kind.words_of_value(field, text)[0]
        if described.get("format") in ("date", "date-time"):
            return day_or_time(text, self.locale)
        return self._sentence("value-text", text=single_line(text, LONGEST_TEXT))


def day_or_time(text: str, locale: str) -> str:
    """A day or a time as people of *locale* write it, by its own clock; else the text itself."""
    tag = underscored(locale)
    try:
        if len(text) <= len("2026-12-01"):
            return str(format_date(date.fromisoformat(text), "medium", locale=tag))
        moment = datetime.fromisoformat(text)
    except ValueError:
        return single_line(text, LONGEST_TEXT)
    day, clock = format_date(moment, "medium", locale=tag), format_time(moment, "short", locale=tag)
    return f"{day} {clock}".replace("\u202f", " ")


def records_changed(changes: Iterable[pb.Change]) -> list[bytes]:
    """*changes* as bytes that are equal as long as the same is changed into the same."""
    return [each.SerializeToString(deterministic=True) for each in changes]
