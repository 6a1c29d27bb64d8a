"""Cuts an instruction into clauses, one thing asked for in each, and finds what each asks."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from services.gateway.interpret.lexicon import Lexicon
from services.gateway.interpret.text import Word, find, fold

ENDS = (";", ".", "!", "?", "\n")


class Act(Enum):
    READ = "read"
    CREATE = "create"
    UPDATE = "update"
    DELETE = "delete"
    CANCEL = "cancel"
    MARK = "mark"
    MOVE = "move"
    SEND = "send"


@dataclass(frozen=True)
class Clause:
    """Words that ask for one thing. `verb` is where its verb stands in them."""

    words: tuple[Word, ...]
    act: Act | None
    verb: tuple[int, int] | None
    negated: bool = False
    asks_how: bool = False

    @property
    def changes(self) -> bool:
        return self.act not in (Act.READ, None)


def clauses_of(words: Sequence[Word], lexicon: Lexicon) -> list[Clause]:
    """The clauses of an instruction.

    A new one begins after a mark that ends a sentence, and at a joining word or comma that a verb
    follows: `show X and cancel Y`, but not `invoices of Ana and Bruno`.
    """
    parts: list[list[Word]] = [[]]
    for place, word in enumerate(words):
        if word.folded in ENDS:
            if word.folded in ("?",):
                parts[-1].append(word)
            parts.append([])
            continue
        joining = word.folded in lexicon.joins or word.folded == ","
        if joining and parts[-1] and begins_clause(words, place + 1, lexicon):
            parts.append([])
            continue
        parts[-1].append(word)
    return [clause_of(part, lexicon) for part in parts if any(not each.is_mark for each in part)]


def begins_clause(words: Sequence[Word], place: int, lexicon: Lexicon) -> bool:
    while place < len(words) and (
        words[place].folded in lexicon.joins or words[place].folded in (",", "please", "por")
    ):
        place += 1
    if place >= len(words):
        return False
    ahead = words[place : place + 4]
    return acted(ahead, lexicon, only_first=True) is not None or any(
        find(ahead, phrase) == (0, len(fold(phrase).split())) for phrase in lexicon.negations
    )


def clause_of(words: Sequence[Word], lexicon: Lexicon) -> Clause:
    found = acted(words, lexicon)
    act, verb = found if found else (None, None)
    before = words[: verb[0]] if verb else words
    negated = any(find(before, phrase) is not None for phrase in lexicon.negations)
    asks_how = any(
        (place := find(words, phrase)) is not None and (verb is None or place[0] <= verb[0])
        for phrase in lexicon.asks_how
    )
    asked = any(word.folded == "?" for word in words)
    return Clause(tuple(words), act, verb, negated, asks_how or (asked and is_change(act)))


def is_change(act: Act | None) -> bool:
    return act not in (Act.READ, None)


def acted(
    words: Sequence[Word], lexicon: Lexicon, *, only_first: bool = False
) -> tuple[Act, tuple[int, int]] | None:
    """The first verb of *words*, or with *only_first* the one that they begin with.

    Where a verb of reading comes first the clause reads, whatever it mentions later: `show
    cancelled appointments` cancels nothing.
    """
    found: list[tuple[int, int, Act]] = []
    for act, phrases in phrases_of(lexicon).items():
        for phrase in phrases:
            place = find(words, phrase)
            if place is not None:
                found.append((place[0], -place[1], act))
    if not found:
        return None
    start, end, act = min(found, key=lambda each: (each[0], each[1]))
    if only_first and start != 0:
        return None
    return act, (start, -end)


def phrases_of(lexicon: Lexicon) -> dict[Act, tuple[str, ...]]:
    return {
        Act.CANCEL: lexicon.cancel,
        Act.MARK: lexicon.mark,
        Act.MOVE: lexicon.move,
        Act.SEND: lexicon.send,
        Act.DELETE: lexicon.delete,
        Act.UPDATE: lexicon.update,
        Act.CREATE: lexicon.create,
        Act.READ: lexicon.read,
    }
