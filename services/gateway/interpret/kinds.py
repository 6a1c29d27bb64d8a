"""Which kind of record a clause is about."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from services.gateway.interpret.clauses import Clause
from services.gateway.interpret.lexicon import Lexicon
from services.gateway.interpret.text import Word
from services.gateway.interpret.vocabulary import Kind, Vocabulary

# `and the invoices`: how many words may stand between a joining word and another kind.
NEAR = 3


@dataclass(frozen=True)
class Named:
    """The kinds that a clause may be about: one, several to choose from, or none."""

    kinds: tuple[Kind, ...]


@dataclass(frozen=True)
class Spot:
    """Where kinds are named, and one past it."""

    first: int
    end: int
    kinds: tuple[Kind, ...]


def spots_of(words: Sequence[Word], vocabulary: Vocabulary, start: int = 0) -> list[Spot]:
    found = []
    place = start
    while place < len(words):
        end, kinds = vocabulary.entities.at(words, place)
        if kinds:
            found.append(Spot(place, end, tuple(dict.fromkeys(kinds))))
        place = max(end, place + 1)
    return found


def kinds_of(clause: Clause, vocabulary: Vocabulary, lexicon: Lexicon) -> Named:
    """The first kind that is named after the verb; where none is, the one whose words are used."""
    start = clause.front.verb[1] if clause.act is not None else 0
    spots = spots_of(clause.words, vocabulary, start)
    if not spots:
        return Named(best_by_words(clause.words, vocabulary.kinds, needed=True))
    head = head_of(clause, spots)
    if len(head.kinds) == 1:
        return Named(head.kinds)
    return Named(best_by_words(clause.words, head.kinds, needed=False))


def head_of(clause: Clause, spots: Sequence[Spot]) -> Spot:
    """The spot that says what is meant, where one kind is named to tell another by.

    `the client's invoice`, `client invoices` and `the invoice of the client` are all about
    invoices.
    """
    head = spots[0]
    for other in spots[1:]:
        owned = any(word.possessive for word in clause.words[head.first : other.first])
        if owned or other.first == head.end:
            return other
    if not clause.changes:
        return told_by(clause, head, spots[1:])
    return head


def told_by(clause: Clause, head: Spot, others: Sequence[Spot]) -> Spot:
    """`which clients have overdue invoices` shows the invoices, each with its client.

    For reading only: a change of the one must never become a change of the other.
    """
    if any(said(clause.words, one) for one in head.kinds):
        return head
    for other in others:
        for kind in other.kinds:
            refers = any(kind.refers_to(one) for one in head.kinds)
            if refers and said(clause.words, kind):
                return Spot(other.first, other.end, (kind,))
    return head


def said(words: Sequence[Word], kind: Kind) -> int:
    """How many values of a kind's own words are used."""
    return sum(bool(kind.values.at(words, place)[1]) for place in range(len(words)))


def best_by_words(
    words: Sequence[Word], kinds: Sequence[Kind], *, needed: bool
) -> tuple[Kind, ...]:
    """Those of *kinds* for which most fields and values are used; with *needed* at least one."""
    counted = [
        (
            sum(
                bool(kind.values.at(words, place)[1] or kind.fields.at(words, place)[1])
                for place in range(len(words))
            ),
            kind,
        )
        for kind in kinds
    ]
    most = max((count for count, _ in counted), default=0)
    if needed and not most:
        return ()
    return tuple(kind for count, kind in counted if count == most)


def coordinated(clause: Clause, vocabulary: Vocabulary, lexicon: Lexicon) -> list[Clause]:
    """The clause for each kind that a joining word adds: `show the clients and the invoices`."""
    begins = clause.front.verb[1] if clause.act is not None else 0
    cuts = [
        place
        for place in range(begins + 1, len(clause.words) - 1)
        if is_join(clause.words[place], lexicon) and adds_kind(clause, place, begins, vocabulary)
    ]
    if not cuts or clause.negated:
        return [clause]
    verb = clause.words[:begins]
    edges = [begins, *cuts, len(clause.words)]
    parts = [clause.words[one + (one in cuts) : other] for one, other in pairwise(edges)]
    return [
        Clause((*verb, *part), clause.front, clause.sentence, clause.joined_by, clause.asked)
        for part in parts
    ]


def is_join(word: Word, lexicon: Lexicon) -> bool:
    return not word.quoted and (word.folded in lexicon.joins or word.folded == ",")


def adds_kind(clause: Clause, place: int, begins: int, vocabulary: Vocabulary) -> bool:
    """Whether another kind is named soon after a joining word, and one before it.

    A kind that a field of the first is called by is none: the invoice of Ana and the client Bruno.
    """
    before = spots_of(clause.words[:place], vocabulary, begins)
    after = [
        each
        for each in spots_of(clause.words, vocabulary, place + 1)
        if each.first <= place + NEAR
        and not any(is_join_at(clause, at) for at in between(place, each))
    ]
    if not before or not after:
        return False
    first, second = before[-1].kinds, after[0].kinds
    refers = any(kind.refers_to(other) for kind in first for other in second)
    refers = refers and before[-1].end < place  # `the clients and the invoices` stand alone
    return not set(first) & set(second) and not refers


def between(place: int, spot: Spot) -> range:
    return range(place + 1, spot.first)


def is_join_at(clause: Clause, place: int) -> bool:
    return clause.words[place].folded == ","
