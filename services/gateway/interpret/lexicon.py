"""What the rules know of a language. The words themselves are in english, portuguese, spanish."""

from dataclasses import dataclass
from enum import Enum
from functools import cached_property

from services.gateway.interpret.text import Phrases

ENDS = frozenset(";.!?\n")
"""The marks that end a sentence."""


class Act(Enum):
    """What a verb asks for."""

    READ = "read"
    CREATE = "create"
    UPDATE = "update"
    DELETE = "delete"
    # Ends a thing without removing it: sets the value that says so, where there is one.
    CANCEL = "cancel"
    # Sets a value that is named: mark as paid.
    MARK = "mark"
    # Moves to another time.
    MOVE = "move"

    @property
    def changes(self) -> bool:
        return self is not Act.READ


class Lead(Enum):
    """What may stand before the verb of a request, and what it makes of it."""

    POLITE = "polite"  # please, now, and
    REQUEST = "request"  # could you: a question that is none
    NEGATION = "negation"  # do not
    HOW = "how"  # how do I: asks about doing it
    MAY = "may"  # can I: asks about changing, asks for reading
    IF = "if"  # depends on what cannot be known


class Part(Enum):
    """What a word is in its clause."""

    VERB = "verb"
    ENTITY = "entity"
    OTHER_ENTITY = "other entity"
    FIELD = "field"
    VALUE = "value"
    WHEN = "when"
    ID = "id"
    NUMBER = "number"
    NAME = "name"
    QUOTED = "quoted"
    WORD = "word"
    TO = "to"
    OF = "of"
    WITH = "with"
    WITHOUT = "without"
    NAMED = "named"
    SAYING = "saying"
    JOIN = "join"
    EVERY = "every"
    EXCEPT = "except"
    NOT = "not"
    PRONOUN = "pronoun"
    THEIRS = "theirs"
    MORE = "more"
    LESS = "less"
    NEXT = "next"
    LATEST = "latest"
    YES = "yes"
    NO = "no"
    FILLER = "filler"
    MARK = "mark"


def listed(text: str) -> tuple[str, ...]:
    """Phrases that a comma parts."""
    return tuple(each.strip() for each in text.split(",") if each.strip())


@dataclass(frozen=True)
class Calendar:
    """How a language speaks of days and times."""

    # Days from today.
    days: dict[str, int]
    weekdays: tuple[tuple[str, ...], ...]
    months: tuple[str, ...]
    # A word for a day, week, month or year, in the singular and plural.
    units: dict[str, tuple[str, ...]]
    this: tuple[str, ...]
    # Before what they belong to, and after it: next friday, viernes que viene.
    next_before: tuple[str, ...]
    next_after: tuple[str, ...]
    last_before: tuple[str, ...]
    last_after: tuple[str, ...]
    in_before: tuple[str, ...]
    ago_before: tuple[str, ...]
    ago_after: tuple[str, ...]
    # Before a month or year that stands alone, and before the number of a day.
    within: tuple[str, ...]
    on_the: tuple[str, ...]
    # What may stand between the parts of a date: 3 de março.
    glue: tuple[str, ...]
    before: tuple[str, ...]
    until: tuple[str, ...]
    since: tuple[str, ...]
    after: tuple[str, ...]
    between: tuple[str, ...]
    from_: tuple[str, ...]
    # Between the two ends of a range.
    up_to: tuple[str, ...]
    at: tuple[str, ...]
    hours: tuple[str, ...]
    half_past: tuple[str, ...]
    named_times: dict[str, int]
    # Hours of the day, and what they say of `3 in the afternoon`.
    parts: dict[str, tuple[int, int]]
    month_first: bool = False


@dataclass(frozen=True)
class Lexicon:
    """What people of one language say."""

    verbs: dict[Act, tuple[str, ...]]
    # Verbs that may mean a change that the rules know nothing of: others may read them.
    other_changes: tuple[str, ...]
    # Verbs in two parts, and what they ask for: take … off.
    split_verbs: dict[tuple[str, str], Act]
    # Verbs that say themselves what they are about, with nouns for it: remind, a reminder.
    about: dict[str, tuple[str, ...]]
    # Somebody else's words follow: said, asked.
    reports: frozenset[str]
    # Ends of verbs that stand for somebody or something: muéstrame, cancele-a.
    clitics: tuple[str, ...]
    leads: dict[Lead, tuple[str, ...]]
    joins: tuple[str, ...]
    # After these a negation no longer holds.
    buts: tuple[str, ...]
    parts: dict[Part, tuple[str, ...]]
    # What an ended thing is called, in the words of a descriptor.
    ended: tuple[str, ...]
    # Between what is added and what it is added to.
    adding_to: tuple[str, ...]
    # Within names: Maria da Silva.
    in_names: tuple[str, ...]
    calendar: Calendar

    @cached_property
    def acts(self) -> Phrases[Act]:
        return Phrases([(each, act) for act, phrases in self.verbs.items() for each in phrases])

    @cached_property
    def licences(self) -> Phrases[Act | None]:
        """Every word that can ask for a change; None is one that the rules cannot read."""
        known = [(each, act) for act, phrases in self.verbs.items() for each in phrases]
        return Phrases([*known, *((each, None) for each in self.other_changes)])

    @cached_property
    def nouns(self) -> Phrases[tuple[str, ...]]:
        """What a verb is about."""
        return Phrases(list(self.about.items()))

    @cached_property
    def front(self) -> Phrases[Lead]:
        return Phrases([(each, lead) for lead, phrases in self.leads.items() for each in phrases])

    @cached_property
    def markers(self) -> Phrases[Part]:
        joins = [(each, Part.JOIN) for each in self.joins]
        return Phrases([*joins, *((each, p) for p, every in self.parts.items() for each in every)])
