"""Cuts an instruction into clauses, one thing asked for in each, and finds what each asks."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import date

from services.gateway.interpret.dates import found_in
from services.gateway.interpret.lexicon import ENDS, Act, Lead, Lexicon, Part
from services.gateway.interpret.text import Word
from services.gateway.interpret.vocabulary import Vocabulary

# How far ahead a verb is looked for, where another clause may begin.
AHEAD = 40
# How far apart the parts of a verb may be.
APART = 8


@dataclass(frozen=True)
class Front:
    """How a clause begins: what it asks for, and what stands before the verb."""

    act: Act | None
    # Where the verb stands, and one past it.
    verb: tuple[int, int]
    leads: frozenset[Lead]


@dataclass(frozen=True)
class Clause:
    """Words that ask for one thing."""

    words: tuple[Word, ...]
    front: Front
    # The sentence that it is in, and the word that joins it to the clause before.
    sentence: int
    joined_by: str
    asked: bool

    @property
    def act(self) -> Act | None:
        return self.front.act

    @property
    def negated(self) -> bool:
        return Lead.NEGATION in self.front.leads

    @property
    def changes(self) -> bool:
        return self.act is not None and self.act.changes

    @property
    def is_question(self) -> bool:
        """Whether it asks about doing a thing, or makes it depend on another."""
        leads = self.front.leads
        if Lead.HOW in leads or Lead.IF in leads:
            return True
        if Lead.MAY in leads:
            return self.act is not Act.READ
        return self.asked and self.changes and Lead.REQUEST not in leads


class Cutter:
    """Cuts instructions of one language, with the words of the descriptors at hand."""

    def __init__(self, lexicon: Lexicon, vocabulary: Vocabulary, today: date) -> None:
        self._lexicon = lexicon
        self._vocabulary = vocabulary
        self._today = today

    def clauses_of(self, words: Sequence[Word]) -> list[Clause]:
        """The clauses of an instruction.

        A new one begins after a mark that ends a sentence, and at a joining word or comma that a
        verb follows: `show X and cancel Y`, but not `invoices of Ana and Bruno`.
        """
        clauses: list[Clause] = []
        for number, (sentence, asked) in enumerate(sentences(words)):
            dated = self._dated(sentence)
            for part, joined_by in self._parts(sentence, dated):
                made = self._clause(part, number, joined_by, asked)
                if not self.is_small_talk(made):
                    clauses.append(made)
        return clauses

    def is_small_talk(self, clause: Clause) -> bool:
        """Whether nothing is left of it but politeness."""
        if clause.act is not None or clause.front.leads - {Lead.POLITE, Lead.REQUEST}:
            return False
        rest = clause.words[clause.front.verb[0] :]
        return all(word.is_mark or self._is_filler(word) for word in rest)

    def _is_filler(self, word: Word) -> bool:
        found = self._lexicon.markers.at([word], 0)[1] if not word.quoted else []
        return Part.FILLER in found

    def _dated(self, words: Sequence[Word]) -> frozenset[int]:
        found = found_in(words, self._lexicon, self._today)
        return frozenset(place for each in found for place in range(each.first, each.end))

    def _parts(
        self, words: Sequence[Word], dated: frozenset[int]
    ) -> Iterator[tuple[Sequence[Word], str]]:
        """*words* cut where another verb begins, each part with what joins it."""
        begins, joined_by = 0, ""
        names = not shouted(words)
        for place in range(1, len(words)):
            if begins < place and self._begins_clause(words, place, dated, names=names):
                yield words[begins:place], joined_by
                joined_by = words[place].folded
                begins = place if words[place].folded in self._lexicon.buts else place + 1
        if begins < len(words):
            yield words[begins:], joined_by

    def _begins_clause(
        self, words: Sequence[Word], place: int, dated: frozenset[int], *, names: bool
    ) -> bool:
        """Whether a clause begins after *place*; with *names* capitals tell names: Ana and Mark."""
        joins = words[place].folded
        if place in dated or words[place].quoted:
            return False
        if joins not in (",", ":") and joins not in (*self._lexicon.joins, *self._lexicon.buts):
            return False
        start = place if joins in self._lexicon.buts else place + 1
        rest = words[start : start + AHEAD]
        front = self.front(rest, frozenset(at for at in range(len(rest)) if start + at in dated))
        if front.act is not None and names and is_capital(rest[front.verb[0]]):
            return False
        strong = front.leads & {Lead.NEGATION, Lead.HOW, Lead.MAY, Lead.IF}
        if front.act is None:
            return (bool(strong) and Lead.NEGATION not in strong) or self._forbids(rest, front)
        return front.act is Act.READ or front.verb[1] < len(rest)

    def _forbids(self, words: Sequence[Word], front: Front) -> bool:
        """Whether a negation without a verb of ours still is one of a verb: `and no lo hagas`."""
        if Lead.NEGATION not in front.leads or front.verb[0] >= len(words):
            return False
        place = front.verb[0]
        return self._lexicon.licences.at(words, place)[1] != []

    def _clause(self, words: Sequence[Word], sentence: int, joined_by: str, asked: bool) -> Clause:
        front = self.front(words, self._dated(words))
        if front.act is None or front.act.changes:
            later = self._later_leads(words, front.verb[1])
        else:
            later = self._later_leads(words, front.verb[1]) & {Lead.HOW}
            if not self._changes_after(words, front.verb[1]):
                later = frozenset()
        front = replace(front, leads=front.leads | later)
        return Clause(tuple(words), front, sentence, joined_by, asked)

    def _later_leads(self, words: Sequence[Word], start: int) -> frozenset[Lead]:
        """Questions and conditions after the verb: cancel it if she does not confirm."""
        found: set[Lead] = set()
        for place in range(start, len(words) - 1):
            end, meant = self._lexicon.front.at(words, place)
            if self._lexicon.acts.at(words, place)[0] > end:
                continue  # how many
            if self._lexicon.markers.at(words, place)[0] >= end:
                meant = [each for each in meant if each is Lead.IF]  # `como` is also `as`
            found.update(meant)
        return frozenset(found) & {Lead.HOW, Lead.MAY, Lead.IF}

    def _changes_after(self, words: Sequence[Word], start: int) -> bool:
        return any(
            act.changes
            for place in range(start, len(words))
            for act in self._lexicon.acts.at(words, place)[1]
        )

    def front(self, words: Sequence[Word], dated: frozenset[int]) -> Front:
        """How *words* begin. A verb counts only where nothing but politeness, a negation or a day
        stands before it: `patients who cancel` cancels nothing.
        """
        leads: set[Lead] = set()
        place = 0
        while place < len(words):
            lead = self._lexicon.front.meant(words, place)
            verb = self._verb_at(words, place)
            if verb is not None and (lead is None or verb[0] >= lead[0]):
                return Front(verb[1], (place, verb[0]), frozenset(leads))
            if lead is not None:
                leads.add(lead[1])
                place = lead[0]
            elif self._is_passed_over(words, place, dated):
                place += 1
            else:
                break
        return Front(None, (place, place), frozenset(leads))

    def _is_passed_over(self, words: Sequence[Word], place: int, dated: frozenset[int]) -> bool:
        """Marks that open a sentence, a day, and what leads to a day: on friday, cancel …"""
        if place in dated or (words[place].is_mark and words[place].folded in "¿¡,:("):
            return True
        return place + 1 in dated and self._lexicon.markers.at(words, place)[1] != []

    def _verb_at(self, words: Sequence[Word], place: int) -> tuple[int, Act] | None:
        """The verb at *place* and one past it.

        A word that also means something of the descriptors is a verb only where something of them
        follows: `agenda una cita`, but not `agenda de hoy`.
        """
        if words[place].quoted:
            return None
        found = (
            self._in_two(words, place)
            or self._lexicon.acts.meant(words, place)
            or self._with_clitic(words, place)
        )
        if found is None:
            return None
        longest = max(
            (kind.fields.at(words, place)[0] for kind in self._vocabulary.kinds), default=place
        )
        named, meant = self._vocabulary.entities.at(words, place)
        if max(longest, named) > found[0]:
            return None
        if meant and found[1] is not Act.READ and not self._names_more(words, found[0]):
            return None
        return found

    def _in_two(self, words: Sequence[Word], place: int) -> tuple[int, Act] | None:
        """A verb whose second part stands later in the sentence: take milk off my list."""
        for (first, second), act in self._lexicon.split_verbs.items():
            if words[place].folded == first:
                for each in words[place + 2 : place + APART]:
                    if each.folded == second:
                        return place + 1, act
                    if each.is_mark:
                        break
        return None

    def _names_more(self, words: Sequence[Word], start: int) -> bool:
        return any(
            self._vocabulary.entities.at(words, each)[1] for each in range(start, len(words))
        )

    def _with_clitic(self, words: Sequence[Word], place: int) -> tuple[int, Act] | None:
        written = words[place].folded
        for ending in self._lexicon.clitics:
            if written.endswith(ending) and len(written) > len(ending) + 2:
                verb = replace(words[place], folded=written[: -len(ending)])
                found = self._lexicon.acts.at([verb], 0)[1]
                if found:
                    return place + 1, found[0]
        return None


def sentences(words: Sequence[Word]) -> Iterator[tuple[list[Word], bool]]:
    """The sentences, and whether each is a question."""
    sentence: list[Word] = []
    for word in words:
        if word.folded in ENDS and not word.quoted:
            if any(not each.is_mark for each in sentence):
                yield sentence, word.folded == "?" or sentence[0].folded == "¿"
            sentence = []
        else:
            sentence.append(word)
    if any(not each.is_mark for each in sentence):
        yield sentence, sentence[0].folded == "¿"


def is_capital(word: Word) -> bool:
    return word.written[:1].isupper()


def shouted(words: Sequence[Word]) -> bool:
    """Whether capitals say nothing here, since everything has them."""
    letters = [word for word in words if word.written[:1].isalpha()]
    return all(is_capital(word) for word in letters)
