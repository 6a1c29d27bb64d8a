"""The words of the descriptors: what people call kinds of records, their fields and their values.

All that the rules know of a trade is here, and all of it comes from the descriptors.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

from gatehouse.domain.v1 import domain_pb2
from gatehouse.entitlements.v1.entitlements_pb2 import DomainDescriptor, EntityDescriptor, Synonyms

from services.gateway.interpret.checking import Descriptors, properties_of, required_of
from services.gateway.interpret.text import Phrases, fold
from services.gateway.reading import tags_in_language_of

# Descriptors change seldom; a language and a version of each are kept.
KEPT = 256
# What is added to words in the three languages, the longest first.
ENDINGS = (
    *("amientos", "amiento", "adores", "ciones", "mente", "ments", "idades"),
    *("ment", "ados", "adas", "idos", "idas", "ador", "cion", "coes", "ando", "iendo", "endo"),
    *("ings", "ing", "ers", "ado", "ada", "ido", "ida", "cao", "aram", "aron"),
    *("ed", "er", "es", "ar", "ir", "os", "as", "s"),
)
SHORTEST_ROOT = 4


@dataclass(frozen=True)
class Value:
    """A value that has words of its own, and its field."""

    field: str
    value: str


@dataclass(frozen=True, eq=False)
class Kind:
    """A kind of record, in the words of one language. There is one of each in a vocabulary."""

    domain: str
    name: str
    verbs: frozenset[domain_pb2.Verb.ValueType]
    words: tuple[str, ...]
    properties: Mapping[str, Mapping[str, Any]]
    required: tuple[str, ...]
    locale: str

    def words_of(self, field: str) -> list[str]:
        """What people call a field, the best word first."""
        by_locale = self.properties[field].get("x-synonyms", {})
        return [*spoken(by_locale, self.locale), field.replace("_", " ")]

    @cached_property
    def fields(self) -> Phrases[str]:
        return Phrases([(each, name) for name in self.properties for each in self.words_of(name)])

    @cached_property
    def values(self) -> Phrases[Value]:
        return Phrases(
            [
                (each, Value(name, value))
                for name, described in self.properties.items()
                for value in described.get("enum", ())
                if isinstance(value, str)
                for each in self.words_of_value(name, value)
            ]
        )

    def words_of_value(self, field: str, value: str) -> list[str]:
        by_locale = self.properties[field].get("x-values", {}).get(value, {})
        return spoken(by_locale, self.locale) or [value.replace("_", " ")]

    @cached_property
    def plurals(self) -> frozenset[str]:
        """Those of its words that mean several: longer than another, and ending in s."""
        folded = [fold(each) for each in (self.name, *self.words)]
        return frozenset(
            each
            for each in folded
            if each.endswith("s")
            and any(each != one and each.startswith(one[: len(each) - 3]) for one in folded)
        )

    def refers_to(self, other: "Kind") -> bool:
        """Whether a field of it is called by what *other* is called."""
        words = {*other.words, other.name}
        return any(words.intersection(self.words_of(name)) for name in self.properties)

    # what may be done with a field

    def is_selectable(self, field: str) -> bool:
        return bool(self.properties[field].get("x-selectable"))

    def is_writable(self, field: str) -> bool:
        return not self.properties[field].get("readOnly")

    def type_of(self, field: str) -> str:
        types = self.properties[field].get("type", "string")
        return next(iter(types), "string") if isinstance(types, list) else str(types)

    def is_time(self, field: str) -> bool:
        return self.properties[field].get("format") == "date-time"

    def is_day(self, field: str) -> bool:
        return self.properties[field].get("format") == "date"

    def is_dated(self, field: str) -> bool:
        return self.is_time(field) or self.is_day(field)

    def is_number(self, field: str) -> bool:
        return self.type_of(field) in ("number", "integer")

    def is_flag(self, field: str) -> bool:
        return self.type_of(field) == "boolean"

    def is_text(self, field: str) -> bool:
        """Whether it takes any words: no code, no choice, no date."""
        described = self.properties[field]
        bound = any(each in described for each in ("enum", "format", "pattern"))
        return self.type_of(field) == "string" and not bound

    def is_code(self, field: str) -> bool:
        return self.type_of(field) == "string" and "pattern" in self.properties[field]

    def is_prose(self, field: str) -> bool:
        """Whether it holds sentences: text that nothing is ever found by."""
        return self.is_text(field) and not self.is_selectable(field)

    def value_called(
        self, words: Iterable[str], may: Callable[[str], bool]
    ) -> tuple[str, str] | None:
        """The first field for which *may* holds with a value that one of *words* means."""
        called = set(words)
        return next(
            (
                (name, value)
                for name, described in self.properties.items()
                for value in described.get("enum", ())
                if may(name)
                and isinstance(value, str)
                and called.intersection(self.words_of_value(name, value))
            ),
            None,
        )

    # the fields that words mean without naming them

    @cached_property
    def label(self) -> str | None:
        """The field that people name a record by."""
        return self._first(lambda name: bool(self.properties[name].get("x-label")))

    @cached_property
    def name_field(self) -> str | None:
        """The field that holds names: the label, else one that a record must have."""
        if self.label is not None and self.is_text(self.label):
            return self.label
        return self._first(lambda name: self.is_text(name) and self.is_selectable(name))

    @cached_property
    def code_field(self) -> str | None:
        """The field that holds codes and numbers that a record is known by."""
        if self.label is not None and self.is_code(self.label):
            return self.label
        return self._first(lambda name: self.is_code(name) and self.is_selectable(name))

    @cached_property
    def date_field(self) -> str | None:
        """The day that a record is about, when none is named."""
        return self._first(
            lambda name: self.is_time(name) and self.is_selectable(name)
        ) or self._first(lambda name: self.is_day(name) and self.is_selectable(name))

    @cached_property
    def number_field(self) -> str | None:
        """The number that a record has, when none is named and there is no other one."""
        found = [name for name in self.properties if self.is_number(name)]
        needed = [name for name in found if name in self.required]
        return (needed or found)[0] if len(needed or found) == 1 else None

    @cached_property
    def prose_field(self) -> str | None:
        return self._first(lambda name: self.is_prose(name) and self.is_writable(name))

    def _first(self, holds: Any) -> str | None:
        """The first field for which something holds; one that records must have goes before."""
        found = [name for name in self.properties if holds(name)]
        return next((name for name in found if name in self.required), next(iter(found), None))


@dataclass(frozen=True)
class Vocabulary:
    """Every kind of record, and the words for them."""

    kinds: tuple[Kind, ...]

    @cached_property
    def entities(self) -> Phrases[Kind]:
        return Phrases([(each, kind) for kind in self.kinds for each in {kind.name, *kind.words}])

    @cached_property
    def roots(self) -> Mapping[str, tuple[Kind, ...]]:
        """What kinds are called, by the beginnings of the words: scheduled, as schedule."""
        found: dict[str, dict[Kind, bool]] = {}
        for kind in self.kinds:
            for word in (kind.name, *kind.words):
                folded = fold(word)
                if " " not in folded:
                    found.setdefault(root_of(folded), {})[kind] = True
        return {root: tuple(kinds) for root, kinds in found.items()}

    @cached_property
    def fields(self) -> Phrases[bool]:
        """Every field, whatever kind has it."""
        return Phrases(
            [
                (each, True)
                for kind in self.kinds
                for name in kind.properties
                for each in kind.words_of(name)
            ]
        )

    @cached_property
    def values(self) -> Phrases[bool]:
        """Every value with words of its own, whatever kind has it."""
        return Phrases(
            [
                (each, True)
                for kind in self.kinds
                for name, described in kind.properties.items()
                for value in described.get("enum", ())
                if isinstance(value, str)
                for each in kind.words_of_value(name, value)
            ]
        )

    @cached_property
    def texts(self) -> Phrases[bool]:
        """Fields of text, whatever kind has them; whether sentences go there."""
        return Phrases(
            [
                (each, kind.is_prose(name))
                for kind in self.kinds
                for name in kind.properties
                if kind.is_text(name)
                for each in kind.words_of(name)
            ]
        )


@lru_cache(maxsize=8192)
def root_of(word: str) -> str:
    """A word without what is added to it; shorter words are their own roots."""
    for ending in ENDINGS:
        if word.endswith(ending) and len(word) - len(ending) >= SHORTEST_ROOT:
            word = word[: -len(ending)]
            break
    return word[:-1] if len(word) > SHORTEST_ROOT and word[-1] in "aeiou" else word


def spoken(by_locale: Mapping[str, Sequence[str]], locale: str) -> list[str]:
    """The words of a language, its locale's first; those of the others where it has none."""
    own = [word for tag in tags_in_language_of(locale, by_locale) for word in by_locale[tag]]
    return own or [word for words in by_locale.values() for word in words]


