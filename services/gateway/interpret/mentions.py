"""What each word of a clause is, once it is known which kind of record it is about."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

from services.gateway.interpret.clauses import Clause
from services.gateway.interpret.dates import Found, found_in
from services.gateway.interpret.lexicon import Act, Lexicon, Part
from services.gateway.interpret.text import Word
from services.gateway.interpret.vocabulary import Kind, Vocabulary

UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
UPDATES = (Act.UPDATE, Act.MARK, Act.MOVE)
AHEAD = (Act.CREATE, Act.MOVE, Act.CANCEL)


@dataclass(frozen=True)
class Mention:
    """Words from *first* up to and without *end*, and what they mean."""

    part: Part
    first: int
    end: int
    # A When, a Value, or the names of fields.
    meaning: Any = None


class Reader:
    """Reads clauses as being about one kind of record."""

    def __init__(
        self, clause: Clause, kind: Kind, vocabulary: Vocabulary, lexicon: Lexicon, today: date
    ) -> None:
        self._clause = clause
        self._words = clause.words
        self._kind = kind
        self._vocabulary = vocabulary
        self._lexicon = lexicon
        moves = self._moves()
        ahead = moves or clause.act in AHEAD
        found = found_in(clause.words, lexicon, today, ahead=ahead, moves=moves)
        self._dated = {each.first: each for each in found}

    def _moves(self) -> bool:
        """Whether a time is what changes: no other field is named, and no value."""
        if self._clause.act is not Act.UPDATE:
            return self._clause.act is Act.MOVE
        kind, places = self._kind, range(len(self._words))
        named = {name for at in places for name in kind.fields.at(self._words, at)[1]}
        valued = any(kind.values.at(self._words, at)[1] for at in places)
        return kind.date_field is not None and not valued and named <= {kind.date_field}

    def mentions(self) -> list[Mention]:
        """Every word of the clause, in order, in the mention that it belongs to."""
        found: list[Mention] = []
        place = 0
        while place < len(self._words):
            mention = self._mention(place)
            found.append(mention)
            place = mention.end
        return found

    def _mention(self, place: int) -> Mention:
        word = self._words[place]
        verb = self._clause.front.verb
        if self._clause.act is not None and place == verb[0] < verb[1]:
            return Mention(Part.VERB, *verb)
        if word.quoted:
            return Mention(Part.QUOTED, place, place + 1)
        if place in self._dated:
            dated: Found = self._dated[place]
            return Mention(Part.WHEN, place, dated.end, dated.when)
        lead = self._lexicon.front.meant(self._words, place) if place < verb[0] else None
        if lead is not None:
            return Mention(Part.FILLER, place, lead[0])
        if UUID.fullmatch(word.folded):
            return Mention(Part.ID, place, place + 1)
        return self._known(place) or self._unknown(place)

    def _known(self, place: int) -> Mention | None:
        """The longest phrase of the kind itself; else of other kinds or of the language."""
        words = self._words
        values_end, values = self._kind.values.at(words, place)
        fields_end, fields = self._kind.fields.at(words, place)
        entities_end, kinds = self._vocabulary.entities.at(words, place)
        markers_end, markers = self._lexicon.markers.at(words, place)
        # `de la próxima semana`: a day may begin with the article of `de la`.
        markers_end = min([markers_end, *(at for at in self._dated if at > place)])
        own = self._kind in kinds
        of_kind = [
            Mention(Part.VALUE, place, values_end, values),
            Mention(Part.ENTITY, place, entities_end if own else place),
            Mention(Part.FIELD, place, fields_end, fields),
        ]
        others = [
            Mention(Part.OTHER_ENTITY, place, place if own else entities_end, kinds),
            Mention(self._marker(markers), place, markers_end),
        ]
        for found in (of_kind, others):
            best = max(found, key=lambda each: each.end)
            if best.end > place:
                return best
        return None

    def _marker(self, markers: Sequence[Part]) -> Part:
        """Of a word that may be several things, what it is here: `para` is `to` in a change."""
        updates = self._clause.act in UPDATES
        if Part.TO in markers and not updates:
            others = [each for each in markers if each is not Part.TO]
            return others[0] if others else Part.FILLER
        return markers[0] if markers else Part.FILLER

    def _unknown(self, place: int) -> Mention:
        word = self._words[place]
        if word.is_mark:
            return Mention(Part.MARK, place, place + 1)
        if word.folded[0].isdecimal() or any(sign.isdecimal() for sign in word.folded):
            return Mention(Part.NUMBER, place, place + 1)
        if word.is_name:
            return Mention(Part.NAME, place, self._name_ends(place + 1))
        return Mention(Part.WORD, place, place + 1)

    def _name_ends(self, place: int) -> int:
        """One past a name: capitals, and what stands within names, Maria da Silva."""
        while place < len(self._words):
            if self._words[place - 1].possessive:
                return place
            if self._is_of_name(place):
                place += 1
            elif self._words[place].folded in self._lexicon.in_names and self._is_of_name(
                place + 1
            ):
                place += 2
            else:
                return place
        return place

    def _is_of_name(self, place: int) -> bool:
        if place >= len(self._words) or place in self._dated:
            return False
        word = self._words[place]
        return word.is_name and self._known(place) is None


def text_between(instruction: str, words: Sequence[Word], first: int, end: int) -> str:
    """What was written, with the signs that the words leave out: +55 (11) 9999."""
    if end - first == 1 and words[first].quoted:
        return words[first].written
    start = words[first].start
    while start > 0 and instruction[start - 1] in "+(":
        start -= 1
    return instruction[start : words[end - 1].end]
