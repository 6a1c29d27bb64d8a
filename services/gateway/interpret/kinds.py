"""Which kind of record a clause is about."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from services.gateway.interpret.clauses import Clause
from services.gateway.interpret.lexicon import Lexicon, Part
from services.gateway.interpret.text import Word, words_within
from services.gateway.interpret.vocabulary import SHORTEST_ROOT, Kind, Vocabulary, root_of

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


def related(words: Sequence[Word], vocabulary: Vocabulary) -> list[Spot]:
    """Where words have the root of what kinds are called: what do I have scheduled."""
    return [
        Spot(place, place + 1, kinds)
        for place, word in enumerate(words)
        if not word.quoted and len(word.folded) > SHORTEST_ROOT
        for kinds in [vocabulary.roots.get(root_of(word.folded), ())]
        if kinds
    ]


def kinds_of(clause: Clause, vocabulary: Vocabulary, lexicon: Lexicon) -> Named:
    """The first kind that is named after the verb; where none is, the one whose words are used."""
    start = clause.front.verb[1] if clause.act is not None else 0
    spots = spots_of(clause.words, vocabulary, start)
    about = kinds_about(clause, vocabulary, lexicon)
    if about:
        return Named(about)
    if not spots and start:
        # `on my list, add milk`
        spots = spots_of(clause.words[: clause.front.verb[0]], vocabulary)
    if not spots:
        spots = related(clause.words, vocabulary)
    if not spots:
        return Named(best_by_words(clause.words, vocabulary.kinds, needed=True))
    head = head_of(clause, spots)
    if len(head.kinds) == 1:
        return Named(head.kinds)
    return Named(best_by_words(clause.words, head.kinds, needed=False))


def kinds_about(clause: Clause, vocabulary: Vocabulary, lexicon: Lexicon) -> tuple[Kind, ...]:
    """What a verb says itself that it is about: `remind me of the meeting` makes a reminder."""
    place = clause.front.verb[0]
    if clause.act is None or place >= len(clause.words):
        return ()
    for noun in lexicon.nouns.at(clause.words, place)[1]:
        for word in noun:
            kinds = vocabulary.entities.at(words_within(word), 0)[1]
            if kinds:
                return tuple(dict.fromkeys(kinds))
    return ()


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
    spots = spots_of(clause.words, vocabulary, begins)
    cuts = [
        cut
        for one, other in pairwise(spots)
        if (cut := join_between(clause.words, one, other, lexicon)) is not None
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


def join_between(words: Sequence[Word], one: Spot, other: Spot, lexicon: Lexicon) -> int | None:
    """Where a joining word near before *other* adds another kind; None where it does not.

    In `the invoices of Ana and the client Bruno` the client only tells the invoices.
    """
    near = range(max(one.end, other.first - NEAR - 1), other.first)
    joins = [place for place in near if is_join(words[place], lexicon)]
    if not joins or set(one.kinds) & set(other.kinds):
        return None
    told = any(
        Part.OF in lexicon.markers.at(words, place)[1]
        for place in range(one.end, joins[-1])
        if not words[place].quoted
    )
    refers = any(kind.refers_to(each) for kind in one.kinds for each in other.kinds)
    return None if told and refers else joins[-1]


def is_join(word: Word, lexicon: Lexicon) -> bool:
    return not word.quoted and (word.folded in lexicon.joins or word.folded == ",")