def words_for(synonyms: Sequence[Synonyms], locale: str) -> list[str]:
    by_locale: dict[str, list[str]] = {}
    for each in synonyms:
        by_locale.setdefault(each.locale, []).extend(each.words)
    return spoken(by_locale, locale)


def vocabulary_of(descriptors: Descriptors, locale: str) -> Vocabulary:
    """The words of *descriptors* in *locale*; worked out once for each version of them."""
    return _vocabulary(
        tuple(each.SerializeToString(deterministic=True) for each in descriptors.values()), locale
    )


@lru_cache(maxsize=KEPT)
def _vocabulary(descriptors: tuple[bytes, ...], locale: str) -> Vocabulary:
    return Vocabulary(tuple(kind for each in descriptors for kind in _kinds(each, locale)))


def _kinds(serialized: bytes, locale: str) -> Iterator[Kind]:
    descriptor = DomainDescriptor.FromString(serialized)
    for place, entity in enumerate(descriptor.entities):
        words = words_for(entity.synonyms, locale)
        if place == 0:
            words += words_for(descriptor.synonyms, locale)
        yield _kind(descriptor.name, entity, tuple(dict.fromkeys(words)), locale)


def _kind(domain: str, entity: EntityDescriptor, words: tuple[str, ...], locale: str) -> Kind:
    return Kind(
        domain=domain,
        name=entity.name,
        verbs=frozenset(entity.operations),
        words=words or (entity.name,),
        properties=properties_of(entity),
        required=tuple(required_of(entity)),
        locale=locale,
    )
